"""Labelled sockets in memory, and the service manager's store that holds them while no daemon does."""

from collections.abc import Callable
from dataclasses import dataclass, field

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import SelinuxContext


@dataclass(kw_only=True, eq=False)
class LinkSocket:
    """A connected UDP socket. `context` as read back from it: None where SELinux is off."""

    local: str
    local_port: int
    remote: str
    peer_port: int
    context: SelinuxContext | None


@dataclass(kw_only=True)
class MemoryFdStore:
    """systemd's file descriptor store of the daemon's unit: survives the daemon, not the unit's stop.

    The kernel sets `on_close`: an L2TP tunnel goes with its socket."""

    capacity: int = 1024
    sockets: dict[str, LinkSocket] = field(default_factory=dict)
    on_close: Callable[[LinkSocket], None] = lambda _: None

    def put(self, name: str, socket: LinkSocket) -> None:
        """FDSTORE=1. Raises BackendFailed when it is full."""
        if name in self.sockets:
            raise ValueError(f"{name} is in the store already")
        if len(self.sockets) >= self.capacity:
            raise BackendFailed("the file descriptor store is full", found=f"{self.capacity} descriptors")
        self.sockets[name] = socket

    def remove(self, name: str) -> None:
        """FDSTOREREMOVE=1: the last reference goes, the socket closes."""
        socket = self.sockets.pop(name, None)
        if socket is not None:
            self.on_close(socket)

    def stop_unit(self) -> None:
        """The unit is stopped: everything in the store is closed."""
        for name in tuple(self.sockets):
            self.remove(name)
