"""`shamon daemon`: run the daemon of this host."""

import argparse
from pathlib import Path
from typing import Any

from shamon_host.cli.operate import DEFAULT_CONFIG


def add_parsers(commands: Any) -> None:
    """Add this command to the parser."""
    daemon = commands.add_parser("daemon", help="run the daemon of this host (systemd starts it)")
    daemon.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help=f"the host's configuration (default {DEFAULT_CONFIG})",
    )
    daemon.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from shamon_host.daemon.composition import run_daemon

    return run_daemon(arguments.config)
