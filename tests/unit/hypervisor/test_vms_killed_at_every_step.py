"""The daemon dies before any one of its acts in a quarantine or a replacement: what starts next brings the VM to what
was asked for, or to what it was; there are never two, none without its label, and no port of one that is cut off."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from shamon_host.domain.labels import VmName
from shamon_host.domain.quarantine import Grade
from shamon_host.hypervisor.ports import DomainState
from shamon_host.hypervisor.quarantines import Keep
from shamon_host.hypervisor.vm_quarantine import Memory
from shamon_host.hypervisor.vm_states import ImageState
from shamon_host.hypervisor.vms import VmManager
from tests.unit.hypervisor.vm_world import RED, SHOP, WEB, VmWorld, context_of

_MOST_STEPS = 60
_TRACES = "traces"
_BRIDGES = {WEB: "br-red", SHOP: "br-blue"}


class Dead(BaseException):
    """Nothing runs after it, in this daemon."""


@dataclass
class Fate:
    """So many acts are left to a daemon."""

    left: int
    dead: bool = False

    def act(self) -> None:
        if self.left == 0:
            self.dead = True
        if self.dead:
            raise Dead
        self.left -= 1


@dataclass
class Mortal:
    """A port as a daemon sees it that dies: of what it does through it, so much has an effect."""

    real: Any
    fate: Fate
    acts: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.real, name)
        if name not in self.acts:
            return method

        def act(*arguments: Any, **named: Any) -> Any:
            self.fate.act()
            return method(*arguments, **named)

        return act


@dataclass
class Host:
    """One with two VMs of different types, and daemons that come and go."""

    world: VmWorld = field(default_factory=VmWorld)

    def __post_init__(self) -> None:
        for vm in (WEB, SHOP):
            self.world.vms.start(vm)
            self.world.write_marker(vm, _TRACES)

    def mortal(self, fate: Fate) -> VmManager:
        """A daemon's part that has so many acts to live."""
        world = self.world
        hypervisor = Mortal(world.hypervisor, fate, ("start_paused", "resume", "suspend", "destroy", "dump_memory"))
        documents = Mortal(world.documents, fate, ("put", "delete"))
        audit = self.act(fate, world.vms.audit)
        leases = replace(world.vms.states.leases, documents=documents)
        states = replace(world.vms.states, hypervisor=hypervisor, documents=documents, leases=leases)
        return VmManager(
            states=states,
            images=Mortal(world.images, fate, ("fresh_overlay", "discard", "set_aside")),
            disks=replace(world.vms.disks, documents=documents, audit=audit),
            audit=audit,
            ensure_bridge=world.vms.ensure_bridge,
            detach_port=self.act(fate, world.hub.detach),
            digest=world.vms.digest,
            host_tpm=world.vms.host_tpm,
            successor=world.vms.successor,
            admitted=world.vms.admitted,
        )

    def act(self, fate: Fate, call: Callable[..., object]) -> Callable[..., Any]:
        def act(*arguments: Any) -> Any:
            fate.act()
            return call(*arguments)

        return act

    def restart(self, *, boots: bool) -> None:
        """Another daemon starts, as `own_host` and `host_daemon` have it."""
        vms = self.world.vms
        if boots:
            self.world.reboot()
        self.look()
        vms.stop_forbidden()
        vms.enforce_labels()
        self.reconcile()
        self.no_port_of_what_is_cut_off()
        if boots:
            vms.restore(replace=False, reason="booted")
        vms.finish()
        vms.enforce_labels()
        self.reconcile()

    def reconcile(self) -> None:
        """What `LinkReconciler` does about taps."""
        hub = self.world.hub
        taps = self.world.vms.states.taps()
        for tap in tuple(hub.taps):
            hub.detach(tap)
            if tap in taps:
                hub.bridges[f"br-{taps[tap].rpartition('/')[2]}"].append(tap)

    def ports(self, vm: VmName) -> list[str]:
        """The taps of a VM that are in a bridge."""
        taps = {interface.device for interface in getattr(self.world.domain(vm), "interfaces", ())}
        return [port for ports in self.world.hub.bridges.values() for port in ports if port in taps]

    def look(self) -> None:
        """What holds at every moment."""
        names = [report.name for report in self.world.hypervisor.domains()]
        assert len(names) == len(set(names))
        for report in self.world.hypervisor.domains():
            assert report.context == context_of(report.name)

    def no_port_of_what_is_cut_off(self) -> None:
        for vm in (WEB, SHOP):
            if self.world.status(vm).cut_off:
                assert self.ports(vm) == []

    def shop_is_as_it_was(self) -> None:
        world = self.world
        assert (world.state(SHOP), world.marker(SHOP), len(self.ports(SHOP))) == (DomainState.RUNNING, _TRACES, 1)
        assert world.status(SHOP).quarantine is None

    def web_runs(self, *, marker: str) -> None:
        world = self.world
        assert (world.state(WEB), world.marker(WEB), len(self.ports(WEB))) == (DomainState.RUNNING, marker, 1)
        status = world.status(WEB)
        assert (status.wanted, status.quarantine, status.replacing) == (True, None, "")
        assert status.image_state is ImageState.CURRENT
        assert RED in world.vms.states.running_types()


def _to_every_death(play: Callable[[Host, Fate], bool]) -> None:
    """`play` for a daemon that dies before its first act, its second, and so on to one that lives to the end: `play`
    returns whether it died."""
    for steps in range(_MOST_STEPS):
        if not play(Host(), Fate(steps)):
            assert steps > 2
            return
    raise AssertionError("it never comes to an end")


def _died(fate: Fate, call: Callable[[], object]) -> bool:
    try:
        call()
    except Dead:
        return True
    assert not fate.dead
    return False


@pytest.mark.parametrize("boots", [False, True])
@pytest.mark.parametrize(
    "keep", [Keep(), Keep(disk=True), Keep(memory=True, disk=True)], ids=lambda keep: str(keep.words)
)
@pytest.mark.parametrize("grade", Grade)
def test_quarantine(grade: Grade, keep: Keep, *, boots: bool) -> None:
    if keep.words and grade is Grade.NOTE:
        return

    def play(host: Host, fate: Fate) -> bool:
        world = host.world
        entry = replace(world.policy.vms[WEB], quarantine=grade)
        world.policy = replace(world.policy, vms={**world.policy.vms, WEB: entry})
        vms, detach = host.mortal(fate), host.act(fate, world.hub.detach)
        died = _died(fate, lambda: vms.quarantine(WEB, "looks odd", ports_down=detach, keep=keep))
        if died:
            host.restart(boots=boots)
        host.look()
        host.shop_is_as_it_was()
        status = world.status(WEB)
        if status.quarantine is None:
            assert died
            host.web_runs(marker=_TRACES)
            return died
        assert (status.quarantine.grade, status.quarantine.reason) == (grade, "looks odd")
        host.no_port_of_what_is_cut_off()
        gone = grade is Grade.DESTROY or (died and boots and grade is not Grade.NOTE)
        runs = DomainState.PAUSED if grade is Grade.SUSPEND else DomainState.RUNNING
        assert world.state(WEB) is (None if gone else runs)
        assert bool(world.images.overlay(WEB)) is (grade is not Grade.DESTROY)
        assert status.image_state is (ImageState.NONE if grade is Grade.DESTROY else ImageState.CURRENT)
        kept = [overlay.written for overlay in world.images.kept.values()]
        assert kept == ([_TRACES] if keep.disk and grade is Grade.DESTROY else [])
        if keep.memory and not (died and boots):
            assert (status.quarantine.memory, len(world.hypervisor.dumps)) == (Memory.KEPT, 1)
        assert world.vms.start(WEB).state is DomainState.RUNNING, "nothing is in the way of its release"
        return died

    _to_every_death(play)


@pytest.mark.parametrize("boots", [False, True])
@pytest.mark.parametrize("before", [None, *Grade])
def test_replacement(before: Grade | None, *, boots: bool) -> None:
    """Of one that runs, and of one in quarantine whose disk is kept."""

    def play(host: Host, fate: Fate) -> bool:
        world = host.world
        if before is not None:
            label = replace(world.policy.vm_labels["red"], quarantine=before)
            world.policy = replace(world.policy, vm_labels={**world.policy.vm_labels, "red": label})
            keep = Keep(disk=before.cuts_off)
            world.vms.quarantine(WEB, "looks odd", ports_down=world.hub.detach, keep=keep)
        vms = host.mortal(fate)
        died = _died(fate, lambda: vms.replace(WEB, "clean again"))
        begun = bool((world.documents.get("vm", WEB) or {}).get("replacing"))
        if died:
            host.restart(boots=boots)
        host.look()
        host.shop_is_as_it_was()
        if before is not None and before.cuts_off and world.status(WEB).quarantine is not None:
            assert died
            assert not begun
            host.no_port_of_what_is_cut_off()
            return died
        if world.marker(WEB) == _TRACES:
            assert died
            assert not begun
            assert (world.state(WEB), world.status(WEB).quarantine is None) == (DomainState.RUNNING, before is None)
            return died
        host.web_runs(marker="")
        kept = [overlay.written for overlay in world.images.kept.values()]
        assert kept == ([_TRACES] if before is not None and before.cuts_off else [])
        return died

    _to_every_death(play)


@pytest.mark.parametrize("then", ["stop", "start", "quarantine", "replace"])
def test_whatever_comes_after_a_replacement_that_was_cut_short(then: str) -> None:
    """The old disk never starts again; a VM that was stopped, or put in quarantine, is not started."""

    def play(host: Host, fate: Fate) -> bool:
        world = host.world
        vms = host.mortal(fate)
        died = _died(fate, lambda: vms.replace(WEB, "clean again"))
        destroyed = world.domain(WEB) is None
        calls: dict[str, Callable[[], object]] = {
            "stop": lambda: world.vms.stop(WEB),
            "start": lambda: world.vms.start(WEB),
            "quarantine": lambda: world.vms.quarantine(WEB, "looks odd", ports_down=world.hub.detach),
            "replace": lambda: world.vms.replace(WEB, "once more"),
        }
        calls[then]()
        world.vms.finish()
        if then in ("stop", "quarantine"):
            assert world.state(WEB) in (None, DomainState.PAUSED)
            world.vms.start(WEB)
        assert world.state(WEB) is DomainState.RUNNING
        if destroyed or not died:
            assert world.marker(WEB) == ""
        return died

    _to_every_death(play)
