"""`shamon demo`: the story of a coalition in memory."""

import argparse
from typing import Any

from shamon_host.domain.policy import HypervisorKind

_HOSTS = 3


def add_parsers(commands: Any) -> None:
    """Add this command to the parser."""
    demo = commands.add_parser("demo", help="play the story of a coalition in memory")
    demo.add_argument("--json", action="store_true", help="print the report as JSON")
    demo.add_argument(
        "--hosts",
        type=_kinds,
        default=(),
        metavar="KIND,KIND,KIND",
        help="what alpha, beta and gamma run their VMs with: qemu (the default) or xen",
    )
    demo.add_argument("--mac-vms", action="store_true", help="a VM of its own on each host holds its links")
    demo.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.demo_screen import show_demo

    return show_demo(as_json=arguments.json, hypervisors=arguments.hosts, mac_vms=arguments.mac_vms)


def _kinds(text: str) -> tuple[HypervisorKind, ...]:
    kinds = text.split(",")
    if len(kinds) > _HOSTS or not set(kinds) <= set(HypervisorKind):
        raise argparse.ArgumentTypeError("expected qemu or xen for each of at most three hosts, as in xen,xen,qemu")
    return tuple(map(HypervisorKind, kinds))
