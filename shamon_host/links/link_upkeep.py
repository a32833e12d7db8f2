"""What keeps links as they should be between handshakes, and what is told of them: to the daemon, to Verifiers, to
people. Here, too, are the bridges of types: VMs need them with and without links.
"""

from collections.abc import Mapping
from typing import Any

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.results import ClaimStatus
from shamon_host.links.desired import bridge_name
from shamon_host.links.link_core import LinkCore
from shamon_host.links.link_records import PeerRecord
from shamon_host.links.link_status import status_rows
from shamon_host.links.model import KernelState
from shamon_host.links.network_state import check_network_state, encode_network_state
from shamon_host.links.observation import Observation, observe
from shamon_host.links.pending import Pending, pending
from shamon_host.links.planner import missing_sas
from shamon_host.links.tap_filter import TapFilter


class LinkUpkeep(LinkCore):
    """See the module. Part of `LinkManager`."""

    def ensure_bridge(self, name: TypeName) -> str:
        """Make the bridge of a type, behind the guard, and return its name. Raises KeyError for an unknown type."""
        bridge = bridge_name(self.label_map().types[name])
        with self.lock:
            before = frozenset(self.ensured)
            self.ensured.add(name)
            try:
                self.converge(self.read())
            except BackendFailed:  # no VM starts in it
                self.ensured &= before
                raise
        return bridge

    def reconcile(
        self, taps: Mapping[str, TypeName] | None = None, filters: Mapping[str, TapFilter] | None = None
    ) -> KernelState:
        """Make the kernel hold what is wanted, and nothing else of ours, and return it as last read.

        `taps`: VMs' taps and their types, as looked at under `held`; None leaves VMs' ports alone. Links whose gate or
        SAs are gone are not repaired: see `needs_rekey`.

        `filters`: tap → what it may exchange, for every tap that has a limit, also one that is yet to come: the VM is
        started after this. Windows count from the call. What was told here is kept up until it is told anew; None
        tells nothing. A tap whose filter cannot be set is taken off its bridge, and BackendFailed raised."""
        told_s = self.boottime_s()
        with self.held():
            if filters is not None:
                self.filters.tell(filters, told_s)
            if taps is not None:
                self.taps = dict(taps)
                self.ensured -= set(taps.values())
            state = self.read()
            self._forget_ended(state)
            state = self.converge(state, taps=taps)
            missing = missing_sas(self.links_wanted(state), state)
            self.want_rekey = frozenset(link.peer for link in missing)
            return state

    def pending(self, taps: Mapping[str, TypeName], filters: Mapping[str, TapFilter]) -> Pending:
        """What `reconcile` with the same would do now. Changes nothing."""
        with self.lock:
            state = self.kernel.read()
            return pending(
                self.book,
                state,
                self.boottime_s(),
                ended={record.peer for record in self._ended(state)},
                types={*taps.values(), *self.ensured},
                taps=taps,
                filters=filters,
                passages=self.passages,
            )

    def network_state(self) -> bytes:
        """The network security state for the leaf (`network_state`), repaired first if it can be."""
        with self.lock:
            state = self.read()
            data = encode_network_state(state, self.label_map())
            if check_network_state(data).status is not ClaimStatus.PASS:
                try:
                    data = encode_network_state(self.converge(state), self.label_map())
                except BackendFailed as error:
                    self.audit("link.not-repaired", self.host, {"reason": str(error)})
            return data

    def needs_rekey(self) -> tuple[HostName, ...]:
        """Peers with a link that lost an SA or its gate, as the last `reconcile` found: only a handshake helps."""
        with self.lock:
            return tuple(sorted(self.want_rekey))

    def agreed(self) -> tuple[PeerRecord, ...]:
        """What is written down of every peer's links."""
        with self.lock:
            return self.book.records

    def linked(self, peer: HostName) -> frozenset[TypeName]:
        """Types with a link to the peer, whole or in the making."""
        with self.lock:
            record = self.book.get(peer)
            return frozenset(record.links) if record else frozenset()

    def carried(self, peer: HostName) -> frozenset[TypeName]:
        """Types with a link to the peer that both sides installed."""
        with self.lock:
            record = self.book.get(peer)
            return frozenset(link.type for link in record.links.values() if link.attached) if record else frozenset()

    def status(self) -> tuple[dict[str, Any], ...]:
        """One row for each link, for people; see `link_status`."""
        with self.lock:
            state = self.read()
            return status_rows(self.links_wanted(state), state)

    def examine(self, peer: HostName, name: TypeName) -> Observation:
        """One look at the kernel, and at what is wanted of this link, for `doctor`. Changes nothing."""
        with self.lock:
            now = self.boottime_s()
            return observe(self.kernel, lambda found: self.wanted(found, now), peer, name)

    def _forget_ended(self, state: KernelState) -> None:
        """Take links off the books that may not go on: their lease is over, or SELinux does not enforce."""
        ended = self._ended(state)
        reason = state.no_links_because or "the lease is over"
        for record in ended:
            self.audit("link.close", record.peer, {"types": sorted(record.links), "reason": reason})
        self.book.forget(*(record.peer for record in ended))

    def _ended(self, state: KernelState) -> tuple[PeerRecord, ...]:
        return self.book.records if state.no_links_because else self.book.expired(self.boottime_s())
