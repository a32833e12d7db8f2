"""The CA of coalitions in memory: real certificates and records, the same in every run, and no secret in them."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from shamon_host.domain.labels import HostName
from shamon_host.domain.results import TpmKind
from shamon_host.peer.host_record import Authorities, HostRecord, authorities_from_key, enrolled_peer, sign_host_record
from shamon_host.peer.ports import EnrolledPeer, Membership

_FROM, _UNTIL = datetime(2000, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)


def memory_key(host: HostName) -> Ed25519PrivateKey:
    """The key of the certificate of `host`."""
    return _key(f"key of {host}")


@cache
def memory_certificate(host: HostName) -> x509.Certificate:
    """The certificate of `host`: Ed25519 signs the same bytes the same way, so it is always the same one."""
    return (
        x509.CertificateBuilder()
        .subject_name(_name(host))
        .issuer_name(_name("memory"))
        .public_key(memory_key(host).public_key())
        .serial_number(int.from_bytes(hashlib.sha256(host.encode()).digest()[:8], "big") | 1)
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(_ca_key(), None)
    )


def memory_authorities() -> Authorities:
    """What every host in memory has as `ca.pem`."""
    return authorities_from_key(_ca_key())


def memory_next_ca() -> tuple[bytes, Ed25519PrivateKey]:
    """The CA that comes after this one: its certificate by this one, DER, and its key."""
    key = _key("key of the next CA")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name("memory #2"))
        .issuer_name(_name("memory"))
        .public_key(key.public_key())
        .serial_number(2)
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(_ca_key(), None)
    )
    return certificate.public_bytes(Encoding.DER), key


def memory_record(peer: EnrolledPeer) -> HostRecord:
    """The CA's record that says `peer`."""
    return sign_host_record(peer, memory_certificate(peer.host), _ca_key())


def memory_peer(host: HostName, ak_public: bytes) -> EnrolledPeer:
    """What the CA writes down first about a host whose TPM has this AK."""
    return replace(enrolled_peer(host, memory_certificate(host), ak_public, TpmKind.SOFTWARE), serial=1)


def memory_identity_sha256(host: HostName) -> bytes:
    """SHA-256 of the certificate of `host`."""
    return hashlib.sha256(memory_certificate(host).public_bytes(Encoding.DER)).digest()


def memory_expelled(peer: EnrolledPeer) -> HostRecord:
    """The record by which this peer is out, as the CA signs it; without a signature for a peer of a world without a CA
    (its certificate is of another one, or its AK is none)."""
    out = replace(peer, serial=peer.serial + 1, membership=Membership.EXPELLED, reason="it was told to go")
    known = peer.record_key and memory_identity_sha256(peer.host) == peer.certificate_sha256
    return memory_record(out) if known else HostRecord(peer=out)


def _ca_key() -> Ed25519PrivateKey:
    return _key("key of the CA")


def _key(what: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(what.encode()).digest())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
