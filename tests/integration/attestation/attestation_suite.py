"""The TPM and the logs of a real host, and that they explain each other; runs inside a lab host, see `test_in_lab`."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shamon_host.attestation.event_log import parse_event_log
from shamon_host.attestation.ima_log import boot_aggregate, parse_ima_log, replay_until
from shamon_host.attestation.nv_counter import COUNTER_INDEX, NvCounter
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.ports import MeasurementLogs, Tpm
from shamon_host.testing.contracts.logs import MeasurementLogsContract
from shamon_host.testing.contracts.tpm import NONCE, TpmContract, verified
from tests.integration.attestation import nv_index

_TCTI = "device:/dev/tpmrm0"
_COUNTER = NvCounter(index=COUNTER_INDEX + 1)
"""Not the daemon's own: its state would no longer match it."""
_IMA_PCR = 10
_PROGRAMS = Path("/usr/bin")


@pytest.fixture
def device_tpm() -> Iterator[Tpm]:
    from shamon_host.attestation.tpm_device import DeviceTpm

    with DeviceTpm(_TCTI, counter=_COUNTER) as tpm:
        yield tpm
    nv_index.remove(_TCTI, _COUNTER.index)


@pytest.fixture
def kernel_logs() -> MeasurementLogs:
    from shamon_host.attestation.linux_logs import LinuxMeasurementLogs

    return LinuxMeasurementLogs()


def run_new_program(logs: MeasurementLogs) -> str:
    """Run a program of the image that has not run in this boot: a measurement that does not harm the host."""
    measured = {entry.fields().path for entry in parse_ima_log(logs.ima_log(0))}
    for path in sorted(_PROGRAMS.iterdir()):
        if path.is_symlink() or str(path) in measured or not path.read_bytes().startswith(b"\x7fELF"):
            continue
        subprocess.run([path, "--version"], capture_output=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
        return str(path)
    pytest.fail("every program of this host has run")


class TestTpmOfHost(TpmContract):
    @pytest.fixture
    def tpm(self, device_tpm: Tpm) -> Iterator[Tpm]:
        from shamon_host.attestation.tpm_device import DeviceTpm

        with DeviceTpm(_TCTI, counter=_COUNTER) as self._again:
            yield device_tpm

    def reopen(self, tpm: Tpm) -> Tpm:
        return self._again

    def remove_counter(self, tpm: Tpm) -> None:
        assert nv_index.remove(_TCTI, _COUNTER.index)

    def usurp_counter(self, tpm: Tpm) -> None:
        nv_index.define_ordinary(_TCTI, _COUNTER.index)

    def change_pcr(self, tpm: Tpm) -> int:
        from shamon_host.attestation.linux_logs import LinuxMeasurementLogs

        run_new_program(LinuxMeasurementLogs())
        return _IMA_PCR

    def broken(self) -> Tpm:
        from shamon_host.attestation.tpm_device import DeviceTpm

        return DeviceTpm("device:/dev/tpmrm9")


class TestLogsOfHost(MeasurementLogsContract):
    @pytest.fixture
    def logs(self, kernel_logs: MeasurementLogs) -> MeasurementLogs:
        return kernel_logs

    def measure(self, logs: MeasurementLogs) -> str:
        return run_new_program(logs)

    def missing(self) -> MeasurementLogs:
        from shamon_host.attestation.linux_logs import LinuxMeasurementLogs

        return LinuxMeasurementLogs(Path("/nowhere"))


def test_the_event_log_explains_the_quoted_pcrs(device_tpm: Tpm, kernel_logs: MeasurementLogs) -> None:
    quoted = verified(device_tpm, device_tpm.quote(NONCE)).pcrs[Bank.SHA256]
    replayed = parse_event_log(kernel_logs.event_log()).replay()[Bank.SHA256]
    explained = [pcr for pcr in quoted if pcr != _IMA_PCR]
    assert {pcr: replayed[pcr].hex() for pcr in explained} == {pcr: quoted[pcr].hex() for pcr in explained}


def test_the_ima_log_leads_to_the_quoted_pcr_10(device_tpm: Tpm, kernel_logs: MeasurementLogs) -> None:
    quoted = verified(device_tpm, device_tpm.quote(NONCE)).pcrs[Bank.SHA256]
    entries = parse_ima_log(kernel_logs.ima_log(0))
    replayed = replay_until(entries, {}, {_IMA_PCR: quoted[_IMA_PCR]})
    assert 0 < replayed.verified <= len(entries)
    assert entries[0].fields().file_digest is not None
    aggregate = entries[0].fields().file_digest
    assert aggregate is not None
    assert aggregate.digest == boot_aggregate(Bank.SHA256, quoted)


def test_early_user_space_and_the_policy_are_in_the_ima_log(kernel_logs: MeasurementLogs) -> None:
    paths = [entry.fields().path for entry in parse_ima_log(kernel_logs.ima_log(0))]
    for path in ("/usr/lib/systemd/systemd", "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "/etc/ima/ima-policy"):
        assert path in paths
    assert "selinux-state" in paths
    assert "selinux-policy-hash" in paths
