"""`shamon inspect`: what is in a quote, an event log or an IMA log, of this program or of any other.

Each command reads a file, says what it holds, and whether it is to be believed: exit code 0 where it is well formed and
valid, 3 where it is not to be trusted, 2 where it is no such file at all.
"""

from typing import Any

from shamon_host.cli import inspect_eventlog, inspect_ima, inspect_quote


def add_parsers(commands: Any) -> None:
    """Add this group to the parser."""
    inspect = commands.add_parser("inspect", help="read a quote, an event log or an IMA log, of any machine")
    actions = inspect.add_subparsers(dest="action", required=True, metavar="ACTION")
    for module in (inspect_quote, inspect_eventlog, inspect_ima):
        module.add_parser(actions)
