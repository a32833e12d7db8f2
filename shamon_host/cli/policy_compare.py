"""`shamon policy compatible OWN PEER` and `shamon policy adapt OWN --to PEER`: what two policies may share, and why.

Both work on files and ask no daemon. An adaptation is shown line by line with what each line permits and who has to
sign it; `--out` writes the version that results, to be read, signed (`policy sign`) and agreed to (`policy update`).
"""

import argparse
from pathlib import Path
from typing import Any


def add_parsers(actions: Any) -> None:
    """Add these commands to those of `shamon policy`."""
    compatible = actions.add_parser("compatible", help="which types hosts under two policies may share, and why not")
    compatible.add_argument("own", type=Path, metavar="OWN", help="a policy (TOML), or an envelope")
    compatible.add_argument("peer", type=Path, metavar="PEER", help="the other one")
    compatible.set_defaults(run=_compatible)
    adapt_parser = actions.add_parser("adapt", help="the least additions that let two policies share a type")
    adapt_parser.add_argument("own", type=Path, metavar="OWN", help="the policy to add to")
    adapt_parser.add_argument("--to", type=Path, required=True, metavar="PEER", dest="peer", help="the other policy")
    adapt_parser.add_argument(
        "--type",
        action="append",
        default=[],
        metavar="TYPE",
        dest="types",
        help="to be shared (again for each); without, every type of both policies",
    )
    adapt_parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="HOST",
        dest="hosts",
        help="with --out: may carry these types",
    )
    adapt_parser.add_argument("--out", type=Path, metavar="FILE", help="write the version that results")
    adapt_parser.set_defaults(run=_adapt)
    for parser in (compatible, adapt_parser):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _compatible(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.comparing import compatible

    return compatible(arguments)


def _adapt(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.comparing import adapted

    return adapted(arguments)
