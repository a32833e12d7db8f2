"""What every `MeasurementLogs` must do, judged by the parsers that a Verifier reads the logs with.

Subclass `MeasurementLogsContract` and give it the `logs` fixture. `measure` is what only the host around the logs can
do: where a backend lacks it, those tests skip with the reason.
"""

from collections.abc import Iterator

import pytest

from shamon_host.attestation.event_log import parse_event_log
from shamon_host.attestation.ima_log import parse_ima_log
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.ports import MeasurementLogs
from shamon_host.domain.errors import BackendFailed


def ends_of(log: bytes, base_offset: int = 0) -> list[int]:
    """Where the entries of a log, or of an increment of it, end in the whole log."""
    return [entry.end_offset for entry in parse_ima_log(log, base_offset=base_offset)]


class MeasurementLogsContract:
    """The suite."""

    @pytest.fixture
    def logs(self) -> MeasurementLogs | Iterator[MeasurementLogs]:
        """The logs of a host that has booted."""
        raise NotImplementedError

    def measure(self, logs: MeasurementLogs) -> str:
        """Make the host measure a file for the first time in this boot; return its path."""
        pytest.skip("nothing here may make this host measure")

    def missing(self) -> MeasurementLogs:
        """Logs of a host that has none."""
        pytest.skip("no such host")

    def test_the_event_log_has_the_sha256_bank(self, logs: MeasurementLogs) -> None:
        log = parse_event_log(logs.event_log())
        assert Bank.SHA256 in log.banks
        assert any(event.pcr == 0 for event in log.events)
        assert logs.event_log() == logs.event_log()

    def test_the_ima_log_begins_with_the_boot_aggregate(self, logs: MeasurementLogs) -> None:
        assert parse_ima_log(logs.ima_log(0))[0].fields().path == "boot_aggregate"

    def test_the_count_is_of_the_log(self, logs: MeasurementLogs) -> None:
        before = logs.measurement_count()
        assert before <= len(ends_of(logs.ima_log(0))) <= logs.measurement_count()

    def test_it_reads_on_from_any_entry(self, logs: MeasurementLogs) -> None:
        whole = logs.ima_log(0)
        ends = ends_of(whole)
        for number in {0, len(ends) // 2, len(ends) - 1}:
            part = logs.ima_log(ends[number])
            assert part.startswith(whole[ends[number] :])
            assert ends_of(part, ends[number])[: len(ends) - number - 1] == ends[number + 1 :]

    def test_behind_its_end_there_is_nothing(self, logs: MeasurementLogs) -> None:
        assert logs.ima_log(len(logs.ima_log(0)) + (1 << 24)) == b""

    def test_no_offset_before_the_log(self, logs: MeasurementLogs) -> None:
        with pytest.raises(BackendFailed):
            logs.ima_log(-1)

    def test_what_is_measured_is_appended(self, logs: MeasurementLogs) -> None:
        count, log = logs.measurement_count(), logs.ima_log(0)
        path = self.measure(logs)
        assert logs.measurement_count() > count
        assert path in [entry.fields().path for entry in parse_ima_log(logs.ima_log(len(log)), base_offset=len(log))]

    def test_no_logs_is_a_failed_backend(self) -> None:
        missing = self.missing()
        for call in (missing.event_log, lambda: missing.ima_log(0), missing.measurement_count):
            with pytest.raises(BackendFailed):
                call()
