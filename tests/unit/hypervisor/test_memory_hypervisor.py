"""The in-memory hypervisor passes the contract, as QEMU and as Xen, and its guests exchange frames."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.flask_labels import flask_context
from shamon_host.domain.labels import FlaskContext, SelinuxContext, VmContext, VmName
from shamon_host.domain.policy import HypervisorKind
from shamon_host.hypervisor.ports import VmDisk, VmInterface, VmSpec
from shamon_host.interchange.flask import flask_base_source, flask_source
from shamon_host.testing.contracts.hypervisor import FIRST, SECOND, HypervisorContract
from shamon_host.testing.flask import MemoryFlask
from shamon_host.testing.hypervisor import MemoryHypervisor
from tests.unit.hypervisor.vm_world import POLICY, Hub

FIRST_ADDRESSES, SECOND_ADDRESSES = ("10.9.0.1", "fd00:9::1"), ("10.9.0.2", "fd00:9::2")

LABELS = {1: "red", 2: "blue"}


def svirt(number: int) -> SelinuxContext:
    categories = frozenset({number, 512 + 2 * number, 513 + 2 * number})
    return SelinuxContext(user="system_u", role="system_r", type="svirt_t", categories=categories)


@dataclass(kw_only=True)
class MemoryBench:
    hypervisor: MemoryHypervisor

    def spec(self, name: VmName, *, number: int, interfaces: int = 1) -> VmSpec:
        return VmSpec(
            name=name,
            uuid=f"00000000-0000-4000-8000-{number:012}",
            context=self._context(number),
            disk=f"/overlays/{number}.qcow2",
            interfaces=tuple(
                VmInterface(
                    device=f"tap{number}-{index}", bridge=f"bridge{index}", mac=f"52:54:00:00:{index:02x}:{number:02x}"
                )
                for index in range(interfaces)
            ),
        )

    def _context(self, number: int) -> VmContext:
        return flask_context(LABELS[number]) if self.hypervisor.flask else svirt(number)

    def disk(self, number: int, *, read_only: bool) -> VmDisk:
        name = f"{number}-{'read' if read_only else 'written'}"
        file_type = "virt_content_t" if read_only else "svirt_image_t"
        context = replace(svirt(number), role="object_r", type=file_type)
        self.hypervisor.files.add(name).label = context
        return VmDisk(path=self.hypervisor.files.path(name), read_only=read_only)

    def disk_label(self, disk: VmDisk) -> SelinuxContext | None:
        return self.hypervisor.files.files[disk.path].label

    def attach(self, name: VmName, disk: VmDisk) -> None:
        self.hypervisor.attach(name, disk)

    def has_tpms(self) -> bool:
        return self.hypervisor.flask is None

    def tpm_state(self, spec: VmSpec) -> str:
        machine = self.hypervisor.machines.get(spec.uuid)
        return "" if machine is None else machine.tpm.ak_public().hex()

    def dump(self, file: str) -> str:
        return f"/kept/{file}"

    def is_sealed(self, path: str) -> bool:
        return path in self.hypervisor.dumps

    def let_run(self) -> None:
        """Its guests have no memory that would have to be there."""

    def kill_guest(self, name: VmName) -> None:
        self.hypervisor.crash(name)

    def until(self, condition: Callable[[], bool]) -> bool:
        return condition()


@pytest.fixture
def hub() -> Hub:
    return Hub(bridges={"bridge0": [], "bridge1": []})


@pytest.fixture
def bench(hub: Hub) -> MemoryBench:
    return MemoryBench(
        hypervisor=MemoryHypervisor(
            switch=hub,
            addresses={FIRST: FIRST_ADDRESSES, SECOND: SECOND_ADDRESSES},
            enforcing=lambda: True,
            disk_exists=lambda path: path.endswith(".qcow2"),
        )
    )


class TestMemoryHypervisor(HypervisorContract):
    @pytest.fixture
    def bench(self, bench: MemoryBench) -> MemoryBench:
        return bench


class TestMemoryXen(HypervisorContract):
    platform = HypervisorKind.XEN

    @pytest.fixture
    def bench(self, bench: MemoryBench) -> MemoryBench:
        bench.hypervisor.flask = flask = MemoryFlask()
        flask.load(flask_source(POLICY))
        return bench


def test_a_domain_whose_label_the_next_policy_lacks_has_none(bench: MemoryBench) -> None:
    bench.hypervisor.flask = flask = MemoryFlask()
    flask.load(flask_source(POLICY))
    _start(bench, FIRST, 1)
    flask.load(flask_base_source())
    (report,) = bench.hypervisor.domains()
    assert str(report.context) == "system_u:system_r:unlabeled_t"
    flask.load(flask_source(POLICY))
    assert bench.hypervisor.domains() == (report,), "it is lost for good"
    bench.hypervisor.destroy(FIRST)
    _start(bench, FIRST, 1)
    flask.load(flask_source(POLICY))
    flask.enforcing = False
    (report,) = bench.hypervisor.domains()
    assert (report.context, report.enforced) == (flask_context("red"), False)


@pytest.mark.parametrize(
    "context",
    [svirt(1), FlaskContext(user="root", role="system_r", type="shamon_vm_red_t")],
)
def test_what_is_no_label_of_xen_is_none(bench: MemoryBench, context: VmContext) -> None:
    bench.hypervisor.flask = MemoryFlask()
    report = bench.hypervisor.start_paused(replace(bench.spec(FIRST, number=1), context=context))
    assert report.context == flask_context("unlabelled")


def test_svirt_knows_no_label_of_xen(bench: MemoryBench) -> None:
    with pytest.raises(BackendFailed):
        bench.hypervisor.start_paused(replace(bench.spec(FIRST, number=1), context=flask_context("red")))


def _start(bench: MemoryBench, name: VmName, number: int, interfaces: int = 1) -> None:
    bench.hypervisor.start_paused(bench.spec(name, number=number, interfaces=interfaces))
    bench.hypervisor.resume(name)


def test_guests_reach_each_other(bench: MemoryBench) -> None:
    _start(bench, FIRST, 1)
    _start(bench, SECOND, 2)
    guest = bench.hypervisor.guest(FIRST)
    for address in SECOND_ADDRESSES:
        assert guest.resolve(address)
        assert guest.ping(address)
        assert guest.ping(address)
    assert not guest.ping("10.9.0.77")
    assert not guest.resolve("fd00:9::77")


def test_guest_with_two_cards(bench: MemoryBench) -> None:
    """It reaches a neighbour on whichever bridge it is, and carries nothing between the two."""
    _start(bench, FIRST, 1, interfaces=2)
    bench.hypervisor.start_paused(
        VmSpec(
            name=SECOND,
            uuid="00000000-0000-4000-8000-000000000002",
            disk="/overlays/2.qcow2",
            context=bench.spec(SECOND, number=2).context,
            interfaces=(VmInterface(device="tap2-0", bridge="bridge1", mac="52:54:00:00:00:02"),),
        )
    )
    bench.hypervisor.resume(SECOND)
    assert bench.hypervisor.guest(FIRST).ping(SECOND_ADDRESSES[0])
    assert bench.hypervisor.guest(SECOND).ping(FIRST_ADDRESSES[1])


def test_paused_guest_is_silent(bench: MemoryBench) -> None:
    _start(bench, FIRST, 1)
    _start(bench, SECOND, 2)
    bench.hypervisor.suspend(SECOND)
    first, second = bench.hypervisor.guest(FIRST), bench.hypervisor.guest(SECOND)
    assert not first.resolve(SECOND_ADDRESSES[0])
    assert not second.ping(FIRST_ADDRESSES[0])
    bench.hypervisor.resume(SECOND)
    assert first.ping(SECOND_ADDRESSES[0])


def test_bridges_are_apart(bench: MemoryBench, hub: Hub) -> None:
    _start(bench, FIRST, 1)
    _start(bench, SECOND, 2)
    hub.detach("tap2-0")
    assert not bench.hypervisor.guest(FIRST).ping(SECOND_ADDRESSES[0])


def test_failed_start_leaves_no_tap(bench: MemoryBench, hub: Hub) -> None:
    del hub.bridges["bridge1"]
    with pytest.raises(BackendFailed):
        bench.hypervisor.start_paused(bench.spec(FIRST, number=1, interfaces=2))
    assert not hub.taps
    with pytest.raises(BackendFailed):
        bench.hypervisor.guest(FIRST)


def test_permissive_kernel_ignores_an_unknown_context(hub: Hub) -> None:
    bench = MemoryBench(hypervisor=MemoryHypervisor(switch=hub, addresses={}, enforcing=lambda: False))
    spec = bench.spec(FIRST, number=1)
    strange = VmSpec(
        name=spec.name,
        uuid=spec.uuid,
        disk=spec.disk,
        interfaces=(),
        context=SelinuxContext(user="system_u", role="system_r", type="no_such_t"),
    )
    report = bench.hypervisor.start_paused(strange)
    assert str(report.context) == "system_u:system_r:virtd_t:s0"
    assert not report.enforced


def test_power_off_ends_everything(bench: MemoryBench, hub: Hub) -> None:
    told: list[None] = []
    _start(bench, FIRST, 1)
    bench.hypervisor.subscribe(lambda: told.append(None))
    bench.hypervisor.power_off()
    assert not bench.hypervisor.domains()
    assert not hub.taps
    _start(bench, FIRST, 1)
    assert not told
