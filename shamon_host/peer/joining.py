"""Joining: what the operator's machine demands of a host before the CA signs for it, and the host's part.

No network and no file here; `join_http` is the wire. An invitation is for one host and one try: with the right token,
whatever is wrong with the request or the proof uses it up. So nobody who got hold of it can try until it fits, and an
operator who sees it used up knows that somebody did.

What is shown, one on the other:
- the EK is in a TPM that the operator accepts: a chain to a root, or a digest that was written down (`EkTrust`);
- the AK is in that TPM: the secret of a credential for this EK and this AK's Name comes back (`credential`);
- the AK is a restricted signing key of the endorsement hierarchy: its Name covers its attributes, a quote the rest;
- the key of the certificate request is the host's: the AK quotes over the request's hash, and the request signs itself.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from typing import Protocol, assert_never

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from shamon_host.attestation.credential import Credential, make_credential
from shamon_host.attestation.ek import EkPublic
from shamon_host.attestation.ek_certificate import verify_ek_certificate
from shamon_host.attestation.pcr import Bank, PcrSelection
from shamon_host.attestation.ports import QUOTED_PCRS, Tpm
from shamon_host.attestation.quote import verify_quote
from shamon_host.attestation.tpm_objects import TPM_RH_ENDORSEMENT
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.domain.errors import BadInput, NotTrusted, Refused
from shamon_host.domain.labels import HostName
from shamon_host.domain.results import TpmKind
from shamon_host.peer.coalition_ca import certificate_names, parse_ca_certificates, read_der_certificate
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.host_record import authorities_of, read_host_record
from shamon_host.peer.join_messages import (
    SECRET_BYTES,
    TOKEN_BYTES,
    Challenge,
    Granted,
    Invitation,
    JoinRequest,
    Proof,
)

_AGAIN = "Ask for a new one (`shamon coalition invite`)."
_SELECTION = PcrSelection.of({Bank.SHA256: QUOTED_PCRS})


# The operator's side


@dataclass(frozen=True, slots=True, kw_only=True)
class EkTrust:
    """Which EKs the operator accepts. Raises BadInput unless it is exactly one way, and one fit for `tpm`."""

    tpm: TpmKind
    roots: Sequence[x509.Certificate] = ()
    pinned_sha256: bytes = b""
    first: bool = False
    """Whatever EK comes with the token: only for a software TPM, which proves little in any case."""

    def __post_init__(self) -> None:
        if sum((bool(self.roots), bool(self.pinned_sha256), self.first)) != 1:
            raise BadInput(
                "how is the TPM known?",
                expected="one of: a folder of EK roots, the digest of its EK, or trust in the first one",
                remedy="Use --ek-roots, --ek or --trust-first-ek.",
            )
        if self.first and self.tpm is not TpmKind.SOFTWARE:
            raise BadInput(
                "a hardware TPM must be known by its certificate or its EK",
                expected="--ek-roots or --ek",
                remedy="On the host, `shamon host ek` prints the digest of its EK.",
            )

    def establish(self, ek: EkPublic, certificate: bytes, now: datetime) -> str:
        """In words, why this EK is accepted. Raises NotTrusted."""
        if self.pinned_sha256:
            if not hmac.compare_digest(ek.sha256, self.pinned_sha256):
                raise NotTrusted(
                    "another TPM than the one that was pinned",
                    where="EK",
                    expected=self.pinned_sha256.hex(),
                    found=ek.sha256.hex(),
                )
            return "its EK is the one that was pinned"
        if self.first:
            return "its EK was the first one that came with the token"
        if not certificate:
            raise NotTrusted(
                "its TPM has no EK certificate",
                where="EK",
                expected="one with a chain to a trusted root",
                remedy="Pin its EK with --ek instead; on the host, `shamon host ek` prints the digest.",
            )
        chain = verify_ek_certificate(certificate, ek, self.roots, now)
        return f"its EK certificate has a chain to {chain[-1].subject.rfc4514_string()[:120]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Joiner:
    """A host whose proof was right."""

    host: HostName
    key: ec.EllipticCurvePublicKey
    """Of its certificate request."""
    ak_public: bytes
    ek: EkPublic
    tpm: TpmKind
    ek_words: str
    """Why its EK was accepted."""


class Stage(Enum):
    OPEN = auto()
    CHALLENGED = auto()
    JOINED = auto()
    USED_UP = auto()


def invite(host: HostName, *, address: str, port: int, ca_pem: bytes, expires: datetime) -> Invitation:
    """A new invitation, with a token of its own."""
    return Invitation(
        host=host,
        address=address,
        port=port,
        ca_pem=ca_pem,
        token=secrets.token_bytes(TOKEN_BYTES),
        expires_s=int(expires.timestamp()),
    )


class EnrolmentCheck(Protocol):
    """What the registry and the monitor say of a TPM before it is asked to prove itself."""

    def __call__(self, host: HostName, /, *, ak_public: bytes, ek_sha256: bytes, tpm: TpmKind) -> None:
        """Raises Refused."""
        ...


@dataclass(kw_only=True)
class Reception:
    """The one try of one invitation. `check` asks the monitor. Its methods raise ShamonError, in words for the host."""

    invitation: Invitation
    trust: EkTrust
    check: EnrolmentCheck
    stage: Stage = Stage.OPEN
    _joiner: Joiner | None = field(default=None, init=False)
    _secret: bytes = field(default=b"", init=False, repr=False)

    def request(self, body: bytes, now: datetime) -> bytes:
        """Answer a request with a challenge."""
        request = JoinRequest.decode(body)
        self._use(request.token, Stage.OPEN, now)
        joiner = self._verified(request, now)
        self.check(joiner.host, ak_public=joiner.ak_public, ek_sha256=joiner.ek.sha256, tpm=joiner.tpm)
        self._secret = secrets.token_bytes(SECRET_BYTES)
        credential = make_credential(joiner.ek, TpmPublic.parse(joiner.ak_public).name, self._secret)
        self._joiner, self.stage = joiner, Stage.CHALLENGED
        return Challenge(credential=credential).encode()

    def prove(self, body: bytes, now: datetime) -> Joiner:
        """Who has joined, if the secret is right."""
        proof = Proof.decode(body)
        self._use(proof.token, Stage.CHALLENGED, now)
        if self._joiner is None or not hmac.compare_digest(proof.secret, self._secret):
            raise NotTrusted(
                "the secret is wrong: EK and AK are not in one TPM that this host has", where=self.invitation.host
            )
        self.stage = Stage.JOINED
        return self._joiner

    def _use(self, token: bytes, stage: Stage, now: datetime) -> None:
        """From here on there is no second try, unless all goes well."""
        if not hmac.compare_digest(token, self.invitation.token):
            raise NotTrusted("this is no token of an invitation that is open", where="join")
        now_s = now.timestamp()
        match self.stage:
            case Stage.USED_UP | Stage.JOINED:
                raise Refused("the invitation was used already", where=self.invitation.host, remedy=_AGAIN)
            case Stage.OPEN | Stage.CHALLENGED:
                fits = self.stage is stage
                self.stage = Stage.USED_UP
                if now_s >= self.invitation.expires_s:
                    raise Refused("the invitation has expired", where=self.invitation.host, remedy=_AGAIN)
                if not fits:
                    raise Refused("the invitation was used already", where=self.invitation.host, remedy=_AGAIN)
            case other:
                assert_never(other)

    def _verified(self, request: JoinRequest, now: datetime) -> Joiner:
        if request.host != self.invitation.host:
            raise NotTrusted("the invitation is for another host", expected=self.invitation.host, found=request.host)
        ek = EkPublic.parse(request.ek_public)
        words = self.trust.establish(ek, request.ek_certificate, now)
        ak = TpmPublic.parse(request.ak_public)
        ak.require_attestation_key()
        key = _csr_key(request.csr)
        quote = request.quote
        facts = verify_quote(
            quote.attest,
            quote.signature,
            ak,
            hashlib.sha256(request.csr).digest(),
            _SELECTION,
            {Bank.SHA256: quote.pcr_values},
        )
        if facts.qualified_signer != ak.qualified_name(TPM_RH_ENDORSEMENT):
            raise NotTrusted("the AK is not a primary key of the endorsement hierarchy", where="AK")
        return Joiner(
            host=request.host, key=key, ak_public=request.ak_public, ek=ek, tpm=self.trust.tpm, ek_words=words
        )


def _csr_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """The key that a certificate request is for, and which signed it. Raises NotTrusted."""
    try:
        csr = x509.load_der_x509_csr(data)
        key = csr.public_key()
        fit = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
        if fit and isinstance(key, ec.EllipticCurvePublicKey) and csr.is_signature_valid:
            return key
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm):
        pass
    raise NotTrusted("not a certificate request", expected="PKCS #10 for an ECC P-256 key, signed by it")


# The host's side


@dataclass(kw_only=True)
class Applicant:
    """A host on its way in: its invitation, its TPM, and the key that it has made for its certificate."""

    invitation: Invitation
    tpm: Tpm
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    _ak_public: bytes = field(default=b"", init=False)

    def request(self) -> bytes:
        """What to send first. Raises BackendFailed."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.invitation.host)])
        csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(self.key, SHA256())
        der = csr.public_bytes(Encoding.DER)
        self._ak_public = self.tpm.ak_public()
        return JoinRequest(
            token=self.invitation.token,
            host=self.invitation.host,
            ek_public=self.tpm.ek_public(),
            ek_certificate=_without_filling(self.tpm.ek_certificate()),
            ak_public=self._ak_public,
            csr=der,
            quote=self.tpm.quote(hashlib.sha256(der).digest()),
        ).encode()

    def proof(self, challenge: bytes) -> bytes:
        """What to send then. Raises BadInput, BackendFailed."""
        credential: Credential = Challenge.decode(challenge).credential
        return Proof(token=self.invitation.token, secret=self.tpm.activate_credential(credential)).encode()

    def accept(self, answer: bytes) -> tuple[Granted, PeerRegistry, x509.Certificate]:
        """What the host may write down: it is what was asked for, from the coalition that invited. Raises BadInput,
        NotTrusted."""
        granted = Granted.decode(answer)
        invited = parse_ca_certificates(self.invitation.ca_pem, where="invitation")
        if granted.ca_pem != self.invitation.ca_pem:
            raise NotTrusted("another CA than the one that invited", where="join")
        authorities = authorities_of(invited)
        records = [read_host_record(each, authorities, source="record") for each in granted.exchange.records]
        registry = PeerRegistry(records=records)
        own = registry.record(self.invitation.host)
        if own is None:
            raise NotTrusted("there is no record of this host", where=self.invitation.host)
        registry.enrolled(self.invitation.host)
        certificate = read_der_certificate(own.certificate, where="record")
        if (
            own.peer.ak_public != self._ak_public
            or certificate.public_key() != self.key.public_key()
            or certificate_names(certificate) != (self.invitation.host,)
        ):
            raise NotTrusted("the record is of another host, key or TPM", where=self.invitation.host)
        return granted, registry, certificate


def _without_filling(certificate: bytes) -> bytes:
    """A certificate in DER says how long it is; the NV index that it lies in may be longer."""
    if certificate[:2] == b"\x30\x82":
        return certificate[: 4 + int.from_bytes(certificate[2:4], "big")]
    return certificate
