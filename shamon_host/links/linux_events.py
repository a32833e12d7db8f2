"""What the kernel tells of its own accord about links: acquires, expiries, and changes that somebody else made.

Changes by this program are told too, and are passed over: each is announced here (`OwnChanges`) before it is made. What
is passed over wrongly, or told without need, costs a look at the kernel at most: the receiver reads before it acts.
"""

import asyncio
import errno
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field

from shamon_host import pyxfrm
from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.labels import SelinuxContext
from shamon_host.links.linux_devices import RTM_DELLINK, RTM_NEWLINK, Device, device_of
from shamon_host.links.linux_netlink import (
    DATAGRAM_MAX,
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NETLINK_SELINUX,
    NetlinkError,
    number_of,
    parse,
    text_of,
)
from shamon_host.links.linux_spd import entry_from_policy, is_links_sa, policy_key
from shamon_host.links.model import BRIDGE_PREFIX, NFT_TABLES, PORT_BLOCK, TAP_PREFIX, TUNNEL_PREFIX
from shamon_host.links.ports import AcquireEvent, ChangedEvent, ExpireEvent, KernelEvent
from shamon_host.pyxfrm.errors import XfrmError
from shamon_host.pyxfrm.framing import iterate_frames
from shamon_host.pyxfrm.monitor import XfrmMonitor

_XFRM_GROUPS = (
    pyxfrm.Group.ACQUIRE,
    pyxfrm.Group.EXPIRE,
    pyxfrm.Group.SA,
    pyxfrm.Group.POLICY,
    pyxfrm.Group.MIGRATE,
)
_RTNLGRP_LINK, _RTNLGRP_IPV4_IFADDR, _RTNLGRP_IPV6_IFADDR = 1, 5, 9
_RTNLGRP_IPV4_NETCONF, _RTNLGRP_IPV6_NETCONF = 24, 25
_RTM_NEWNETCONF, _NETCONF_SIZE, _NETCONFA_FORWARDING = 80, 4, 2
_NFNLGRP_NFTABLES = 7
_SELNLGRP_AVC, _SELNL_MSG_SETENFORCE, _SELNL_MSG_POLICYLOAD = 1, 0x10, 0x11
"""include/uapi/linux/selinux_netlink.h"""
_RTM_NEWADDR, _IFADDR_INDEX = 20, struct.Struct("=4xI")
_NFNL_SUBSYS_NFTABLES, _NFT_MSG_NEWGEN, _NFGEN_SIZE = 10, 15, 4
_NFTA_TABLE, _NFTA_GEN_PROC_PID = 1, 2
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_OWN_S = 5.0
"""After this a change that was announced and not told did not happen."""


@dataclass(kw_only=True)
class OwnChanges:
    """Changes that this program is about to make, by what the kernel will call them. Thread-safe."""

    monotonic_s: Callable[[], float] = time.monotonic
    _expected: dict[object, deque[float]] = field(default_factory=dict)
    """Change → until when each of its announcements serves, the oldest first."""
    _order: deque[tuple[float, object]] = field(default_factory=deque)
    """All announcements, those that served too, until they are old."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, change: object) -> None:
        with self._lock:
            until = self.monotonic_s() + _OWN_S
            self._drop_old()
            self._expected.setdefault(change, deque()).append(until)
            self._order.append((until, change))

    def forget(self) -> None:
        """Nobody listened until now: what was announced is not told any more."""
        with self._lock:
            self._expected.clear()
            self._order.clear()

    def take(self, change: object) -> bool:
        """Whether it was announced; each announcement serves once."""
        with self._lock:
            self._drop_old()
            return self._drop(change)

    def expects(self, change: object) -> bool:
        """Whether it was announced, and has not been told."""
        with self._lock:
            self._drop_old()
            return change in self._expected

    def _drop_old(self) -> None:
        now = self.monotonic_s()
        while self._order and self._order[0][0] <= now:
            until, change = self._order.popleft()
            if self._expected.get(change, (0.0,))[0] == until:
                self._drop(change)

    def _drop(self, change: object) -> bool:
        """The oldest announcement of the change; False if there is none."""
        waiting = self._expected.get(change)
        if waiting is None:
            return False
        waiting.popleft()
        if not waiting:
            del self._expected[change]
        return True


class KernelEvents:
    """Netlink sockets on the running event loop, from the first `subscribe` on.

    `entry_gone`: called when an SPD entry went that somebody else took away; may raise BackendFailed."""

    def __init__(
        self, own: OwnChanges, nft_pids: Container[int], entry_gone: Callable[[], None] = lambda: None
    ) -> None:
        self._own, self._nft_pids, self._entry_gone = own, nft_pids, entry_gone
        self._subscribers: list[Callable[[KernelEvent], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._xfrm: XfrmMonitor | None = None
        self._sockets: list[socket.socket] = []
        self._ports: dict[str, tuple[object, ...]] = {}

    def subscribe(self, event: Callable[[KernelEvent], None]) -> None:
        """Call from a coroutine. Raises BackendFailed if the kernel cannot be listened to."""
        self._subscribers.append(event)
        if self._loop is not None:
            return
        loop = asyncio.get_running_loop()
        try:
            self._xfrm = XfrmMonitor(_XFRM_GROUPS)
        except XfrmError as error:
            raise BackendFailed("the kernel cannot be listened to", where="xfrm", found=str(error)) from None
        route = self._open(
            NETLINK_ROUTE,
            (_RTNLGRP_LINK, _RTNLGRP_IPV4_IFADDR, _RTNLGRP_IPV6_IFADDR, _RTNLGRP_IPV4_NETCONF, _RTNLGRP_IPV6_NETCONF),
        )
        netfilter = self._open(NETLINK_NETFILTER, (_NFNLGRP_NFTABLES,))
        selinux = self._open_selinux()
        self._own.forget()
        loop.add_reader(self._xfrm.fileno(), self._read_xfrm)
        if selinux is not None:
            loop.add_reader(selinux.fileno(), self._read_socket, selinux, selinux_events)
        loop.add_reader(route.fileno(), self._read_socket, route, self._route_events)
        loop.add_reader(netfilter.fileno(), self._read_socket, netfilter, self._nft_events)
        self._loop = loop
        self._forget_routes()  # an entry may have come and gone while nobody listened

    def close(self) -> None:
        self._subscribers.clear()
        for opened in (self._xfrm, *self._sockets):
            if opened is None:
                continue
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(opened.fileno())
            opened.close()
        self._xfrm, self._loop = None, None
        self._sockets.clear()

    def _open(self, family: int, groups: tuple[int, ...]) -> socket.socket:
        try:
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
            self._sockets.append(opened)
            opened.bind((0, 0))
            for group in groups:
                opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            opened.setblocking(False)
        except OSError as error:
            raise NetlinkError(f"listen to netlink family {family}", error.errno or errno.EIO) from None
        return opened

    def _open_selinux(self) -> socket.socket | None:
        """None where the kernel has no SELinux: there are no links, and no policy that could change."""
        try:
            return self._open(NETLINK_SELINUX, (_SELNLGRP_AVC,))
        except NetlinkError as error:
            if error.errno == errno.EPROTONOSUPPORT:
                return None
            raise

    def _tell(self, event: KernelEvent) -> None:
        for subscriber in tuple(self._subscribers):
            subscriber(event)

    def _read_xfrm(self) -> None:
        if self._xfrm is None:
            return
        gone = False
        for event in self._xfrm.read():
            if (told := xfrm_event(event, self._own)) is not None:
                gone = gone or isinstance(event, pyxfrm.PolicyDeleted | pyxfrm.PolicyExpire)
                self._tell(told)
        if gone:
            self._forget_routes()

    def _forget_routes(self) -> None:
        try:
            self._entry_gone()
        except BackendFailed as error:
            self._tell(ChangedEvent(what=f"routes were not looked for anew: {error}"))

    def _read_socket(self, source: socket.socket, events: Callable[[bytes], Iterator[KernelEvent]]) -> None:
        while True:
            try:
                datagram, sender = source.recvfrom(DATAGRAM_MAX)
                if sender[0] == 0:
                    for event in events(datagram):
                        self._tell(event)
            except BlockingIOError:
                return
            except (OSError, XfrmError, NetlinkError) as error:
                self._tell(ChangedEvent(what=f"a notification was lost: {error}"))
                if isinstance(error, OSError) and error.errno != errno.ENOBUFS:
                    return

    def _route_events(self, datagram: bytes) -> Iterator[KernelEvent]:
        for frame in iterate_frames(datagram):
            if frame.type in (RTM_NEWLINK, RTM_DELLINK):
                device = device_of(frame.body)
                if device.name.startswith((BRIDGE_PREFIX, TUNNEL_PREFIX, TAP_PREFIX)):
                    yield from self._device_event(device, gone=frame.type == RTM_DELLINK, of_bridge=frame.body[0] != 0)
            elif frame.type == _RTM_NEWADDR and len(frame.body) >= _IFADDR_INDEX.size:
                name = _name_of(_IFADDR_INDEX.unpack_from(frame.body)[0])
                if name.startswith(BRIDGE_PREFIX):
                    yield ChangedEvent(what=f"an address was added to {name}")

            elif frame.type == _RTM_NEWNETCONF and is_forwarding(frame.body):
                yield ChangedEvent(what="forwarding was switched on")

    def _device_event(self, device: Device, *, gone: bool, of_bridge: bool) -> Iterator[KernelEvent]:
        """`of_bridge`: told by the bridge (family AF_BRIDGE), where `gone` means no longer a port."""
        if gone and not of_bridge:
            self._ports.pop(device.name, None)
            if not self._own.take(("delete device", device.name)):
                yield ChangedEvent(what=f"{device.name} is gone")
            return
        if of_bridge:
            return  # the family that follows tells it whole
        port = (device.master, device.isolated, device.faults, device.kind == "bridge" and device.up)
        before = self._ports.get(device.name)
        self._ports[device.name] = port
        if before is None and self._own.take(("device", device.name)):
            return
        bridge_is_down = device.kind == "bridge" and not device.up
        if port == before or (before is None and not (device.master or device.faults or bridge_is_down)):
            return
        if self._own.take(("port", device.name)) or self._own.expects(("delete device", device.name)):
            return
        if before is None or port[:-1] != before[:-1] or bridge_is_down:  # who takes one up, took it down before
            yield ChangedEvent(what=f"{device.name} changed")

    def _nft_events(self, datagram: bytes) -> Iterator[KernelEvent]:
        """A transaction's messages end with the one that names the process."""
        touched = False
        for frame in iterate_frames(datagram):
            if frame.type >> 8 != _NFNL_SUBSYS_NFTABLES:
                continue
            found = parse(frame.body, _NFGEN_SIZE, "read an nft notification")
            if frame.type & 0xFF != _NFT_MSG_NEWGEN:
                table = text_of(found.get(_NFTA_TABLE, b""))
                touched = touched or table in NFT_TABLES
                self._nft_touched = self._nft_touched or touched
                continue
            if self._nft_touched:
                pid = int.from_bytes(found.get(_NFTA_GEN_PROC_PID, b""), "big")
                if pid not in self._nft_pids:
                    yield ChangedEvent(what="nft rules of the guard, of a filter or of the control wire changed")
            touched = self._nft_touched = False

    _nft_touched = False


def selinux_events(datagram: bytes) -> Iterator[KernelEvent]:
    """The mode was set, or a policy loaded (security/selinux/netlink.c): what was fit for links may be so no more."""
    for frame in iterate_frames(datagram):
        if frame.type == _SELNL_MSG_SETENFORCE:
            yield ChangedEvent(what="SELinux's mode was set")
        elif frame.type == _SELNL_MSG_POLICYLOAD:
            yield ChangedEvent(what="an SELinux policy was loaded")


def is_forwarding(body: bytes) -> bool:
    """RTM_NEWNETCONF (include/uapi/linux/netconf.h) tells that an interface, or all of them, now forward packets."""
    if len(body) < _NETCONF_SIZE:
        return False
    return number_of(parse(body, _NETCONF_SIZE, "read a change of settings").get(_NETCONFA_FORWARDING, b"")) != 0


def xfrm_event(event: pyxfrm.Event, own: OwnChanges) -> KernelEvent | None:
    """What an XFRM notification means for links; None if nothing, or if it is this program's own doing."""
    match event:
        case pyxfrm.Acquire(selector=selector):
            source_port = selector.source_port.port if selector.source_port else 0
            if own.take(("acquire", source_port)):
                return None
            return AcquireEvent(
                source=str(selector.source.ip),
                destination=str(selector.destination.ip),
                source_port=source_port,
                destination_port=selector.destination_port.port if selector.destination_port else 0,
                context=_context(event.security_context),
            )
        case pyxfrm.Expire(sa=sa, hard=hard):
            # Neither keys nor label are told (build_expire); an SPI of 0 is the kernel's own wait after an ACQUIRE.
            if sa.reqid not in PORT_BLOCK or sa.spi == 0:
                return None
            return ExpireEvent(destination=str(sa.destination), spi=sa.spi, hard=hard)
        case pyxfrm.SaChanged(sa=sa):
            return _unless(own.take(("sa", sa.id)) or not is_links_sa(sa), f"SA {sa.id} was added")
        case pyxfrm.SaDeleted(sa_id=sa_id):
            return _unless(own.take(("delete sa", sa_id)), f"SA {sa_id} was deleted")
        case pyxfrm.SasFlushed():
            return ChangedEvent(what="SAs were flushed")
        case pyxfrm.PolicyChanged(policy=policy):
            mine = own.take(("policy", policy_key(policy)))
            return _unless(mine or entry_from_policy(policy) is None, f"SPD entry {policy.id} was added")
        case pyxfrm.PolicyDeleted(policy=policy, policy_id=policy_id):
            mine = policy is not None and own.take(("delete policy", policy_key(policy)))
            irrelevant = policy is not None and entry_from_policy(policy) is None
            return _unless(mine or irrelevant, f"SPD entry {policy_id} was deleted")
        case pyxfrm.PolicyExpire(policy=policy):
            return _unless(entry_from_policy(policy) is None, f"SPD entry {policy.id} expired")
        case pyxfrm.PoliciesFlushed():
            return ChangedEvent(what="the SPD was flushed")
        case pyxfrm.DefaultPolicyChanged():
            return ChangedEvent(what="the SPD's default was changed")
        case pyxfrm.Migrated(migration=migration):
            return ChangedEvent(what=f"SPD entry {migration.policy_id} and its SAs were moved to other addresses")
        case pyxfrm.Lost(reason=reason):
            return ChangedEvent(what=f"a notification was lost: {reason}")
        case _:
            return None


def _unless(not_ours: bool, what: str) -> ChangedEvent | None:
    return None if not_ours else ChangedEvent(what=what)


def _context(text: str | None) -> SelinuxContext | None:
    try:
        return None if text is None else SelinuxContext.parse(text)
    except BadInput:
        return None


def _name_of(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
