"""A TPM in software: an ECDSA key that signs real TPMS_ATTEST bytes over PCRs that only grow.

It keeps the rules that a Verifier relies on: a reset clears the PCRs and counts, the key stays, the clock goes on. And
those that a host relies on for its own state: its counter in NV memory only grows, whoever removes it.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256

from shamon_host.attestation.credential import Credential, EkPrivate, open_credential
from shamon_host.attestation.ek import EkPublic
from shamon_host.attestation.nv_counter import NvCounter
from shamon_host.attestation.pcr import Bank, PcrSelection, composite_digest, extend, initial_value
from shamon_host.attestation.ports import MAX_SEALED_BYTES, QUOTED_PCRS, Quote
from shamon_host.attestation.tpm_objects import TPM_RH_ENDORSEMENT
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.attestation.tpm_structures import ClockInfo, QuoteAttest, TpmSignature
from shamon_host.domain.errors import BackendFailed, BadInput

_SELECTION = PcrSelection.of({Bank.SHA256: QUOTED_PCRS})
_FIRMWARE_VERSION = 0x20220101_00120000
_MAX_QUALIFYING_DATA = 64
_COUNTER = NvCounter()
_NONCE_BYTES = 12


def _zeroed() -> dict[int, bytes]:
    return {pcr: initial_value(Bank.SHA256, pcr) for pcr in QUOTED_PCRS}


@dataclass(kw_only=True)
class MemoryTpm:
    """`attestation.ports.Tpm`. `clock_s`: seconds that only grow, for the TPM's clock."""

    clock_s: Callable[[], float] = lambda: 0.0
    reset_count: int = 0
    out_of_reach: bool = False
    certificate: bytes = b""
    """Of its EK, DER; empty: nobody certified it."""
    quotes: int = 0
    """How many TPM2_Quote commands it has carried out."""
    pcrs: dict[int, bytes] = field(default_factory=_zeroed)
    nv_public: bytes | None = None
    """TPMS_NV_PUBLIC of what is in the place of the program's counter; None: nothing, as when its owner removed it."""
    highest_count: int = 41
    """Of all counters that this TPM has ever had: others count too, so nobody may rely on a first value of 1."""
    _count: int = 0
    _cleared_s: float = 0.0
    """When its owner cleared it, hence its clock began again."""
    _key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False
    )
    ek: EkPrivate = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False)
    """Its EK, ECC P-256 or RSA 2048."""
    _storage_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def ak_public(self) -> bytes:
        self._reach()
        return self._public().encode()

    def ek_public(self) -> bytes:
        self._reach()
        return EkPublic.of(self.ek.public_key()).encode()

    def ek_certificate(self) -> bytes:
        self._reach()
        return self.certificate

    def activate_credential(self, credential: Credential) -> bytes:
        self._reach()
        try:
            return open_credential(self.ek, self._public().name, credential)
        except BadInput as error:
            raise BackendFailed("TPM2_ActivateCredential failed", where="TPM", found="TPM_RC_INTEGRITY") from error

    def seal(self, secret: bytes) -> bytes:
        self._reach()
        if not 0 < len(secret) <= MAX_SEALED_BYTES:
            raise BackendFailed("TPM2_Create failed", where="TPM", found="TPM_RC_SIZE")
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self._storage_key).encrypt(nonce, secret, None)

    def unseal(self, blob: bytes) -> bytes:
        self._reach()
        try:
            return AESGCM(self._storage_key).decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], None)
        except (InvalidTag, ValueError) as error:
            raise BackendFailed("TPM2_Load failed", where="TPM", found="TPM_RC_INTEGRITY") from error

    def manufacturer(self) -> str:
        self._reach()
        return "IBM"

    def quote(self, qualifying_data: bytes) -> Quote:
        self._reach()
        if len(qualifying_data) > _MAX_QUALIFYING_DATA:
            raise BackendFailed("TPM2_Quote failed", where="TPM", found="TPM_RC_SIZE")
        self.quotes += 1
        values = dict(self.pcrs)
        attest = QuoteAttest(
            qualified_signer=self._public().qualified_name(TPM_RH_ENDORSEMENT),
            extra_data=qualifying_data,
            clock_info=ClockInfo(
                clock_ms=int((self.clock_s() - self._cleared_s) * 1000),
                reset_count=self.reset_count,
                restart_count=0,
                safe=True,
            ),
            firmware_version=_FIRMWARE_VERSION,
            selection=_SELECTION,
            pcr_digest=composite_digest(Bank.SHA256, _SELECTION, {Bank.SHA256: values}),
        ).encode()
        r, s = decode_dss_signature(self._key.sign(attest, ec.ECDSA(SHA256())))
        return Quote(attest=attest, signature=TpmSignature.ecdsa(Bank.SHA256, r, s).encode(), pcr_values=values)

    def counter(self) -> int | None:
        self._reach()
        return self._count if self.nv_public is not None and _COUNTER.has_counted(self.nv_public) else None

    def increment_counter(self) -> int:
        self._reach()
        if self.nv_public is None:
            self.nv_public = _COUNTER.public(written=False)
        begun = _COUNTER.has_counted(self.nv_public)
        self._count = (self._count if begun else self.highest_count) + 1
        self.highest_count = max(self.highest_count, self._count)
        self.nv_public = _COUNTER.public(written=True)
        return self._count

    # What the host around it does

    def extend(self, pcr: int, digest: bytes) -> None:
        """TPM2_PCR_Extend in the SHA-256 bank."""
        self.pcrs[pcr] = extend(Bank.SHA256, self.pcrs[pcr], digest)

    def reset(self) -> None:
        """TPM Reset: the host was switched off and on, or rebooted."""
        self.reset_count += 1
        self.pcrs = _zeroed()

    def clear(self) -> None:
        """TPM2_Clear (TPM 2.0 Part 3, 24.6): counts and clock go back, what the owner made in NV memory is gone, and
        what was sealed opens no more. The endorsement seed stays, hence EK and AK, and so do the PCRs."""
        self.reset_count, self._cleared_s = 0, self.clock_s()
        self.nv_public = None
        self._storage_key = secrets.token_bytes(32)

    def _public(self) -> TpmPublic:
        return TpmPublic.attestation_key(self._key.public_key())

    def _reach(self) -> None:
        if self.out_of_reach:
            raise BackendFailed("the TPM does not answer", where="TPM")
