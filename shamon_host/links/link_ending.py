"""What ends links: a peer that fails, a type that may not go on, a lease that is over, the end of the unit.

A way down only narrows, so it is gone to its end whatever fails on it, and what is left is raised when that is done.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.desired import bridge_name, canonical_address
from shamon_host.links.link_core import LinkCore
from shamon_host.links.link_records import PeerRecord
from shamon_host.links.model import KernelState, SaId
from shamon_host.links.planner import addresses_of, unwanted_taps
from shamon_host.links.tap_filter import TapFilter


class LinkEnding(LinkCore):
    """See the module. Part of `LinkManager`."""

    def close_peer(self, peer: HostName, address: str) -> None:
        """Remove gate, ports, SAs, tunnels and SPD entries of a peer in one pass, known here or not.

        Every part is tried even if another fails; raises BackendFailed when something is left."""
        address = canonical_address(address)
        with self.lock:
            record = self.book.get(peer)
            self._close(peer, [peer], {address}, (record,) if record else ())

    def close_types(self, peer: HostName, types: Collection[TypeName], reason: str) -> None:
        """Remove the peer's links of these types; those of other types go on. Raises BackendFailed; call it again then:
        what is off the books may still be in the kernel."""
        with self.lock:
            record = self.book.get(peer)
            if record is not None and set(record.links) & set(types):
                self.audit("link.close", peer, {"types": sorted(set(record.links) & set(types)), "reason": reason})
                self.book.remember(record.only(set(record.links) - set(types)))
            self.converge(self.read())

    def close_all(self) -> None:
        """The end of the unit: every link to every peer, known here or not. The guard stays."""
        with self.lock:
            records = self.book.records
            self.want_rekey = frozenset()
            try:
                self.audit("link.close-all", self.host, {"peers": sorted(record.peer for record in records)})
                self.book.forget(*(record.peer for record in records))
            finally:  # as in `_close`
                self.convergence.tear_down(
                    self.host,
                    {record.address for record in records},
                    self.book.links(*records),
                    further=lambda state: addresses_of(state) - {self.address},
                )
                self._give_back(*tuple(self.reserved))

    def detach_port(self, interface: str) -> None:
        """Take a VM's tap off its bridge (quarantine) at once, as whoever has the lock may wait for a MAC VM. It stays
        off until it is looked at anew which belong on one."""
        self.audit("link.detach-port", interface, {})
        self.ports.detach(interface)

    def tidy(self) -> None:
        """Every few seconds: remove superseded SAs after their grace period, and links whose lease is over."""
        with self.lock:
            now = self.boottime_s()
            if expired := self.book.expired(now):
                # In one go: where a switch between the hosts failed, the leases of many peers end together.
                self._close(self.host, [record.peer for record in expired], (), expired)
            if not self.book.retirement_due(now):
                return
            packets = {sa.id: sa.packets for sa in self.kernel.read().sas}
            retired = self.book.retire(packets, now, self.grace_s)
            if retired:
                self.audit("link.retire", self.host, {"spis": [f"{sa.spi:#010x}" for sa in retired]})
                self.convergence.delete_sas(retired)

    def narrow(self, found: KernelState, taps: Mapping[str, TypeName], filters: Mapping[str, TapFilter]) -> None:
        """Take VMs' taps off bridges in which they may not be any more, and let none exchange more than it may; what
        may come waits for `reconcile`. `found`: what the kernel in which they are holds. No other one is asked, and
        nobody is waited for who waits for another one. Raises BackendFailed when all was tried."""
        types = self.label_map().types
        bridges = {tap: bridge_name(types[name]) for tap, name in taps.items()}
        failures: list[BackendFailed] = []
        for tap in unwanted_taps(bridges, found):
            try:
                self.detach_port(tap)
            except BackendFailed as error:
                failures.append(error)
        self.convergence.narrow_filters(filters, found)
        if failures:
            raise failures[0]

    def _close(
        self, subject: str, peers: Sequence[HostName], addresses: Iterable[str], records: Collection[PeerRecord]
    ) -> None:
        """Take these peers down, whose records are these, also at further `addresses`. Raises BackendFailed."""
        self.want_rekey -= set(peers)
        try:
            for record in records:
                self.audit("link.close", record.peer, {"types": sorted(record.links)})
            self.book.forget(*peers)
        finally:  # it only narrows: done even if it cannot be written down
            every = {*addresses, *(record.address for record in records)}
            self.convergence.tear_down(subject, every, self.book.links(*records))
            self._give_back(*peers)

    def _give_back(self, *peers: HostName) -> None:
        """Free the SPIs that are reserved for these peers; those that cannot be expire in the kernel."""
        spis = sorted(spi for peer in peers for spi in self.reserved.pop(peer, set()))
        try:
            self.convergence.delete_sas(SaId(destination=self.address, spi=spi) for spi in spis)
        except BackendFailed as error:
            self.audit("link.not-given-back", self.host, {"reason": str(error)})
