"""What `shamon coalition expel`, `publish` and `hosts` do: the next record of a host, and telling the hosts of it.

To tell them, the operator's machine calls the hosts' peer service with a certificate that the CA issues for this alone,
good for the exchange of records and nothing else. One host that hears is enough: it tells the others.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from shamon_host.cli.output import print_json, print_table, printable
from shamon_host.daemon.policy_source import read_policy_or_envelope
from shamon_host.domain.errors import ShamonError, Unreachable
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.domain.policy import HostEntry, Policy
from shamon_host.peer.coalition_ca import key_pem, write_atomically
from shamon_host.peer.enroller import Enroller
from shamon_host.peer.http_transport import HttpTransport
from shamon_host.peer.ports import Membership
from shamon_host.peer.registry_messages import OPERATOR_NAME, Exchange
from shamon_host.peer.tls import TlsFiles
from shamon_host.peer.wire import REGISTRY

_VALID = timedelta(minutes=10)
_TIMEOUT_S = 20.0
_COLUMNS = ("host", "state", "serial", "tpm", "ek", "ak", "reason")


def expel_host(arguments: argparse.Namespace) -> int:
    """Write the record by which a host is out, and tell the others. Raises ShamonError."""
    enroller = Enroller.load(arguments.ca, arguments.registry)
    policy = read_policy_or_envelope(arguments.policy)[0] if arguments.policy else None
    record = enroller.expel(HostName(plain_name(arguments.host, "host name")), arguments.reason)
    if not arguments.json:
        print(
            f"{record.peer.host} is expelled: its certificate, its AK and its EK are revoked "
            f"(record {record.peer.serial})."
        )
        if policy is None:
            print("No host knows yet: run `shamon coalition publish`.")
    return _publish(enroller, policy, arguments, {"host": record.peer.host, "serial": record.peer.serial})


def publish_records(arguments: argparse.Namespace) -> int:
    """Tell every host of the policy what the registry has, and take what they know that is newer."""
    enroller = Enroller.load(arguments.ca, arguments.registry)
    return _publish(enroller, read_policy_or_envelope(arguments.policy)[0], arguments, {})


def rotate_ca(arguments: argparse.Namespace) -> int:
    """A new CA, certified by the old one; every record signed anew; tell the hosts. Raises ShamonError.

    First it hears who has left: signed anew, with a higher number, the record of such a host would count again.
    """
    enroller = Enroller.load(arguments.ca, arguments.registry)
    policy = read_policy_or_envelope(arguments.policy)[0] if arguments.policy else None
    if policy is not None:
        asyncio.run(_tell(enroller, policy))
    old = enroller.ca.certificates[0]
    records = enroller.rotate(arguments.ca)
    name = enroller.ca.certificates[0].subject.rfc4514_string()
    if not arguments.json:
        print(f"{name} is the coalition's CA now; {len(records)} records are signed anew, and the old key is gone.")
        print(
            f"Hosts take both until the old one ends, on {old.not_valid_after_utc:%Y-%m-%d}: let each join again by "
            "then."
        )
    return _publish(enroller, policy, arguments, {"ca": name, "records": len(records)})


def list_hosts(arguments: argparse.Namespace) -> int:
    """Print the registry."""
    rows = [
        {
            "host": peer.host,
            "state": peer.membership.value,
            "serial": peer.serial,
            "tpm": peer.tpm.value,
            "ek": peer.ek_sha256.hex()[:16] or "not shown",
            "ak": peer.ak_name.hex()[:16],
            "reason": peer.reason,
        }
        for peer in Enroller.load(arguments.ca, arguments.registry).registry.hosts()
    ]
    if arguments.json:
        print_json(rows)
    else:
        print_table(rows, _COLUMNS, empty="no host is enrolled")
    return 0


def _publish(enroller: Enroller, policy: Policy | None, arguments: argparse.Namespace, what: Mapping[str, Any]) -> int:
    told: dict[HostName, str] = asyncio.run(_tell(enroller, policy)) if policy else {}
    if arguments.json:
        print_json({**what, "told": [host for host, words in told.items() if not words], "untold": _untold(told)})
    else:
        for host, words in told.items():
            print(f"  {host}: {printable(words) if words else 'knows'}")
    if told and all(told.values()):
        raise Unreachable(
            "no host could be told", expected="one at least", remedy="Run `shamon coalition publish` later."
        )
    return 0


def _untold(told: Mapping[HostName, str]) -> dict[str, str]:
    return {host: words for host, words in told.items() if words}


async def _tell(enroller: Enroller, policy: Policy) -> dict[HostName, str]:
    """Each enrolled host of the policy → why it could not be told, empty where it was."""
    with tempfile.TemporaryDirectory(prefix="shamon-") as directory:  # mode 0700; ssl takes only files
        transport = HttpTransport(tls=_own_files(enroller, Path(directory)), directory=enroller.registry)
        try:
            hosts = [
                entry
                for name, entry in sorted(policy.hosts.items())
                if (peer := enroller.registry.get(name)) and peer.membership is Membership.ENROLLED
            ]
            words = await asyncio.gather(*(_tell_one(enroller, transport, entry) for entry in hosts))
            return {entry.name: each for entry, each in zip(hosts, words, strict=True)}
        finally:
            await transport.close()


async def _tell_one(enroller: Enroller, transport: HttpTransport, entry: HostEntry) -> str:
    registry = enroller.registry
    try:
        body = Exchange.of(registry.ranks(), registry.records(), enroller.cas).encode()
        answer = Exchange.decode(await transport.call(entry, REGISTRY, body, timeout_s=_TIMEOUT_S))
        enroller.take(answer.records, entry.name)
    except ShamonError as error:
        return str(error)
    return ""


def _own_files(enroller: Enroller, directory: Path) -> TlsFiles:
    key = ec.generate_private_key(ec.SECP256R1())
    cross = enroller.ca.cross
    more = b"" if cross is None else cross.public_bytes(Encoding.PEM)
    certificate = enroller.ca.issue_operator(OPERATOR_NAME, key.public_key(), _VALID, server=False)
    files = TlsFiles(ca=directory / "ca.pem", certificate=directory / "own.pem", key=directory / "own.key")
    write_atomically(files.ca, enroller.ca.pem, mode=0o600)
    write_atomically(files.certificate, certificate.public_bytes(Encoding.PEM) + more, mode=0o600)
    write_atomically(files.key, key_pem(key), mode=0o600)
    return files
