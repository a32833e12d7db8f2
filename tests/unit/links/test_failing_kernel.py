"""`FailingKernel` is the kernel behind it until its fault comes, and meets that as it says."""

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.model import CreateBridge, DeleteSas, InstallGuard, Operation, SaId
from shamon_host.testing.contracts.kernel import Bench, LinkKernelContract
from shamon_host.testing.failing_kernel import DaemonKilled, FailingDocuments, FailingKernel, Fault, Lifeline, Step
from tests.unit.links.conftest import MemoryDocuments
from tests.unit.links.test_memory_kernel import MemoryBench

BRIDGE = CreateBridge(name="shbr1")
TWO = DeleteSas(ids=(SaId(destination="192.0.2.1", spi=0x1000), SaId(destination="192.0.2.1", spi=0x1001)))


class TestFailingKernel(LinkKernelContract):
    """Without a fault."""

    @pytest.fixture
    def bench(self) -> Bench:
        bench = MemoryBench()
        bench.kernel = FailingKernel(bench.memory, Lifeline())
        return bench


@pytest.mark.parametrize(
    ("fault", "error", "done"),
    [
        (Fault.REFUSED, BackendFailed, False),
        (Fault.ANSWER_LOST, BackendFailed, True),
        (Fault.KILLED_BEFORE, DaemonKilled, False),
        (Fault.KILLED_AFTER, DaemonKilled, True),
    ],
)
def test_the_step_meets_the_fault(fault: Fault, error: type[BaseException], done: bool) -> None:
    bench, life = MemoryBench(), Lifeline()
    kernel = FailingKernel(bench.memory, life)
    life.arm(fault, 1)
    with pytest.raises(error):
        kernel.apply([InstallGuard(), BRIDGE, CreateBridge(name="shbr2")])
    state = bench.memory.read()
    assert state.guard
    assert set(state.bridges) == ({"shbr1"} if done else set())
    assert life.met
    assert life.dead is (error is DaemonKilled)


def test_what_is_ignored_shows_when_it_is_read() -> None:
    life = Lifeline()
    kernel = FailingKernel(MemoryBench().memory, life)
    life.arm(Fault.IGNORED, 0)
    kernel.apply([BRIDGE])
    assert not kernel.read().bridges
    kernel.apply([BRIDGE])
    assert set(kernel.read().bridges) == {"shbr1"}
    life.arm(Fault.IGNORED, 0)
    with pytest.raises(BackendFailed):
        kernel.read()


def test_nothing_that_a_dead_daemon_does_has_an_effect() -> None:
    bench, life, documents = MemoryBench(), Lifeline(), MemoryDocuments()
    kernel, store = FailingKernel(bench.memory, life), FailingDocuments(documents, life)
    told: list[object] = []
    kernel.subscribe(told.append)
    life.kill()
    with pytest.raises(DaemonKilled):
        kernel.apply([BRIDGE])
    with pytest.raises(DaemonKilled):
        kernel.attempt([BRIDGE])
    with pytest.raises(DaemonKilled):
        store.change({("links", "peers"): {}})
    bench.memory.flush_policies()
    assert not bench.memory.read().bridges
    assert not told
    assert store.get("links", "peers") is None


def test_a_batch_is_one_step_for_each_sa_and_what_is_attempted_goes_on() -> None:
    steps: list[Operation | None] = []

    def note(step: Step) -> None:
        steps.append(step.operation)

    life = Lifeline(before=note)
    kernel = FailingKernel(MemoryBench().memory, life)
    kernel.apply([TWO])
    assert steps == [DeleteSas(ids=(sa_id,)) for sa_id in TWO.ids]
    life.arm(Fault.REFUSED, 0)
    assert len(kernel.attempt([InstallGuard(), BRIDGE])) == 1
    assert set(kernel.read().bridges) == {"shbr1"}
    assert not kernel.read().guard


def test_a_fault_that_is_disarmed_does_not_come() -> None:
    life = Lifeline()
    kernel = FailingKernel(MemoryBench().memory, life)
    life.arm(Fault.REFUSED, 1)
    assert life.armed
    life.disarm()
    kernel.apply([InstallGuard(), BRIDGE])
    assert not life.met
