"""`shamon inspect`: look into one file of Evidence, ours or not, with nothing else at hand."""

from typing import Any

from shamon_host.cli import inspect_ima


def add_parsers(commands: Any) -> None:
    """Add this group to the parser."""
    parser = commands.add_parser("inspect", help="look into a file of Evidence")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect_ima.add_parser(actions)
