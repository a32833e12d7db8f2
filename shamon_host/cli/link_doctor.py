"""`shamon link doctor`: the way of a type's frames to a peer, stage by stage, and the first thing that is wrong."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shamon_host.cli.denial_log import denial_lines
from shamon_host.cli.operate import daemon_client, daemon_command
from shamon_host.cli.output import print_json, print_table, printable
from shamon_host.links.denials import with_denials
from shamon_host.links.joined_path import join
from shamon_host.links.path_report import MAX_REPORT_BYTES, PathReport, Stage, Verdict, parse_report

_COLUMNS = ("host", "part", "stage", "verdict", "found")


def add_parsers(commands: Any) -> None:
    """Add these commands to the parser."""
    link = commands.add_parser("link", help="one link: what is wrong with it")
    actions = link.add_subparsers(dest="action", required=True, metavar="ACTION")
    doctor = daemon_command(actions, "doctor", "follow a type's frames to a peer, and say what is wrong first", _doctor)
    doctor.add_argument("peer", metavar="PEER", help="the other host")
    doctor.add_argument("type", metavar="TYPE", help="as this host's policy calls it")
    doctor.add_argument("--vm", metavar="NAME", help="a VM of this host (default: every one of the type)")
    doctor.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS", help="how long counters are watched (default 1)"
    )
    doctor.add_argument(
        "--peer-report", type=Path, metavar="FILE", help="what this command printed with --json on the other host"
    )


def _doctor(arguments: argparse.Namespace) -> int:
    """0 when nothing is wrong, as far as it can be seen; 1 when something is."""
    theirs = _read(arguments.peer_report) if arguments.peer_report else None
    query = {"peer": arguments.peer, "type": arguments.type, "interval_s": arguments.interval}
    if arguments.vm is not None:
        query["vm"] = arguments.vm
    answer = daemon_client(arguments).get("/v1/link/doctor", query)
    report = _with_denials(PathReport.from_document(answer, source="the daemon's answer"))
    if theirs is not None:
        report = join(report, theirs)
    if arguments.json:
        print_json(report.to_document())
    else:
        print_report(report, joined=theirs is not None)
    return 1 if report.verdict is Verdict.WRONG else 0


def print_report(report: PathReport, *, joined: bool) -> None:
    """A report for people: a line for each stage, then what is wrong first and what to do."""
    print_table([_row(stage) for stage in report.stages], _COLUMNS, empty="nothing was looked at")
    print()
    wrong = report.first_wrong
    if wrong is not None:
        print(f"First wrong: {printable(wrong.name)} ({wrong.part}) on {wrong.host}: {printable(wrong.found)}")
        print(f"  looked at: {printable(wrong.looked_at)}")
        if wrong.expected:
            print(f"  expected: {printable(wrong.expected)}")
        if wrong.remedy:
            print(f"  to do: {printable(wrong.remedy)}")
    else:
        print(f"Nothing is wrong that {f'{report.host} and {report.peer}' if joined else report.host} can see.")
    if report.unknown and wrong is None:
        names = ", ".join(dict.fromkeys(f"{stage.name} ({stage.part}) on {stage.host}" for stage in report.unknown))
        print(f"  not known: {printable(names)}")
    if not joined:
        print(
            f"  {report.peer} may see more: there, `shamon link doctor {report.host} {report.type} --json > FILE`, "
            "and here --peer-report FILE"
        )


def _row(stage: Stage) -> dict[str, str]:
    return {
        "host": stage.host,
        "part": stage.part,
        "stage": stage.name,
        "verdict": stage.verdict.upper() if stage.verdict is Verdict.WRONG else stage.verdict,
        "found": stage.found + _moved(stage.moved),
    }


def _moved(counters: Mapping[str, int]) -> str:
    """What counted meanwhile, where there is a counter."""
    if not counters:
        return ""
    moved = ", ".join(f"{name.replace('_', ' ')} +{count}" for name, count in counters.items() if count)
    return f" [{moved or 'nothing moved'}]"


def _with_denials(report: PathReport) -> PathReport:
    try:
        lines = denial_lines()
    except OSError as error:
        return with_denials(report, None, unread=error.strerror or str(error))
    return with_denials(report, lines)


def _read(path: Path) -> PathReport:
    """The other side's report. Raises BadInput."""
    from shamon_host.daemon.files import read_limited

    return parse_report(read_limited(path, MAX_REPORT_BYTES, "report"), source=str(path))
