"""A host with very many links, as its records have them and as its kernel would be read: made-up names, real values."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import ip_address
from typing import Any

from shamon_host.domain.label_map import EMPTY, LabelMap, allocate
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName
from shamon_host.links.desired import BLOCK_ENTRIES, DesiredLink, DesiredState, bridge_name
from shamon_host.links.link_book import LinkBook
from shamon_host.links.link_records import LinkRecord, PeerRecord, SaRecord
from shamon_host.links.model import PORT_BLOCK, Bridge, KernelState, SecurityAssociation, SpdEntry, Tunnel
from shamon_host.links.network_state import SYSCTLS

NOW_S = 1000.0
LIFETIME_S = 90
_OWN = "10.1.0.1"
_FIRST_PEER = int(ip_address("10.2.0.1"))


@dataclass(kw_only=True)
class Documents:
    """The part of the daemon's store that links need, in memory. Documents are kept as JSON would be: as they are."""

    kept: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        found = self.kept.get((kind, key))
        return None if found is None else dict(found)

    def items(self, kind: str) -> tuple[tuple[str, dict[str, Any]], ...]:
        return tuple((key, dict(document)) for (of, key), document in self.kept.items() if of == kind)

    def change(self, documents: Mapping[tuple[str, str], Mapping[str, Any] | None]) -> None:
        for place, document in documents.items():
            if document is None:
                self.kept.pop(place, None)
            else:
                self.kept[place] = document


@dataclass(frozen=True, kw_only=True)
class ManyLinks:
    """`peers` hosts with `types` types each: one link, two SAs and two SPD entries for each pair."""

    peers: int = 200
    types: int = 50

    @property
    def links(self) -> int:
        return self.peers * self.types

    @cached_property
    def label_map(self) -> LabelMap:
        return allocate(EMPTY, [TypeName(f"acme/type{number:03}") for number in range(self.types)], [])

    @cached_property
    def records(self) -> tuple[PeerRecord, ...]:
        """One for each peer, every link up."""
        return tuple(self._record(number) for number in range(self.peers))

    def _record(self, number: int) -> PeerRecord:
        until = NOW_S + LIFETIME_S
        links = {}
        for place, name in enumerate(self.label_map.types):
            at = number * self.types + place
            links[name] = LinkRecord(
                type=name,
                local_port=PORT_BLOCK[at],
                peer_port=PORT_BLOCK[-1 - at],
                in_sas=(SaRecord(spi=0x10000 + at, expires_s=until),),
                out_sas=(SaRecord(spi=0x90000 + at, expires_s=until),),
                attached=True,
            )
        return PeerRecord(
            peer=HostName(f"host{number:03}"),
            address=str(ip_address(_FIRST_PEER + number)),
            gate_until_s=until - 2,
            links=links,
        )

    def book(self) -> LinkBook:
        """With all records in it."""
        book = LinkBook(address=_OWN, documents=Documents(), label_map=lambda: self.label_map, boot_id="boot")
        for record in self.records:
            book.remember(record)
        return book

    def wanted(self, book: LinkBook, state: KernelState) -> DesiredState:
        return book.desired(state, NOW_S, carried_by_vms=(), taps=None)

    def kernel(self, links: tuple[DesiredLink, ...]) -> KernelState:
        """A kernel that holds these links whole, as it would be read: nothing in it is shared with what is wanted."""
        bridges: dict[str, dict[str, bool]] = {bridge_name(number): {} for number in self.label_map.types.values()}
        for link in links:
            bridges[link.bridge][link.device] = True
        return KernelState(
            sas=frozenset(sa for link in links for sa in _read_sas(link)),
            spd=frozenset([*BLOCK_ENTRIES, *(_read_entry(entry) for link in links for entry in link.spd_entries)]),
            tunnels=frozenset(_read_tunnel(link.tunnel) for link in links),
            bridges={name: Bridge(name=name, ports=ports) for name, ports in bridges.items()},
            gate={record.address: float(LIFETIME_S - 2) for record in self.records},
            guard=True,
            selinux_enforcing=True,
            sysctls={name: right[0] for name, right in SYSCTLS.items()},
        )


def empty_kernel() -> KernelState:
    """A kernel with the guard and SELinux, and nothing else."""
    return KernelState(spd=frozenset(BLOCK_ENTRIES), guard=True, selinux_enforcing=True)


def _read_sas(link: DesiredLink) -> list[SecurityAssociation]:
    return [
        SecurityAssociation(
            source=str(ip_address(link.remote if inbound else link.local)),
            destination=str(ip_address(link.local if inbound else link.remote)),
            spi=spi,
            reqid=link.local_port,
            context=_read_context(link.link_context),
            hard_lifetime_s=LIFETIME_S,
        )
        for inbound, spis in ((True, link.in_spis), (False, link.out_spis))
        for spi in spis
    ]


def _read_entry(entry: SpdEntry) -> SpdEntry:
    return replace(
        entry,
        source=str(ip_address(entry.source)),
        destination=str(ip_address(entry.destination)),
        context=_read_context(entry.context),
    )


def _read_tunnel(tunnel: Tunnel) -> Tunnel:
    return Tunnel(
        interface=tunnel.interface[:4] + tunnel.interface[4:],
        local=tunnel.local,
        remote=str(ip_address(tunnel.remote)),
        local_port=tunnel.local_port,
        peer_port=tunnel.peer_port,
        context=_read_context(tunnel.context),
    )


def _read_context(context: SelinuxContext | None) -> SelinuxContext:
    return SelinuxContext.parse(str(context))
