"""`shamon policy explain A B` and `shamon policy dry-run VM@HOST`: every rule with its answer, and where it stands.

With `--file` the policy of a file is asked, and each rule is shown with its lines; without, the daemon of this host is
asked, which knows what runs.
"""

import argparse
from pathlib import Path
from typing import Any

from shamon_host.cli.operate import daemon_command
from shamon_host.domain.results import TpmKind


def add_parsers(actions: Any) -> None:
    """Add these commands to those of `shamon policy`."""
    pair = daemon_command(actions, "explain", "why two VMs, or a VM and a resource, may or may not meet", _explain)
    pair.add_argument("one", metavar="A", help="a VM or a label")
    pair.add_argument("other", metavar="B", help="a VM, a label or a resource")
    start = daemon_command(actions, "dry-run", "every check that a VM would meet on a host", _dry_run)
    start.add_argument("what", metavar="VM@HOST", help="a VM of the policy, and a host")
    start.add_argument(
        "--running", action="append", default=[], metavar="VM", help="with --file: what runs there (again for each)"
    )
    start.add_argument("--tpm", choices=tuple(TpmKind), default=TpmKind.HARDWARE, help="with --file: the host's TPM")
    for parser in (pair, start):
        parser.add_argument("--file", type=Path, metavar="FILE", help="ask this policy instead of the daemon")


def _explain(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.explaining import explained

    return explained(arguments)


def _dry_run(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.explaining import dry_run_told

    return dry_run_told(arguments)
