"""Which types the links to each peer carry, until somebody has reacted to the end of them.

Durable: after a restart in the midst of it, this host still knows which of its VMs a peer that fails was in touch with.
"""

from collections.abc import Collection

from shamon_host.daemon.store import Store
from shamon_host.domain.labels import HostName, TypeName

_KIND = "carried"


class CarriedTypes:
    """Loads what an earlier run of this daemon left, for `peers` and `types` that the policy still has."""

    def __init__(self, store: Store, *, peers: Collection[HostName], types: frozenset[TypeName]) -> None:
        self._store = store
        self._types = {
            HostName(name): frozenset(map(TypeName, document["types"])) & types
            for name, document in store.items(_KIND)
            if name in peers
        }

    def __contains__(self, peer: HostName) -> bool:
        """True from the first admission of the peer until it was cut off."""
        return peer in self._types

    def of(self, peer: HostName) -> frozenset[TypeName]:
        return self._types.get(peer, frozenset())

    def note(self, peer: HostName, types: frozenset[TypeName]) -> None:
        """Put `types` in place of what was there. To be called before they are carried."""
        if types != self._types.get(peer):
            self._store.put(_KIND, peer, {"types": sorted(types)})
            self._types[peer] = types

    def forget(self, peer: HostName) -> None:
        """The links are gone, and whoever reacts to that knows."""
        self._types.pop(peer, None)
        self._store.delete(_KIND, peer)
