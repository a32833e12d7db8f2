"""The contract of filters of taps on Linux, run inside a lab host as root: frames through real bridges and nft rules.

A veth pair stands in for a VM's tap, with a packet socket at its far end for the VM.
"""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from shamon_host.links.model import ClearTapFilter, DeleteBridge
from shamon_host.links.ports import LinkKernel
from shamon_host.testing.contracts.kernel_filters import BRIDGE, OTHER_TAP, TAP, TapBench, TapFilterContract
from shamon_host.testing.contracts.kernel_stations import StationContract

SETTLE_S = 0.5
"""How long a frame may be under way."""
_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_CARRIER_S = 5.0
_FORWARDING = "3"
"""BR_STATE_FORWARDING (include/uapi/linux/if_bridge.h)."""
_BUFFER_BYTES = 8 << 20
_FAR_ENDS = {TAP: "vm98", OTHER_TAP: "vm99"}


class LinuxTapBench:
    """The host's own kernel."""

    def __init__(self) -> None:
        from shamon_host.links.linux_kernel import LinuxLinkKernel

        self.kernel: LinkKernel = LinuxLinkKernel()
        self.sockets = {tap: make_vm(tap, far) for tap, far in _FAR_ENDS.items()}

    def close(self) -> None:
        for opened in self.sockets.values():
            opened.close()
        self.kernel.apply(
            [*(ClearTapFilter(device=tap) for tap in (*_FAR_ENDS, "shvm97-0")), DeleteBridge(name=BRIDGE)]
        )
        self.kernel.close()
        for tap in _FAR_ENDS:
            _ip("link", "del", tap)

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)

    def exchange(self, tap: str, frames: Sequence[bytes]) -> Sequence[bytes]:
        for devices in _FAR_ENDS.items():
            for device in devices:
                await_carrier(device)
        receiver = self.sockets[OTHER_TAP if tap == TAP else TAP]
        list(received(receiver, seconds=0.0))
        for frame in frames:
            self.sockets[tap].send(frame)
        return list(received(receiver, seconds=SETTLE_S))


class TestLinuxFilters(TapFilterContract):
    @pytest.fixture
    def bench(self) -> Iterator[TapBench]:
        bench = LinuxTapBench()
        yield bench
        bench.close()


class TestLinuxStations(StationContract):
    @pytest.fixture
    def bench(self) -> Iterator[TapBench]:
        bench = LinuxTapBench()
        yield bench
        bench.close()


def make_vm(tap: str, far: str) -> socket.socket:
    """Make the pair, without a word of its own, and listen at the far end."""
    _ip("link", "add", tap, "type", "veth", "peer", "name", far)
    for device in (tap, far):
        with contextlib.suppress(FileNotFoundError):
            Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("1")
    _ip("link", "set", far, "up")
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    opened.bind((far, _ETH_P_ALL))
    return opened


def await_carrier(device: str) -> None:
    """The kernel may take a moment to see that a device has a carrier; until then nothing passes."""
    state = Path(f"/sys/class/net/{device}/operstate")
    port = Path(f"/sys/class/net/{device}/brport/state")
    end = time.monotonic() + _CARRIER_S
    while time.monotonic() < end:
        if state.read_text().strip() == "up" and (not port.exists() or port.read_text().strip() == _FORWARDING):
            return
        time.sleep(0.02)


def received(receiver: socket.socket, *, seconds: float) -> Iterator[bytes]:
    """What comes in within these seconds; in none, what is there."""
    until = time.monotonic() + seconds
    while True:
        left = until - time.monotonic()
        receiver.settimeout(max(left, 0.0))
        try:
            frame, (_, _, kind, *_) = receiver.recvfrom(1 << 16)
        except (TimeoutError, BlockingIOError):
            return
        if kind != socket.PACKET_OUTGOING:
            yield frame


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)
