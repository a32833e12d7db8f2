"""UDP sockets created under an SELinux context: what lets a link's packets into the SAs of its type, and no others.

How the kernel takes the context is in `selinux.sockcreate`; it is read back from the descriptor's inode.
"""

import errno
import os
import socket
import time
from ipaddress import ip_address

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.labels import SelinuxContext
from shamon_host.links.linux_selinux import LINK_CONDITIONS
from shamon_host.links.model import Tunnel
from shamon_host.selinux.sockcreate import creating_under

_LABEL = "security.selinux"
_PORT_WAIT_S = 5.0
"""How long a port may still be held by a socket that is being closed: the service manager lets go a moment later."""


def demand_enforcing(where: str) -> None:
    """Raises BackendFailed unless SELinux enforces a policy that is fit: elsewhere contexts are dropped, mean nothing,
    or lock the host out."""
    LINK_CONDITIONS.demand(where)


def read_label(descriptor: int) -> SelinuxContext | None:
    """The socket's context as the kernel has it, None when there is none or it cannot be understood."""
    try:
        text = os.getxattr(f"/proc/self/fd/{descriptor}", _LABEL).rstrip(b"\0").decode("ascii")
        return SelinuxContext.parse(text)
    except (OSError, UnicodeDecodeError, BadInput):
        return None


def is_socket_of(link_socket: socket.socket, tunnel: Tunnel) -> bool:
    """The socket is bound and connected as the tunnel says."""
    try:
        local, peer = link_socket.getsockname(), link_socket.getpeername()
        ends = [(str(ip_address(end[0])), end[1]) for end in (local, peer)]
    except (OSError, ValueError, IndexError, TypeError):
        return False
    return ends == [(tunnel.local, tunnel.local_port), (tunnel.remote, tunnel.peer_port)]


def open_link_socket(tunnel: Tunnel) -> socket.socket:
    """A UDP socket under the tunnel's context, bound and connected. Raises BackendFailed; leaves nothing behind."""
    where = f"socket of {tunnel.interface}"
    demand_enforcing(where)
    if tunnel.context is None:
        raise BackendFailed("a link's socket needs a label", where=where)
    family = socket.AF_INET6 if ip_address(tunnel.local).version == 6 else socket.AF_INET
    opened = _create(family, tunnel.context, where)
    try:
        found = read_label(opened.fileno())
        if found != tunnel.context:
            raise BackendFailed(
                "the socket has another label", where=where, expected=str(tunnel.context), found=str(found)
            )
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _bind(opened, tunnel)
        opened.connect((tunnel.remote, tunnel.peer_port))
    except OSError as error:
        opened.close()
        raise BackendFailed("the link's socket cannot be set up", where=where, found=str(error)) from None
    except BackendFailed:
        opened.close()
        raise
    return opened


def _create(family: socket.AddressFamily, context: SelinuxContext, where: str) -> socket.socket:
    try:
        with creating_under(context):
            return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise BackendFailed(
            "no socket can be made under the label", where=where, expected=str(context), found=str(error),
            remedy="Is the SELinux module loaded, and does this run as shamon_t?",
        ) from None  # fmt: skip


def _bind(opened: socket.socket, tunnel: Tunnel) -> None:
    deadline = time.monotonic() + _PORT_WAIT_S
    while True:
        try:
            return opened.bind((tunnel.local, tunnel.local_port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
        time.sleep(0.01)
