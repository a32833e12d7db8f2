"""libvirt and Xen on a host where FLASK enforces; runs inside a lab host, in the daemon's SELinux domain (see
`test_xen_in_lab.py`).
"""

import contextlib
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shamon_host.domain.flask_labels import flask_context
from shamon_host.domain.labels import UNLABELLED, SelinuxContext, VmName
from shamon_host.domain.policy import HypervisorKind
from shamon_host.hypervisor.ports import DomainState, FlaskPolicy, VmDisk, VmInterface, VmSpec
from shamon_host.hypervisor.xen_control import XenControl
from shamon_host.hypervisor.xen_flask import XenFlask
from shamon_host.interchange.flask import flask_base_source, flask_source
from shamon_host.testing.contracts.flask import POLICY, FlaskPolicyContract
from shamon_host.testing.contracts.hypervisor import FIRST, SECOND, Bench, HypervisorContract
from tests.integration.hypervisor.bridges_and_disks import (
    APP,
    BRIDGES,
    DISKS,
    KEPT,
    bridges_and_disks,
    is_sealed,
    label_of,
    labelled_disk,
    run,
)

if TYPE_CHECKING:
    from shamon_host.hypervisor.libvirt_xen import LibvirtXen

_LABELS = {1: "red", 2: "blue"}
_PATIENCE_S = 20.0
_BEGUN_S = 5.0


class XenBench:
    """Bridges and disks of its own; the contract's policy is in the hypervisor."""

    def __init__(self, hypervisor: "LibvirtXen", control: XenControl) -> None:
        self.hypervisor = hypervisor
        self._control = control

    def spec(self, name: VmName, *, number: int, interfaces: int = 1) -> VmSpec:
        disk = DISKS / f"{number}.raw"
        if not disk.exists():
            shutil.copy(APP / "disk.raw", disk)
        return VmSpec(
            name=name,
            uuid=str(uuid.UUID(int=0x4000_8000_0000_0000_0000 + number)),
            context=flask_context(_LABELS[number]),
            disk=str(disk),
            interfaces=tuple(
                VmInterface(device=f"suite{number}-{index}", bridge=bridge, mac=f"52:54:00:77:{index:02x}:{number:02x}")
                for index, bridge in enumerate(BRIDGES[:interfaces])
            ),
            kernel=f"{APP}/vmlinux",
            initrd=f"{APP}/initrd",
            cmdline=f"console=hvc0 quiet app.name={name} app.ip4=10.77.0.{number}/24",
        )

    def disk(self, number: int, *, read_only: bool) -> VmDisk:
        return labelled_disk(number, read_only=read_only, categories=frozenset({512 + 2 * number, 513 + 2 * number}))

    def disk_label(self, disk: VmDisk) -> SelinuxContext | None:
        return label_of(disk)

    def attach(self, name: VmName, disk: VmDisk) -> None:
        mode = ["--mode", "readonly"] if disk.read_only else []
        options = ["--driver", "phy", "--subdriver", "raw", *mode]
        run("virsh", "-q", "-c", "xen:///system", "attach-disk", name, disk.path, "xvdz", *options)

    def dump(self, file: str) -> str:
        return str(KEPT / file)

    def is_sealed(self, path: str) -> bool:
        return is_sealed(path, at_least=self.spec(FIRST, number=1).memory_mib << 20)

    def let_run(self) -> None:
        time.sleep(_BEGUN_S)

    def kill_guest(self, name: VmName) -> None:
        (uuid_of,) = (report.uuid for report in self.hypervisor.domains() if report.name == name)
        (domain,) = (domain for domain in self._control.domains() if domain.uuid == uuid_of)
        _xl("destroy", str(domain.number))

    def until(self, condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


@pytest.fixture(scope="module")
def control() -> XenControl:
    """The hypervisor's calls."""
    return XenControl()


@pytest.fixture(scope="module")
def policy(control: XenControl) -> XenFlask:
    """The hypervisor's policy."""
    work = Path("/run/suite/flask")
    work.mkdir(exist_ok=True)
    return XenFlask(control=control, work=work)


@pytest.fixture(scope="module")
def hypervisor(control: XenControl) -> Iterator["LibvirtXen"]:
    """The adapter, on bridges that are there."""
    from shamon_host.hypervisor.libvirt_xen import LibvirtXen

    with bridges_and_disks(), contextlib.closing(LibvirtXen("xen:///system", control)) as hypervisor:
        yield hypervisor


class TestXenFlask(FlaskPolicyContract):
    """The contract, on the hypervisor."""

    @pytest.fixture
    def flask(self, policy: XenFlask) -> FlaskPolicy:
        return policy


class TestLibvirtXen(HypervisorContract):
    """The contract, and what only the real one has."""

    platform = HypervisorKind.XEN

    @pytest.fixture
    def bench(self, hypervisor: "LibvirtXen", control: XenControl, policy: XenFlask) -> Iterator[Bench]:
        assert not hypervisor.domains()
        policy.load(flask_source(POLICY))
        yield XenBench(hypervisor, control)
        for report in hypervisor.domains():
            hypervisor.destroy(report.name)
        policy.load(flask_base_source())

    def test_survives_a_restart_of_libvirtd(self, bench: Bench) -> None:
        report = bench.hypervisor.start_paused(bench.spec(FIRST, number=1))
        told: list[float] = []
        bench.hypervisor.subscribe(lambda: told.append(time.monotonic()))
        run("systemctl", "restart", "libvirtd.service")
        assert bench.until(lambda: bool(told)), "the loss was not told of"
        assert bench.until(lambda: list(bench.hypervisor.domains()) == [report])

    def test_a_domain_that_libvirt_does_not_know(self, bench: Bench, tmp_path: Path) -> None:
        """It is told of, listed under no name that a policy has, and gone when it is destroyed."""
        report = bench.hypervisor.start_paused(bench.spec(FIRST, number=1))
        told: list[None] = []
        bench.hypervisor.subscribe(lambda: told.append(None))
        _create_by_xl(tmp_path, "second", label=flask_context("blue"))
        assert bench.until(lambda: len(bench.hypervisor.domains()) == 2)
        assert bench.until(lambda: bool(told))
        (stranger,) = (found for found in bench.hypervisor.domains() if found != report)
        assert stranger.name.startswith("xen domain ")
        assert (stranger.context, stranger.state) == (flask_context("blue"), DomainState.PAUSED)
        bench.hypervisor.destroy(stranger.name)
        assert bench.until(lambda: list(bench.hypervisor.domains()) == [report])
        bench.hypervisor.destroy(stranger.name)

    def test_one_that_takes_a_vms_name(self, bench: Bench, tmp_path: Path) -> None:
        _create_by_xl(tmp_path, SECOND, label=flask_context("red"))
        (stranger,) = bench.hypervisor.domains()
        assert stranger.name.startswith("xen domain ")

    def test_a_domain_without_a_label(self, bench: Bench, tmp_path: Path) -> None:
        _create_by_xl(tmp_path, "bare", label=None)
        (stranger,) = bench.hypervisor.domains()
        assert stranger.context == flask_context(UNLABELLED.name)


def _create_by_xl(directory: Path, name: str, *, label: object) -> None:
    config = directory / f"{name}.cfg"
    lines = [f'name="{name}"', 'type="pv"', f'kernel="{APP}/vmlinux"', f'ramdisk="{APP}/initrd"', "memory=128"]
    config.write_text("\n".join([*lines, *([f'seclabel="{label}"'] if label else []), ""]))
    _xl("create", "-q", "-p", str(config))


def _xl(*arguments: str) -> None:
    """`xl`, which the daemon's domain runs in the toolstack's."""
    done = subprocess.run(["xl", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
