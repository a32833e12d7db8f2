"""The TPM and the logs in memory pass the contracts of the real ones."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from shamon_host.attestation.event_log import parse_event_log
from shamon_host.attestation.ima_log import parse_ima_log, replay_until
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.ports import MeasurementLogs, Tpm
from shamon_host.testing.contracts.logs import MeasurementLogsContract
from shamon_host.testing.contracts.tpm import TpmContract
from shamon_host.testing.machine import MeasuredMachine
from shamon_host.testing.tpm import MemoryTpm


class TestMemoryTpm(TpmContract):
    @pytest.fixture
    def tpm(self) -> Tpm:
        return MemoryTpm()

    def reopen(self, tpm: Tpm) -> Tpm:
        return tpm

    def remove_counter(self, tpm: Tpm) -> None:
        assert isinstance(tpm, MemoryTpm)
        tpm.nv_public = None

    def usurp_counter(self, tpm: Tpm) -> None:
        assert isinstance(tpm, MemoryTpm)
        tpm.nv_public = bytes.fromhex("01935348000b0006000600000008")

    def change_pcr(self, tpm: Tpm) -> int:
        assert isinstance(tpm, MemoryTpm)
        tpm.extend(4, bytes(32))
        return 4

    def restart(self, tpm: Tpm) -> Tpm:
        assert isinstance(tpm, MemoryTpm)
        tpm.reset()
        return tpm

    def broken(self) -> Tpm:
        return MemoryTpm(out_of_reach=True)


class TestMemoryTpmWithRsaEk(TestMemoryTpm):
    @pytest.fixture
    def tpm(self) -> Tpm:
        return MemoryTpm(ek=rsa.generate_private_key(public_exponent=65537, key_size=2048))


class TestMemoryLogs(MeasurementLogsContract):
    machine: MeasuredMachine

    @pytest.fixture
    def logs(self) -> MeasurementLogs:
        self.machine = MeasuredMachine()
        self.machine.boot()
        return self.machine.logs

    def measure(self, logs: MeasurementLogs) -> str:
        self.machine.run_program("/usr/bin/new", b"new")
        return "/usr/bin/new"

    def missing(self) -> MeasurementLogs:
        return MeasuredMachine().logs


def test_tpm_and_logs_explain_each_other() -> None:
    machine = MeasuredMachine()
    machine.boot()
    machine.run_program("/usr/bin/ls", b"ls")
    pcrs = machine.tpm.quote(bytes(32)).pcr_values
    replayed = parse_event_log(machine.logs.event_log()).replay()[Bank.SHA256]
    assert {pcr: replayed[pcr] for pcr in pcrs if pcr != 10} == {pcr: pcrs[pcr] for pcr in pcrs if pcr != 10}
    entries = parse_ima_log(machine.logs.ima_log(0))
    assert replay_until(entries, {}, {10: pcrs[10]}).verified == len(entries)


def test_a_file_is_measured_once_for_each_content() -> None:
    machine = MeasuredMachine()
    machine.boot()
    count = machine.logs.measurement_count()
    for content in (b"1", b"1", b"2", b"1"):
        machine.run_program("/usr/bin/ls", content)
    assert machine.logs.measurement_count() == count + 2
