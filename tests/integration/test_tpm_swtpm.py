"""The TPM adapter on a software TPM of its own, on this machine: no root, no lab.

Skipped where swtpm or the TPM2 software stack is missing; in a lab host the same contract runs on `/dev/tpmrm0`.
"""

import hashlib
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from shamon_host.attestation.ports import Tpm
from shamon_host.testing.contracts.tpm import NONCE, TpmContract
from tests.integration.attestation import nv_index
from tests.integration.swtpm import Swtpm, two_free_ports

pytest.importorskip("tpm2_pytss", reason="the TPM2 software stack's Python package (extra `host`) is not installed")
if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
    pytest.skip("swtpm is not installed (Debian: swtpm, swtpm-tools)", allow_module_level=True)

from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG
from tpm2_pytss.types import TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

from shamon_host.attestation.credential import make_credential
from shamon_host.attestation.ek import EkKind, EkPublic
from shamon_host.attestation.ek_certificate import load_roots, verify_ek_certificate
from shamon_host.attestation.nv_counter import COUNTER_INDEX, NvCounter
from shamon_host.attestation.tpm_device import DeviceTpm
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted
from shamon_host.domain.labels import HostName
from shamon_host.domain.results import TpmKind
from shamon_host.peer.joining import Applicant, EkTrust, Reception, invite

_PCR = 14


@pytest.fixture
def swtpm(tmp_path: Path) -> Iterator[Swtpm]:
    tpm = Swtpm(tmp_path)
    yield tpm
    tpm.stop()


class TestSwtpm(TpmContract):
    ek: EkKind | None = None

    @pytest.fixture
    def tpm(self, swtpm: Swtpm) -> Iterator[Tpm]:
        self._swtpm = swtpm
        self._again = DeviceTpm(swtpm.tcti, ek=self.ek)
        with DeviceTpm(swtpm.tcti, ek=self.ek) as tpm, self._again:
            yield tpm

    def reopen(self, tpm: Tpm) -> Tpm:
        assert isinstance(tpm, DeviceTpm)
        tpm.close()
        return self._again

    def remove_counter(self, tpm: Tpm) -> None:
        assert isinstance(tpm, DeviceTpm)
        tpm.close()
        assert nv_index.remove(self._swtpm.tcti, COUNTER_INDEX)

    def usurp_counter(self, tpm: Tpm) -> None:
        assert isinstance(tpm, DeviceTpm)
        tpm.close()
        nv_index.define_ordinary(self._swtpm.tcti, COUNTER_INDEX)

    def change_pcr(self, tpm: Tpm) -> int:
        assert isinstance(tpm, DeviceTpm)
        tpm.close()  # swtpm takes one connection at a time; the adapter comes back by itself
        digest = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=hashlib.sha256(b"an event").digest()))
        with ESAPI(self._swtpm.tcti) as esapi:
            esapi.pcr_extend(ESYS_TR(_PCR), TPML_DIGEST_VALUES([digest]))
        return _PCR

    def restart(self, tpm: Tpm) -> Tpm:
        assert isinstance(tpm, DeviceTpm)
        tpm.close()
        self._swtpm.stop()
        self._swtpm.start()
        return tpm

    def broken(self) -> Tpm:
        return DeviceTpm(f"swtpm:host=127.0.0.1,port={two_free_ports()}")


class TestSwtpmWithRsaEk(TestSwtpm):
    ek = EkKind.RSA


def test_a_certified_ek_has_a_chain_to_the_ca_of_swtpm_and_to_no_other(tmp_path: Path) -> None:
    """What swtpm_localca issued: an RSA EK with a certificate whose subjectAltName is critical."""
    own, other = (Swtpm(_directory(tmp_path, name), certified=True) for name in ("own", "other"))
    try:
        with DeviceTpm(own.tcti) as tpm:
            ek, certificate = EkPublic.parse(tpm.ek_public()), tpm.ek_certificate()
        assert ek.kind is EkKind.RSA
        now = datetime.now(UTC)
        chain = verify_ek_certificate(certificate, ek, load_roots(own.roots), now)
        assert chain[-1].issuer == chain[-1].subject
        with pytest.raises(NotTrusted, match="no chain to a root"):
            verify_ek_certificate(certificate, ek, load_roots(other.roots), now)
        with DeviceTpm(other.tcti) as tpm, pytest.raises(NotTrusted, match="another key"):
            verify_ek_certificate(certificate, EkPublic.parse(tpm.ek_public()), load_roots(own.roots), now)
    finally:
        own.stop()
        other.stop()


def test_a_credential_for_one_tpm_is_not_activated_by_another(tmp_path: Path) -> None:
    own, other = (Swtpm(_directory(tmp_path, name)) for name in ("own", "other"))
    try:
        with DeviceTpm(own.tcti) as tpm, DeviceTpm(other.tcti) as another:
            name = TpmPublic.parse(another.ak_public()).name
            for ek in (tpm.ek_public(), another.ek_public()):
                credential = make_credential(EkPublic.parse(ek), name, b"secret")
                with pytest.raises(BackendFailed):
                    tpm.activate_credential(credential)  # it holds neither that AK, nor that EK
    finally:
        own.stop()
        other.stop()


def test_what_one_tpm_sealed_opens_in_no_other_and_not_after_tpm2_clear(tmp_path: Path) -> None:
    own, other = (Swtpm(_directory(tmp_path, name)) for name in ("own", "other"))
    try:
        with DeviceTpm(own.tcti) as tpm, DeviceTpm(other.tcti) as another:
            blob = tpm.seal(b"secret")
            with pytest.raises(BackendFailed, match="sealed by this very TPM"):
                another.unseal(blob)
            assert tpm.unseal(blob) == b"secret"
            public = tpm.ak_public()
            tpm.close()
            nv_index.clear(own.tcti)
            with pytest.raises(BackendFailed, match="sealed by this very TPM"):
                tpm.unseal(blob)
            assert tpm.ak_public() == public
            assert tpm.unseal(tpm.seal(b"another")) == b"another"
    finally:
        own.stop()
        other.stop()


@pytest.mark.parametrize("ek", [EkKind.RSA, EkKind.ECC])
def test_a_host_joins_by_its_tpm_and_not_by_another(tmp_path: Path, ek: EkKind) -> None:
    """The whole of `shamon host join`, with the wire left out."""
    own, other = (Swtpm(_directory(tmp_path, name)) for name in ("own", "other"))
    now, host = datetime.now(UTC), HostName("alpha")
    try:
        with DeviceTpm(own.tcti, ek=ek) as tpm, DeviceTpm(other.tcti, ek=ek) as another:
            pin = EkPublic.parse(tpm.ek_public())
            trust = EkTrust(tpm=TpmKind.SOFTWARE, pinned_sha256=pin.sha256)
            for joining, words in ((tpm, ""), (another, "another TPM than the one that was pinned")):
                expires = now + timedelta(minutes=1)
                invitation = invite(host, address="192.0.2.1", port=1, ca_pem=b"CA", expires=expires)
                reception = Reception(invitation=invitation, trust=trust, check=lambda _, **__: None)
                key = ec.generate_private_key(ec.SECP256R1())
                applicant = Applicant(invitation=invitation, tpm=joining, key=key)
                if words:
                    with pytest.raises(NotTrusted, match=words):
                        reception.request(applicant.request(), now)
                    continue
                joiner = reception.prove(applicant.proof(reception.request(applicant.request(), now)), now)
                assert (joiner.ek, joiner.key, joiner.ak_public) == (pin, key.public_key(), tpm.ak_public())
    finally:
        own.stop()
        other.stop()


def _directory(parent: Path, name: str) -> Path:
    directory = parent / name
    directory.mkdir()
    return directory


def test_libtpms_calls_itself_ibm(swtpm: Swtpm) -> None:
    with DeviceTpm(swtpm.tcti) as tpm:
        assert tpm.manufacturer() == "IBM"


def test_it_connects_again_after_the_tpm_went_away(swtpm: Swtpm, capfd: pytest.CaptureFixture[str]) -> None:
    with DeviceTpm(swtpm.tcti) as tpm:
        public = tpm.ak_public()
        swtpm.stop()
        with pytest.raises(BackendFailed, match="does not let this program quote"):
            tpm.quote(NONCE)
        swtpm.start()
        assert tpm.quote(NONCE).attest
        assert tpm.ak_public() == public
    assert not capfd.readouterr().err  # nothing of the stack's own complaints


def test_a_new_tpm_has_no_counter(swtpm: Swtpm) -> None:
    with DeviceTpm(swtpm.tcti) as tpm:
        assert tpm.counter() is None


def test_a_power_failure_does_not_move_the_counter(swtpm: Swtpm) -> None:
    """An orderly counter (TPMA_NV_ORDERLY) would jump here."""
    with DeviceTpm(swtpm.tcti) as tpm:
        values = [tpm.increment_counter() for _ in range(3)]
        tpm.close()
        swtpm.cut_power()
        swtpm.start()
        assert tpm.counter() == values[-1]
        assert tpm.increment_counter() == values[-1] + 1


def test_a_daemon_that_died_between_definition_and_first_increment_has_no_count(swtpm: Swtpm) -> None:
    nv_index.define(swtpm.tcti, NvCounter().public(written=False))
    with DeviceTpm(swtpm.tcti) as tpm:
        assert tpm.counter() is None
        assert tpm.counter() is None
        value = tpm.increment_counter()
        assert tpm.counter() == value


def test_after_tpm2_clear_the_counter_begins_above_what_it_had(swtpm: Swtpm) -> None:
    """An orderly counter would begin at 1 again, in libtpms 0.9."""
    with DeviceTpm(swtpm.tcti) as tpm:
        value = [tpm.increment_counter() for _ in range(5)][-1]
        tpm.close()
        nv_index.clear(swtpm.tcti)
        assert tpm.counter() is None
        assert tpm.increment_counter() > value


def test_a_counter_that_its_owner_made_orderly_is_refused(swtpm: Swtpm) -> None:
    public = NvCounter().public(written=False)
    orderly = int.from_bytes(public[6:10], "big") | 1 << 26
    nv_index.define(swtpm.tcti, public[:6] + orderly.to_bytes(4, "big") + public[10:])
    with DeviceTpm(swtpm.tcti) as tpm:
        with pytest.raises(BackendFailed, match="found 01935348000b06060012"):
            tpm.increment_counter()
        assert tpm.quote(NONCE).attest


def test_qualifying_data_that_no_tpm_takes(swtpm: Swtpm) -> None:
    with DeviceTpm(swtpm.tcti) as tpm:
        with pytest.raises(BackendFailed):
            tpm.quote(bytes(100))
        assert tpm.quote(NONCE).attest


def test_a_tpm_without_the_sha256_bank_is_refused(tmp_path: Path) -> None:
    swtpm = Swtpm(tmp_path, banks="sha384")
    try:
        with DeviceTpm(swtpm.tcti) as tpm, pytest.raises(BackendFailed, match="PCR bank"):
            tpm.quote(NONCE)
    finally:
        swtpm.stop()


@pytest.mark.parametrize("tcti", ["", "mssim", "/dev/tpmrm0", "libtss2-tcti-cmd.so:sh"])
def test_no_way_to_a_tpm(tcti: str) -> None:
    with pytest.raises(BadInput, match="no way to reach a TPM"):
        DeviceTpm(tcti).ak_public()


@pytest.mark.parametrize("tcti", ["device:/dev/null/none", "device:/dev/null", "swtpm:path=/nowhere"])
def test_no_tpm_there(tcti: str) -> None:
    with pytest.raises(BackendFailed, match="TPM"):
        DeviceTpm(tcti).ak_public()
