"""Signed Reference Values: an envelope (`signed_record`) around their canonical form.

Who must sign them is said by each host's own configuration, which is measured: `[reference_signing]` in host.toml. What
is in an envelope is hostile until enough of these keys have signed it, and is read after that alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shamon_host.attestation.reference_model import ReferenceValues
from shamon_host.attestation.reference_values import MAX_FILE_BYTES, parse_reference_values
from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.peer import signed_record
from shamon_host.peer.signed_record import Envelope, PrivateKey, key_id, read_public

REFERENCE_TYPE = "application/vnd.shamon.reference-values+json"
MAX_ENVELOPE_BYTES = signed_record.encoded_size(MAX_FILE_BYTES)
_MARK = b'"payloadType"'


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSigners:
    """Of whom at least `threshold` must sign."""

    keys: frozenset[str]
    """As `signed_record.public_text` names them."""
    threshold: int = 1

    def require(self, envelope: Envelope, *, source: str) -> None:
        """Raises NotTrusted unless enough of them signed."""
        signed = envelope.signers({text: read_public(text) for text in sorted(self.keys)})
        if len(signed) < self.threshold:
            raise NotTrusted(
                "signatures are missing from the Reference Values",
                where=source,
                expected=f"{self.threshold} of the keys {_ids(self.keys)}",
                found=_ids(signed) if signed else "none of them",
                remedy="Let them sign with `shamon reference sign`.",
            )


def checked_signers(keys: Iterable[str], threshold: int) -> ReferenceSigners:
    """Raises BadInput for a key that is none, or a threshold that cannot be met."""
    every = list(keys)
    for text in every:
        read_public(text)
    if len(set(every)) != len(every) or not 1 <= threshold <= len(every):
        raise BadInput(
            "bad threshold of signatures", expected="1 to the number of keys, each of them once", found=str(threshold)
        )
    return ReferenceSigners(keys=frozenset(every), threshold=threshold)


def is_envelope(data: bytes) -> bool:
    """Whether a file looks like an envelope rather than like Reference Values, which have no such key."""
    return _MARK in data


def read_envelope(data: bytes, *, source: str) -> Envelope:
    """The envelope of Reference Values, nothing verified. Raises BadInput."""
    return signed_record.read_envelope(data, payload_type=REFERENCE_TYPE, most=MAX_FILE_BYTES, source=source)


def sign(what: ReferenceValues | Envelope, key: PrivateKey) -> Envelope:
    """Sign Reference Values, or an envelope with signatures of others. Raises BadInput."""
    if isinstance(what, Envelope):
        return what.signed_by(key)
    payload = canonical_json(what.to_document())
    if len(payload) > MAX_FILE_BYTES:
        raise BadInput("the Reference Values are too large to be signed", expected=f"at most {MAX_FILE_BYTES} bytes")
    return Envelope(payload=payload, payload_type=REFERENCE_TYPE).signed_by(key)


def opened(data: bytes, signers: ReferenceSigners | None, *, source: str) -> ReferenceValues:
    """Reference Values from a file with or without an envelope.

    With `signers` nothing else will do than what enough of them signed. Without, signatures are not looked at.
    Raises BadInput for what is malformed, NotTrusted where signatures are missing.
    """
    if not is_envelope(data):
        if signers is not None:
            raise NotTrusted(
                "the Reference Values are not signed",
                where=source,
                expected=f"an envelope with {signers.threshold} of the keys {_ids(signers.keys)}",
                remedy="Let them be signed with `shamon reference sign`.",
            )
        return parse_reference_values(data, where=source)
    envelope = read_envelope(data, source=source)
    if signers is not None:
        signers.require(envelope, source=source)
    return parse_reference_values(envelope.payload, where=source)


def _ids(keys: Iterable[str]) -> str:
    return ", ".join(sorted(key_id(text)[:16] for text in keys))
