"""`shamon policy check FILE`: read a policy and say everything that is wrong with it."""

import argparse
from pathlib import Path
from typing import Any

from shamon_host.cli.output import print_json
from shamon_host.daemon.files import read_policy_file


def add_parsers(commands: Any) -> None:
    """Add this group to the parser."""
    policy = commands.add_parser("policy", help="check a policy file")
    actions = policy.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="read a policy and say everything that is wrong with it")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    policy = read_policy_file(arguments.file)
    summary = {
        "coalition": policy.coalition,
        "version": policy.version,
        "digest": policy.digest,
        "types": sorted(policy.types),
        "hosts": sorted(policy.hosts),
        "vms": sorted(policy.vms),
    }
    if arguments.json:
        print_json(summary)
        return 0
    print(f"{arguments.file}: good. {policy.coalition}, version {policy.version}, digest {policy.digest}")
    print(
        f"{len(policy.types)} types, {len(policy.vm_labels)} labels, {len(policy.conflict_sets)} conflict sets, "
        f"{len(policy.hosts)} hosts, {len(policy.vms)} VMs"
    )
    return 0
