"""libvirt and Xen on a host where FLASK enforces; runs inside a lab host, in the daemon's SELinux domain (see
`test_xen_in_lab.py`).
"""

import contextlib
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.flask_labels import flask_context
from shamon_host.domain.labels import UNLABELLED, FlaskContext, SelinuxContext, VmName
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

    def has_tpms(self) -> bool:
        return False

    def tpm_state(self, spec: VmSpec) -> str:
        """There is none."""
        return ""

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

    def test_one_that_takes_a_vms_name_and_uuid(self, bench: Bench, tmp_path: Path) -> None:
        """It is told apart before that VM starts, while it does, and afterwards."""
        spec = bench.spec(FIRST, number=1)
        _create_by_xl(tmp_path, "first", label=flask_context("red"), uuid=spec.uuid)
        (stranger,) = bench.hypervisor.domains()
        assert (stranger.name.startswith("xen domain "), stranger.uuid) == (True, spec.uuid)
        seen: list[int] = []
        watching = threading.Event()

        def watch() -> None:
            while True:
                seen.append(sum(report.name == stranger.name for report in bench.hypervisor.domains()))
                if watching.wait(0.5):
                    return

        thread = threading.Thread(target=watch)
        thread.start()
        with contextlib.suppress(BackendFailed):  # libxl may refuse the name that is taken
            bench.hypervisor.start_paused(spec)
        watching.set()
        thread.join()
        assert set(seen) == {1}
        assert stranger.name in {report.name for report in bench.hypervisor.domains()}

    def test_a_guest_that_reboots_is_gone(self, bench: Bench) -> None:
        """What libxl would start in its place nobody has judged."""
        report = bench.hypervisor.start_paused(bench.spec(FIRST, number=1))
        bench.hypervisor.resume(FIRST)
        bench.let_run()
        _xl("reboot", "-F", FIRST)
        assert bench.until(lambda: report.uuid not in {each.uuid for each in bench.hypervisor.domains()})
        bench.let_run()
        assert not bench.hypervisor.domains()

    def test_a_domain_whose_label_is_gone(self, bench: Bench, policy: XenFlask) -> None:
        """Another policy that lacks its type: it is seen, with what is behind it, under no label of a VM, and ended."""
        report = bench.hypervisor.start_paused(bench.spec(FIRST, number=1))
        other = bench.hypervisor.start_paused(
            replace(bench.spec(SECOND, number=2), context=flask_context("unlabelled"))
        )
        policy.load(flask_base_source())
        found = {each.name: each for each in bench.hypervisor.domains()}
        assert found[SECOND] == other
        assert found[FIRST].context == FlaskContext(user="system_u", role="system_r", type="unlabeled_t")
        assert report.context == flask_context("red")
        bench.hypervisor.destroy(FIRST)
        assert [each.name for each in bench.hypervisor.domains()] == [SECOND]

    def test_a_definition_of_somebody_else_stays_and_nothing_starts_beside_it(self, bench: Bench) -> None:
        spec = bench.spec(FIRST, number=1)
        bench.hypervisor.start_paused(spec)
        text = run("virsh", "-c", "xen:///system", "dumpxml", FIRST)
        bench.hypervisor.destroy(FIRST)
        define = ["virsh", "-q", "-c", "xen:///system", "define", "/dev/stdin"]
        subprocess.run(define, input=text, check=True, text=True)
        try:
            bench.hypervisor.destroy(FIRST)
            with pytest.raises(BackendFailed, match="undefine"):
                bench.hypervisor.start_paused(spec)
        finally:
            run("virsh", "-q", "-c", "xen:///system", "undefine", FIRST)
        assert not bench.hypervisor.domains()

    def test_a_domain_without_a_label(self, bench: Bench, tmp_path: Path) -> None:
        _create_by_xl(tmp_path, "bare", label=None)
        (stranger,) = bench.hypervisor.domains()
        assert stranger.context == flask_context(UNLABELLED.name)


def _create_by_xl(directory: Path, name: str, *, label: object, uuid: str = "") -> None:
    config = directory / f"{name}.cfg"
    lines = [f'name="{name}"', 'type="pv"', f'kernel="{APP}/vmlinux"', f'ramdisk="{APP}/initrd"', "memory=128"]
    lines += [f'seclabel="{label}"'] if label else []
    lines += [f'uuid="{uuid}"'] if uuid else []
    config.write_text("\n".join([*lines, ""]))
    _xl("create", "-q", "-p", str(config))


def _xl(*arguments: str) -> None:
    """`xl`, which the daemon's domain runs in the toolstack's."""
    done = subprocess.run(["xl", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
