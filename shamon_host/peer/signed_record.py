"""Signing: keys, DSSE envelopes, and small records that a host signs with the key of its TLS certificate.

A DSSE envelope (https://github.com/secure-systems-lab/dsse) is a JSON object with a payload, its type, and signatures
over both; the bytes that are signed are the very bytes that are read afterwards. What is in an envelope is hostile
until a signature of a key that the reader had before is verified: an envelope brings no key of its own.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput, NotTrusted, ShamonError

if TYPE_CHECKING:  # imported where it signs and verifies: the command line starts without it
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # no __all__ there

COMMIT_TYPE = "application/vnd.shamon.policy-commit+json"
MAX_RECORD_BYTES = 64 * 1024
MAX_SIGNATURES = 64
_MAX_SIGNATURE_BYTES = 512
_MAX_HINT = 256
_MAX_KEY_TEXT = 256
_MAX_STRUCTURE = 2048
"""Signs that give JSON its structure: 64 signatures need 400. More would only fill memory."""
_MAX_GUESSES = 128
"""Signatures tried with keys that their hints do not name: each costs a hash over the whole payload."""
_URL_SAFE = str.maketrans("-_", "+/")
_KEY_FORM = "base64 of a DER SubjectPublicKeyInfo, Ed25519 or ECDSA P-256"

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey
"""Ed25519 (RFC 8032), or ECDSA on P-256 with SHA-256."""
PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey


# Keys


def read_public(text: str) -> PublicKey:
    """A public key from base64 of its DER SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7).

    Raises BadInput, also for a second way to write the same key (a compressed point, say): keys are told apart by
    this text, and each of them counts once.
    """
    if len(text) > _MAX_KEY_TEXT:
        raise BadInput("not a public key", expected=_KEY_FORM, found=f"{len(text)} characters")
    try:
        key = load_der_public_key(base64.b64decode(text, validate=True))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadInput("not a public key", expected=_KEY_FORM, found=repr(text[:80])) from None
    if public_text(key) != text or not isinstance(key, (Ed25519PublicKey, EllipticCurvePublicKey)):
        raise BadInput("not the canonical form of a public key", expected=_KEY_FORM, found=repr(text[:80]))
    return key


def public_text(key: object) -> str:
    """Base64 of the DER SubjectPublicKeyInfo of a public key, or of a private key's public one. Raises BadInput."""
    public = key.public_key() if isinstance(key, (Ed25519PrivateKey, EllipticCurvePrivateKey)) else key
    right = isinstance(public, Ed25519PublicKey)
    if isinstance(public, EllipticCurvePublicKey):
        right = isinstance(public.curve, SECP256R1)
    if not right or not isinstance(public, (Ed25519PublicKey, EllipticCurvePublicKey)):
        raise BadInput("a key of another kind", expected="Ed25519 or ECDSA P-256", found=type(key).__name__)
    return base64.b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def key_id(text: str) -> str:
    """SHA-256, in hexadecimal, over the DER SubjectPublicKeyInfo whose base64 is `text` (see `public_text`)."""
    return hashlib.sha256(base64.b64decode(text)).hexdigest()


# Envelopes


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A payload with signatures, as it was read: nothing in it is verified."""

    payload: bytes
    payload_type: str
    signatures: tuple[tuple[str, bytes], ...] = ()
    """For each, a hint at its key (the key's id, if the signer gave one; nobody signed this) and the signature."""

    def encode(self) -> bytes:
        """The JSON form: ASCII, standard base64, a line feed at the end."""
        signatures = [{"keyid": hint, "sig": base64.b64encode(sig).decode()} for hint, sig in self.signatures]
        payload = base64.b64encode(self.payload).decode()
        document = {"payload": payload, "payloadType": self.payload_type, "signatures": signatures}
        return json.dumps(document, indent=2).encode("ascii") + b"\n"

    def signed_by(self, key: PrivateKey) -> "Envelope":
        """With a signature by `key`, in place of one under the same id.

        Raises BadInput for a key of another kind, or when there is no room for a signature.
        """
        from securesystemslib import dsse
        from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]

        own = key_id(public_text(key))
        others = tuple(pair for pair in self.signatures if pair[0] != own)
        if len(others) >= MAX_SIGNATURES:
            raise BadInput("the envelope is full", expected=f"at most {MAX_SIGNATURES} signatures")
        signer = CryptoSigner(key, SSlibKey.from_crypto(key.public_key(), keyid=own))
        signature = dsse.Envelope(self.payload, self.payload_type, {}).sign(signer)
        return replace(self, signatures=(*others, (own, bytes.fromhex(signature.signature))))

    def signers(self, keys: Mapping[str, PublicKey]) -> frozenset[str]:
        """Which of the keys, named as `public_text` names them, signed this.

        A hint only says which key to try first: a signature counts for the key that verifies it, and a key once.
        """
        from securesystemslib import dsse
        from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

        signed = dsse.Envelope(self.payload, self.payload_type, {}).pae()
        names = {key_id(name): name for name in keys}
        known = {own: SSlibKey.from_crypto(keys[name], keyid=own) for own, name in sorted(names.items())}
        found: set[str] = set()
        rest: list[tuple[str, bytes]] = []
        for hint, signature in self.signatures:
            if hint in known and hint not in found and _verifies(known[hint], signature, signed):
                found.add(hint)
            else:
                rest.append((hint, signature))
        guesses = 0
        for hint, signature in rest:
            for own in [own for own in known if own != hint and own not in found]:
                guesses += 1
                if guesses <= _MAX_GUESSES and _verifies(known[own], signature, signed):
                    found.add(own)
                    break
        return frozenset(names[own] for own in found)


def encoded_size(most: int) -> int:
    """How long the JSON form of an envelope around `most` bytes may be."""
    return most * 4 // 3 + MAX_SIGNATURES * 1500


def read_envelope(data: bytes, *, payload_type: str, most: int, source: str) -> Envelope:
    """Read an envelope around at most `most` bytes, and verify nothing. `source` names it in errors. Raises BadInput.

    As DSSE demands, fields that it does not name are ignored, and base64 may be the standard's or URL-safe.
    """
    limit = encoded_size(most)
    if len(data) > limit:
        raise BadInput("too large", where=source, expected=f"at most {limit} bytes", found=f"{len(data)} bytes")
    if sum(map(data.count, (b"{", b"[", b",", b":"))) > _MAX_STRUCTURE:
        raise BadInput("too many parts", where=source, expected=f"at most {_MAX_STRUCTURE} of the signs {{ [ , :")
    fields = _json_object(data, source)
    if fields.get("payloadType") != payload_type:
        raise BadInput(
            "an envelope around something else",
            where=source,
            expected=f"payloadType {payload_type}",
            found=repr(fields.get("payloadType"))[:120],
        )
    signatures = fields.get("signatures")
    if not isinstance(signatures, list) or len(signatures) > MAX_SIGNATURES:
        found = f"{len(signatures)} of them" if isinstance(signatures, list) else type(signatures).__name__
        raise BadInput("bad signatures", where=source, expected=f"a list of at most {MAX_SIGNATURES}", found=found)
    return Envelope(
        payload=_base64(fields.get("payload"), most, f"{source}: payload"),
        payload_type=payload_type,
        signatures=tuple(_signature(each, f"{source}: signatures[{at}]") for at, each in enumerate(signatures)),
    )


# Records


def sign_record(
    record: Mapping[str, Any], key: PrivateKey, *, payload_type: str = COMMIT_TYPE, most: int = MAX_RECORD_BYTES
) -> bytes:
    """An envelope around a record in JSON's types, of at most `most` bytes, signed by one key. Raises BadInput."""
    payload = canonical_json(dict(record))
    if len(payload) > most:
        raise BadInput("the record is too large", expected=f"at most {most} bytes", found=f"{len(payload)} bytes")
    return Envelope(payload=payload, payload_type=payload_type).signed_by(key).encode()


def verify_record(
    data: bytes,
    public: str,
    *,
    payload_type: str = COMMIT_TYPE,
    most: int = MAX_RECORD_BYTES,
    source: str = "record",
) -> dict[str, Any]:
    """The record in an envelope that the key `public` (see `public_text`) signed.

    Raises BadInput for what is malformed or not canonical JSON, NotTrusted where that key did not sign.
    """
    envelope = read_envelope(data, payload_type=payload_type, most=most, source=source)
    if not envelope.signers({public: read_public(public)}):
        raise NotTrusted("the signature is missing or wrong", where=source, expected=f"one by the key {public}")
    record = _json_object(envelope.payload, f"{source}: payload")
    if canonical_json(record) != envelope.payload:
        raise BadInput("not canonical JSON", where=f"{source}: payload", expected="sorted keys, no white space, ASCII")
    return record


# Parts


def _verifies(key: "SSlibKey", signature: bytes, signed: bytes) -> bool:
    from securesystemslib.exceptions import UnverifiedSignatureError
    from securesystemslib.signer import Signature  # type: ignore[attr-defined]

    try:
        key.verify_signature(Signature(key.keyid, signature.hex()), signed)
    except UnverifiedSignatureError:
        return False
    return True


def _signature(value: object, where: str) -> tuple[str, bytes]:
    fields = value if isinstance(value, dict) else {}
    hint = fields.get("keyid", "")
    if not isinstance(value, dict) or not isinstance(hint, str) or len(hint) > _MAX_HINT:
        raise BadInput("bad signature", where=where, expected=f"sig, and a keyid of at most {_MAX_HINT} characters")
    return hint, _base64(fields.get("sig"), _MAX_SIGNATURE_BYTES, f"{where}.sig")


def _base64(value: object, most: int, where: str) -> bytes:
    """Bytes from base64 in either alphabet, padded, and in its one form. Raises BadInput."""
    if not isinstance(value, str):
        raise BadInput("not base64", where=where, expected="a string", found=type(value).__name__)
    text = value.translate(_URL_SAFE)
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise BadInput("not base64", where=where, found=str(error)[:80]) from None
    if base64.b64encode(data).decode() != text:
        raise BadInput("not base64", where=where, expected="unused bits that are zero")
    if len(data) > most:
        raise BadInput("too long", where=where, expected=f"at most {most} bytes", found=f"{len(data)} bytes")
    return data


def _json_object(data: bytes, source: str) -> dict[str, Any]:
    """A JSON object (RFC 8259) in which no key is there twice, without infinities and NaN. Raises BadInput."""

    def only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise BadInput("a key is there twice", where=source)
        return found

    def no_number(text: str) -> float:
        raise BadInput("not a number of JSON", where=source, found=text)

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=only_once, parse_constant=no_number)
    except ShamonError:
        raise
    except (ValueError, RecursionError) as error:
        raise BadInput("not JSON", where=source, expected="something signed, as JSON", found=str(error)[:120]) from None
    if not isinstance(value, dict):
        raise BadInput("not a JSON object", where=source, found=type(value).__name__)
    return value
