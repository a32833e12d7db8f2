"""`shamon coalition`: found a coalition, and enrol its hosts by hand.

`init` makes the coalition's CA, whose key stays with the operator, off the hosts. `ak`, run on a host, prints the
public part of its TPM's Attestation Key. `enrol` issues the host's TLS certificate and writes its entry for the
registry that every host has.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from shamon_host.cli.output import print_json
from shamon_host.domain.labels import plain_name
from shamon_host.domain.results import TpmKind


def add_parsers(commands: Any) -> None:
    """Add this group to the parser."""
    coalition = commands.add_parser("coalition", help="found a coalition, enrol hosts")
    actions = coalition.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser("init", help="make the coalition's CA")
    init.add_argument("name", metavar="COALITION")
    init.add_argument("--ca", type=Path, required=True, metavar="DIR", help="where its key and certificate go")
    init.set_defaults(run=_init)
    key = actions.add_parser("ak", help="on a host: write the public part of its TPM's Attestation Key")
    key.add_argument("--tcti", default="device:/dev/tpmrm0", help="how to reach the TPM (default device:/dev/tpmrm0)")
    key.add_argument("--out", type=Path, help="file to write TPMT_PUBLIC to (default: standard output)")
    key.set_defaults(run=_ak)
    enrol = actions.add_parser("enrol", help="issue a host's certificate and write its registry entry")
    enrol.add_argument("host", metavar="HOST")
    enrol.add_argument("--ca", type=Path, required=True, metavar="DIR", help="the coalition's CA, see init")
    enrol.add_argument("--policy", type=Path, required=True, metavar="FILE", help="the coalition's policy")
    enrol.add_argument("--ak", type=Path, required=True, metavar="FILE", help="AK public of the host, see ak")
    enrol.add_argument("--tpm", choices=[kind.value for kind in TpmKind], required=True, help="what kind of TPM it is")
    enrol.add_argument("--registry", type=Path, required=True, metavar="DIR", help="where HOST.toml goes")
    enrol.add_argument("--out", type=Path, required=True, metavar="DIR", help="where HOST.pem and HOST.key go")
    enrol.set_defaults(run=_enrol)
    for parser in (init, key, enrol):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _init(arguments: argparse.Namespace) -> int:
    from shamon_host.peer.coalition_ca import init_coalition

    certificate = init_coalition(arguments.ca, plain_name(arguments.name, "coalition name"))
    if arguments.json:
        print_json({"certificate": str(certificate)})
    else:
        print(f"{certificate}: the CA of {arguments.name}. Its key lies beside it: keep it off the hosts.")
    return 0


def _ak(arguments: argparse.Namespace) -> int:
    from shamon_host.daemon.composition import open_tpm

    public = open_tpm(arguments.tcti).ak_public()
    if arguments.out is None:
        sys.stdout.buffer.write(public)
        return 0
    arguments.out.write_bytes(public)
    if arguments.json:
        print_json({"ak": str(arguments.out)})
    else:
        print(f"{arguments.out}: AK public of this host, for `shamon coalition enrol`.")
    return 0


def _enrol(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.enrolling import enrol_host

    return enrol_host(arguments)
