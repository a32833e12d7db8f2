"""`LinkBook`: which links this host has agreed on, in memory and in the store, and what is wanted because of them."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName
from shamon_host.links.desired import DesiredLink, DesiredState, bridge_name
from shamon_host.links.link_records import Documents, LinkRecord, PeerRecord, load_peers, save_peers
from shamon_host.links.model import KernelState, SaId
from shamon_host.links.port_book import PortBook
from shamon_host.links.tap_filter import TapFilter


def unchanged(link: DesiredLink) -> DesiredLink:
    """The identity: no SA to install."""
    return link


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What every link of one type has in common on this host."""

    bridge: str
    link_context: SelinuxContext
    spd_context: SelinuxContext


def _places(label_map: LabelMap) -> dict[TypeName, _Place]:
    return {
        name: _Place(
            bridge=bridge_name(category),
            link_context=label_map.link_context(name),
            spd_context=label_map.spd_context(name),
        )
        for name, category in label_map.types.items()
    }


@dataclass(kw_only=True)
class LinkBook:
    """Every change is written down before it returns; the caller touches the kernel only after that."""

    address: str
    documents: Documents
    label_map: Callable[[], LabelMap]
    boot_id: str
    _ports: PortBook = field(init=False, repr=False)
    _peers: dict[HostName, PeerRecord] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._ports = PortBook(documents=self.documents)
        self._peers = load_peers(self.documents, self.boot_id)

    @property
    def records(self) -> tuple[PeerRecord, ...]:
        return tuple(self._peers.values())

    def get(self, peer: HostName) -> PeerRecord | None:
        return self._peers.get(peer)

    def links(self, *records: PeerRecord) -> tuple[DesiredLink, ...]:
        """What the links of these records are in the kernel, as far as their types have a category now."""
        places = _places(self.label_map())
        return tuple(
            self._desired_link(record, link, places[link.type])
            for record in records
            for link in record.links.values()
            if link.type in places
        )

    def ports(self, peer: HostName, names: Iterable[TypeName]) -> dict[TypeName, int]:
        """The local port of each of the peer's types. Raises BackendFailed when there is none left."""
        return self._ports.ports(
            peer, names, in_use=lambda: {link.local_port for each in self.records for link in each.links.values()}
        )

    def remember(self, *records: PeerRecord) -> None:
        """Put each in the place of its peer's earlier one; one without links is forgotten."""
        self._change({record.peer: record if record.links else None for record in records})

    def forget(self, *peers: HostName) -> None:
        self._change({peer: None for peer in peers if peer in self._peers})

    def _change(self, changed: Mapping[HostName, PeerRecord | None]) -> None:
        for peer, record in changed.items():
            if record is None:
                self._peers.pop(peer, None)
            else:
                self._peers[peer] = record
        if changed:
            save_peers(self.documents, self.boot_id, changed)

    def expired(self, now_s: float) -> tuple[PeerRecord, ...]:
        """Peers whose lease is over. A peer whose gate was never opened is not among them."""
        return tuple(record for record in self.records if 0 < record.gate_until_s <= now_s)

    def adoptable(self, record: PeerRecord, state: KernelState, now_s: float) -> frozenset[TypeName]:
        """Types of the record, left by an earlier run of the daemon, whose links may go on: the gate is open within
        its time, both sides were installed, and the socket is there under the label that the type has now."""
        if record.gate_until_s <= now_s or record.address not in state.gate or state.no_links_because:
            return frozenset()
        places = _places(self.label_map())
        return frozenset(
            link.type
            for link in record.links.values()
            if link.attached
            and link.type in places
            and self._desired_link(record, link, places[link.type]).tunnel in state.tunnels
        )

    def retire(self, packets: Mapping[SaId, int], now_s: float, grace_s: float) -> tuple[SaId, ...]:
        """Take superseded SAs whose time has come off the books and return them.

        A receiving one through which packets came since the last look stays for another `grace_s`, within its lifetime:
        the peer has not switched yet. The first look is before its time has come, at a sending one of the same switch:
        its time is shorter."""
        retired: list[SaId] = []
        changed: dict[HostName, PeerRecord | None] = {}
        for record in self.records:
            links = {}
            before = len(retired)
            for name, link in record.links.items():
                kept = []
                for sa in link.in_sas:
                    sa_id = SaId(destination=self.address, spi=sa.spi)
                    carried = packets.get(sa_id)
                    if sa.retire_s is None:
                        kept.append(sa)
                    elif sa.retire_s > now_s:
                        kept.append(
                            sa if carried is None or sa.packets_seen >= 0 else replace(sa, packets_seen=carried)
                        )
                    elif carried is None or carried == sa.packets_seen or sa.expires_s <= now_s:
                        retired.append(sa_id)
                    else:
                        kept.append(replace(sa, retire_s=now_s + grace_s, packets_seen=carried))
                over = {sa.spi for sa in link.out_sas if sa.retire_s is not None and sa.retire_s <= now_s}
                retired += [SaId(destination=record.address, spi=spi) for spi in sorted(over)]
                links[name] = replace(link, in_sas=tuple(kept)).without(out_spis=over)
            self._peers[record.peer] = replace(record, links=links)
            if len(retired) > before:
                changed[record.peer] = self._peers[record.peer]
        if changed:
            save_peers(self.documents, self.boot_id, changed)
        return tuple(retired)

    def retirement_due(self, now_s: float) -> bool:
        return any(
            sa.retire_s is not None and sa.retire_s <= now_s
            for record in self.records
            for link in record.links.values()
            for sa in (*link.in_sas, *link.out_sas)
        )

    def desired(
        self,
        state: KernelState,
        now_s: float,
        *,
        carried_by_vms: Collection[TypeName],
        taps: Mapping[str, TypeName] | None,
        filters: Mapping[str, TapFilter] | None = None,
        with_keys: Callable[[DesiredLink], DesiredLink] = unchanged,
        opening: Mapping[str, float] | None = None,
        without: Collection[HostName] = (),
        passages: Mapping[tuple[HostName, TypeName], bool] | None = None,
    ) -> DesiredState:
        """What is wanted of the kernel. Without SELinux enforcing that is the guard and the bridges, no link.

        `carried_by_vms`: types that need a bridge for VMs. `with_keys` adds the SAs to install now. Of `taps` and
        `filters`, None is what is not known. `without`: peers whose links are not wanted.
        `passages`: peer and type of each → whether this host gives a VM away over it."""
        label_map = self.label_map()
        records = [record for record in self.records if not state.no_links_because and record.peer not in without]
        links = tuple(map(with_keys, self.links(*records)))
        opening = dict(opening or {})
        gate = {record.address: record.gate_until_s - now_s for record in records if record.gate_until_s > now_s}
        for address, seconds in opening.items():
            gate[address] = max(seconds, gate.get(address, 0.0))
        for_vms = {bridge_name(label_map.types[name]) for name in carried_by_vms if name in label_map.types}
        return DesiredState(
            links=links,
            passages=frozenset(
                link.passage(gives=passages[link.peer, link.type])
                for link in links
                if link.attached and passages and (link.peer, link.type) in passages
            ),
            bridges=frozenset(for_vms | {link.bridge for link in links}),
            gate=gate,
            opening=opening,
            taps=None
            if taps is None
            else {tap: bridge_name(label_map.types[name]) for tap, name in taps.items() if name in label_map.types},
            filters=filters,
        )

    def _desired_link(self, record: PeerRecord, link: LinkRecord, place: _Place) -> DesiredLink:
        return DesiredLink(
            peer=record.peer,
            type=link.type,
            local=self.address,
            remote=record.address,
            local_port=link.local_port,
            peer_port=link.peer_port,
            bridge=place.bridge,
            link_context=place.link_context,
            spd_context=place.spd_context,
            in_spis=frozenset(sa.spi for sa in link.in_sas),
            out_spis=frozenset(sa.spi for sa in link.out_sas),
            attached=link.attached,
        )
