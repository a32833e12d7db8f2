"""What `shamon coalition expel`, `release`, `publish` and `hosts` do: the next record of a host, and telling of it.

To tell them, the operator's machine calls the hosts' peer service with a certificate that the CA issues for this alone,
good for the exchange of records and nothing else. One host that hears is enough: it tells the others.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from shamon_host.cli.output import print_json, print_table, printable
from shamon_host.daemon.policy_source import read_policy_or_envelope
from shamon_host.domain.errors import BadInput, Refused, ShamonError, Unreachable
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.domain.policy import HostEntry, Policy
from shamon_host.peer.coalition_ca import key_pem, write_atomically
from shamon_host.peer.enroller import Enroller
from shamon_host.peer.host_record import HostRecord
from shamon_host.peer.http_transport import HttpTransport
from shamon_host.peer.ports import Membership
from shamon_host.peer.registry_messages import OPERATOR_NAME, Exchange
from shamon_host.peer.tls import TlsFiles
from shamon_host.peer.wire import REGISTRY

_VALID = timedelta(minutes=10)
_TIMEOUT_S = 20.0
_COLUMNS = ("host", "state", "serial", "tpm", "ek", "ak", "reason")


def expel_host(arguments: argparse.Namespace) -> int:
    """Write the record by which a host is out for good, and tell the others. Raises ShamonError."""
    return _end(arguments, Enroller.expel, "is expelled: its certificate, its AK and its EK are revoked")


def release_host(arguments: argparse.Namespace) -> int:
    """Write the record by which a host has left, and tell the others. Raises ShamonError."""
    words = "is released: it is out, and its name may be invited again, with this TPM or another"
    return _end(arguments, Enroller.release, words)


def _end(arguments: argparse.Namespace, end: Callable[[Enroller, HostName, str], HostRecord], words: str) -> int:
    enroller = _enroller(arguments)
    policy = read_policy_or_envelope(arguments.policy)[0] if arguments.policy else None
    record = end(enroller, HostName(plain_name(arguments.host, "host name")), arguments.reason)
    if not arguments.json:
        print(f"{record.peer.host} {words} (record {record.peer.serial}).")
    return _publish(enroller, policy, arguments, {"host": record.peer.host, "serial": record.peer.serial})


def publish_records(arguments: argparse.Namespace) -> int:
    """Tell every host of the policy what the registry has, and take what they know that is newer."""
    enroller = _enroller(arguments)
    return _publish(enroller, read_policy_or_envelope(arguments.policy)[0], arguments, {})


def rotate_ca(arguments: argparse.Namespace) -> int:
    """A new CA, certified by the old one; every record signed anew; tell the hosts. Raises ShamonError.

    First it hears who has left: signed anew, with a higher number, the record of such a host would count again.
    """
    enroller = _enroller(arguments)
    policy = read_policy_or_envelope(arguments.policy)[0] if arguments.policy else None
    if policy is not None:
        asyncio.run(_tell(enroller, policy))
    old = enroller.ca.certificates[0]
    _require_all_renewed(enroller, old)
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
    peers = _enroller(arguments).registry.hosts()
    rows = [
        {
            "host": peer.host,
            "state": peer.membership.value,
            "serial": peer.serial,
            "tpm": peer.tpm.value,
            "ek": peer.ek_sha256.hex() or None,
            "ak_name": peer.ak_name.hex(),
            "certificate": peer.certificate_sha256.hex(),
            "reason": peer.reason,
        }
        for peer in peers
    ]
    if arguments.json:
        print_json(rows)
        return 0
    short = [
        {**row, "ek": peer.ek_sha256.hex()[:16] or "not shown", "ak": peer.ak_name.hex()[:16]}
        for row, peer in zip(rows, peers, strict=True)
    ]
    print_table(short, _COLUMNS, empty="no host is enrolled")
    return 0


def _enroller(arguments: argparse.Namespace) -> Enroller:
    """The CA, and a registry that is there: a misspelt one would be empty. Raises BadInput, NotTrusted."""
    if not arguments.registry.is_dir():
        raise BadInput(
            "there is no such registry",
            where=str(arguments.registry),
            expected="the directory where `shamon coalition invite` and `enrol` put the records of hosts",
        )
    return Enroller.load(arguments.ca, arguments.registry)


def _require_all_renewed(enroller: Enroller, ca: x509.Certificate) -> None:
    """Raises Refused while a host has a certificate of the CA before: after one rotation more nobody would take it."""
    late = [
        record.peer.host
        for record in enroller.registry.records()
        if record.peer.membership is Membership.ENROLLED
        and x509.load_der_x509_certificate(record.certificate).issuer != ca.subject
    ]
    if late:
        raise Refused(
            "hosts still have a certificate of the CA before this one",
            found=", ".join(late),
            remedy="Let them join again (`shamon coalition invite`), or expel them.",
        )


def _publish(enroller: Enroller, policy: Policy | None, arguments: argparse.Namespace, what: Mapping[str, Any]) -> int:
    told: dict[HostName, str] = asyncio.run(_tell(enroller, policy)) if policy else {}
    nobody = bool(told) and all(told.values())
    if arguments.json:
        print_json({**what, "told": [host for host, words in told.items() if not words], "untold": _untold(told)})
        return Unreachable.exit_code if nobody else 0
    if policy is None:
        print("No host knows yet: run `shamon coalition publish`.")
    elif not told:
        print("There is no enrolled host to tell.")
    for host, words in told.items():
        print(f"  {host}: {printable(words) if words else 'knows'}")
    if nobody:
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
