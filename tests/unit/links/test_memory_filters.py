"""The kernel in memory lets pass what filters of taps permit, and reads frames as Linux does."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.links.frame_facts import FrameKind
from shamon_host.links.model import AttachPort, CreateBridge, SetTapFilter
from shamon_host.links.ports import LinkKernel
from shamon_host.links.tap_filter import TapFilter, shut
from shamon_host.testing.contracts.kernel_filters import (
    BRIDGE,
    OTHER_TAP,
    SAMPLES,
    TAP,
    Sample,
    TapBench,
    TapFilterContract,
)
from shamon_host.testing.contracts.kernel_stations import SENT, Sent, StationContract
from shamon_host.testing.kernel import MemoryKernel
from shamon_host.testing.kernel_frames import facts_of
from shamon_host.testing.wire import MemoryWire
from tests.unit.links.conftest import ManualClock


class MemoryTapBench:
    """Two VMs that only listen."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.memory = MemoryKernel(["192.0.2.1"], MemoryWire(), self.clock)
        self.kernel: LinkKernel = self.memory
        self.received: dict[str, list[bytes]] = {TAP: [], OTHER_TAP: []}
        for tap, received in self.received.items():
            self.memory.add_tap(tap, received.append)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def exchange(self, tap: str, frames: Sequence[bytes]) -> Sequence[bytes]:
        received = self.received[OTHER_TAP if tap == TAP else TAP]
        received.clear()
        for frame in frames:
            self.memory.send_from_tap(tap, frame)
        return tuple(received)


class TestMemoryFilters(TapFilterContract):
    @pytest.fixture
    def bench(self) -> TapBench:
        return MemoryTapBench()


class TestMemoryStations(StationContract):
    @pytest.fixture
    def bench(self) -> TapBench:
        return MemoryTapBench()


@pytest.mark.parametrize("sent", SENT, ids=lambda sent: sent.name)
def test_a_frame_is_read_as_what_it_is(sent: Sent) -> None:
    frame = bytes.fromhex((sent.destination + sent.source).replace(":", "")) + sent.body + bytes(8)
    assert facts_of(frame, from_tap=True) == sent.as_facts()


@given(st.binary(min_size=14, max_size=120))
def test_any_bytes_are_some_frame(frame: bytes) -> None:
    facts = facts_of(frame, from_tap=True)
    assert facts.kind is not FrameKind.PORTS or facts.protocol is not None


@given(st.sampled_from(SAMPLES), st.integers(0, 80))
def test_a_frame_that_is_cut_off_is_no_other_frame(sample: Sample, length: int) -> None:
    frame = bytes(12) + sample.body
    whole, cut = facts_of(frame + bytes(8), from_tap=True), facts_of(frame[: max(14, length)], from_tap=True)
    assert cut.kind in (FrameKind.OTHER, FrameKind.ARP, whole.kind)


def test_the_bridge_learns_nothing_from_a_frame_that_is_dropped() -> None:
    """As in Linux, where rules before the bridge drop it: a mute VM cannot draw another's frames to itself."""
    bench = MemoryTapBench()
    third: list[bytes] = []
    bench.memory.add_tap("shvm97-0", third.append)
    bench.kernel.apply([CreateBridge(name=BRIDGE), SetTapFilter(filter=TapFilter(device=TAP, sends=False))])
    bench.kernel.apply(
        [AttachPort(bridge=BRIDGE, interface=tap, isolated=False) for tap in (TAP, OTHER_TAP, "shvm97-0")]
    )
    victim, sender = bytes([2, 0, 0, 0, 0, 7]), bytes([2, 0, 0, 0, 0, 8])
    bench.exchange(TAP, [b"\xff" * 6 + victim + bytes(48)])
    bench.exchange(OTHER_TAP, [victim + sender + bytes(48)])
    assert len(third) == 1


def test_a_filter_that_is_changed_or_flushed_stops_nothing() -> None:
    """What the product has to notice."""
    for flushed in (False, True):
        bench = MemoryTapBench()
        bench.kernel.apply([CreateBridge(name=BRIDGE), SetTapFilter(filter=shut(TAP))])
        bench.kernel.apply([AttachPort(bridge=BRIDGE, interface=tap, isolated=False) for tap in (TAP, OTHER_TAP)])
        frame = b"\xff" * 6 + bytes([2, 0, 0, 0, 0, 7]) + bytes(48)
        assert not bench.exchange(TAP, [frame])
        if flushed:
            bench.memory.flush_nft()
        else:
            bench.memory.damage_filter(TAP)
        assert bench.exchange(TAP, [frame])
        assert bench.kernel.read().filters == {}
