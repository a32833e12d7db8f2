"""L2TPv3 Ethernet tunnels over labelled UDP sockets (RFC 3931; net/l2tp/l2tp_netlink.c).

A tunnel's label is its socket's, and is known only of sockets that this program holds: a tunnel over another one reads
as unlabelled and is removed.
"""

import errno
import socket
from collections.abc import Callable
from typing import Any

from pyroute2 import L2tp
from pyroute2.netlink.exceptions import NetlinkError

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.desired import canonical_address, device_name
from shamon_host.links.linux_fd_store import FdStore
from shamon_host.links.linux_labelled_socket import label_of, labelled_udp_socket
from shamon_host.links.model import PORT_BLOCK, PORT_BLOCK_FIRST, TUNNEL_PREFIX, Tunnel

SOCKET_PREFIX = "link-"


class LinuxTunnels:
    """Tunnels by local port. `configure` sets up a new device before it comes up."""

    def __init__(
        self, l2tp: L2tp, store: FdStore, configure: Callable[[str], None], delete_device: Callable[[str], None]
    ) -> None:
        self._l2tp, self._store, self._configure, self._delete_device = l2tp, store, configure, delete_device

    def read(self, devices: frozenset[str]) -> frozenset[Tunnel]:
        """Every tunnel with an id of the port block; of `devices`, those named like ours that belong to none."""
        sessions = {
            session.get_attr("L2TP_ATTR_CONN_ID"): session.get_attr("L2TP_ATTR_IFNAME") or ""
            for session in self._l2tp.dump_sessions()
            if session.get_attr("L2TP_ATTR_SESSION_ID") == session.get_attr("L2TP_ATTR_CONN_ID")
        }
        found = [self._tunnel(item, sessions) for item in self._l2tp.dump_tunnels() if _ours(item)]
        known = {tunnel.interface for tunnel in found}
        found += [_stray(name) for name in sorted(devices) if name.startswith(TUNNEL_PREFIX) and name not in known]
        return frozenset(found)

    def forget_strays(self) -> None:
        """Close sockets of the store that no tunnel uses: a daemon was killed between socket and tunnel."""
        used = {item.get_attr("L2TP_ATTR_CONN_ID") for item in self._l2tp.dump_tunnels()}
        for name in tuple(self._store.sockets):
            port = name.removeprefix(SOCKET_PREFIX)
            if not port.isdecimal() or int(port) not in used:
                self._store.remove(name)

    def create(self, tunnel: Tunnel) -> None:
        """Socket, store, tunnel, session, device (down). On failure nothing of it stays. Raises OSError, NetlinkError,
        BackendFailed."""
        if tunnel.context is None:
            raise BackendFailed("a tunnel needs a label", where=tunnel.interface)
        port, name = tunnel.local_port, f"{SOCKET_PREFIX}{tunnel.local_port}"
        self._store.remove(name)
        opened = labelled_udp_socket(
            tunnel.context, local=(tunnel.local, port), remote=(tunnel.remote, tunnel.peer_port)
        )
        try:
            self._store.put(name, opened)
            self._l2tp.create_tunnel(
                tunnel_id=port,
                peer_tunnel_id=tunnel.peer_port,
                local=tunnel.local,
                remote=tunnel.remote,
                fd=opened.fileno(),
                encap="udp",
                udp_sport=port,
                udp_dport=tunnel.peer_port,
            )
            self._l2tp.create_session(
                tunnel_id=port, session_id=port, peer_session_id=tunnel.peer_port, ifname=tunnel.interface
            )
            self._configure(tunnel.interface)
        except BaseException:
            opened.close()
            self.delete(port)
            raise

    def delete(self, local_port: int) -> None:
        """Tunnel, device and socket; what is gone already is no error."""
        try:
            self._l2tp.delete_tunnel(local_port)
        except NetlinkError as error:
            if error.code not in (errno.ENODEV, errno.ENOENT):
                raise
        self._store.remove(f"{SOCKET_PREFIX}{local_port}")
        self._delete_device(device_name(local_port))

    def _tunnel(self, item: Any, sessions: dict[int, str]) -> Tunnel:
        port = item.get_attr("L2TP_ATTR_CONN_ID")
        opened = self._store.sockets.get(f"{SOCKET_PREFIX}{port}")
        local = item.get_attr("L2TP_ATTR_IP_SADDR") or item.get_attr("L2TP_ATTR_IP6_SADDR") or ""
        remote = item.get_attr("L2TP_ATTR_IP_DADDR") or item.get_attr("L2TP_ATTR_IP6_DADDR") or ""
        source, destination = item.get_attr("L2TP_ATTR_UDP_SPORT"), item.get_attr("L2TP_ATTR_UDP_DPORT")
        same_ids = source == port and destination == item.get_attr("L2TP_ATTR_PEER_CONN_ID")
        label = label_of(opened) if opened is not None and same_ids and _names(opened) == (port, destination) else None
        return Tunnel(
            interface=sessions.get(port, ""),
            local=canonical_address(local) if local else "",
            remote=canonical_address(remote) if remote else "",
            local_port=port,
            peer_port=destination or 0,
            context=label,
        )


def _ours(item: Any) -> bool:
    return item.get_attr("L2TP_ATTR_CONN_ID") in PORT_BLOCK


def _names(opened: socket.socket) -> tuple[int, int]:
    """Local and remote port; (0, 0) when it is not connected."""
    try:
        return opened.getsockname()[1], opened.getpeername()[1]
    except OSError:
        return 0, 0


def _stray(name: str) -> Tunnel:
    """A device named like a link's that is none: to be removed under the port that its name stands for."""
    number = name.removeprefix(TUNNEL_PREFIX)
    port = PORT_BLOCK_FIRST + (int(number) if number.isdecimal() and len(number) <= 4 else 0)
    return Tunnel(interface=name, local="", remote="", local_port=port, peer_port=0, context=None)
