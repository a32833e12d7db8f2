"""Links whose type no VM of this host uses any more: they go at once (`watchers`), and do not come back out of a
handshake that began before.

The peer's end goes with the next handshake, which offers the type no more and is started at once.
"""

import threading
from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from shamon_host.domain.labels import TypeName
from shamon_host.peer.ports import AgreedLink


@dataclass(kw_only=True)
class UnusedTypes:
    """Types that the last VM of this host has left since a handshake offered them. Safe to call from any thread."""

    types: frozenset[TypeName] = frozenset()
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def left(self, types: Set[TypeName]) -> None:
        """No VM uses these now."""
        with self._lock:
            self.types |= types

    def offered(self, used: Set[TypeName]) -> None:
        """A handshake begins that offers types of VMs that run now."""
        with self._lock:
            self.types -= used

    def without(self, links: Iterable[AgreedLink]) -> tuple[AgreedLink, ...]:
        """Those of the links that a handshake agreed on which are to be installed."""
        return tuple(link for link in links if link.type not in self.types)
