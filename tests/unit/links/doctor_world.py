"""A red link between two hosts in memory that is up, what the daemon would say of it, and faults to put into it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.labels import SelinuxContext, TypeName, VmName
from shamon_host.links.doctor import diagnose
from shamon_host.links.doctor_facts import Facts, PeerFacts, VmFacts
from shamon_host.links.model import (
    CloseGate,
    CreateBridge,
    DeleteSas,
    DeleteSpdEntry,
    DetachPort,
    Direction,
    SaId,
    SetTapFilter,
    SpdEntry,
)
from shamon_host.links.observation import Observation
from shamon_host.links.path_report import Part, PathReport
from shamon_host.links.tap_filter import TapFilter
from shamon_host.testing.wire import MemoryWire
from tests.unit.links.conftest import BLUE, RED, Host, carries, join

TAP = "shvm0-0"
WEB = VmFacts(name=VmName("web"), state="running", taps=(TAP,))
ADMITTED = PeerFacts(state=AdmissionState.ADMITTED, lease_s=88.0, offered=frozenset({RED}))
OTHER = SelinuxContext(user="system_u", role="object_r", type="shamon_link_t", categories=frozenset({99}))


class DoctorWorld:
    """alpha and beta, joined; both have a VM of red. `facts` are alpha's."""

    def __init__(self) -> None:
        wire = MemoryWire()
        self.alpha, self.beta = Host("alpha", "192.0.2.1", wire), Host("beta", "192.0.2.2", wire)
        for host in (self.alpha, self.beta):
            host.links.reconcile({}, {})
            host.start_vm(TAP, RED)
        join(self.alpha, self.beta)

    @property
    def link(self) -> Any:
        """alpha's, as it is wanted."""
        link = self.alpha.links.examine(self.beta.name, RED).link
        assert link is not None
        return link

    def facts(self, host: Host | None = None, *, between: Callable[[], object] = lambda: None, **more: Any) -> Facts:
        """`between`: what happens between the two looks."""
        own = host or self.alpha
        peer = self.beta if own is self.alpha else self.alpha
        before = own.links.examine(peer.name, RED)
        between()
        facts = Facts(
            host=own.name,
            peer=peer.name,
            type=RED,
            vm=None,
            denied="",
            label_map=own.label_map,
            vms=(WEB,),
            of_peer=ADMITTED,
            before=before,
            after=own.links.examine(peer.name, RED),
            wall_s=own.clock.wall_s(),
            interval_s=1.0,
        )
        return replace(facts, **more)

    def report(self, **more: Any) -> PathReport:
        return diagnose(self.facts(**more))

    def carries(self) -> bool:
        return carries(self.alpha, TAP, self.beta, TAP)

    def stranger(self, way: Direction, *, priority: int = 1, reqid: int | None = None) -> SpdEntry:
        """An unlabelled entry by hand, that lets the link's packets through."""
        wanted = next(entry for entry in self.link.spd_entries if entry.direction is way)
        entry: SpdEntry = replace(wanted, context=None, reqid=reqid, priority=priority)
        return entry


Fault = Callable[[DoctorWorld], object]


def _apply(*operations: Any) -> Fault:
    return lambda world: world.alpha.kernel.apply(operations)


def _no_sa(*, inbound: bool) -> Fault:
    def fault(world: DoctorWorld) -> None:
        link = world.link
        destination, spis = (link.local, link.in_spis) if inbound else (link.remote, link.out_spis)
        ids = tuple(SaId(destination=destination, spi=spi) for spi in spis)
        world.alpha.kernel.apply([DeleteSas(ids=ids)])

    return fault


def _no_entry(way: Direction) -> Fault:
    def fault(world: DoctorWorld) -> None:
        entry = next(entry for entry in world.link.spd_entries if entry.direction is way)
        world.alpha.kernel.apply([DeleteSpdEntry(entry=entry)])

    return fault


def _mislabelled(world: DoctorWorld) -> None:
    world.alpha.fd_store.sockets[f"link-{world.link.local_port}"].context = OTHER


def _strange_sa(world: DoctorWorld) -> None:
    sa = world.link.sa(inbound=False, spi=0x4711, key=bytes(36), lifetime_s=60)
    world.alpha.kernel.put_sa(sa)


def _relabelled_sa(world: DoctorWorld) -> None:
    (spi,) = world.link.in_spis
    sa = world.link.sa(inbound=True, spi=spi, key=bytes(36), lifetime_s=60)
    world.alpha.kernel.apply([DeleteSas(ids=(sa.id,))])
    world.alpha.kernel.put_sa(replace(sa, context=OTHER))


def _strange_port(world: DoctorWorld) -> None:
    world.alpha.kernel.put_port(world.link.bridge, "eth7")


def _elsewhere(world: DoctorWorld) -> None:
    world.alpha.kernel.apply([CreateBridge(name="shbr77")])
    world.alpha.kernel.put_port("shbr77", TAP)


def _no_block_entry(world: DoctorWorld) -> None:
    entry = next(entry for entry in world.alpha.kernel.read().spd if entry.block)
    world.alpha.kernel.apply([DeleteSpdEntry(entry=entry)])


def _told(limits: TapFilter) -> Fault:
    return lambda world: world.alpha.links.reconcile(world.alpha.taps, {TAP: limits})


def _damaged(world: DoctorWorld) -> None:
    _told(TapFilter(device=TAP, rate_bytes_s=1000))(world)
    world.alpha.kernel.damage_filter(TAP)


def _always_open(world: DoctorWorld) -> None:
    _told(TapFilter(device=TAP, open_s=600.0))(world)
    world.alpha.kernel.apply([SetTapFilter(filter=TapFilter(device=TAP))])


KERNEL_FAULTS: dict[str, tuple[Fault, Part, str, str]] = {
    "tap detached": (_apply(DetachPort(interface=TAP)), Part.OUT, "tap of web", "port of no bridge"),
    "tap gone": (lambda world: world.alpha.kernel.unplug_tap(TAP), Part.OUT, "tap of web", "no device"),
    "tap in another bridge": (_elsewhere, Part.OUT, "tap of web", "is a port of shbr77"),
    "tap isolated": (
        lambda world: world.alpha.kernel.put_port(world.link.bridge, TAP, isolated=True),
        Part.OUT, "tap of web", "isolated",
    ),
    "filter shuts what it sends": (_told(TapFilter(device=TAP, sends=False)), Part.OUT, "filter of web", "sends"),
    "filter shuts what it receives": (
        _told(TapFilter(device=TAP, receives=False)), Part.IN, "filter of web", "receives",
    ),
    "filter's window is shut": (_told(TapFilter(device=TAP, open_s=0.0)), Part.OUT, "filter of web", "not now"),
    "filter without its window": (_always_open, Part.OUT, "filter of web", "another one"),
    "filter damaged": (_damaged, Part.OUT, "filter of web", "a rule is missing"),
    "filter of somebody else": (
        _apply(SetTapFilter(filter=TapFilter(device=TAP, rate_bytes_s=1))), Part.OUT, "filter of web", "another one",
    ),
    "bridge down": (lambda world: world.alpha.kernel.set_down(world.link.bridge), Part.OUT, "bridge", "down"),
    "bridge open to the host": (lambda world: world.alpha.kernel.unseal(world.link.bridge), Part.OUT, "bridge", "open"),
    "stranger in the bridge": (_strange_port, Part.OUT, "bridge", "eth7"),
    "port not isolated": (
        lambda world: world.alpha.kernel.put_port(world.link.bridge, world.link.device),
        Part.OUT, "device", "not isolated",
    ),
    "device not in the bridge": (
        lambda world: world.alpha.kernel.apply([DetachPort(interface=world.link.device)]),
        Part.OUT, "device", "no port of",
    ),
    "device missing": (
        lambda world: world.alpha.fd_store.remove(f"link-{world.link.local_port}"), Part.OUT, "device", "no tunnel",
    ),
    "socket mislabelled": (_mislabelled, Part.OUT, "socket", "c99"),
    "no SPD entry out": (_no_entry(Direction.OUT), Part.OUT, "SPD", "missing"),
    "no SPD entry in": (_no_entry(Direction.IN), Part.IN, "SPD", "missing"),
    "foreign entry before it, out": (
        lambda world: world.alpha.kernel.put_policy(world.stranger(Direction.OUT)), Part.OUT, "SPD", "before",
    ),
    "foreign entry before it, in": (
        lambda world: world.alpha.kernel.put_policy(world.stranger(Direction.IN)), Part.IN, "SPD", "before",
    ),
    "unlabelled entry with a template": (
        lambda world: world.alpha.kernel.put_policy(world.stranger(Direction.OUT, reqid=7)), Part.OUT, "SPD", "before",
    ),
    "foreign entry behind it": (
        lambda world: world.alpha.kernel.put_policy(world.stranger(Direction.OUT, priority=500)),
        Part.OUT, "SPD", "behind",
    ),
    "no SA out": (_no_sa(inbound=False), Part.OUT, "SA", "to send with"),
    "no SA in": (_no_sa(inbound=True), Part.IN, "SA", "to receive with"),
    "an SA by hand": (_strange_sa, Part.OUT, "SA", "no handshake"),
    "an SA with another label": (_relabelled_sa, Part.IN, "SA", "c99"),
    "gate closed": (_apply(CloseGate(address="192.0.2.2")), Part.OUT, "gate", "closed"),
    "guard gone": (lambda world: world.alpha.kernel.flush_nft(), Part.READY, "guard", "rules are missing"),
    "guard damaged": (lambda world: world.alpha.kernel.damage_guard(), Part.READY, "guard", "rules are missing"),
    "block entry gone": (_no_block_entry, Part.READY, "guard", "1 of 8 block entries"),
    "SPD flushed": (lambda world: world.alpha.kernel.flush_policies(), Part.READY, "guard", "8 of 8"),
    "SELinux permissive": (
        lambda world: world.alpha.kernel.selinux.set_enforcing(False), Part.READY, "SELinux", "not enforcing",
    ),
    "forwarding on": (
        lambda world: world.alpha.kernel.set_sysctl("net.ipv4.ip_forward", "1"), Part.READY, "settings", "ip_forward",
    ),
    "peer closed": (
        lambda world: world.alpha.links.close_peer(world.beta.name, world.beta.address),
        Part.TERMS, "link", "no handshake agreed",
    ),
}  # fmt: skip
"""What is wrong with a kernel → how to make it so, and the stage that has to be the first to say so, with a word of it.
"""

_SUSPENDED = PeerFacts(
    state=AdmissionState.SUSPENDED,
    reason="its Evidence failed",
    failed_claim="software fail: /usr/bin/x is unknown",
    clears="Reboot it.",
    offered=frozenset({RED}),
)
TERM_FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "policy": ({"denied": "the label of beta lacks acme/red"}, "policy", "beta lacks"),
    "no category": ({"type": TypeName("acme/unmapped")}, "label map", "no category"),
    "no VM": ({"vms": ()}, "VM", "no VM of this host has an interface"),
    "VM absent": ({"vms": (replace(WEB, state="absent"),)}, "VM", "web is absent"),
    "VM suspended": ({"vms": (replace(WEB, state="paused"),)}, "VM", "web is paused"),
    "VM in quarantine": ({"vms": (replace(WEB, quarantined="it was odd"),)}, "VM", "it was odd"),
    "VM mislabelled": ({"vms": (replace(WEB, labelled=False),)}, "VM", "its own label"),
    "another VM": ({"vm": VmName("shop")}, "VM", "shop has no interface"),
    "suspended": ({"of_peer": _SUSPENDED}, "admission", "/usr/bin/x is unknown"),
    "expelled": ({"of_peer": PeerFacts(state=AdmissionState.EXPELLED, reason="stolen")}, "admission", "stolen"),
    "never met": (
        {"of_peer": PeerFacts(state=AdmissionState.ENROLLED, last_error="nobody listens")},
        "admission", "nobody listens",
    ),
    "lease over": ({"of_peer": replace(ADMITTED, lease_s=0.0)}, "admission", "its lease is over"),
    "silent": ({"of_peer": replace(ADMITTED, last_error="nobody listens")}, "handshake", "nobody listens"),
    "not offered": ({"of_peer": replace(ADMITTED, offered=frozenset({BLUE}))}, "offer", "did not offer acme/red"),
}  # fmt: skip
"""What is wrong beside the kernel → changed facts, the stage that has to be the first to say so, a word of it."""


def blind(look: Observation) -> Observation:
    """The same where nothing can be read."""
    return replace(look, state=None, counters=None, traffic=None, unread="netlink: EPERM")
