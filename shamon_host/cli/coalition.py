"""`shamon coalition`: found a coalition, invite its hosts, and expel them.

`init` makes the coalition's CA, whose key stays with the operator, off the hosts. `invite` waits for one host, which
proves its TPM before it gets its certificate (`shamon host join`). Enrolling by hand is for hosts that cannot call the
operator's machine: `ak`, run on a host, prints the public part of its TPM's Attestation Key, and `enrol` issues the
host's certificate and writes its record; whoever carries the file is trusted for it.
"""

import argparse
import base64
import sys
from pathlib import Path
from typing import Any

from shamon_host.cli.output import print_json
from shamon_host.domain.labels import plain_name
from shamon_host.domain.results import TpmKind


def add_parsers(commands: Any) -> None:
    """Add this group to the parser."""
    coalition = commands.add_parser("coalition", help="found a coalition, invite and enrol its hosts, expel them")
    actions = coalition.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser("init", help="make the coalition's CA")
    init.add_argument("name", metavar="COALITION", help="its name, as in the policy")
    init.add_argument("--ca", type=Path, required=True, metavar="DIR", help="where its key and certificate go")
    init.set_defaults(run=_init)
    key = actions.add_parser("ak", help="on a host: write the public part of its TPM's Attestation Key")
    key.add_argument("--tcti", default="device:/dev/tpmrm0", help="how to reach the TPM (default device:/dev/tpmrm0)")
    key.add_argument("--out", type=Path, metavar="FILE", help="file to write TPMT_PUBLIC to (default: standard output)")
    key.set_defaults(run=_ak)
    enrol = actions.add_parser("enrol", help="issue a host's certificate and write its registry entry")
    enrol.add_argument("--ak", type=Path, required=True, metavar="FILE", help="AK public of the host, see ak")
    enrol.add_argument("--out", type=Path, required=True, metavar="DIR", help="where HOST.pem and HOST.key go")
    enrol.set_defaults(run=_enrol)
    invite = actions.add_parser("invite", help="let one host join that proves its TPM (`shamon host join` there)")
    for parser in (enrol, invite):
        parser.add_argument("host", metavar="HOST", help="its name in the policy")
        parser.add_argument("--ca", type=Path, required=True, metavar="DIR", help="the coalition's CA, see init")
        parser.add_argument("--policy", type=Path, required=True, metavar="FILE", help="the coalition's policy")
        parser.add_argument("--registry", type=Path, required=True, metavar="DIR", help="where HOST.record goes")
        parser.add_argument("--tpm", choices=[kind.value for kind in TpmKind], required=True, help="kind of its TPM")
    known = invite.add_mutually_exclusive_group(required=True)
    known.add_argument("--ek-roots", type=Path, metavar="DIR", help="certificates of the TPM makers that are trusted")
    known.add_argument("--ek", metavar="SHA256", help="digest of the host's EK, as `shamon host ek` prints it there")
    known.add_argument("--trust-first-ek", action="store_true", help="any EK; only for a software TPM")
    invite.add_argument("--listen", required=True, metavar="ADDR:PORT", help="where to wait for the host")
    invite.add_argument("--reach", metavar="ADDR", help="address for the host to call, where it is another one")
    invite.add_argument(
        "--valid", default="15m", metavar="TIME", help="how long it is good: 90s, 15m, 2h, 7d at most (default 15m)"
    )
    invite.add_argument("--out", type=Path, required=True, metavar="FILE", help="the invitation")
    invite.set_defaults(run=_invite)
    expel = actions.add_parser("expel", help="revoke a host's certificate, AK and EK, for good, and tell the others")
    release = actions.add_parser("release", help="let a host go that cannot leave itself: its TPM is gone, say")
    for parser, run in ((expel, _expel), (release, _release)):
        parser.add_argument("host", metavar="HOST", help="its name in the policy")
        parser.add_argument("--reason", default="by the operator", help="for the hosts' audit logs")
        parser.set_defaults(run=run)
    publish = actions.add_parser("publish", help="tell the hosts what the registry has, and hear who left")
    publish.set_defaults(run=_publish)
    hosts = actions.add_parser("hosts", help="print the registry")
    hosts.set_defaults(run=_hosts)
    rotate = actions.add_parser("rotate-ca", help="a new CA, certified by the old one; signs every record anew")
    rotate.set_defaults(run=_rotate)
    for parser in (expel, release, publish, hosts, rotate):
        parser.add_argument("--ca", type=Path, required=True, metavar="DIR", help="the coalition's CA, see init")
        parser.add_argument("--registry", type=Path, required=True, metavar="DIR", help="where the records are")
    for parser in (expel, release, rotate):
        parser.add_argument(
            "--policy", type=Path, metavar="FILE", help="where the hosts are; without it nobody is told"
        )
    publish.add_argument("--policy", type=Path, required=True, metavar="FILE", help="where the hosts are")
    for parser in (init, key, enrol, invite, expel, release, publish, hosts, rotate):
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

    with open_tpm(arguments.tcti) as tpm:
        public = tpm.ak_public()
    if arguments.out is not None:
        arguments.out.write_bytes(public)
    if arguments.json:
        print_json({"ak": base64.b64encode(public).decode(), "out": str(arguments.out) if arguments.out else None})
    elif arguments.out is None:
        sys.stdout.buffer.write(public)
    else:
        print(f"{arguments.out}: AK public of this host, for `shamon coalition enrol`.")
    return 0


def _invite(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.inviting import invite_host

    return invite_host(arguments)


def _expel(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.publishing import expel_host

    return expel_host(arguments)


def _release(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.publishing import release_host

    return release_host(arguments)


def _publish(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.publishing import publish_records

    return publish_records(arguments)


def _rotate(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.publishing import rotate_ca

    return rotate_ca(arguments)


def _hosts(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.publishing import list_hosts

    return list_hosts(arguments)


def _enrol(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.enrolling import enrol_host

    return enrol_host(arguments)
