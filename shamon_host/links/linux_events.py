"""What the kernel tells of its own accord: ACQUIRE, EXPIRE, and changes to SPD, SAs, devices and nft rules.

Changes that this program makes itself are told too; they are dropped while `own_change` is open. A change by somebody
else in that moment is found by the reading that follows every plan, or by the next.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import SelinuxContext
from shamon_host.links.model import BRIDGE_PREFIX, TAP_PREFIX, TUNNEL_PREFIX
from shamon_host.links.ports import AcquireEvent, ChangedEvent, ExpireEvent, KernelEvent
from shamon_host.pyxfrm import (
    Acquire,
    Event,
    Expire,
    Group,
    Lost,
    PoliciesFlushed,
    PolicyChanged,
    PolicyDeleted,
    PolicyExpire,
    SaChanged,
    SaDeleted,
    SasFlushed,
)
from shamon_host.pyxfrm.monitor import XfrmMonitor

_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_RTNLGRP_LINK, _RTNLGRP_IPV4_IFADDR, _RTNLGRP_IPV6_IFADDR, _NFNLGRP_NFTABLES = 1, 5, 9, 7
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_IFLA_IFNAME = 3
_HEADER = struct.Struct("=IHHII")
_IFINFO_BYTES = 16
_DATAGRAM_MAX = 1 << 17


class LinuxEvents:
    """Sockets are open from the start; `subscribe` needs a running event loop, in whose thread events are told."""

    def __init__(self) -> None:
        self._xfrm = XfrmMonitor((Group.ACQUIRE, Group.EXPIRE, Group.POLICY, Group.SA))
        self._route = _open(_NETLINK_ROUTE, _RTNLGRP_LINK, _RTNLGRP_IPV4_IFADDR, _RTNLGRP_IPV6_IFADDR)
        self._nft = _open(_NETLINK_NETFILTER, _NFNLGRP_NFTABLES)
        self._own = False
        self._tell: Callable[[KernelEvent], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def subscribe(self, tell: Callable[[KernelEvent], None]) -> None:
        """Tell `tell` from now on. Raises RuntimeError outside an event loop."""
        self._loop, self._tell = asyncio.get_running_loop(), tell
        for number in (self._xfrm.fileno(), self._route.fileno(), self._nft.fileno()):
            self._loop.add_reader(number, self._drain)

    def close(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            for number in (self._xfrm.fileno(), self._route.fileno(), self._nft.fileno()):
                self._loop.remove_reader(number)
        self._loop = self._tell = None
        self._xfrm.close()
        self._route.close()
        self._nft.close()

    @contextmanager
    def own_change(self) -> Iterator[None]:
        """What changes meanwhile is this program's doing. From any thread, one at a time."""
        self._own = True
        try:
            yield
        finally:
            self._drain()
            self._own = False

    def _drain(self) -> None:
        """Read everything that is there. Both the loop's thread and the kernel adapter's may be here at once."""
        own = self._own
        events = [event for told in self._xfrm.read() for event in _of_xfrm(told)]
        events += [ChangedEvent(what=what) for what in _changes(self._route, _link_change)]
        events += [ChangedEvent(what=what) for what in _changes(self._nft, lambda _kind, _body: "nft ruleset")]
        for event in events:
            if not (own and isinstance(event, ChangedEvent)):
                self._emit(event)

    def _emit(self, event: KernelEvent) -> None:
        loop, tell = self._loop, self._tell
        if loop is not None and tell is not None:
            loop.call_soon_threadsafe(tell, event)


def _open(protocol: int, *groups: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    opened.bind((0, 0))
    for group in groups:
        opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    return opened


def _of_xfrm(event: Event) -> list[KernelEvent]:
    match event:
        case Acquire():
            ports = (event.selector.source_port, event.selector.destination_port)
            return [
                AcquireEvent(
                    source=str(event.source),
                    destination=str(event.destination),
                    source_port=ports[0].port if ports[0] else 0,
                    destination_port=ports[1].port if ports[1] else 0,
                    context=_context(event.security_context),
                )
            ]
        case Expire():
            return [ExpireEvent(destination=str(event.sa.destination), spi=event.sa.spi, hard=event.hard)]
        case SasFlushed() | SaDeleted() | SaChanged():
            return [ChangedEvent(what="SAs")]
        case PoliciesFlushed() | PolicyDeleted() | PolicyChanged() | PolicyExpire():
            return [ChangedEvent(what="SPD")]
        case Lost(reason=reason):
            return [ChangedEvent(what=f"notifications were lost: {reason}")]
        case _:
            return []


def _context(text: str | None) -> SelinuxContext | None:
    try:
        return None if text is None else SelinuxContext.parse(text)
    except BadInput:
        return None


def _changes(opened: socket.socket, describe: Callable[[int, bytes], str]) -> Iterator[str]:
    """What the messages on the socket say, one word for each; a full buffer counts as a change."""
    while True:
        try:
            datagram, sender = opened.recvfrom(_DATAGRAM_MAX)
        except BlockingIOError:
            return
        except OSError as error:
            yield f"notifications were lost: {error.strerror}"
            continue
        if sender[0] == 0:  # from the kernel
            yield from filter(None, (describe(kind, body) for kind, body in _messages(datagram)))


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    while len(datagram) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(datagram)
        if not _HEADER.size <= length <= len(datagram):
            return
        yield kind, datagram[_HEADER.size : length]
        datagram = datagram[(length + 3) & ~3 :]


def _link_change(kind: int, body: bytes) -> str:
    """Name of a device of ours that the message is about; "" for others. Addresses have no name: any of them counts."""
    if kind not in (_RTM_NEWLINK, _RTM_DELLINK):
        return "addresses"
    attributes = body[_IFINFO_BYTES:]
    while len(attributes) >= 4:
        length, attribute = struct.unpack_from("=HH", attributes)
        if length < 4:
            return ""
        if attribute == _IFLA_IFNAME:
            name = attributes[4:length].rstrip(b"\0").decode(errors="replace")
            return name if name.startswith((BRIDGE_PREFIX, TUNNEL_PREFIX, TAP_PREFIX)) else ""
        attributes = attributes[(length + 3) & ~3 :]
    return ""
