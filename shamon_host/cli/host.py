"""`shamon host`: on a host, join a coalition, and leave it.

`join` takes an invitation (`shamon coalition invite`): it makes the host's TLS key, proves its TPM to the operator's
machine, and writes what it gets: certificate, CA, and the records of all hosts. Run again with a new invitation, it
renews the certificate. `ek` prints what an operator may pin. `leave` asks the daemon.
"""

import argparse
from pathlib import Path
from typing import Any

from shamon_host.cli.operate import daemon_client, daemon_command
from shamon_host.cli.output import print_json, printable

_TCTI = "device:/dev/tpmrm0"


def add_parsers(commands: Any) -> None:
    """Add this group to the parser."""
    host = commands.add_parser("host", help="on a host: join a coalition, leave it")
    actions = host.add_subparsers(dest="action", required=True, metavar="ACTION")
    join = actions.add_parser("join", help="join the coalition that invites, or renew this host's certificate")
    join.add_argument(
        "invitation", type=Path, metavar="INVITATION", help="the file that the operator gave to this host"
    )
    join.add_argument("--dir", type=Path, default=Path("/etc/shamon"), help="where the files go (default /etc/shamon)")
    join.add_argument("--new-key", action="store_true", help="make a new TLS key, though this host has one")
    join.add_argument("--plain-key", action="store_true", help="do not seal the TLS key by this host's TPM")
    join.set_defaults(run=_join)
    ek = actions.add_parser("ek", help="print the digest of this host's EK, for `shamon coalition invite --ek`")
    ek.set_defaults(run=_ek)
    for parser in (join, ek):
        parser.add_argument("--tcti", default=_TCTI, help=f"how to reach the TPM (default {_TCTI})")
        parser.add_argument("--json", action="store_true", help="print JSON")
    daemon_command(actions, "leave", "give up this host's place: tell every other host, close all links", _leave)


def _join(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.host_joining import join_coalition
    from shamon_host.daemon.composition import open_tpm

    with open_tpm(arguments.tcti) as tpm:
        return join_coalition(arguments, tpm)


def _ek(arguments: argparse.Namespace) -> int:
    from shamon_host.attestation.ek import EkPublic
    from shamon_host.daemon.composition import open_tpm

    with open_tpm(arguments.tcti) as tpm:
        ek, certified = EkPublic.parse(tpm.ek_public()), bool(tpm.ek_certificate())
    if arguments.json:
        print_json({"ek": ek.sha256.hex(), "kind": ek.kind.value, "certificate": certified})
    else:
        print(f"{ek.sha256.hex()}  {ek.kind.value}, {'with' if certified else 'without'} a certificate")
    return 0


def _leave(arguments: argparse.Namespace) -> int:
    answer = daemon_client(arguments).post("/v1/leave", {})
    if arguments.json:
        print_json(answer)
        return 0
    print(f"{answer['host']} has left the coalition; all its links are closed. Stop the daemon and remove its files.")
    for host, words in sorted(answer["unheard"].items()):
        print(f"  {host} has not heard, and will from the others: {printable(words)}")
    return 0
