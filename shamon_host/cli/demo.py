"""`shamon demo`: the story of a coalition in memory."""

import argparse
from typing import Any


def add_parsers(commands: Any) -> None:
    """Add this command to the parser."""
    demo = commands.add_parser("demo", help="play the story of a coalition in memory")
    demo.add_argument("--json", action="store_true", help="print the report as JSON")
    demo.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.demo_screen import show_demo

    return show_demo(as_json=arguments.json)
