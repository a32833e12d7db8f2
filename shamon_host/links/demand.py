"""What the kernel asks for of its own accord, and whether a handshake is started because of it. Pure.

Two things are asked: an SA for a packet that found none (ACQUIRE), whose label decides, and fresh keys for an SA that
has carried much (a soft EXPIRE). Both follow from what VMs send, so however much they send, handshakes because of it
have a rate: each costs this host and its peer a quote. What is asked while a handshake runs waits for its end, and is
answered by it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from shamon_host.domain.budget import Budget
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.link_records import PeerRecord
from shamon_host.links.model import PORT_BLOCK
from shamon_host.links.ports import AcquireEvent, ExpireEvent

_LINK_TYPE = "shamon_link_t"


class Cause(StrEnum):
    ACQUIRE = "acquire"
    """A packet found no SA."""
    USAGE = "usage"
    """An SA reached a soft limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Fresh SAs of one link."""

    peer: HostName
    type: TypeName
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfounded:
    """An ACQUIRE in the place of links that none of them explains: it starts nothing and is reported."""

    reason: str


def judge_acquire(
    event: AcquireEvent,
    *,
    address: str,
    records: Iterable[PeerRecord],
    label_map: LabelMap,
    permitted: Callable[[HostName], frozenset[TypeName]],
) -> Wanted | Unfounded | None:
    """What an ACQUIRE asks for. None if it concerns no link: another program's IPsec.

    The label says which type, and must be that type's link context; addresses and ports must be those of this type's
    link to that peer. `address`: this host's own. `permitted`: the types that may be carried to a peer now, asked only
    for a peer and a type that fit."""
    ports = (event.source_port, event.destination_port)
    labelled = event.context is not None and event.context.type == _LINK_TYPE
    if not labelled and not any(port in PORT_BLOCK for port in ports):
        return None
    name = label_map.type_of(event.context) if event.context is not None else None
    if name is None or event.context != label_map.link_context(name):
        return Unfounded(reason="its label is not the link context of a type")
    record = next((record for record in records if record.address == event.destination), None)
    if event.source != address or record is None:
        return Unfounded(reason=f"there is no link of {name} between these addresses")
    link = record.links.get(name)
    if link is None:
        return Unfounded(reason=f"there is no link of {name} to {record.peer}")
    if ports != (link.local_port, link.peer_port):
        return Unfounded(reason=f"the link of {name} to {record.peer} has ports {link.local_port} and {link.peer_port}")
    if name not in permitted(record.peer):
        return Unfounded(reason=f"{name} is not to be carried to {record.peer} now")
    return Wanted(peer=record.peer, type=name, cause=Cause.ACQUIRE)


def judge_expiry(event: ExpireEvent, *, address: str, records: Iterable[PeerRecord]) -> Wanted | None:
    """What a soft EXPIRE asks for: nothing, if the SA is none of a link's or is superseded already."""
    for record in records:
        if event.destination not in (address, record.address):
            continue
        for link in record.links.values():
            sas = link.in_sas if event.destination == address else link.out_sas
            if any(sa.spi == event.spi and sa.retire_s is None for sa in sas):
                return Wanted(peer=record.peer, type=link.type, cause=Cause.USAGE)
    return None


@dataclass(kw_only=True)
class Demand:
    """What is asked for and not answered yet, by peer. Times are CLOCK_BOOTTIME."""

    budgets: dict[Cause, Budget] = field(
        default_factory=lambda: {
            Cause.ACQUIRE: Budget(burst=3, every_s=10.0),
            Cause.USAGE: Budget(burst=3, every_s=2.0),
        }
    )
    _pending: dict[HostName, dict[TypeName, Cause]] = field(default_factory=dict)

    @property
    def pending(self) -> frozenset[HostName]:
        return frozenset(self._pending)

    def ask(self, wanted: Wanted) -> None:
        self._pending.setdefault(wanted.peer, {}).setdefault(wanted.type, wanted.cause)

    def renewed(self, peer: HostName) -> None:
        """A handshake with the peer has brought fresh SAs for every link to it."""
        self._pending.pop(peer, None)

    def due(
        self, now_s: float, under_way: Callable[[HostName], bool]
    ) -> tuple[tuple[HostName, tuple[Wanted, ...]], ...]:
        """Peers to start a handshake with now, and what for: no longer pending. Those with which one is under way, or
        whose budget is spent, wait."""
        ready = []
        for peer, types in sorted(self._pending.items()):
            cause = Cause.ACQUIRE if Cause.ACQUIRE in types.values() else Cause.USAGE
            if not under_way(peer) and self.budgets[cause].take(peer, now_s):
                wanted = tuple(Wanted(peer=peer, type=name, cause=why) for name, why in sorted(types.items()))
                ready.append((peer, wanted))
        for peer, _ in ready:
            del self._pending[peer]
        return tuple(ready)
