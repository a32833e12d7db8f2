"""What a host and the agent in a VM of it say to each other: requests and answers as bytes.

A connection carries one request and one answer, each after its length (four bytes, big-endian). A request is one
canonical JSON object. The answer to `evidence` is one too, followed by a newline and the Evidence; whoever refuses says
why, in words. To each side every byte of the other one is hostile.

The quote's qualifyingData is H("shamon guest quote" ‖ 0 ‖ length of the VM's name ‖ name ‖ nonce): made for this VM and
this question alone.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shamon_host.attestation.evidence import Evidence, decode, encode
from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput, Refused
from shamon_host.domain.labels import VmName, plain_name

GUEST_PORT = 7443
"""Where the agent listens, on vsock."""
HOST_PORT = 7444
"""Where the host answers its VMs, on vsock."""
MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 4 << 20
"""Of a guest: its IMA log in base64, most of all. With 256 VMs on a host it is what they can make it hold at most."""
MAX_HOSTS_BYTES = 16 << 20
"""Of a host to a guest: a signed result for each host."""
MAX_WORDS = 500
NONCE_BYTES = 32
LENGTH_BYTES = 4
_MAX_AK_BYTES = 1024
_MAX_HEADER_BYTES = 8192
_MAX_NUMBER = 1 << 53
_QUOTE = b"shamon guest quote\x00"
_EVIDENCE, _HOSTS = "evidence", "hosts"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRequest:
    """The host wants Evidence. The log is wanted from `ima_offset` on if the VM is still in the boot that
    `ima_reset_count` names, else from its beginning."""

    vm: VmName
    nonce: bytes
    """32 bytes of the host, never used before."""
    ima_offset: int = 0
    ima_reset_count: int = 0

    @property
    def qualifying_data(self) -> bytes:
        """What the quote has to be over, 32 bytes."""
        name = self.vm.encode("ascii")
        return hashlib.sha256(_QUOTE + bytes([len(name)]) + name + self.nonce).digest()

    def encode(self) -> bytes:
        return canonical_json(
            {
                "ask": _EVIDENCE,
                "vm": self.vm,
                "nonce": self.nonce.hex(),
                "ima_offset": self.ima_offset,
                "ima_reset_count": self.ima_reset_count,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsRequest:
    """A guest wants to know what its host says of the hosts that enforce its types."""

    nonce: bytes

    def encode(self) -> bytes:
        return canonical_json({"ask": _HOSTS, "nonce": self.nonce.hex()})


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestEvidence:
    """What a guest answers: nothing of it is verified."""

    ak_public: bytes
    """TPMT_PUBLIC of the key that it says it quotes with."""
    evidence: Evidence
    """Without reports: those are of hosts."""


def read_request(data: bytes) -> EvidenceRequest | HostsRequest:
    """What the other side asks for. Raises BadInput."""
    fields = _object(data, MAX_REQUEST_BYTES)
    match fields.get("ask"):
        case "evidence":
            _exactly(fields, ("ask", "vm", "nonce", "ima_offset", "ima_reset_count"))
            return EvidenceRequest(
                vm=VmName(plain_name(_text(fields, "vm"), "VM name")),
                nonce=_octets(fields, "nonce", least=NONCE_BYTES, most=NONCE_BYTES),
                ima_offset=_count(fields, "ima_offset"),
                ima_reset_count=_count(fields, "ima_reset_count"),
            )
        case "hosts":
            _exactly(fields, ("ask", "nonce"))
            return HostsRequest(nonce=_octets(fields, "nonce", least=NONCE_BYTES, most=NONCE_BYTES))
        case other:
            raise BadInput("no such request", expected=f"{_EVIDENCE} or {_HOSTS}", found=repr(other)[:40])


def encode_answer(answer: GuestEvidence) -> bytes:
    """Raises BadInput for more than one answer may be."""
    data = canonical_json({"ak": answer.ak_public.hex()}) + b"\n" + encode(answer.evidence)
    if len(data) > MAX_ANSWER_BYTES:
        raise BadInput(
            "the logs are too long",
            expected=f"an answer of at most {MAX_ANSWER_BYTES} bytes",
            found=f"{len(data)} bytes",
            remedy="Measure less in this VM (its IMA policy).",
        )
    return data


def read_answer(data: bytes) -> GuestEvidence:
    """Raises BadInput, and Refused with the guest's own words where it refuses."""
    if len(data) > MAX_ANSWER_BYTES:
        raise BadInput("the guest's answer is too long", expected=f"at most {MAX_ANSWER_BYTES} bytes")
    header, _, rest = data.partition(b"\n")
    raise_refusal(header, "the guest does not give Evidence")
    fields = _object(header, _MAX_HEADER_BYTES)
    _exactly(fields, ("ak",))
    ak_public = _octets(fields, "ak", least=1, most=_MAX_AK_BYTES)
    evidence = decode(rest)
    if evidence.hypervisor_report or evidence.network_state or evidence.merkle_path or any(evidence.audit_head):
        raise BadInput("malformed Evidence of a guest", expected="a quote and logs, nothing of a host")
    return GuestEvidence(ak_public=ak_public, evidence=evidence)


def encode_refusal(words: str) -> bytes:
    """An answer that is none."""
    return canonical_json({"error": words[:MAX_WORDS]})


def raise_refusal(data: bytes, what: str) -> None:
    """Raises Refused where the answer is a refusal; what the other side says is cut, and made printable."""
    if not data.startswith(b'{"error":') or len(data) > _MAX_HEADER_BYTES:
        return
    words = _object(data, _MAX_HEADER_BYTES).get("error")
    shown = "".join(sign if sign.isprintable() else "?" for sign in str(words)[:MAX_WORDS])
    raise Refused(what, found=shown)


def _object(data: bytes, most: int) -> Mapping[str, Any]:
    if len(data) > most:
        raise BadInput("the message is too long", expected=f"at most {most} bytes", found=f"{len(data)} bytes")
    try:
        value = json.loads(data.decode("ascii"), parse_float=_no_float, parse_constant=_no_float)
        same = isinstance(value, dict) and canonical_json(value) == data
    except (ValueError, RecursionError) as error:
        raise BadInput("malformed message", expected="JSON", found=type(error).__name__) from None
    if not same:
        raise BadInput("malformed message", expected="one canonical JSON object")
    fields: Mapping[str, Any] = value
    return fields


def _no_float(text: str) -> float:
    raise ValueError(text[:40])


def _exactly(fields: Mapping[str, Any], names: tuple[str, ...]) -> None:
    if set(fields) != set(names):
        raise BadInput("malformed message", expected=", ".join(names), found=", ".join(sorted(fields))[:200])


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise BadInput("malformed message", where=name, expected="a text", found=type(value).__name__)
    return value


def _octets(fields: Mapping[str, Any], name: str, *, least: int, most: int) -> bytes:
    text = _text(fields, name)
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if value.hex() != text or not least <= len(value) <= most:
        raise BadInput("malformed message", where=name, expected=f"{least} to {most} bytes in hexadecimal")
    return value


def _count(fields: Mapping[str, Any], name: str) -> int:
    value = fields[name]
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise BadInput("malformed message", where=name, expected="a count", found=repr(value)[:40])
    return value
