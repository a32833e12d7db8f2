"""L2TPv3 Ethernet tunnels over labelled UDP sockets (include/uapi/linux/l2tp.h, net/l2tp).

The socket is this program's, the tunnel lives in it: it goes with the last descriptor of the socket, of which one is
here and one in the service manager's store. Tunnel id and session id equal the local port.
"""

import errno
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.desired import device_name, passage_name
from shamon_host.links.linux_bridge_settings import MTU
from shamon_host.links.linux_devices import Devices
from shamon_host.links.linux_fd_store import FdStore
from shamon_host.links.linux_labelled_socket import is_socket_of, open_link_socket, read_label
from shamon_host.links.linux_netlink import (
    GenericNetlink,
    NetlinkError,
    number_of,
    pack_number,
    pack_text,
    text_of,
)
from shamon_host.links.linux_passage_devices import ready_passage, set_up_passage
from shamon_host.links.model import PASSAGE_SESSION, PORT_BLOCK, TUNNEL_PREFIX, Passage, Tunnel

_TUNNEL_CREATE, _TUNNEL_DELETE, _TUNNEL_GET, _SESSION_CREATE, _SESSION_DELETE, _SESSION_GET = 1, 2, 4, 5, 6, 8
_PW_TYPE, _ENCAP_TYPE, _L2SPEC_TYPE, _PROTO_VERSION, _IFNAME = 1, 2, 5, 7, 8
_CONN_ID, _PEER_CONN_ID, _SESSION_ID, _PEER_SESSION_ID = 9, 10, 11, 12
_FD, _IP_SADDR, _IP_DADDR, _UDP_SPORT, _UDP_DPORT, _IP6_SADDR, _IP6_DADDR = 23, 24, 25, 26, 27, 31, 32
_PW_TYPE_ETH, _ENCAP_UDP, _L2SPEC_DEFAULT, _VERSION_3 = 5, 0, 1, 3
_GONE_LIMIT_S = 5.0
_ABSENT = (errno.ENODEV, errno.ENOENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A tunnel of the kernel with its sessions: (session id, peer session id, interface)."""

    tunnel_id: int
    peer_tunnel_id: int
    version: int
    encapsulation: int
    local: str
    remote: str
    local_port: int
    peer_port: int
    sessions: tuple[tuple[int, int, str], ...]

    @property
    def as_ours(self) -> bool:
        """The ids and names are as this program gives them."""
        return (
            (self.version, self.encapsulation) == (_VERSION_3, _ENCAP_UDP)
            and self.local_port == self.tunnel_id
            and self.peer_port == self.peer_tunnel_id
            and (self.tunnel_id, self.peer_tunnel_id, device_name(self.tunnel_id)) in self.sessions
            and all(name in (device_name(self.tunnel_id), passage_name(self.tunnel_id)) for _, _, name in self.sessions)
            and len(self.sessions) == 1 + self.has_passage
        )

    @property
    def has_passage(self) -> bool:
        """There is a session beside the link's own, with the ids and the name of a passage."""
        session, peer = (number | PASSAGE_SESSION for number in (self.tunnel_id, self.peer_tunnel_id))
        return (session, peer, passage_name(self.tunnel_id)) in self.sessions

    def __str__(self) -> str:
        devices = ",".join(name for _, _, name in self.sessions)
        return (
            f"L2TP tunnel {self.tunnel_id} {self.local}:{self.local_port} to {self.remote}:{self.peer_port} [{devices}]"
        )


@dataclass(kw_only=True)
class Tunnels:
    """The tunnels of the port block and the sockets they live in."""

    devices: Devices
    store: FdStore
    expect: Callable[[object], None]
    _l2tp: GenericNetlink = field(init=False, repr=False)
    _sockets: dict[int, socket.socket] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Take back from the store the sockets of tunnels that are there, and let go of the others."""
        self._l2tp = GenericNetlink("l2tp", 1)
        try:
            present = {found.tunnel_id: found for found in self._dump()}
            for name, descriptor in self.store.recovered():
                self._recover(name, descriptor, present)
        except BackendFailed:
            self.close()
            raise

    def close(self) -> None:
        """Close this process's descriptors; those in the store stay, and the tunnels with them."""
        for held in self._sockets.values():
            held.close()
        self._sockets.clear()
        self._l2tp.close()

    def read(self) -> tuple[frozenset[Tunnel], tuple[str, ...]]:
        """Tunnels with an id of the block, and in words others that use a port or a device name of links.

        A tunnel that is not as this program makes them, or whose socket it does not hold, has no context.
        """
        tunnels, foreign = set(), []
        for found in self._dump():
            if found.tunnel_id in PORT_BLOCK:
                tunnels.add(self._as_tunnel(found))
            elif found.local_port in PORT_BLOCK or any(name.startswith(TUNNEL_PREFIX) for _, _, name in found.sessions):
                foreign.append(str(found))
        return frozenset(tunnels), tuple(foreign)

    def read_passages(self) -> frozenset[Passage]:
        """Beside tunnels with an id of the block. Those that are not as `open_passage` makes them are not whole."""
        return frozenset(
            ready_passage(self.devices, found.tunnel_id, found.peer_tunnel_id)
            for found in self._dump()
            if found.tunnel_id in PORT_BLOCK and found.has_passage
        )

    def open_passage(self, passage: Passage) -> None:
        """Raises BackendFailed, and leaves nothing."""
        port, peer = passage.local_port, passage.peer_port
        if passage in self.read_passages():
            return
        body = (
            pack_number(_CONN_ID, port, 4) + pack_number(_SESSION_ID, port | PASSAGE_SESSION, 4)
            + pack_number(_PEER_SESSION_ID, peer | PASSAGE_SESSION, 4) + pack_number(_PW_TYPE, _PW_TYPE_ETH, 2)
            + pack_number(_L2SPEC_TYPE, _L2SPEC_DEFAULT, 1) + pack_text(_IFNAME, passage.interface)
        )  # fmt: skip
        self._l2tp.request(_SESSION_CREATE, body, operation=f"create session {passage.interface}")
        try:
            set_up_passage(self.devices, passage)
            if passage not in self.read_passages():
                raise BackendFailed(
                    "the passage that was read back is not the one that was opened", where=passage.interface
                )
        except BackendFailed:
            self.close_passage(port)
            raise

    def close_passage(self, port: int) -> None:
        """Raises BackendFailed where it stays."""
        try:
            body = pack_number(_CONN_ID, port, 4) + pack_number(_SESSION_ID, port | PASSAGE_SESSION, 4)
            self._l2tp.request(_SESSION_DELETE, body, operation=f"delete session {passage_name(port)}")
        except NetlinkError as error:
            if error.errno not in _ABSENT:
                raise
        deadline = time.monotonic() + _GONE_LIMIT_S
        while self.devices.exists(passage_name(port)):
            if time.monotonic() > deadline:
                raise BackendFailed("a passage does not go away", where=passage_name(port))
            time.sleep(0.005)

    def create(self, tunnel: Tunnel) -> None:
        """Raises BackendFailed, and leaves nothing, also if another tunnel has the id. One that is as wanted stays."""
        port = tunnel.local_port
        existing = self._read_one(port)
        if existing == tunnel:
            return
        if existing is not None or tunnel.interface != device_name(port):
            found = device_name(port) if existing is None else f"{existing.interface} to {existing.remote}"
            raise BackendFailed("there is another tunnel in this one's place", where=tunnel.interface, found=found)
        self._forget_sockets([port])
        self.devices.remove(tunnel.interface)
        # connect() looks for a route, hence for the sending SA, which is not there yet: nobody asked for a key.
        self.expect(("acquire", port))
        self._sockets[port] = open_link_socket(tunnel)
        try:
            self._create(tunnel)
            self.store.put(tunnel.interface, self._sockets[port].fileno())
            self.devices.set_ipv6_off(tunnel.interface)
            self.devices.set_mtu(tunnel.interface, MTU)
            found_now = self._read_one(port)
            if found_now != tunnel:
                raise BackendFailed(
                    "the tunnel that was read back is not the one that was created; it was removed",
                    where=tunnel.interface, expected=str(tunnel.context),
                    found="no tunnel" if found_now is None else str(found_now.context),
                )  # fmt: skip
        except BackendFailed as error:
            if (left := self.delete([port]).get(port)) is not None:
                raise left from error
            raise

    def delete(self, ports: Sequence[int]) -> dict[int, BackendFailed]:
        """Tunnels, devices and sockets. Returns those that stay; one that is not there is none of them."""
        failures: dict[int, BackendFailed] = {}
        for port in ports:
            self.devices.expect_removal(device_name(port))
            try:
                body = pack_number(_CONN_ID, port, 4)
                self._l2tp.request(_TUNNEL_DELETE, body, operation=f"delete tunnel {port}")
            except NetlinkError as error:
                if error.errno not in _ABSENT:
                    failures[port] = error
        try:
            self._forget_sockets(ports)
        except BackendFailed as error:
            failures = dict.fromkeys(ports, error) | failures
        # The kernel takes tunnels down in a work queue.
        deadline = time.monotonic() + _GONE_LIMIT_S
        for port in (port for port in ports if port not in failures):
            while self._find(port) is not None or any(
                map(self.devices.exists, (device_name(port), passage_name(port)))
            ):
                if time.monotonic() > deadline:
                    failures[port] = BackendFailed("a tunnel does not go away", where=device_name(port))
                    break
                time.sleep(0.005)
        return failures

    def _create(self, tunnel: Tunnel) -> None:
        port, peer = tunnel.local_port, tunnel.peer_port
        body = (
            pack_number(_CONN_ID, port, 4) + pack_number(_PEER_CONN_ID, peer, 4)
            + pack_number(_PROTO_VERSION, _VERSION_3, 1) + pack_number(_ENCAP_TYPE, _ENCAP_UDP, 2)
            + pack_number(_FD, self._sockets[port].fileno(), 4)
        )  # fmt: skip
        self._l2tp.request(_TUNNEL_CREATE, body, operation=f"create tunnel {port}")
        body = (
            pack_number(_CONN_ID, port, 4) + pack_number(_SESSION_ID, port, 4) + pack_number(_PEER_SESSION_ID, peer, 4)
            + pack_number(_PW_TYPE, _PW_TYPE_ETH, 2) + pack_number(_L2SPEC_TYPE, _L2SPEC_DEFAULT, 1)
            + pack_text(_IFNAME, tunnel.interface)
        )  # fmt: skip
        self._l2tp.request(_SESSION_CREATE, body, operation=f"create session {tunnel.interface}")

    def _forget_sockets(self, ports: Iterable[int]) -> None:
        held = {port: self._sockets.pop(port) for port in ports if port in self._sockets}
        for opened in held.values():
            opened.close()
        self.store.remove(*map(device_name, held))

    def _recover(self, name: str, descriptor: int, present: Mapping[int, _Found]) -> None:
        if not name.startswith(TUNNEL_PREFIX):
            return  # another part's
        held = socket.socket(fileno=descriptor)
        number = name.removeprefix(TUNNEL_PREFIX)
        port = PORT_BLOCK.start + int(number) if number.isdecimal() and len(number) < 6 else -1
        found = present.get(port)
        if found is None or port in self._sockets or not is_socket_of(held, self._shape(found)):
            held.close()
            if port not in self._sockets:
                self.store.remove(name)
            return
        self._sockets[port] = held

    def _as_tunnel(self, found: _Found) -> Tunnel:
        shape = self._shape(found)
        held = self._sockets.get(found.tunnel_id)
        if held is None or not found.as_ours or not is_socket_of(held, shape):
            return shape
        return Tunnel(
            interface=shape.interface,
            local=shape.local,
            remote=shape.remote,
            local_port=shape.local_port,
            peer_port=shape.peer_port,
            context=read_label(held.fileno()),
        )

    @staticmethod
    def _shape(found: _Found) -> Tunnel:
        """`local_port` is the tunnel's id: what it is removed by."""
        return Tunnel(
            interface=next(
                (name for _, _, name in found.sessions if name != passage_name(found.tunnel_id)),
                device_name(found.tunnel_id),
            ),
            local=found.local,
            remote=found.remote,
            local_port=found.tunnel_id,
            peer_port=found.peer_port,
            context=None,
        )

    def _read_one(self, port: int) -> Tunnel | None:
        """The tunnel with this id, without a look at all others."""
        found = self._find(port)
        return None if found is None else self._as_tunnel(found)

    def _find(self, port: int) -> _Found | None:
        """With the session that this program gives it; others show when all are read."""
        tunnel = self._ask(_TUNNEL_GET, pack_number(_CONN_ID, port, 4), f"read tunnel {port}")
        if not tunnel:
            return None
        body = pack_number(_CONN_ID, port, 4) + pack_number(_SESSION_ID, port, 4)
        return _found(tunnel[0], map(_session, self._ask(_SESSION_GET, body, f"read session {port}")))

    def _ask(self, command: int, body: bytes, operation: str) -> list[dict[int, bytes]]:
        """[] if it is not there."""
        try:
            return self._l2tp.request(command, body, operation=operation)
        except NetlinkError as error:
            if error.errno in _ABSENT:
                return []
            raise

    def _dump(self) -> tuple[_Found, ...]:
        sessions: dict[int, list[tuple[int, int, str]]] = {}
        for item in self._l2tp.dump(_SESSION_GET, operation="read L2TP sessions"):
            sessions.setdefault(_number(item, _CONN_ID), []).append(_session(item))
        return tuple(
            _found(item, sessions.get(_number(item, _CONN_ID), ()))
            for item in self._l2tp.dump(_TUNNEL_GET, operation="read L2TP tunnels")
        )


def _session(item: Mapping[int, bytes]) -> tuple[int, int, str]:
    return _number(item, _SESSION_ID), _number(item, _PEER_SESSION_ID), text_of(item.get(_IFNAME, b""))


def _found(item: Mapping[int, bytes], sessions: Iterable[tuple[int, int, str]]) -> _Found:
    return _Found(
        tunnel_id=_number(item, _CONN_ID),
        peer_tunnel_id=_number(item, _PEER_CONN_ID),
        version=_number(item, _PROTO_VERSION),
        encapsulation=_number(item, _ENCAP_TYPE),
        local=_address(item, _IP_SADDR, _IP6_SADDR),
        remote=_address(item, _IP_DADDR, _IP6_DADDR),
        local_port=_number(item, _UDP_SPORT),
        peer_port=_number(item, _UDP_DPORT),
        sessions=tuple(sessions),
    )


def _number(item: Mapping[int, bytes], kind: int) -> int:
    return number_of(item.get(kind, b""))


def _address(item: Mapping[int, bytes], *kinds: int) -> str:
    """As the kernel prints it; empty if it is told in none of the attributes."""
    found = next((item[kind] for kind in kinds if kind in item), b"")
    return str(ip_address(found)) if len(found) in (4, 16) else ""
