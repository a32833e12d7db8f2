"""libvirt and QEMU on a host where SELinux enforces; runs inside a lab host (see `test_libvirt_in_lab.py`)."""

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import SelinuxContext, VmName
from shamon_host.hypervisor.ports import DomainState, VmDisk, VmInterface, VmSpec
from shamon_host.testing.contracts.hypervisor import FIRST, Bench, HypervisorContract
from tests.integration.hypervisor.bridges_and_disks import (
    APP,
    BRIDGES,
    DISKS,
    KEPT,
    answers,
    bridges_and_disks,
    is_sealed,
    label_of,
    labelled_disk,
    run,
)

if TYPE_CHECKING:
    from shamon_host.hypervisor.libvirt_qemu import LibvirtQemu

_PATIENCE_S = 15.0


class LibvirtBench:
    """Bridges and overlays of its own."""

    def __init__(self, hypervisor: "LibvirtQemu") -> None:
        self.hypervisor = hypervisor

    def spec(self, name: VmName, *, number: int, interfaces: int = 1) -> VmSpec:
        disk = DISKS / f"{number}.qcow2"
        if not disk.exists():
            run("qemu-img", "create", "-q", "-f", "qcow2", "-b", f"{APP}/disk.raw", "-F", "raw", str(disk))
        return VmSpec(
            name=name,
            uuid=str(uuid.UUID(int=0x4000_8000_0000_0000_0000 + number)),
            context=SelinuxContext(
                user="system_u",
                role="system_r",
                type="svirt_t",
                categories=frozenset({number, 512 + 2 * number, 513 + 2 * number}),
            ),
            disk=str(disk),
            interfaces=tuple(
                VmInterface(device=f"suite{number}-{index}", bridge=bridge, mac=f"52:54:00:77:{index:02x}:{number:02x}")
                for index, bridge in enumerate(BRIDGES[:interfaces])
            ),
            kernel=f"{APP}/vmlinux",
            initrd=f"{APP}/initrd",
            cmdline=f"console=ttyS0 quiet app.name={name} app.ip4=10.77.0.{number}/24",
        )

    def disk(self, number: int, *, read_only: bool) -> VmDisk:
        categories = frozenset({number, 512 + 2 * number, 513 + 2 * number})
        return labelled_disk(number, read_only=read_only, categories=categories)

    def disk_label(self, disk: VmDisk) -> SelinuxContext | None:
        return label_of(disk)

    def attach(self, name: VmName, disk: VmDisk) -> None:
        mode = ["--mode", "readonly"] if disk.read_only else []
        run("virsh", "-q", "attach-disk", name, disk.path, "vdz", "--subdriver", "raw", *mode)

    def has_tpms(self) -> bool:
        return Path("/usr/bin/swtpm").exists()

    def tpm_state(self, spec: VmSpec) -> str:
        """When its directory was made: the file in it is written anew when anything changes."""
        state = Path("/var/lib/libvirt/swtpm") / spec.uuid / "tpm2"
        if not (state / "tpm2-00.permall").exists():
            return ""
        return subprocess.run(["stat", "-c", "%i %w", str(state)], check=True, capture_output=True, text=True).stdout

    def dump(self, file: str) -> str:
        return str(KEPT / file)

    def is_sealed(self, path: str) -> bool:
        return is_sealed(path, at_least=self.spec(FIRST, number=1).memory_mib << 20)

    def let_run(self) -> None:
        """QEMU has the memory of any."""

    def kill_guest(self, name: VmName) -> None:
        os.kill(_pid(name), signal.SIGKILL)

    def until(self, condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


@pytest.fixture(scope="module")
def hypervisor() -> Iterator["LibvirtQemu"]:
    """The adapter, on bridges that are there."""
    from shamon_host.hypervisor.libvirt_qemu import LibvirtQemu

    with bridges_and_disks(), contextlib.closing(LibvirtQemu("qemu:///system")) as hypervisor:
        yield hypervisor


class TestLibvirtQemu(HypervisorContract):
    """The contract, and what only the real one has."""

    @pytest.fixture
    def bench(self, hypervisor: "LibvirtQemu") -> Iterator[Bench]:
        assert not hypervisor.domains()
        yield LibvirtBench(hypervisor)
        for report in hypervisor.domains():
            hypervisor.destroy(report.name)

    def test_what_the_kernel_has(self, bench: Bench) -> None:
        """Process and disk carry the VM's categories, the clean image below does not; its taps are on their bridges."""
        spec = bench.spec(FIRST, number=1, interfaces=2)
        bench.hypervisor.start_paused(spec)
        assert Path(f"/proc/{_pid(FIRST)}/attr/current").read_text().rstrip("\0\n") == str(spec.context)
        disk_label = os.getxattr(spec.disk, "security.selinux").decode().rstrip("\0")
        assert disk_label == "system_u:object_r:svirt_image_t:s0:c1,c514,c515"
        assert b":c" not in os.getxattr(APP / "disk.raw", "security.selinux")
        for interface in spec.interfaces:
            assert Path(f"/sys/class/net/{interface.device}/master").resolve().name == interface.bridge
        bench.hypervisor.destroy(FIRST)
        assert not any(Path(f"/sys/class/net/{interface.device}").exists() for interface in spec.interfaces)

    def test_guest_runs_when_it_is_resumed(self, bench: Bench, hypervisor: "LibvirtQemu") -> None:
        """It answers on its network after it was resumed and not before; `auto` takes KVM where it is."""
        assert hypervisor.platform.virt_type == ("kvm" if Path("/dev/kvm").exists() else "qemu")
        run("ip", "addr", "replace", "10.77.0.254/24", "dev", BRIDGES[0])
        bench.hypervisor.start_paused(bench.spec(FIRST, number=1))
        assert not answers("10.77.0.1", patience_s=1)
        started = time.monotonic()
        bench.hypervisor.resume(FIRST)
        assert answers("10.77.0.1", patience_s=20 if hypervisor.platform.virt_type == "kvm" else 120)
        print(f"guest answered after {time.monotonic() - started:.1f} s")
        bench.hypervisor.suspend(FIRST)
        assert not answers("10.77.0.1", patience_s=1)

    def test_plain_emulation(self, bench: Bench) -> None:
        from shamon_host.hypervisor.libvirt_qemu import LibvirtQemu

        spec = bench.spec(FIRST, number=1)
        with contextlib.closing(LibvirtQemu("qemu:///system", virt_type="qemu")) as emulated:
            assert emulated.start_paused(spec).context == spec.context

    def test_survives_a_restart_of_libvirtd(self, bench: Bench) -> None:
        report = bench.hypervisor.start_paused(bench.spec(FIRST, number=1))
        told: list[float] = []
        bench.hypervisor.subscribe(lambda: told.append(time.monotonic()))
        run("systemctl", "restart", "libvirtd.service")
        assert bench.until(lambda: bool(told)), "the loss was not told of"
        assert bench.until(lambda: tuple(_quietly(bench)) == (report,))
        told.clear()
        run("virsh", "-q", "resume", FIRST)
        assert bench.until(lambda: bool(told)), "no events after the restart"
        assert next(iter(bench.hypervisor.domains())).state is DomainState.RUNNING

    def test_a_definition_of_somebody_else_stays_and_nothing_starts_beside_it(self, bench: Bench) -> None:
        spec = bench.spec(FIRST, number=1)
        bench.hypervisor.start_paused(spec)
        text = subprocess.run(["virsh", "dumpxml", FIRST], check=True, capture_output=True, text=True).stdout
        bench.hypervisor.destroy(FIRST)
        subprocess.run(["virsh", "-q", "define", "/dev/stdin"], input=text, check=True, text=True)
        for _ in range(2):
            (report,) = bench.hypervisor.domains()
            assert (report.state, report.context) == (DomainState.SHUT_OFF, None)
            with pytest.raises(BackendFailed, match=f"virsh undefine {FIRST}"):
                bench.hypervisor.start_paused(spec)
            bench.hypervisor.destroy(FIRST)
        run("virsh", "-q", "undefine", FIRST)
        assert bench.hypervisor.start_paused(spec).state is DomainState.PAUSED


def test_no_daemon() -> None:
    """An address where nothing listens."""
    from shamon_host.hypervisor.libvirt_qemu import LibvirtQemu

    with pytest.raises(BackendFailed):
        LibvirtQemu("qemu+unix:///system?socket=/run/no-such-socket")


def _quietly(bench: Bench) -> Iterator[object]:
    """The domains, none while libvirtd is away."""
    with contextlib.suppress(BackendFailed):
        yield from bench.hypervisor.domains()


def _pid(name: VmName) -> int:
    return int(Path(f"/run/libvirt/qemu/{name}.pid").read_text())
