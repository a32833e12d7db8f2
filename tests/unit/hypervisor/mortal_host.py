"""A host whose daemons die before any one of their acts, and what holds at every moment whoever died where."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from shamon_host.domain.labels import VmName
from shamon_host.hypervisor.ports import DomainState
from shamon_host.hypervisor.vm_states import ImageState
from shamon_host.hypervisor.vms import VmManager
from tests.unit.hypervisor.vm_world import RED, SHOP, WEB, VmWorld, context_of

MOST_STEPS = 60
TRACES = "traces"
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
            self.world.write_marker(vm, TRACES)

    def mortal(self, fate: Fate) -> VmManager:
        """A daemon's part that has so many acts to live."""
        world = self.world
        hypervisor = Mortal(
            world.hypervisor, fate, ("start_paused", "resume", "suspend", "destroy", "dump_memory", "forget_tpm")
        )
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
        assert (world.state(SHOP), world.marker(SHOP), len(self.ports(SHOP))) == (DomainState.RUNNING, TRACES, 1)
        assert world.status(SHOP).quarantine is None

    def web_runs(self, *, marker: str) -> None:
        world = self.world
        assert (world.state(WEB), world.marker(WEB), len(self.ports(WEB))) == (DomainState.RUNNING, marker, 1)
        status = world.status(WEB)
        assert (status.wanted, status.quarantine, status.replacing) == (True, None, "")
        assert status.image_state is ImageState.CURRENT
        assert RED in world.vms.states.running_types()


def to_every_death(play: Callable[[Host, Fate], bool]) -> None:
    """`play` for a daemon that dies before its first act, its second, and so on to one that lives to the end: `play`
    returns whether it died."""
    for steps in range(MOST_STEPS):
        if not play(Host(), Fate(steps)):
            assert steps > 2
            return
    raise AssertionError("it never comes to an end")


def died(fate: Fate, call: Callable[[], object]) -> bool:
    try:
        call()
    except Dead:
        return True
    assert not fate.dead
    return False
