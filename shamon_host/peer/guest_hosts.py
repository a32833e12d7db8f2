"""What a host tells a VM of other hosts, and how the VM verifies it with nothing but the coalition's CA.

The answer is three things in one JSON object: the record by which the CA knows the host (`host_record`), a statement
signed by that host's key over the VM's nonce, with the digest of each result, and the results, each signed by itself
(`result_envelope`). So what is told is of now, by a host of the coalition, and each result stands for itself later.

    {"hosts": [{"host": "beta", "sha256": "9f86…", "state": "admitted", "types": ["acme/red"]}],
     "nonce": "…", "verifier": "alpha", "vm": "web"}
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shamon_host.attestation.guest_messages import MAX_HOSTS_BYTES, NONCE_BYTES, raise_refusal
from shamon_host.attestation.result_document import ResultRecord
from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.labels import HostName, TypeName, VmName, plain_name, type_name
from shamon_host.peer.host_record import MAX_RECORD_ENVELOPE_BYTES, Authorities, read_host_record
from shamon_host.peer.ports import Membership
from shamon_host.peer.result_envelope import MAX_ENVELOPE_BYTES, verify_result
from shamon_host.peer.signed_record import PrivateKey, sign_record, verify_record

HOSTS_TYPE = "application/vnd.shamon.guest-hosts+json"
MAX_STATEMENT_BYTES = 256 * 1024
MAX_HOSTS = 256
_MAX_TYPES = 512
_ANSWER = frozenset({"statement", "record", "results"})
_STATEMENT = frozenset({"hosts", "nonce", "verifier", "vm"})
_HOST = frozenset({"host", "sha256", "state", "types"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldHost:
    """One host that enforces a type of the VM, as the VM's own host knows it."""

    host: HostName
    state: AdmissionState
    types: tuple[TypeName, ...]
    """Those that the VM has, too."""
    result: bytes = b""
    """The last result about it, in its envelope; empty: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedHost:
    """The same, once the VM has verified it."""

    host: HostName
    state: AdmissionState
    types: tuple[TypeName, ...]
    result: ResultRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedHosts:
    """All of them. `verifier` is the host that the VM runs on."""

    verifier: HostName
    vm: VmName
    hosts: tuple[VerifiedHost, ...]


def encode_hosts(
    hosts: Iterable[ToldHost], *, verifier: HostName, vm: VmName, nonce: bytes, record: bytes, key: PrivateKey
) -> bytes:
    """The answer of `verifier`, whose key signs. `record`: the CA's of it. Raises BadInput for too much of it."""
    told = tuple(hosts)
    statement = {
        "hosts": [
            {
                "host": each.host,
                "sha256": hashlib.sha256(each.result).hexdigest() if each.result else "",
                "state": each.state.value,
                "types": list(each.types),
            }
            for each in told
        ],
        "nonce": nonce.hex(),
        "verifier": verifier,
        "vm": vm,
    }
    signed = sign_record(statement, key, payload_type=HOSTS_TYPE, most=MAX_STATEMENT_BYTES)
    data = canonical_json(
        {
            "statement": signed.decode("ascii"),
            "record": record.decode("ascii"),
            "results": {each.host: each.result.decode("ascii") for each in told if each.result},
        }
    )
    if len(data) > MAX_HOSTS_BYTES:
        raise BadInput("there is too much to tell", expected=f"at most {MAX_HOSTS_BYTES} bytes", found=str(len(data)))
    return data


def verify_hosts(data: bytes, authorities: Authorities, nonce: bytes) -> VerifiedHosts:
    """What a host of the coalition says now, to whoever sent this nonce.

    Raises BadInput for what is malformed, NotTrusted for what no host of the coalition has signed, or not for this
    nonce, and Refused with the host's own words where it refuses.
    """
    if len(data) > MAX_HOSTS_BYTES:
        raise BadInput("the host's answer is too long", expected=f"at most {MAX_HOSTS_BYTES} bytes")
    raise_refusal(data, "the host does not say")
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput("the host's answer is not JSON", found=type(error).__name__) from None
    _keys(answer, _ANSWER, "answer")
    results = answer["results"]
    if not isinstance(results, dict):
        raise BadInput("malformed answer", where="results", expected="an object")
    record = read_host_record(
        _ascii(answer["record"], MAX_RECORD_ENVELOPE_BYTES, "record"), authorities, source="record of the host"
    )
    if record.peer.membership is not Membership.ENROLLED or not record.peer.record_key:
        raise NotTrusted("the host is none of the coalition any more", where=record.peer.host)
    statement = verify_record(
        _ascii(answer["statement"], 2 * MAX_STATEMENT_BYTES, "statement"),
        record.peer.record_key,
        payload_type=HOSTS_TYPE,
        most=MAX_STATEMENT_BYTES,
        source="statement of the host",
    )
    _keys(statement, _STATEMENT, "statement")
    if len(nonce) != NONCE_BYTES or statement["nonce"] != nonce.hex():
        raise NotTrusted("an old answer, or one to somebody else", where="nonce", expected=nonce.hex())
    if statement["verifier"] != record.peer.host:
        raise NotTrusted(
            "the statement is of another host than the record", where="verifier", expected=record.peer.host
        )
    listed = statement["hosts"]
    if not isinstance(listed, list) or len(listed) > MAX_HOSTS:
        raise BadInput("malformed statement", where="hosts", expected=f"a list of at most {MAX_HOSTS}")
    key = {record.peer.host: record.peer.record_key}
    return VerifiedHosts(
        verifier=record.peer.host,
        vm=VmName(plain_name(_text(statement["vm"], "vm"), "VM name")),
        hosts=tuple(_host(each, results, key) for each in listed),
    )


def _host(fields: object, results: Mapping[str, Any], key: Mapping[HostName, str]) -> VerifiedHost:
    _keys(fields, _HOST, "hosts")
    assert isinstance(fields, dict)
    host = HostName(plain_name(_text(fields["host"], "host"), "host name"))
    types = fields["types"]
    if not isinstance(types, list) or len(types) > _MAX_TYPES:
        raise BadInput("malformed statement", where=f"{host}: types", expected="a list of types")
    result = None
    if fields["sha256"] != "":
        envelope = _ascii(results.get(host), MAX_ENVELOPE_BYTES, f"result of {host}")
        if hashlib.sha256(envelope).hexdigest() != fields["sha256"]:
            raise NotTrusted("another result than the one that the host signed for", where=host)
        result = verify_result(envelope, key, source=f"result of {host}")
        if result.result.host != host:
            raise NotTrusted("the result is of another host", where=host, found=result.result.host)
    try:
        state = AdmissionState(_text(fields["state"], "state"))
    except ValueError:
        raise BadInput("malformed statement", where=f"{host}: state", expected=", ".join(AdmissionState)) from None
    return VerifiedHost(
        host=host, state=state, types=tuple(type_name(_text(each, "types")) for each in types), result=result
    )


def _keys(value: object, names: frozenset[str], where: str) -> None:
    if not isinstance(value, dict) or set(value) != names:
        raise BadInput("malformed answer of the host", where=where, expected=", ".join(sorted(names)))


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise BadInput("malformed answer of the host", where=where, expected="a text")
    return value


def _ascii(value: object, most: int, where: str) -> bytes:
    text = _text(value, where)
    if not text.isascii() or len(text) > most:
        raise BadInput("malformed answer of the host", where=where, expected=f"at most {most} ASCII characters")
    return text.encode("ascii")
