"""VMs of a host with Xen: their label's FLASK context or nothing, whatever libxl makes of a label it cannot find."""

from dataclasses import replace

import pytest

from shamon_host.domain.errors import BackendFailed, NotTrusted
from shamon_host.domain.flask_labels import flask_context
from shamon_host.domain.policy import HypervisorKind
from shamon_host.hypervisor.ports import DomainState
from shamon_host.interchange.flask import flask_base_source, flask_source
from shamon_host.testing.flask import MemoryFlask
from tests.unit.hypervisor.vm_world import ALPHA, POLICY, RED, SHOP, WEB, VmWorld

ON_XEN = replace(POLICY, hosts={**POLICY.hosts, ALPHA: replace(POLICY.hosts[ALPHA], hypervisor=HypervisorKind.XEN)})


@pytest.fixture
def flask() -> MemoryFlask:
    flask = MemoryFlask()
    flask.load(flask_source(ON_XEN))
    return flask


@pytest.fixture
def world(flask: MemoryFlask) -> VmWorld:
    world = VmWorld(policy=ON_XEN)
    world.hypervisor.flask = flask
    return world


def test_a_vm_runs_under_its_label(world: VmWorld) -> None:
    report = world.vms.start(WEB)
    assert (report.context, report.state) == (flask_context("red"), DomainState.RUNNING)
    assert world.vms.states.running_types() == {RED}
    assert list(world.vms.states.taps().values()) == [RED]
    assert world.vms.enforce_labels() == ()


def test_a_label_that_xen_does_not_know_starts_nothing(world: VmWorld, flask: MemoryFlask) -> None:
    flask.load(flask_base_source())
    with pytest.raises(NotTrusted, match="FLASK must be enforcing") as raised:
        world.vms.start(WEB)
    assert raised.value.found == "system_u:system_r:shamon_unlabelled_t"
    assert "SELinux" not in raised.value.remedy
    assert world.domain(WEB) is None


def test_a_permissive_flask_starts_nothing(world: VmWorld, flask: MemoryFlask) -> None:
    flask.enforcing = False
    with pytest.raises(NotTrusted, match="expected FLASK enforcing; found permissive"):
        world.vms.start(WEB)
    assert world.domain(WEB) is None
    world.selinux_enforcing = False
    flask.enforcing = True
    assert world.vms.start(WEB).state is DomainState.RUNNING, "dom0's SELinux labels no VM"


def test_a_vm_that_ends_at_once(world: VmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.hypervisor, "resume", world.hypervisor.crash)
    with pytest.raises(BackendFailed, match="ended right after") as raised:
        world.vms.start(WEB)
    assert "/var/log/libvirt/libxl" in raised.value.remedy
    assert "qemu" not in raised.value.remedy


def test_nothing_is_asked_of_the_monitor_while_labels_bind_nobody(world: VmWorld) -> None:
    def refuse() -> None:
        raise NotTrusted("Xen does not enforce the coalition's policy: no VM starts")

    world.vms.start(SHOP)
    world.vms.suspend(SHOP, "a test")
    world.vms.require_enforced = refuse
    before = len(world.entries)
    for vm in (WEB, SHOP):
        with pytest.raises(NotTrusted, match="no VM starts"):
            world.vms.start(vm)
    assert len(world.entries) == before
    assert (world.state(WEB), world.state(SHOP)) == (None, DomainState.PAUSED)
    with pytest.raises(NotTrusted, match="no VM starts"):
        world.vms.replace(SHOP, "a test")
    assert world.state(SHOP) is None, "it is gone all the same"


def test_a_vm_that_lost_its_label_is_destroyed(world: VmWorld, flask: MemoryFlask) -> None:
    world.vms.start(WEB)
    flask.load(flask_base_source())
    assert world.vms.states.running_types() == set()
    assert world.vms.enforce_labels() == (WEB,)


def test_another_name_of_the_label_waits_for_a_stop(world: VmWorld, flask: MemoryFlask) -> None:
    labels = {**ON_XEN.vm_labels, "crimson": replace(ON_XEN.vm_labels["red"], name="crimson")}
    vms = {**ON_XEN.vms, WEB: replace(ON_XEN.vms[WEB], label="crimson")}
    to_come = replace(ON_XEN, version=2, vm_labels=labels, vms=vms)
    world.successor = to_come
    with pytest.raises(Exception, match=r"version 2 is to come: it runs as .*shamon_vm_red_t and would have"):
        world.vms.start(WEB)
    world.successor = None
    world.vms.start(WEB)
    before, world.policy = world.policy, to_come
    assert world.vms.stop_forbidden(before) == (WEB,)
    flask.load(flask_source(to_come))
    assert world.vms.start(WEB).context == flask_context("crimson")
