"""`LinkManager`: the links of one host over their life. The daemon calls it; it plans, audits, applies and reads back.

A handshake asks for ports and SPIs (`offer`), then installs the receiving side, then the sending side and the gate;
what it supersedes goes. A peer that fails is closed in one pass. `reconcile` compares the kernel with what is wanted at
any time, after a restart too. Keys only pass through: they are in an `AddSa` on its way to the kernel and nowhere else.
"""

import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shamon_host.domain.errors import BackendFailed, BadInput, Refused
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.results import ClaimStatus
from shamon_host.links.agreed import AgreedLink, Installation, Offer, agreed_detail, check_agreed, words_of
from shamon_host.links.convergence import Audit, Convergence
from shamon_host.links.desired import DesiredLink, DesiredState, bridge_name, canonical_address
from shamon_host.links.link_book import LinkBook, unchanged
from shamon_host.links.link_records import Documents, LinkRecord, PeerRecord, SaRecord
from shamon_host.links.link_status import status_rows
from shamon_host.links.model import DetachPort, KernelState, SaId
from shamon_host.links.network_state import check_network_state, encode_network_state
from shamon_host.links.observation import Observation, observe
from shamon_host.links.pending import Pending, pending
from shamon_host.links.planner import addresses_of, missing_sas
from shamon_host.links.ports import LinkKernel
from shamon_host.links.rekeying import perhaps_in_use, receiving, switched
from shamon_host.links.sa_limits import RekeyAfter
from shamon_host.links.tap_filter import TapFilter
from shamon_host.links.told_filters import ToldFilters

GRACE_S = 10.0
"""How long a superseded receiving SA stays at least: packets under way, and a peer that has not switched yet."""


@dataclass(kw_only=True)
class LinkManager:
    """See the module. Synchronous, and safe to call from any thread. Raises BackendFailed, Refused, BadInput."""

    host: HostName
    address: str
    """This host's own underlay address."""
    kernel: LinkKernel
    documents: Documents
    label_map: Callable[[], LabelMap]
    audit: Audit
    boottime_s: Callable[[], float]
    boot_id: str
    grace_s: float = GRACE_S
    rekey_after: Callable[[], RekeyAfter] = RekeyAfter
    no_links_because: str = field(init=False, default="")
    """Why SELinux of this host lets it carry no type, as last read; "" when it does."""
    _book: LinkBook = field(init=False, repr=False)
    _convergence: Convergence = field(init=False, repr=False)
    _taps: dict[str, TypeName] = field(init=False, default_factory=dict, repr=False)
    _filters: ToldFilters = field(init=False, default_factory=ToldFilters, repr=False)
    _ensured: set[TypeName] = field(init=False, default_factory=set, repr=False)
    """Types whose bridge was asked for by a VM that is not yet seen running."""
    _needs_rekey: frozenset[HostName] = field(init=False, default=frozenset(), repr=False)
    _reserved: dict[HostName, set[int]] = field(init=False, default_factory=dict, repr=False)
    """SPIs that were offered and neither installed nor given back, some of them to a handshake that was cancelled."""
    _adopted: bool = field(init=False, default=False, repr=False)
    _lock: threading.RLock = field(init=False, default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        self.address = canonical_address(self.address)
        self._book = LinkBook(
            address=self.address, documents=self.documents, label_map=self.label_map, boot_id=self.boot_id
        )
        self._convergence = Convergence(kernel=self.kernel, audit=self.audit, host=self.host)

    # What a handshake needs

    def offer(self, peer: HostName, address: str, types: Collection[TypeName]) -> tuple[Offer, ...]:
        """A port and a fresh SPI for each type, in the order of their names; the SPIs go with `abandon`.

        () while SELinux is not enforcing, or its policy not fit: the host attests still, so that its peers see why,
        but gets no link.
        Raises Refused when the guard cannot be put up: without it nothing is offered.
        """
        address = canonical_address(address)
        with self._lock:
            state = self._read()
            if state.no_links_because:
                self.audit("link.not-offered", peer, {"reason": state.no_links_because})
                return ()
            try:
                self._converge(state)
            except BackendFailed as error:
                raise Refused("the guard or the SPD is not as it should be", where=peer, found=str(error)) from error
            offers: list[Offer] = []
            try:
                for name, port in self._book.ports(peer, sorted(types)).items():
                    spi = self.kernel.allocate_spi(source=address, destination=self.address)
                    offers.append(Offer(type=name, port=port, spi=spi))
            except BackendFailed:
                self._convergence.delete_sas(SaId(destination=self.address, spi=offer.spi) for offer in offers)
                raise
            self._reserved.setdefault(peer, set()).update(offer.spi for offer in offers)
            return tuple(offers)

    def install_inbound(self, peer: HostName, address: str, links: Sequence[AgreedLink], *, lifetime_s: int) -> None:
        """Install the receiving side: SPD entries, SAs, tunnels. The gate stays as it is, and so does what is there
        of earlier handshakes. When it fails, nothing of it stays."""
        address = canonical_address(address)
        with self._lock:
            before = self._book.get(peer)
            record = before or PeerRecord(peer=peer, address=address)
            if record.address != address:
                raise BadInput("the peer has another address", where=peer, expected=record.address, found=address)
            self._check(peer, links, lifetime_s)
            until = self.boottime_s() + lifetime_s
            for link in links:
                old = record.links.get(link.type)
                new = LinkRecord(
                    type=link.type,
                    local_port=link.local_port,
                    peer_port=link.peer_port,
                    in_sas=(SaRecord(spi=link.in_spi, expires_s=until),),
                )
                record = record.with_link(receiving(old, new))
            self.audit("link.install-inbound", peer, agreed_detail(links, lifetime_s=lifetime_s))
            self._reserved.get(peer, set()).difference_update(link.in_spi for link in links)
            keys = {link.type: (link.in_spi, link.in_key) for link in links}
            rekey = self.rekey_after()
            self._install(record, before, Installation(inbound=True, keys=keys, lifetime_s=lifetime_s, rekey=rekey))

    def install_outbound(
        self, peer: HostName, address: str, links: Sequence[AgreedLink], *, gate_s: float, lifetime_s: int
    ) -> None:
        """The peer receives: install the sending side, put the ports into their bridges, open the gate.

        SAs of earlier handshakes go a while later (`rekeying`, `tidy`), links to the peer that are not among `links` at
        once. When it fails, nothing of this handshake stays, and the gate stays as short as it was.
        """
        address = canonical_address(address)
        gate_until_s = self.boottime_s() + gate_s
        with self._lock:
            before = self._book.get(peer)
            if links and (before is None or before.address != address):
                raise Refused("the receiving side is not installed", where=peer)
            self._check(peer, links, lifetime_s)
            gate_s = min(gate_s, gate_until_s - self.boottime_s())  # others may have had the lock for long
            if not 0 < gate_s <= lifetime_s:
                raise Refused("the lease is over", where=peer, found=f"{gate_s:.1f} s are left of it")
            self.audit(
                "link.install-outbound", peer, agreed_detail(links, lifetime_s=lifetime_s, gate_s=round(gate_s, 3))
            )
            if before is None:
                return  # admitted, and no type in common: there is nothing to carry
            now = self.boottime_s()
            before = self._free_spis(before, {link.out_spi for link in links})
            record = replace(before.only({link.type for link in links}), gate_until_s=now + gate_s)
            for link in links:
                old = record.links.get(link.type)
                if old is None or link.in_spi not in {sa.spi for sa in old.in_sas} or old.peer_port != link.peer_port:
                    raise Refused("the receiving side is not installed", where=f"{peer} {link.type}")
                sending = SaRecord(spi=link.out_spi, expires_s=now + lifetime_s)
                record = record.with_link(
                    switched(old, in_spi=link.in_spi, sending=sending, now_s=now, grace_s=self.grace_s)
                )
            keys = {link.type: (link.out_spi, link.out_key) for link in links}
            installation = Installation(
                inbound=False,
                keys=keys,
                lifetime_s=lifetime_s,
                rekey=self.rekey_after(),
                opening={address: gate_s} if links else {},
            )
            self._install(record, before, installation)
            self._needs_rekey -= {peer}

    def abandon(
        self,
        peer: HostName,
        address: str,
        spis: Collection[int],
        links: Sequence[AgreedLink] = (),
        *,
        gate_s: float = math.inf,
        unanswered: bool = False,
    ) -> None:
        """A handshake came to nothing: give back the SPIs that `offer` reserved for it, and remove what was installed
        of its links. Links of earlier handshakes stay, their gate for `gate_s` at most: what is left of the lease in
        force. `unanswered`: the peer may have switched to `links` and could not say so; then receiving SAs of links
        that were up before stay as well. Does not raise BackendFailed: what could not be removed is told to the audit
        log and goes with the next `reconcile`."""
        address = canonical_address(address)
        in_spis, out_spis = {*spis, *(link.in_spi for link in links)}, {link.out_spi for link in links}
        if not in_spis:
            return
        with self._lock:
            record = self._book.get(peer)
            self._reserved.get(peer, set()).difference_update(in_spis)
            kept = perhaps_in_use(record, in_spis) if unanswered and record is not None else frozenset()
            in_spis -= kept
            self.audit("link.abandon", peer, {"spis": words_of(in_spis), "kept": words_of(kept)})
            if record is not None and links:
                until_s = min(record.gate_until_s, self.boottime_s() + gate_s)
                self._book.remember(replace(record.without(in_spis=in_spis, out_spis=out_spis), gate_until_s=until_s))
            try:
                self._convergence.delete_sas(
                    [
                        *(SaId(destination=self.address, spi=spi) for spi in sorted(in_spis)),
                        *(SaId(destination=address, spi=spi) for spi in sorted(out_spis)),
                    ]
                )
                if links:
                    self._converge(self._read())
            except BackendFailed as error:
                self.audit("link.abandon-failed", peer, {"reason": str(error)})

    # What ends it

    def close_peer(self, peer: HostName, address: str) -> None:
        """Remove gate, ports, SAs, tunnels and SPD entries of a peer in one pass, known here or not.

        Every part is tried even if another fails; raises BackendFailed when something is left."""
        address = canonical_address(address)
        with self._lock:
            record = self._book.get(peer)
            self._close(peer, [peer], {address}, (record,) if record else ())

    def close_types(self, peer: HostName, types: Collection[TypeName], reason: str) -> None:
        """Remove the peer's links of these types; those of other types go on. Raises BackendFailed; call it again then:
        what is off the books may still be in the kernel."""
        with self._lock:
            record = self._book.get(peer)
            if record is not None and set(record.links) & set(types):
                self.audit("link.close", peer, {"types": sorted(set(record.links) & set(types)), "reason": reason})
                self._book.remember(record.only(set(record.links) - set(types)))
            self._converge(self._read())

    def close_all(self) -> None:
        """The end of the unit: every link to every peer, known here or not. The guard stays."""
        with self._lock:
            records = self._book.records
            self._needs_rekey = frozenset()
            try:
                self.audit("link.close-all", self.host, {"peers": sorted(record.peer for record in records)})
                self._book.forget(*(record.peer for record in records))
            finally:  # as in `_close`
                self._convergence.tear_down(
                    self.host,
                    {record.address for record in records},
                    self._book.links(*records),
                    further=lambda state: addresses_of(state) - {self.address},
                )
                self._give_back(*tuple(self._reserved))

    def detach_port(self, interface: str) -> None:
        """Take a VM's tap off its bridge (quarantine)."""
        with self._lock:
            self._taps.pop(interface, None)
            self.audit("link.detach-port", interface, {})
            self.kernel.apply([DetachPort(interface=interface)])

    # What holds it together

    def ensure_bridge(self, name: TypeName) -> str:
        """Make the bridge of a type, behind the guard, and return its name. Raises KeyError for an unknown type."""
        bridge = bridge_name(self.label_map().types[name])
        with self._lock:
            before = frozenset(self._ensured)
            self._ensured.add(name)
            try:
                self._converge(self._read())
            except BackendFailed:  # no VM starts in it
                self._ensured &= before
                raise
        return bridge

    def reconcile(
        self, taps: Mapping[str, TypeName] | None = None, filters: Mapping[str, TapFilter] | None = None
    ) -> KernelState:
        """Make the kernel hold what is wanted, and nothing else of ours, and return it as last read.

        `taps`: VMs' taps and their types; None leaves VMs' ports alone. Links whose gate or SAs are gone are not
        repaired: see `needs_rekey`.

        `filters`: tap → what it may exchange, for every tap that has a limit, also one that is yet to come: the VM is
        started after this. Windows count from the call. What was told here is kept up until it is told anew; None
        tells nothing. A tap whose filter cannot be set is taken off its bridge, and BackendFailed raised."""
        told_s = self.boottime_s()
        with self._lock:
            if filters is not None:
                self._filters.tell(filters, told_s)
            if taps is not None:
                self._taps = dict(taps)
                self._ensured -= set(taps.values())
            state = self._read()
            self._forget_ended(state)
            state = self._converge(state, taps=taps)
            missing = missing_sas(self._book.desired(state, self.boottime_s(), carried_by_vms=(), taps=None), state)
            self._needs_rekey = frozenset(link.peer for link in missing)
            return state

    def pending(self, taps: Mapping[str, TypeName], filters: Mapping[str, TapFilter]) -> Pending:
        """What `reconcile` with the same would do now. Changes nothing."""
        with self._lock:
            state = self.kernel.read()
            return pending(
                self._book,
                state,
                self.boottime_s(),
                ended={record.peer for record in self._ended(state)},
                types={*taps.values(), *self._ensured},
                taps=taps,
                filters=filters,
            )

    def tidy(self) -> None:
        """Every few seconds: remove superseded SAs after their grace period, and links whose lease is over."""
        with self._lock:
            now = self.boottime_s()
            if expired := self._book.expired(now):
                # In one go: where a switch between the hosts failed, the leases of many peers end together.
                self._close(self.host, [record.peer for record in expired], (), expired)
            if not self._book.retirement_due(now):
                return
            packets = {sa.id: sa.packets for sa in self.kernel.read().sas}
            retired = self._book.retire(packets, now, self.grace_s)
            if retired:
                self.audit("link.retire", self.host, {"spis": [f"{sa.spi:#010x}" for sa in retired]})
                self._convergence.delete_sas(retired)

    def needs_rekey(self) -> tuple[HostName, ...]:
        """Peers with a link that lost an SA or its gate, as the last `reconcile` found: only a handshake helps."""
        with self._lock:
            return tuple(sorted(self._needs_rekey))

    def agreed(self) -> tuple[PeerRecord, ...]:
        """What is written down of every peer's links."""
        with self._lock:
            return self._book.records

    def linked(self, peer: HostName) -> frozenset[TypeName]:
        """Types with a link to the peer, whole or in the making."""
        with self._lock:
            record = self._book.get(peer)
            return frozenset(record.links) if record else frozenset()

    def carried(self, peer: HostName) -> frozenset[TypeName]:
        """Types with a link to the peer that both sides installed."""
        with self._lock:
            record = self._book.get(peer)
            return frozenset(link.type for link in record.links.values() if link.attached) if record else frozenset()

    def network_state(self) -> bytes:
        """The network security state for the leaf (`network_state`), repaired first if it can be."""
        with self._lock:
            state = self._read()
            data = encode_network_state(state, self.label_map())
            if check_network_state(data).status is not ClaimStatus.PASS:
                try:
                    data = encode_network_state(self._converge(state), self.label_map())
                except BackendFailed as error:
                    self.audit("link.not-repaired", self.host, {"reason": str(error)})
            return data

    def status(self) -> tuple[dict[str, Any], ...]:
        """One row for each link, for people; see `link_status`."""
        with self._lock:
            state = self._read()
            return status_rows(self._book.desired(state, self.boottime_s(), carried_by_vms=(), taps=None), state)

    def examine(self, peer: HostName, name: TypeName) -> Observation:
        """One look at the kernel, and at what is wanted of this link, for `doctor`. Changes nothing."""
        with self._lock:
            now, types = self.boottime_s(), {*self._taps.values(), *self._ensured}
            filters = self._filters.at(now)
            return observe(
                self.kernel,
                lambda found: self._book.desired(found, now, carried_by_vms=types, taps=None, filters=filters),
                peer,
                name,
            )

    # Inside

    def _read(self) -> KernelState:
        """Read the kernel; the first time, keep what an earlier run of the daemon left and may go on."""
        state = self.kernel.read()
        self.no_links_because = state.no_links_because
        if not self._adopted:
            changed = []
            for record in self._book.records:
                kept = self._book.adoptable(record, state, self.boottime_s())
                dropped = sorted(set(record.links) - kept)
                self.audit("link.adopt", record.peer, {"kept": sorted(kept), "dropped": dropped})
                if dropped:
                    changed.append(record.only(kept))
            self._book.remember(*changed)
            self._adopted = True
        return state

    def _converge(
        self,
        state: KernelState,
        *,
        taps: Mapping[str, TypeName] | None = None,
        with_keys: Callable[[DesiredLink], DesiredLink] = unchanged,
        opening: Mapping[str, float] | None = None,
    ) -> KernelState:
        types = {*self._taps.values(), *self._ensured}

        def desired(
            found: KernelState,
            with_keys: Callable[[DesiredLink], DesiredLink] = unchanged,
            opening: Mapping[str, float] | None = None,
        ) -> DesiredState:
            now = self.boottime_s()
            return self._book.desired(
                found, now, carried_by_vms=types, taps=taps, filters=self._filters.at(now), with_keys=with_keys,
                opening=opening,
            )  # fmt: skip

        return self._convergence.converge(desired(state, with_keys, opening), state, desired)

    def _close(
        self, subject: str, peers: Sequence[HostName], addresses: Iterable[str], records: Collection[PeerRecord]
    ) -> None:
        """Take these peers down, whose records are these, also at further `addresses`. Raises BackendFailed."""
        self._needs_rekey -= set(peers)
        try:
            for record in records:
                self.audit("link.close", record.peer, {"types": sorted(record.links)})
            self._book.forget(*peers)
        finally:  # it only narrows: done even if it cannot be written down
            every = {*addresses, *(record.address for record in records)}
            self._convergence.tear_down(subject, every, self._book.links(*records))
            self._give_back(*peers)

    def _give_back(self, *peers: HostName) -> None:
        """Free the SPIs that are reserved for these peers; those that cannot be expire in the kernel."""
        spis = sorted(spi for peer in peers for spi in self._reserved.pop(peer, set()))
        try:
            self._convergence.delete_sas(SaId(destination=self.address, spi=spi) for spi in spis)
        except BackendFailed as error:
            self.audit("link.not-given-back", self.host, {"reason": str(error)})

    def _install(self, record: PeerRecord, before: PeerRecord | None, what: Installation) -> None:
        """Write the record down and install its new SAs; on failure put the earlier record back, and the kernel."""
        state = self._read()
        if state.no_links_because:
            raise Refused(
                "no link while SELinux is not fit",
                where=record.peer,
                expected="enforcing",
                found=state.no_links_because,
            )
        self._book.remember(record)
        try:
            state = self._converge(state, with_keys=lambda link: what.give(link, record.peer))
            destination = self.address if what.inbound else record.address
            present = {sa.id for sa in state.sas}
            for name, (spi, _) in what.keys.items():
                if SaId(destination=destination, spi=spi) not in present:
                    raise BackendFailed("an SA that was installed is not there", where=f"{record.peer} {name}")
            # The gate last, for what is left by then: to build the rest may have taken long.
            left_s = record.gate_until_s - self.boottime_s()
            self._converge(state, opening={address: min(gate_s, left_s) for address, gate_s in what.opening.items()})
        except (BackendFailed, BadInput):
            self._book.remember(before or replace(record, links={}))
            try:
                self._converge(self.kernel.read())
            except BackendFailed as error:
                self.audit("link.roll-back-failed", record.peer, {"reason": str(error)})
            raise

    def _free_spis(self, record: PeerRecord, out_spis: Collection[int]) -> PeerRecord:
        """A peer that booted anew may give SPIs again under which there still is a sending SA of before: that one goes
        first, for a key is never replaced under its SPI. Returns the record without them."""
        taken = {sa.spi for link in record.links.values() for sa in link.out_sas} & set(out_spis)
        if not taken:
            return record
        self._convergence.delete_sas(SaId(destination=record.address, spi=spi) for spi in sorted(taken))
        links = {name: link.without(out_spis=taken) for name, link in record.links.items()}
        kept = replace(record, links=links)
        self._book.remember(kept)
        return kept

    def _forget_ended(self, state: KernelState) -> None:
        """Take links off the books that may not go on: their lease is over, or SELinux does not enforce."""
        ended = self._ended(state)
        reason = state.no_links_because or "the lease is over"
        for record in ended:
            self.audit("link.close", record.peer, {"types": sorted(record.links), "reason": reason})
        self._book.forget(*(record.peer for record in ended))

    def _ended(self, state: KernelState) -> tuple[PeerRecord, ...]:
        return self._book.records if state.no_links_because else self._book.expired(self.boottime_s())

    def _check(self, peer: HostName, links: Sequence[AgreedLink], lifetime_s: int) -> None:
        ports = self._book.ports(peer, [link.type for link in links])
        check_agreed(peer, links, lifetime_s=lifetime_s, ports=ports, types=self.label_map().types)
