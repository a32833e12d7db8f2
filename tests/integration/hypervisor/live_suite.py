"""Runs in the daemon's domain of a lab host: live migration by libvirt, from one machine to another one of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shamon_host.testing.contracts.live import LiveBench, LiveMigrationContract
from tests.integration.hypervisor.libvirt_suite import LibvirtBench, hypervisor

if TYPE_CHECKING:
    from shamon_host.hypervisor.libvirt_live import LibvirtLive
    from shamon_host.hypervisor.libvirt_qemu import LibvirtQemu

__all__ = ["hypervisor"]
RUNTIME = Path("/run/shamon")
"""Where the daemon has such sockets, and may."""


class LibvirtLiveBench(LibvirtBench):
    """QEMU's guests, sent from one machine to another one of the same host."""

    def __init__(self, hypervisor: "LibvirtQemu", live: "LibvirtLive") -> None:
        super().__init__(hypervisor)
        self.live = live


class TestLibvirtLive(LiveMigrationContract):
    """Each machine's sockets are its own by their label: SELinux enforces here."""

    @pytest.fixture
    def bench(self, hypervisor: "LibvirtQemu") -> Iterator[LiveBench]:
        from shamon_host.hypervisor.libvirt_live import LibvirtLive

        yield LibvirtLiveBench(hypervisor, LibvirtLive(qemu=hypervisor, directory=RUNTIME))
        for report in hypervisor.domains():
            hypervisor.destroy(report.name)
