"""What a killed daemon still does has no effect on TPM and kernel; what it only reads of the TPM, it may read."""

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.model import CreateBridge, InstallGuard, Operation
from shamon_host.testing.clock import VirtualClock
from shamon_host.testing.kernel import MemoryKernel
from shamon_host.testing.severable import SeverableKernel, SeverableTpm
from shamon_host.testing.tpm import MemoryTpm
from shamon_host.testing.wire import MemoryWire


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


@pytest.mark.parametrize("operations", range(4))
def test_a_daemon_is_dead_from_its_next_operation_but_so_many_on(operations: int) -> None:
    kernel = MemoryKernel(["192.0.2.1"], MemoryWire(), VirtualClock())
    seen = SeverableKernel(kernel)

    def sever() -> None:
        seen.severed = True

    seen.sever_after(operations, sever)
    plan: list[Operation] = [InstallGuard(), CreateBridge(name="shbr1"), CreateBridge(name="shbr2")]
    if operations < len(plan):
        with pytest.raises(BackendFailed, match="dead"):
            seen.apply(plan)
    else:
        seen.apply(plan)
        with pytest.raises(BackendFailed, match="dead"):
            seen.apply([CreateBridge(name="shbr3")])
    state = kernel.read()
    assert (state.guard, len(state.bridges)) == (operations > 0, max(0, operations - 1))
    assert seen.severed
