"""`LinkBook`: which links this host has agreed on, in memory and in the store, and what is wanted because of them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.desired import DesiredLink, DesiredState, bridge_name
from shamon_host.links.link_records import Documents, LinkRecord, PeerRecord, PortBook, load_peers, save_peers
from shamon_host.links.model import KernelState, SaId
from shamon_host.links.tap_filter import TapFilter


def unchanged(link: DesiredLink) -> DesiredLink:
    """The identity: no SA to install."""
    return link


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

    def port(self, peer: HostName, name: TypeName) -> int:
        """The local port of the pair. Raises BackendFailed when there is none left."""
        in_use = {link.local_port for record in self.records for link in record.links.values()}
        return self._ports.port(peer, name, in_use=in_use)

    def remember(self, record: PeerRecord) -> None:
        """Put the record in the place of the peer's earlier one; without links it is forgotten."""
        if record.links:
            self._peers[record.peer] = record
        else:
            self._peers.pop(record.peer, None)
        save_peers(self.documents, self.boot_id, self._peers)

    def forget(self, *peers: HostName) -> None:
        for peer in peers:
            self._peers.pop(peer, None)
        save_peers(self.documents, self.boot_id, self._peers)

    def expired(self, now_s: float) -> tuple[PeerRecord, ...]:
        """Peers whose lease is over. A peer whose gate was never opened is not among them."""
        return tuple(record for record in self.records if 0 < record.gate_until_s <= now_s)

    def adoptable(self, record: PeerRecord, state: KernelState, now_s: float) -> frozenset[TypeName]:
        """Types of the record, left by an earlier run of the daemon, whose links may go on: the gate is open within
        its time, both sides were installed, and the socket is there under the label that the type has now."""
        if record.gate_until_s <= now_s or record.address not in state.gate or state.no_links_because:
            return frozenset()
        label_map = self.label_map()
        return frozenset(
            link.type
            for link in record.links.values()
            if link.attached
            and link.type in label_map.types
            and self._desired_link(record, link, label_map).tunnel in state.tunnels
        )

    def retire(self, packets: Mapping[SaId, int], now_s: float, grace_s: float) -> tuple[SaId, ...]:
        """Take superseded receiving SAs whose time has come off the books and return them.

        One through which packets came since the last look stays for another `grace_s`, within its lifetime: the
        peer has not switched yet."""
        retired: list[SaId] = []
        for record in self.records:
            links = {}
            for name, link in record.links.items():
                kept = []
                for sa in link.in_sas:
                    sa_id = SaId(destination=self.address, spi=sa.spi)
                    carried = packets.get(sa_id)
                    if sa.retire_s is None or sa.retire_s > now_s:
                        kept.append(sa)
                    elif carried is None or carried == sa.packets_seen or sa.expires_s <= now_s:
                        retired.append(sa_id)
                    else:
                        kept.append(replace(sa, retire_s=now_s + grace_s, packets_seen=carried))
                links[name] = replace(link, in_sas=tuple(kept))
            self._peers[record.peer] = replace(record, links=links)
        if retired:
            save_peers(self.documents, self.boot_id, self._peers)
        return tuple(retired)

    def retirement_due(self, now_s: float) -> bool:
        return any(
            sa.retire_s is not None and sa.retire_s <= now_s
            for record in self.records
            for link in record.links.values()
            for sa in link.in_sas
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
    ) -> DesiredState:
        """What is wanted of the kernel. Without SELinux enforcing that is the guard and the bridges, no link.

        `carried_by_vms`: types that need a bridge for VMs. `with_keys` adds the SAs to install now. Of `taps` and
        `filters`, None is what is not known."""
        label_map = self.label_map()
        records = () if state.no_links_because else self.records
        links = tuple(
            with_keys(self._desired_link(record, link, label_map))
            for record in records
            for link in record.links.values()
            if link.type in label_map.types
        )
        opening = dict(opening or {})
        gate = {record.address: record.gate_until_s - now_s for record in records if record.gate_until_s > now_s}
        for address, seconds in opening.items():
            gate[address] = max(seconds, gate.get(address, 0.0))
        for_vms = {bridge_name(label_map.types[name]) for name in carried_by_vms if name in label_map.types}
        return DesiredState(
            links=links,
            bridges=frozenset(for_vms | {link.bridge for link in links}),
            gate=gate,
            opening=opening,
            taps=None
            if taps is None
            else {tap: bridge_name(label_map.types[name]) for tap, name in taps.items() if name in label_map.types},
            filters=filters,
        )

    def _desired_link(self, record: PeerRecord, link: LinkRecord, label_map: LabelMap) -> DesiredLink:
        return DesiredLink(
            peer=record.peer,
            type=link.type,
            local=self.address,
            remote=record.address,
            local_port=link.local_port,
            peer_port=link.peer_port,
            bridge=bridge_name(label_map.types[link.type]),
            link_context=label_map.link_context(link.type),
            spd_context=label_map.spd_context(link.type),
            in_spis=frozenset(sa.spi for sa in link.in_sas),
            out_spis=frozenset(sa.spi for sa in link.out_sas),
            attached=link.attached,
        )
