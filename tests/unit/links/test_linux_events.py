"""XFRM notifications as links' events, and this program's own changes passed over."""

import time
from dataclasses import replace
from ipaddress import ip_address

import pytest

from shamon_host import pyxfrm
from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import SelinuxContext
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.linux_devices import Device
from shamon_host.links.linux_events import KernelEvents, OwnChanges, is_forwarding, xfrm_event
from shamon_host.links.linux_netlink import pack_number
from shamon_host.links.linux_spd import entry_to_policy, policy_key
from shamon_host.links.ports import AcquireEvent, ChangedEvent, ExpireEvent, KernelEvent

SELECTOR = pyxfrm.Selector(
    source=entry_to_policy(BLOCK_ENTRIES[0]).selector.source,
    destination=entry_to_policy(BLOCK_ENTRIES[0]).selector.destination,
    protocol=17,
    source_port=pyxfrm.PortMatch(port=0x6001),
    destination_port=pyxfrm.PortMatch(port=0x6002),
)
CONTEXT = "system_u:object_r:shamon_link_t:s0:c7"
SA = pyxfrm.SecurityAssociation(
    source=ip_address("192.0.2.2"),
    destination=ip_address("192.0.2.1"),
    spi=0x1234,
    aead=pyxfrm.aes_gcm(bytes(36)),
    security_context=CONTEXT,
)


def _own(now: list[float] | None = None) -> OwnChanges:
    clock = now or [0.0]
    return OwnChanges(monotonic_s=lambda: clock[0])


def test_acquire_has_the_sockets_context() -> None:
    event = pyxfrm.Acquire(
        source=ip_address("192.0.2.1"),
        destination=ip_address("192.0.2.2"),
        protocol=50,
        selector=SELECTOR,
        policy=entry_to_policy(BLOCK_ENTRIES[0]),
        sequence=1,
        security_context=CONTEXT,
    )
    told = xfrm_event(event, _own())
    assert isinstance(told, AcquireEvent)
    assert (told.source_port, told.destination_port, told.context) == (0x6001, 0x6002, SelinuxContext.parse(CONTEXT))


def test_expiry_of_links_sas_only() -> None:
    """The kernel tells of an expired SA neither its keys nor its label."""
    bare = pyxfrm.SecurityAssociation(source=SA.source, destination=SA.destination, spi=SA.spi, reqid=0x6001)
    told = xfrm_event(pyxfrm.Expire(sa=bare, hard=True), _own())
    assert told == ExpireEvent(destination="192.0.2.1", spi=0x1234, hard=True)
    for other in (replace(bare, reqid=0), replace(bare, spi=0)):
        assert xfrm_event(pyxfrm.Expire(sa=other, hard=True), _own()) is None


def test_own_changes_are_passed_over_once() -> None:
    policy = entry_to_policy(BLOCK_ENTRIES[0])
    own = _own()
    own.expect(("delete sa", SA.id))
    own.expect(("policy", policy_key(policy)))
    deleted, added = pyxfrm.SaDeleted(sa_id=SA.id), pyxfrm.PolicyChanged(policy=policy, updated=True)
    assert [xfrm_event(event, own) for event in (deleted, added)] == [None, None]
    assert all(isinstance(xfrm_event(event, own), ChangedEvent) for event in (deleted, added))


def test_an_announcement_does_not_serve_for_ever() -> None:
    now = [0.0]
    own = _own(now)
    own.expect(("delete sa", SA.id))
    now[0] = 60.0
    assert isinstance(xfrm_event(pyxfrm.SaDeleted(sa_id=SA.id), own), ChangedEvent)


def test_flushes_losses_defaults_and_moves_are_told() -> None:
    for event in (
        pyxfrm.PoliciesFlushed(),
        pyxfrm.SasFlushed(protocol=0),
        pyxfrm.Lost(reason="the receive buffer was full"),
        pyxfrm.DefaultPolicyChanged(
            default=pyxfrm.DefaultPolicy(
                incoming=pyxfrm.DefaultAction.ACCEPT,
                forwarded=pyxfrm.DefaultAction.ACCEPT,
                outgoing=pyxfrm.DefaultAction.BLOCK,
            )
        ),
        pyxfrm.Migrated(
            migration=pyxfrm.Migration(
                selector=SELECTOR,
                direction=pyxfrm.Direction.OUT,
                moves=(
                    pyxfrm.Move(
                        old_source=SA.source,
                        old_destination=SA.destination,
                        new_source=SA.source,
                        new_destination=ip_address("192.0.2.9"),
                    ),
                ),
            )
        ),
    ):
        assert isinstance(xfrm_event(event, _own()), ChangedEvent)


def test_what_does_not_touch_links_is_not_told() -> None:
    policy = pyxfrm.Policy(selector=pyxfrm.Selector.any(4), direction=pyxfrm.Direction.OUT, priority=5000)
    for event in (
        pyxfrm.PolicyChanged(policy=policy, updated=False),
        pyxfrm.PolicyDeleted(policy_id=policy.id, policy=policy),
        pyxfrm.Other(type=99),
    ):
        assert xfrm_event(event, _own()) is None


def test_the_lookup_of_a_sockets_connect_is_no_demand() -> None:
    """Creating a tunnel announces the ACQUIRE that its own socket causes; the next one counts."""
    event = pyxfrm.Acquire(
        source=ip_address("192.0.2.1"),
        destination=ip_address("192.0.2.2"),
        protocol=50,
        selector=SELECTOR,
        policy=entry_to_policy(BLOCK_ENTRIES[0]),
        sequence=1,
        security_context=None,
    )
    own = _own()
    own.expect(("acquire", 0x6001))
    assert xfrm_event(event, own) is None
    assert isinstance(xfrm_event(event, own), AcquireEvent)


def test_announcements_serve_once_each_and_not_for_long() -> None:
    now = [0.0]
    own = _own(now)
    for at in (0.0, 1.0, 2.0):
        now[0] = at
        own.expect("one")
    own.expect("two")
    assert own.take("one")
    now[0] = 6.5  # the first two are old by now, and one of them served
    assert own.take("one")
    assert not own.take("one")
    assert own.take("two")
    own.expect("one")
    now[0] = 20.0
    assert not own.take("one")


def test_thousands_of_announcements_are_no_burden() -> None:
    own = _own()
    changes = [("delete sa", number) for number in range(20_000)]
    start = time.process_time()
    for change in changes:
        own.expect(change)
    assert all(own.take(change) for change in reversed(changes))
    assert time.process_time() - start < 5  # looking through all for each took minutes


def _told(events: KernelEvents, device: Device, *, gone: bool = False) -> bool:
    return bool(list(events._device_event(device, gone=gone, of_bridge=False)))


BRIDGE = Device(index=4, name="shbr7", kind="bridge", up=True, master=0, isolated=None)
PORT = Device(index=9, name="shl21", kind="", up=True, master=4, isolated=True)


def test_a_bridge_of_its_own_making_is_not_told_and_one_that_goes_down_is() -> None:
    own = _own()
    events = KernelEvents(own, ())
    own.expect(("device", "shbr7"))
    assert [_told(events, replace(BRIDGE, up=up)) for up in (False, True, True)] == [False, False, False]
    assert _told(events, replace(BRIDGE, up=False))
    assert not _told(events, BRIDGE), "that it went down was told"
    assert _told(events, replace(BRIDGE, faults=("spanning tree is 1",)))


def test_a_bridge_that_it_takes_away_is_not_told() -> None:
    own = _own()
    events = KernelEvents(own, ())
    _told(events, BRIDGE)
    own.expect(("delete device", "shbr7"))
    assert not _told(events, replace(BRIDGE, up=False))
    assert not _told(events, BRIDGE, gone=True)
    _told(events, BRIDGE)
    assert _told(events, BRIDGE, gone=True)


def test_what_was_there_before_it_listened_is_told_if_something_is_wrong_with_it() -> None:
    for device, told in (
        (BRIDGE, False),
        (replace(BRIDGE, up=False), True),
        (replace(BRIDGE, faults=("VLAN filtering is 1",)), True),
        (replace(PORT, master=0, isolated=None), False),
        (PORT, True),
    ):
        assert _told(KernelEvents(_own(), ()), device) is told


def test_a_setting_of_a_port_is_told_unless_it_is_its_own() -> None:
    own = _own()
    events = KernelEvents(own, ())
    _told(events, PORT)
    assert not _told(events, PORT)
    for changed in (
        replace(PORT, faults=("hairpin is 1",)),
        PORT,
        replace(PORT, isolated=False),
        replace(PORT, master=5),
        replace(PORT, master=0, isolated=None),
    ):
        own.expect(("port", "shl21"))
        assert not _told(events, changed)
    assert _told(events, PORT)


def test_what_was_announced_before_anybody_listened_hides_nothing() -> None:
    own = _own()
    own.expect(("port", "shl21"))
    own.forget()
    assert not own.take(("port", "shl21"))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (bytes([2, 0, 0, 0]) + pack_number(1, 2**32 - 1, 4) + pack_number(2, 1, 4), True),
        (bytes([10, 0, 0, 0]) + pack_number(1, 7, 4) + pack_number(2, 1, 4), True),
        (bytes([2, 0, 0, 0]) + pack_number(1, 7, 4) + pack_number(2, 0, 4), False),
        (bytes([2, 0, 0, 0]) + pack_number(1, 7, 4) + pack_number(3, 1, 4), False),
        (b"\2", False),
        (b"", False),
    ],
)
def test_only_that_forwarding_is_on_is_told(body: bytes, told: bool) -> None:
    assert is_forwarding(body) is told


class PlayedMonitor:
    """What the kernel tells next."""

    def __init__(self, *events: pyxfrm.Event) -> None:
        self._events = events

    def read(self) -> tuple[pyxfrm.Event, ...]:
        return self._events


@pytest.mark.parametrize("mine", [False, True])
def test_after_an_entry_that_somebody_took_away_routes_are_looked_for_anew(mine: bool) -> None:
    """Sockets may have found theirs under it."""
    own, anew, told = _own(), list[str](), list[KernelEvent]()

    def refuse() -> None:
        anew.append("anew")
        raise BackendFailed("the kernel refused")

    events = KernelEvents(own, (), refuse)
    events._subscribers.append(told.append)
    policy = entry_to_policy(BLOCK_ENTRIES[0])
    if mine:
        own.expect(("delete policy", policy_key(policy)))
    events._xfrm = PlayedMonitor(pyxfrm.PolicyDeleted(policy=policy, policy_id=policy.id))  # type: ignore[assignment]  # what is read of it
    events._read_xfrm()
    assert anew == ([] if mine else ["anew"])
    assert len(told) == (0 if mine else 2)
