"""`shamon policy`: check, explain, compare, adapt, sign, update, import and export policies.

Most of these work on files, anywhere; `update`, and what is asked without a file, goes to the daemon of this host.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shamon_host.cli import policy_compare, policy_explain, policy_export, policy_import, policy_signing, policy_update
from shamon_host.cli.output import print_json, printable
from shamon_host.domain.addresses import undeclared, underlay_families

SHOWN = 8
"""How many of many are named in a line."""


def add_parsers(commands: Any) -> None:
    """Add this group to the parser."""
    policy = commands.add_parser("policy", help="check, explain, compare, sign and update policies")
    actions = policy.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="read a policy and say everything that is wrong with it")
    check.add_argument("file", type=Path, metavar="FILE", help="a policy (TOML), or an envelope")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=_check)
    policy_explain.add_parsers(actions)
    policy_compare.add_parsers(actions)
    policy_signing.add_parsers(actions)
    policy_update.add_parsers(actions)
    policy_import.add_parser(actions)
    policy_export.add_parsers(actions)


def _check(arguments: argparse.Namespace) -> int:
    from shamon_host.daemon.policy_source import read_policy_or_envelope

    policy, _ = read_policy_or_envelope(arguments.file)
    open_ones, families = undeclared(policy), underlay_families(policy)
    summary = {
        "coalition": policy.coalition,
        "version": policy.version,
        "digest": policy.digest,
        "types": sorted(policy.types),
        "hosts": sorted(policy.hosts),
        "vms": sorted(policy.vms),
        "underlay": {f"IPv{version}": list(hosts) for version, hosts in families.items()},
        "undeclared_addresses": [list(interface) for interface in open_ones],
    }
    if arguments.json:
        print_json(summary)
        return 0
    print(f"{printable(arguments.file)}: good. {policy.coalition}, version {policy.version}, digest {policy.digest}")
    counts: Sequence[tuple[int, str]] = (
        (len(policy.types), "types"),
        (len(policy.vm_labels), "labels"),
        (len(policy.conflict_sets), "conflict sets"),
        (len(policy.hosts), "hosts"),
        (len(policy.vms), "VMs"),
    )
    print(", ".join(f"{count} {what}" for count, what in counts))
    if len(families) > 1:
        ipv4, ipv6 = (", ".join(hosts) for hosts in families.values())
        print(f"note: no link leads from hosts with IPv4 addresses ({ipv4}) to hosts with IPv6 addresses ({ipv6})")
    if open_ones:
        shown = ", ".join(f"{vm} in {name}" for vm, name in open_ones[:SHOWN])
        more = f" and {len(open_ones) - SHOWN} more" if len(open_ones) > SHOWN else ""
        print(f"note: no addresses are declared for {shown}{more}: any may be used there, another VM's too")
    return 0
