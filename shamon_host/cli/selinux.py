"""`shamon selinux`: on a host, load Shamon's SELinux modules, check what the kernel makes of them, take them out.

What counts is the policy in the kernel: `check` asks it, file by file of selinuxfs, and believes no list of modules.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from shamon_host.cli.output import print_json, print_table, printable
from shamon_host.domain.errors import Refused
from shamon_host.selinux import LINK_MODULE, shipped_module
from shamon_host.selinux.checking import check_host, in_rows, remedies
from shamon_host.selinux.installing import install, modules_named, remove
from shamon_host.selinux.labelled_host import LinuxLabelledHost
from shamon_host.selinux.questions import Finding
from shamon_host.selinux.selinuxfs import SelinuxFs
from shamon_host.selinux.semodule import SemoduleStore

_COLUMNS = ("result", "about", "who", "what", "expected", "found")


def add_parsers(commands: Any) -> None:
    """Add this group to the parser."""
    selinux = commands.add_parser("selinux", help="on a host: load, check or remove the SELinux modules")
    actions = selinux.add_subparsers(dest="action", required=True, metavar="ACTION")
    installing = actions.add_parser("install", help="load the modules, label the files, and check")
    installing.set_defaults(run=_install)
    checking = actions.add_parser("check", help="ask the kernel whether its policy does what links need")
    checking.set_defaults(run=_check)
    removing = actions.add_parser("remove", help="take the modules out, when nothing labelled is left")
    removing.set_defaults(run=_remove)
    for parser in (installing, removing):
        parser.add_argument("--kvm", action="store_true", help="also kvm_host, what libvirt needs for QEMU and KVM")
        parser.add_argument("--xen", action="store_true", help="also kvm_host and xen_host, what dom0 of Xen needs")
        parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
    for parser in (installing, checking, removing):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _install(arguments: argparse.Namespace) -> int:
    _demand_root()
    steps = _Steps(quiet=arguments.json)
    modules = [shipped_module(name) for name in modules_named(kvm=arguments.kvm, xen=arguments.xen)]
    findings = install(
        SelinuxFs(), SemoduleStore(), LinuxLabelledHost(), modules, say=steps.say, dry_run=arguments.dry_run
    )
    if arguments.dry_run:
        return steps.end()
    return _tell(findings, steps=steps.said, as_json=arguments.json)


def _check(arguments: argparse.Namespace) -> int:
    _demand_root()
    return _tell(check_host(SelinuxFs(), LinuxLabelledHost()), steps=None, as_json=arguments.json)


def _remove(arguments: argparse.Namespace) -> int:
    _demand_root()
    from shamon_host.daemon.composition import labelled_objects

    steps = _Steps(quiet=arguments.json)
    remove(
        SelinuxFs(), SemoduleStore(), LinuxLabelledHost(), modules_named(kvm=arguments.kvm, xen=arguments.xen),
        objects=labelled_objects(), say=steps.say, dry_run=arguments.dry_run,
    )  # fmt: skip
    return steps.end()


class _Steps:
    """What was done, told as it is done, or at the end as JSON."""

    def __init__(self, *, quiet: bool) -> None:
        self.said: list[str] = []
        self._quiet = quiet

    def say(self, words: str) -> None:
        self.said.append(words)
        if not self._quiet:
            print(printable(words), flush=True)

    def end(self) -> int:
        if self._quiet:
            print_json({"steps": self.said})
        return 0


def _tell(findings: Sequence[Finding], *, steps: Sequence[str] | None, as_json: bool) -> int:
    """Print what was found; the exit code says whether all is as it should be."""
    wrong = [finding for finding in findings if not finding.ok]
    if as_json:
        told: dict[str, Any] = {} if steps is None else {"steps": list(steps)}
        print_json(told | {"ok": not wrong, "findings": [_in_json(finding) for finding in findings]})
        return 1 if wrong else 0
    print_table(in_rows(findings), _COLUMNS, empty="Nothing was asked.")
    if wrong:
        print(f"\n{len(wrong)} of {len(findings)} answers are not as they should be. What helps:")
        for remedy in remedies(wrong):
            print(f"  {printable(remedy)}")
        return 1
    print(f"\nAll {len(findings)} answers are as they should be.")
    return 0


def _in_json(finding: Finding) -> dict[str, Any]:
    return {
        "ok": finding.ok, "about": finding.group, "who": finding.who, "what": finding.what,
        "expected": finding.expected, "found": finding.found, "remedy": finding.remedy,
    }  # fmt: skip


def _demand_root() -> None:
    if os.geteuid() != 0:
        raise Refused("this needs root", where=f"module {LINK_MODULE}", remedy="Run it as root on the host.")
