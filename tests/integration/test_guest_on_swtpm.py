"""A guest's agent over a software TPM as libvirt gives one to a VM, appraised by its host: no root, no lab.

IMA is played by the test, which extends PCR 10 by hand; its log is in the kernel's own bytes.
"""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shamon_host.attestation.guest_appraisal import GuestResult, appraise_guest
from shamon_host.attestation.guest_messages import EvidenceRequest, read_answer
from shamon_host.attestation.guest_record import record_guest
from shamon_host.attestation.guest_reference import GuestBoot, GuestReference
from shamon_host.attestation.ima_entry import ImaEntry
from shamon_host.attestation.ima_log import boot_aggregate, ima_sig_entry
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.domain.labels import VmName
from shamon_host.domain.results import ClaimName
from shamon_host.guest_agent.answering import Answering
from shamon_host.testing.machine import BootImage, MemoryLogs, sha256
from tests.integration.swtpm import Swtpm

pytest.importorskip("tpm2_pytss", reason="the TPM2 software stack's Python package (extra `host`) is not installed")
if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
    pytest.skip("swtpm is not installed (Debian: swtpm, swtpm-tools)", allow_module_level=True)

from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG
from tpm2_pytss.types import TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

from shamon_host.attestation.tpm_device import DeviceTpm

_IMA_PCR = 10
_BOOT = GuestBoot(kernel="1" * 64, cmdline="quiet")


class Guest:
    """A VM with its TPM; it has no SELinux, and firmware that measures nothing."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.swtpm = Swtpm(directory)
        self.boot()

    def boot(self) -> None:
        self.logs = MemoryLogs(present=True)
        self._measured(
            ima_sig_entry("boot_aggregate", boot_aggregate(Bank.SHA256, dict.fromkeys(range(10), bytes(32))))
        )
        image = BootImage()
        for path, content in (*image.early_files, *image.files):
            self.run(path, content)

    def run(self, path: str, content: bytes) -> None:
        self._measured(ima_sig_entry(path, sha256(content)))

    def reboot(self) -> None:
        self.swtpm.stop()
        self.swtpm.start()
        self.boot()

    def answer(self, request: EvidenceRequest) -> bytes:
        with DeviceTpm(self.swtpm.tcti) as tpm:
            return Answering(tpm=tpm, logs=self.logs).answer(request.encode())

    def _measured(self, entry: ImaEntry) -> None:
        digest = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=entry.pcr_digest(Bank.SHA256)))
        with ESAPI(self.swtpm.tcti) as esapi:
            esapi.pcr_extend(ESYS_TR(_IMA_PCR), TPML_DIGEST_VALUES([digest]))
        self.logs.entries.append(entry)


class Host:
    """What appraises it: the AK that it showed first, and what is remembered."""

    def __init__(self, guest: Guest) -> None:
        answer = read_answer(guest.answer(self._request()))
        self.ak = answer.ak_public
        self.reference: GuestReference = record_guest(
            pcrs=answer.evidence.quote.pcr_values, ima_log=answer.evidence.ima_log, boot=_BOOT
        )
        self.state: VerifierState | None = None

    def ask(self, guest: Guest) -> GuestResult:
        request = self._request()
        result, self.state = appraise_guest(
            read_answer(guest.answer(request)),
            request=request,
            ak_public=self.ak,
            boot=_BOOT,
            reference=self.reference,
            state=self.state,
        )
        return result

    def _request(self) -> EvidenceRequest:
        state = getattr(self, "state", None)
        return EvidenceRequest(
            vm=VmName("web"),
            nonce=secrets.token_bytes(32),
            ima_offset=state.ima_offset if state else 0,
            ima_reset_count=state.reset_count if state else 0,
        )


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path / "one")
    yield guest
    guest.swtpm.stop()


def test_from_its_first_start_to_a_strange_program_and_the_next_start(guest: Guest) -> None:
    host = Host(guest)
    assert host.ask(guest).trusted
    assert host.ask(guest).trusted
    guest.run("/root/strange", b"x")
    for _ in range(2):
        (failure,) = host.ask(guest).failures
        assert (failure.name, "/root/strange" in failure.where) == (ClaimName.SOFTWARE, True)
    guest.reboot()
    assert host.ask(guest).trusted, "the AK is the same over starts"


def test_another_tpm_is_not_this_one(guest: Guest, tmp_path: Path) -> None:
    host = Host(guest)
    other = Guest(tmp_path / "other")
    try:
        result = host.ask(other)
    finally:
        other.swtpm.stop()
    assert not result.bound
    assert result.failures[0].name is ClaimName.BINDING
