"""The contract of `LinkKernel` on Linux, run inside a lab host in the daemon's SELinux domain."""

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from shamon_host.links.model import Tunnel
from shamon_host.links.ports import KernelEvent, LinkKernel
from shamon_host.testing.contracts.kernel import Bench, LinkKernelContract, empty
from shamon_host.testing.contracts.kernel_batches import KernelBatchContract
from shamon_host.testing.contracts.kernel_changes import KernelChangesContract
from shamon_host.testing.contracts.kernel_limits import SaLimitsContract

SETTLE_S = 0.5
"""How long a notification of the kernel may be under way."""


class LinuxBench:
    """The host's own kernel; nobody answers at the peer's address."""

    def __init__(self) -> None:
        self.own = os.environ["SHAMON_OWN_ADDRESS"]
        self.peer = "2001:db8::77" if ":" in self.own else "192.0.2.77"
        self.kernel: LinkKernel = self._open()

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)

    def send(self, tunnel: Tunnel, datagrams: Sequence[bytes]) -> None:
        from shamon_host.links.linux_labelled_socket import open_link_socket

        with open_link_socket(tunnel) as opened:
            for datagram in datagrams:
                with contextlib.suppress(OSError):
                    opened.send(datagram)

    def flush_policies(self) -> None:
        from shamon_host.pyxfrm.client import Xfrm

        with Xfrm() as xfrm:
            xfrm.flush_policies()

    def unseal(self, bridge: str) -> None:
        from pyroute2 import IPRoute

        with IPRoute() as route:
            (index,) = route.link_lookup(ifname=bridge)
            route.addr("add", index=index, address="198.51.100.9", prefixlen=24)

    def set_hairpin(self, bridge: str, interface: str) -> None:
        command = ["ip", "link", "set", interface, "type", "bridge_slave", "hairpin", "on"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def set_forwarding(self, value: str) -> None:
        Path("/proc/sys/net/ipv4/ip_forward").write_text(value)

    def damage_filter(self, device: str) -> None:
        subprocess.run(["nft", "flush", "chain", "bridge", "shamon-taps", f"{device}.to"], check=True, timeout=60)

    def events_of(self, disturb: Callable[[], None]) -> Sequence[KernelEvent]:
        events: list[KernelEvent] = []

        async def listen() -> None:
            self.kernel.subscribe(events.append)
            await asyncio.to_thread(disturb)
            await asyncio.sleep(SETTLE_S)
            self.kernel.close()

        asyncio.run(listen())
        self.kernel = self._open()
        return events

    def reopened(self) -> LinkKernel:
        pytest.skip("the sockets of tunnels outlive a run only with a service manager: see the tests of the probe")

    def _open(self) -> LinkKernel:
        from shamon_host.links.linux_kernel import LinuxLinkKernel

        return LinuxLinkKernel()


def _emptied() -> Iterator[Bench]:
    bench = LinuxBench()
    empty(bench.kernel)
    yield bench
    empty(bench.kernel)
    bench.kernel.close()


class TestLinuxKernel(LinkKernelContract, KernelChangesContract, SaLimitsContract):
    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        yield from _emptied()


class TestLinuxKernelInBatches(KernelBatchContract):
    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        yield from _emptied()
