"""The kernel's logs, read from files in their place."""

from pathlib import Path

import pytest

from shamon_host.attestation import linux_logs
from shamon_host.attestation.event_log import Event, EventType, encode_event_log
from shamon_host.attestation.ima_log import encode_ima_log, ima_sig_entry
from shamon_host.attestation.linux_logs import LinuxMeasurementLogs
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.ports import MeasurementLogs
from shamon_host.domain.errors import BackendFailed
from shamon_host.testing.contracts.logs import MeasurementLogsContract

_PATHS = ["boot_aggregate", "/usr/lib/systemd/systemd", "/usr/bin/cat"]


def write_logs(securityfs: Path, paths: list[str]) -> None:
    for name in ("ima", "tpm0"):
        (securityfs / name).mkdir(exist_ok=True)
    event = Event.measuring(0, EventType.EV_SEPARATOR, bytes(4), banks=(Bank.SHA1, Bank.SHA256))
    (securityfs / linux_logs.EVENT_LOG).write_bytes(encode_event_log([event]))
    entries = [ima_sig_entry(path, Bank.SHA256.digest(path.encode())) for path in paths]
    (securityfs / linux_logs.IMA_LOG).write_bytes(encode_ima_log(entries))
    (securityfs / linux_logs.IMA_COUNT).write_text(f"{len(paths)}\n")


class TestFiles(MeasurementLogsContract):
    @pytest.fixture
    def logs(self, tmp_path: Path) -> MeasurementLogs:
        write_logs(tmp_path, _PATHS)
        self._securityfs = tmp_path
        return LinuxMeasurementLogs(tmp_path)

    def measure(self, logs: MeasurementLogs) -> str:
        write_logs(self._securityfs, [*_PATHS, "/tmp/unknown"])
        return "/tmp/unknown"

    def missing(self) -> MeasurementLogs:
        return LinuxMeasurementLogs(Path("/nowhere"))


def test_a_log_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_logs(tmp_path, _PATHS)
    monkeypatch.setattr(linux_logs, "MAX_IMA_LOG_BYTES", 100)
    with pytest.raises(BackendFailed, match="at most 100 bytes"):
        LinuxMeasurementLogs(tmp_path).ima_log(0)


@pytest.mark.parametrize("count", ["", "many", "-1", "1" * 100])
def test_a_count_that_is_none(tmp_path: Path, count: str) -> None:
    write_logs(tmp_path, _PATHS)
    (tmp_path / linux_logs.IMA_COUNT).write_text(count)
    with pytest.raises(BackendFailed, match="IMA measurement count"):
        LinuxMeasurementLogs(tmp_path).measurement_count()


def test_an_empty_event_log_is_none(tmp_path: Path) -> None:
    write_logs(tmp_path, _PATHS)
    (tmp_path / linux_logs.EVENT_LOG).write_bytes(b"")
    with pytest.raises(BackendFailed, match="empty"):
        LinuxMeasurementLogs(tmp_path).event_log()


def test_the_error_names_the_file_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BackendFailed) as caught:
        LinuxMeasurementLogs(tmp_path).event_log()
    assert caught.value.where == str(tmp_path / "tpm0/binary_bios_measurements")
    assert "UEFI" in caught.value.remedy


def test_dom0_of_xen_sees_no_event_log(tmp_path: Path) -> None:
    (tmp_path / "type").write_text("xen\n")
    assert LinuxMeasurementLogs(tmp_path, tmp_path / "type").event_log() == b""
    (tmp_path / "type").write_text("kvm\n")
    with pytest.raises(BackendFailed):
        LinuxMeasurementLogs(tmp_path, tmp_path / "type").event_log()
