"""The registry of hosts, as commands read it that need to know who was enrolled."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shamon_host.domain.errors import BadInput

if TYPE_CHECKING:
    from shamon_host.peer.enrolment import PeerRegistry

DEFAULT_CA = Path("/etc/shamon/ca.pem")


def add_ca(parser: Any) -> None:
    """Add `--ca`, by which the registry's records are believed."""
    parser.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help=f"the coalition's CA: ca.pem, or the directory where it is (default {DEFAULT_CA})",
    )


def read_registry(directory: Path, arguments: argparse.Namespace) -> "PeerRegistry":
    """The registry in a directory, whose records the CA of `--ca` has signed. Raises BadInput, NotTrusted."""
    from shamon_host.peer.coalition_ca import CA_CERTIFICATE, read_ca_certificates
    from shamon_host.peer.enrolment import PeerRegistry
    from shamon_host.peer.host_record import authorities_of

    ca = arguments.ca or DEFAULT_CA
    if ca.is_dir():  # as the commands of an operator name it
        ca = ca / CA_CERTIFICATE
    try:
        certificates = read_ca_certificates(ca)
    except BadInput as error:
        error.remedy = "Name the coalition's CA with --ca: the ca.pem that its hosts have."
        raise
    try:
        return PeerRegistry.load(directory, authorities_of(certificates))
    except BadInput as error:
        if not directory.is_dir():
            error.remedy = "Name the directory that has a HOST.record of each host."
        raise
