"""`shamon doctor`: whether this host is fit for a coalition, what is wrong with it, and what to do about each thing."""

import argparse
from itertools import groupby
from pathlib import Path
from typing import Any

from shamon_host.cli.operate import DEFAULT_CONFIG
from shamon_host.cli.output import print_json, print_table, printable
from shamon_host.domain.errors import BadInput

_COLUMNS = ("subject", "check", "verdict", "found")
_WIDTH = 100
"""Characters of what was found in the table; all of it stands below, where it is not ok."""


def add_parsers(commands: Any) -> None:
    """Add this command to the parser."""
    doctor = commands.add_parser("doctor", help="look at this host before it joins, and say what to do")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"default {DEFAULT_CONFIG}")
    doctor.add_argument("--only", action="append", default=[], metavar="NAME", help="this check alone; may be repeated")
    doctor.add_argument("--no-programs", action="store_true", help="run no other program: not virsh, not nft, not xl")
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    """0 when nothing is wrong and everything could be looked at, else 1."""
    from shamon_host.doctor.bounded import no_program, run_program
    from shamon_host.doctor.examination import ASK_PROGRAMS, NAMES, examine
    from shamon_host.doctor.host_files import HostFiles
    from shamon_host.doctor.reading import read_host

    for name in arguments.only:
        if name not in NAMES:
            raise BadInput("no such check", where="--only", expected=", ".join(NAMES), found=printable(name)[:60])
    asked = ASK_PROGRAMS & set(arguments.only or NAMES)
    run = run_program if asked and not arguments.no_programs else no_program
    facts = read_host(HostFiles(), run, _daemon_version, config_path=arguments.config.absolute())
    report = examine(facts, arguments.only)
    if arguments.json:
        print_json(report.to_document())
    else:
        print_report(report)
    return 0 if report.fit else 1


def print_report(report: Any) -> None:
    """A report for people: a line for each finding, grouped by subject; then each that is not ok, with what to do."""
    from shamon_host.doctor.findings import Verdict

    rows = []
    for subject, findings in groupby(report.findings, key=lambda finding: finding.subject):
        for number, finding in enumerate(findings):
            shown = finding.verdict.upper() if finding.verdict is Verdict.WRONG else finding.verdict.value
            rows.append(
                {
                    "subject": subject.value if number == 0 else " ",
                    "check": finding.name,
                    "verdict": shown,
                    "found": finding.found if len(finding.found) <= _WIDTH else f"{finding.found[:_WIDTH]}...",
                }
            )
    print_table(rows, _COLUMNS, empty="This check is of no account on this host.")
    for verdict, heading in (
        (Verdict.WRONG, "Wrong"),
        (Verdict.UNKNOWN, "Not known, so not taken for right"),
        (Verdict.WARNING, "Could be better, or is still to be done"),
    ):
        findings = report.of(verdict)
        if findings:
            print(f"\n{heading}:")
        for finding in findings:
            print(f"  {finding.name}: {printable(finding.found)}")
            if finding.expected:
                print(f"    expected: {printable(finding.expected)}")
            if finding.remedy:
                print(f"    to do: {printable(finding.remedy)}")
            print(f"    see: {finding.see}")
    counts = ", ".join(f"{len(report.of(verdict))} {verdict}" for verdict in Verdict)
    print(f"\n{counts}. " + ("This host is fit for a coalition." if report.fit else "This host is not fit yet."))


def _daemon_version(socket: Path) -> Any:
    """What the daemon behind this socket says it is; absent where none answers."""
    from shamon_host.cli.api_client import ApiClient
    from shamon_host.doctor.look import PERMISSION, Look, reason_of
    from shamon_host.domain.errors import ShamonError, Unreachable

    try:
        return Look(str(ApiClient(socket).get("/v1/status")["version"]))
    except Unreachable as error:
        return Look(unread=PERMISSION) if reason_of(error.found) == PERMISSION else Look()
    except (ShamonError, KeyError, TypeError) as error:
        return Look(unread=str(error))
