"""What a killed daemon still does has no effect on the TPM; what it only reads, it may read."""

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.testing.severable import SeverableTpm
from shamon_host.testing.tpm import MemoryTpm


def test_a_dead_daemon_counts_no_more() -> None:
    tpm = MemoryTpm()
    alive, dead = SeverableTpm(tpm), SeverableTpm(tpm)
    value = dead.increment_counter()
    dead.severed = True
    with pytest.raises(BackendFailed, match="dead"):
        dead.increment_counter()
    assert [tpm.counter(), alive.counter(), dead.counter()] == [value] * 3
    assert alive.increment_counter() == value + 1


def test_it_is_the_same_tpm() -> None:
    tpm = MemoryTpm()
    seen = SeverableTpm(tpm)
    assert (seen.ak_public(), seen.manufacturer()) == (tpm.ak_public(), tpm.manufacturer())
    assert seen.quote(bytes(32)).pcr_values == tpm.pcrs
