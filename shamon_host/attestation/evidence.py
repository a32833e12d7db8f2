"""Evidence as it crosses the wire, and the leaf that binds it to one handshake.

`leaf` = H(0x00 ‖ role ‖ transcript ‖ H(hypervisor report) ‖ H(network state) ‖ audit log head); the quote's
qualifyingData is the root of a Merkle tree over the leaves of a moment (`merkle`).
"""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum

from shamon_host.attestation.merkle import root_from_path
from shamon_host.attestation.ports import QUOTED_PCRS, Quote
from shamon_host.domain.errors import BadInput

MAX_EVIDENCE_BYTES = 48 * 1024 * 1024
_DIGEST_BYTES = 32
_MAX_PATH = 16


class Role(StrEnum):
    """Who speaks, in the handshake that a leaf belongs to."""

    INITIATOR = "initiator"
    RESPONDER = "responder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What an Attester sends of itself for one handshake."""

    quote: Quote
    merkle_index: int
    merkle_path: tuple[bytes, ...]
    """Sibling digests from the leaf up, 32 bytes each."""
    event_log: bytes
    ima_offset: int
    """Byte offset at which `ima_log` starts: what the Verifier asked for, or 0."""
    ima_log: bytes
    hypervisor_report: bytes
    """Canonical JSON, see `hypervisor.report`."""
    network_state: bytes
    """Canonical JSON, see `links.network_state`."""
    audit_head: bytes
    """Head of the Attester's audit log, 32 bytes."""


def bound_root(evidence: "Evidence", role: Role, transcript: bytes) -> bytes:
    """What the quote has to be over, 32 bytes: the root of the tree with the leaf of this side of this handshake.

    Raises BadInput where the Evidence's path leads nowhere.
    """
    own = leaf(
        role,
        transcript,
        hypervisor_report=evidence.hypervisor_report,
        network_state=evidence.network_state,
        audit_head=evidence.audit_head,
    )
    return root_from_path(own, evidence.merkle_index, evidence.merkle_path)


def leaf(role: Role, transcript: bytes, *, hypervisor_report: bytes, network_state: bytes, audit_head: bytes) -> bytes:
    """The leaf of one side of one handshake: 32 bytes. `transcript` and `audit_head` are 32 bytes each."""
    if len(transcript) != _DIGEST_BYTES or len(audit_head) != _DIGEST_BYTES:
        raise BadInput("bad leaf input", expected="32-byte transcript and audit head")
    name = role.encode()
    return hashlib.sha256(
        b"\x00"
        + bytes([len(name)])
        + name
        + transcript
        + hashlib.sha256(hypervisor_report).digest()
        + hashlib.sha256(network_state).digest()
        + audit_head
    ).digest()


def encode(evidence: Evidence) -> bytes:
    """Evidence as JSON, bytes in base64."""
    quote = evidence.quote
    return json.dumps(
        {
            "attest": _b64(quote.attest),
            "signature": _b64(quote.signature),
            "pcrs": {str(index): value.hex() for index, value in sorted(quote.pcr_values.items())},
            "merkle_index": evidence.merkle_index,
            "merkle_path": [sibling.hex() for sibling in evidence.merkle_path],
            "event_log": _b64(evidence.event_log),
            "ima_offset": evidence.ima_offset,
            "ima_log": _b64(evidence.ima_log),
            "hypervisor_report": _b64(evidence.hypervisor_report),
            "network_state": _b64(evidence.network_state),
            "audit_head": evidence.audit_head.hex(),
        },
        separators=(",", ":"),
    ).encode()


def decode(data: bytes) -> Evidence:
    """Read what `encode` wrote. Every byte is hostile. Raises BadInput."""
    if len(data) > MAX_EVIDENCE_BYTES:
        raise BadInput("Evidence is too large", expected=f"at most {MAX_EVIDENCE_BYTES} bytes", found=str(len(data)))
    try:
        fields = json.loads(data)
        pcrs = {int(index): bytes.fromhex(value) for index, value in fields["pcrs"].items()}
        path = tuple(bytes.fromhex(sibling) for sibling in fields["merkle_path"])
        index, offset = fields["merkle_index"], fields["ima_offset"]
        head = bytes.fromhex(fields["audit_head"])
        blobs = {
            name: base64.b64decode(fields[name], validate=True)
            for name in ("attest", "signature", "event_log", "ima_log", "hypervisor_report", "network_state")
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise BadInput("malformed Evidence", found=type(error).__name__) from error
    if set(pcrs) != set(QUOTED_PCRS) or any(len(value) != _DIGEST_BYTES for value in pcrs.values()):
        raise BadInput("malformed Evidence", expected="32-byte values of PCR 0-14", found=str(sorted(pcrs))[:120])
    if len(path) > _MAX_PATH or any(len(sibling) != _DIGEST_BYTES for sibling in path) or len(head) != _DIGEST_BYTES:
        raise BadInput("malformed Evidence", expected=f"at most {_MAX_PATH} digests of 32 bytes in the Merkle path")
    if type(index) is not int or type(offset) is not int or not 0 <= index < 1 << _MAX_PATH or offset < 0:
        raise BadInput("malformed Evidence", expected="a Merkle index and a log offset that are not negative")
    return Evidence(
        quote=Quote(attest=blobs["attest"], signature=blobs["signature"], pcr_values=pcrs),
        merkle_index=index,
        merkle_path=path,
        event_log=blobs["event_log"],
        ima_offset=offset,
        ima_log=blobs["ima_log"],
        hypervisor_report=blobs["hypervisor_report"],
        network_state=blobs["network_state"],
        audit_head=head,
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
