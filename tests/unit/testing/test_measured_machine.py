"""The machine in memory keeps the contracts of the TPM and of the measurement logs."""

import pytest

from shamon_host.attestation.ports import MeasurementLogs, Tpm
from shamon_host.testing.contracts.logs import MeasurementLogsContract
from shamon_host.testing.contracts.tpm import TpmContract
from shamon_host.testing.machine import MeasuredMachine
from shamon_host.testing.tpm import MemoryTpm

_PROGRAM = "/usr/bin/cat"


@pytest.fixture
def machine() -> MeasuredMachine:
    machine = MeasuredMachine()
    machine.boot()
    return machine


class TestMemoryTpm(TpmContract):
    @pytest.fixture
    def tpm(self, machine: MeasuredMachine) -> Tpm:
        self._machine = machine
        return machine.tpm

    def change_pcr(self, tpm: Tpm) -> int:
        self._machine.run_program(_PROGRAM, b"cat")
        return 10

    def restart(self, tpm: Tpm) -> Tpm:
        self._machine.boot()
        return self._machine.tpm

    def broken(self) -> Tpm:
        return MemoryTpm(out_of_reach=True)


class TestMemoryLogs(MeasurementLogsContract):
    @pytest.fixture
    def logs(self, machine: MeasuredMachine) -> MeasurementLogs:
        self._machine = machine
        return machine.logs

    def measure(self, logs: MeasurementLogs) -> str:
        self._machine.run_program(_PROGRAM, b"cat")
        return _PROGRAM

    def missing(self) -> MeasurementLogs:
        return MeasuredMachine().logs
