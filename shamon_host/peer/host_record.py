"""What the coalition says of a host, signed by its CA: who it is, or that it is out.

A record has a serial number that only grows: of two records of a host the newer one counts, whoever brings it. So any
peer may spread them, and nobody can bring back what was before. A host that leaves says so itself: it signs its own
last record with the key of its certificate, and that counts above that record and below the next one of the CA.

    {"ak": "0023…", "certificate": "3082…", "ek": "9f86…", "host": "alpha", "reason": "", "serial": 3,
     "state": "enrolled", "tpm": "hardware"}

A record is an envelope (`signed_record`) around this, in canonical JSON; `ek` is empty for a host that an operator
enrolled by hand, with nothing to show that its AK lies in a TPM.
"""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.attestation.tpm_structures import TpmFormatError
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.domain.results import TpmKind
from shamon_host.peer.coalition_ca import certificate_names, read_der_certificate, write_atomically
from shamon_host.peer.ports import EnrolledPeer, Membership
from shamon_host.peer.signed_record import (
    Envelope,
    PrivateKey,
    PublicKey,
    key_id,
    public_text,
    read_envelope,
    read_public,
    sign_record,
    verify_record,
)
from shamon_host.peer.wire import Fields

RECORD_TYPE = "application/vnd.shamon.host+json"
LEAVE_TYPE = "application/vnd.shamon.host-leave+json"
MAX_RECORD_BYTES = 24 * 1024
MAX_RECORD_ENVELOPE_BYTES = 48 * 1024
MAX_SERIAL = 1 << 53
MAX_REASON = 200
_MAX_CERTIFICATE_BYTES = 4096
_MAX_AK_BYTES = 1024
_NAMES = frozenset({"ak", "certificate", "ek", "host", "reason", "serial", "state", "tpm"})

Authorities = Mapping[str, PublicKey]
"""Public keys of the coalition's CAs, named as `signed_record.public_text` names them: one, or two in a rotation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """A record whose signature was verified."""

    peer: EnrolledPeer
    certificate: bytes = b""
    """Of the host, DER."""
    envelope: bytes = field(default=b"", repr=False)
    """The record as it was signed, to be passed on; empty in worlds without a CA."""

    @property
    def rank(self) -> int:
        """Of two records of a host the one of the higher rank counts."""
        return 2 * self.peer.serial + (self.peer.membership is Membership.LEFT)


def authorities_of(certificates: Iterable[x509.Certificate]) -> Authorities:
    """The keys of these CAs. Raises BadInput for a key of another kind than Ed25519 or ECDSA P-256."""
    names = [public_text(certificate.public_key()) for certificate in certificates]
    return {name: read_public(name) for name in names}


def successor(data: bytes, authorities: Authorities, now: datetime) -> tuple[str, PublicKey]:
    """The CA that an older one, known here, has certified as the next one; `data` is that certificate, DER.

    Raises BadInput, NotTrusted where no CA that is known here has signed it, or it is out of date.
    """
    certificate = read_der_certificate(data, where="next CA")
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as error:
        raise BadInput("not the certificate of a CA", where="next CA", found=type(error).__name__) from None
    if not constraints.ca:
        raise NotTrusted("it is no certificate of a CA", where="next CA")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise NotTrusted("it is out of date", where="next CA")
    name = public_text(certificate.public_key())
    for key in authorities.values():
        with suppress(InvalidSignature):
            if isinstance(key, Ed25519PublicKey):
                key.verify(certificate.signature, certificate.tbs_certificate_bytes)
            else:
                key.verify(certificate.signature, certificate.tbs_certificate_bytes, ECDSA(SHA256()))
            return name, read_public(name)
    raise NotTrusted("no CA that this host knows has certified it", where="next CA")


def sign_host_record(peer: EnrolledPeer, certificate: x509.Certificate, ca_key: PrivateKey) -> HostRecord:
    """The record that says `peer`, signed by the CA. Raises BadInput for what no reader would take."""
    der = certificate.public_bytes(Encoding.DER)
    envelope = sign_record(
        {
            "ak": peer.ak_public.hex(),
            "certificate": der.hex(),
            "ek": peer.ek_sha256.hex(),
            "host": peer.host,
            "reason": peer.reason,
            "serial": peer.serial,
            "state": peer.membership.value,
            "tpm": peer.tpm.value,
        },
        ca_key,
        payload_type=RECORD_TYPE,
        most=MAX_RECORD_BYTES,
    )
    return read_host_record(envelope, authorities_from_key(ca_key), source=f"record of {peer.host}")


def authorities_from_key(ca_key: PrivateKey) -> Authorities:
    """The one authority whose private key this is."""
    name = public_text(ca_key)
    return {name: read_public(name)}


def sign_leave(record: HostRecord, key: PrivateKey, authorities: Authorities) -> HostRecord:
    """That the host of `record` leaves, signed by the key of its certificate. Raises BadInput, NotTrusted."""
    envelope = sign_record(
        {"host": record.peer.host, "record": record.envelope.hex()},
        key,
        payload_type=LEAVE_TYPE,
        most=MAX_RECORD_BYTES,
    )
    return read_host_record(envelope, authorities, source=f"leave of {record.peer.host}")


def read_host_record(data: bytes, authorities: Authorities, *, source: str) -> HostRecord:
    """A record of the CA, or that a host leaves, verified.

    Raises BadInput for what is malformed, NotTrusted where the signature is missing or wrong.
    """
    if len(data) > MAX_RECORD_ENVELOPE_BYTES:
        raise BadInput("the record is too large", where=source, expected=f"at most {MAX_RECORD_ENVELOPE_BYTES} bytes")
    if LEAVE_TYPE.encode() in data:
        return _read_leave(data, authorities, source)
    envelope = read_envelope(data, payload_type=RECORD_TYPE, most=MAX_RECORD_BYTES, source=source)
    signer = _signer(envelope, data, authorities, source)
    if not signer:
        raise NotTrusted(
            "the signature is missing or wrong", where=source, expected="one by the coalition's CA (ca.pem)"
        )
    values = verify_record(data, signer, payload_type=RECORD_TYPE, most=MAX_RECORD_BYTES, source=source)
    peer, certificate = _peer_of(values, source)
    return HostRecord(peer=peer, certificate=certificate, envelope=data)


def _read_leave(data: bytes, authorities: Authorities, source: str) -> HostRecord:
    """The record inside names the key that must have signed the outside, so it is read (and verified) first."""
    envelope = read_envelope(data, payload_type=LEAVE_TYPE, most=MAX_RECORD_BYTES, source=source)
    fields = Fields.parse(envelope.payload, source, frozenset({"host", "record"}))
    host = fields.text("host", most=63)
    inner = fields.octets("record", least=1, most=MAX_RECORD_BYTES)
    if LEAVE_TYPE.encode() in inner:
        raise BadInput("a host leaves once", where=source)
    last = read_host_record(inner, authorities, source=f"{source}: record")
    if last.peer.host != host or last.peer.membership is not Membership.ENROLLED or not last.peer.record_key:
        raise NotTrusted("this host cannot leave by this record", where=source, expected=f"a record of {host}")
    if not _signer(envelope, data, (last.peer.record_key,), source):
        raise NotTrusted("the signature is missing or wrong", where=source, expected=f"one by the key of {host}")
    verify_record(data, last.peer.record_key, payload_type=LEAVE_TYPE, most=MAX_RECORD_BYTES, source=source)
    peer = replace(last.peer, membership=Membership.LEFT, reason="it left the coalition")
    return HostRecord(peer=peer, certificate=last.certificate, envelope=data)


def _signer(envelope: Envelope, data: bytes, keys: Iterable[str], source: str) -> str:
    """Which of `keys` a record names as its only signer; empty for none of them. Nothing is verified.

    Raises BadInput where anything else is around the payload: nobody signed that, so whoever passes a record on could
    put it there, for all others to store, to check and to pass on.
    """
    if envelope.encode() != data:
        raise BadInput("not the form in which a record is signed", where=source)
    named = [hint for hint, _ in envelope.signatures]
    return next((key for key in keys if named == [key_id(key)]), "")


def _peer_of(values: dict[str, Any], source: str) -> tuple[EnrolledPeer, bytes]:
    fields = Fields.of(values, source, _NAMES)
    host = HostName(plain_name(fields.text("host", most=63), "host name"))
    ek = b"" if values["ek"] == "" else fields.octets("ek", least=32)
    reason = "" if values["reason"] == "" else fields.text("reason", most=MAX_REASON)
    try:
        tpm, state = TpmKind(fields.text("tpm")), Membership(fields.text("state"))
    except ValueError as error:
        raise BadInput("malformed record", where=source, found=str(error)[:80]) from None
    der = fields.octets("certificate", least=1, most=_MAX_CERTIFICATE_BYTES)
    certificate = read_der_certificate(der, where=f"{source}: certificate")
    peer = enrolled_peer(host, certificate, fields.octets("ak", least=1, most=_MAX_AK_BYTES), tpm)
    serial = fields.number("serial", least=1, most=MAX_SERIAL)
    return replace(peer, ek_sha256=ek, serial=serial, membership=state, reason=reason), der


def enrolled_peer(host: HostName, certificate: x509.Certificate, ak_public: bytes, tpm: TpmKind) -> EnrolledPeer:
    """The entry of a host. Raises BadInput when the certificate is another host's, or the key is no AK."""
    names = certificate_names(certificate)
    if names != (host,):
        raise BadInput(
            "the certificate is for another host",
            where=host,
            expected=f"the one name {host}",
            found=", ".join(names) or "none",
        )
    try:
        key = TpmPublic.parse(ak_public)
        key.require_attestation_key()
    except TpmFormatError as error:
        raise BadInput(
            error.what, where=f"AK of {host}", expected=error.expected, found=error.found, remedy=error.remedy
        ) from error
    return EnrolledPeer(
        host=host,
        certificate_sha256=hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest(),
        ak_public=ak_public,
        ak_name=key.name,
        tpm=tpm,
        record_key=_record_key(certificate),
    )


def _record_key(certificate: x509.Certificate) -> str:
    """The key that signs the host's votes; none where it is of a kind that does not sign them."""
    try:
        return public_text(certificate.public_key())
    except BadInput:
        return ""


def write_record(directory: Path, record: HostRecord) -> Path:
    """Write the file of one host, whole or not at all, and return its path. Raises BackendFailed."""
    path = directory / f"{record.peer.host}.record"
    write_atomically(path, record.envelope, mode=0o644)
    return path
