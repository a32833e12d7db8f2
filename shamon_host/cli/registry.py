"""The registry of hosts, as commands read it that need to know who was enrolled."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shamon_host.peer.enrolment import PeerRegistry

DEFAULT_CA = Path("/etc/shamon/ca.pem")


def add_ca(parser: Any) -> None:
    """Add `--ca`, by which the registry's records are believed."""
    parser.add_argument("--ca", type=Path, metavar="FILE", help=f"the coalition's CA (default {DEFAULT_CA})")


def read_registry(directory: Path, arguments: argparse.Namespace) -> "PeerRegistry":
    """The registry in a directory, whose records the CA of `--ca` has signed. Raises BadInput, NotTrusted."""
    from shamon_host.peer.coalition_ca import read_ca_certificates
    from shamon_host.peer.enrolment import PeerRegistry
    from shamon_host.peer.host_record import authorities_of

    return PeerRegistry.load(directory, authorities_of(read_ca_certificates(arguments.ca or DEFAULT_CA)))
