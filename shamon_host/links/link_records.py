"""What this host remembers of its links: ids, ends of SAs and gates. Never a key.

Written before the kernel is touched, so that the kernel never holds a link that nobody wrote down; after a restart the
manager adopts from here what the kernel still has. All times are CLOCK_BOOTTIME of the boot that the record names.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.labels import HostName, TypeName, plain_name, type_name
from shamon_host.links.desired import canonical_address

_KIND = "link-peer"
"""One document for each peer, by its name."""
_ALL_IN_ONE = ("links", "peers")
"""Where they were in one document; nothing is taken from it, for no link outlives the change to this form."""


class Documents(Protocol):
    """Small durable state of this host; `daemon.store` implements it."""

    def get(self, kind: str, key: str) -> dict[str, Any] | None: ...

    def items(self, kind: str) -> tuple[tuple[str, dict[str, Any]], ...]: ...

    def change(self, documents: Mapping[tuple[str, str], Mapping[str, Any] | None]) -> None:
        """Put or, where it is None, remove several by kind and key: all of them or none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SaRecord:
    """An SA that was installed. `expires_s`: its hard lifetime; `retire_s`: when it goes because it is superseded."""

    spi: int
    expires_s: float
    retire_s: float | None = None
    packets_seen: int = -1
    """What it had carried when it was last looked at, -1 before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRecord:
    """One type's link to one peer. `attached`: its sending side was installed too."""

    type: TypeName
    local_port: int
    peer_port: int
    in_sas: tuple[SaRecord, ...] = ()
    out_sas: tuple[SaRecord, ...] = ()
    attached: bool = False

    def without(self, *, in_spis: Collection[int] = (), out_spis: Collection[int] = ()) -> Self:
        """The link without these receiving SAs and sending SAs."""
        return replace(
            self,
            in_sas=tuple(sa for sa in self.in_sas if sa.spi not in in_spis),
            out_sas=tuple(sa for sa in self.out_sas if sa.spi not in out_spis),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRecord:
    """All links to one peer. `gate_until_s`: the gate may not be open after this; 0 while no handshake is confirmed."""

    peer: HostName
    address: str
    gate_until_s: float = 0.0
    links: Mapping[TypeName, LinkRecord] = field(default_factory=dict)

    def with_link(self, link: LinkRecord) -> Self:
        return replace(self, links={**self.links, link.type: link})

    def only(self, types: Collection[TypeName]) -> Self:
        return replace(self, links={name: link for name, link in self.links.items() if name in types})

    def without(self, *, in_spis: Collection[int] = (), out_spis: Collection[int] = ()) -> Self:
        """Without these SAs, and without the links that then have none."""
        links = {name: link.without(in_spis=in_spis, out_spis=out_spis) for name, link in self.links.items()}
        return replace(self, links={name: link for name, link in links.items() if link.in_sas or link.out_sas})


def load_peers(documents: Documents, boot_id: str) -> dict[HostName, PeerRecord]:
    """The records of this boot; those of an earlier one are removed: what they tell is over. Raises BackendFailed."""
    peers: dict[HostName, PeerRecord] = {}
    stale: list[tuple[str, str]] = []
    for key, document in documents.items(_KIND):
        if document.get("boot_id") != boot_id:
            stale.append((_KIND, key))
            continue
        try:
            record = _peer(document)
        except (KeyError, TypeError, ValueError, BadInput) as error:
            raise malformed(_KIND, key, error) from None
        if record.peer != key:
            raise malformed(_KIND, key, f"it is about {record.peer}")
        peers[record.peer] = record
    if documents.get(*_ALL_IN_ONE) is not None:
        stale.append(_ALL_IN_ONE)
    if stale:
        documents.change(dict.fromkeys(stale))
    return peers


def save_peers(documents: Documents, boot_id: str, changed: Mapping[HostName, PeerRecord | None]) -> None:
    """Remember each in the place of what was there of that peer, forget those that are None; all of them or none."""
    documents.change(
        {(_KIND, peer): None if record is None else _peer_document(record, boot_id) for peer, record in changed.items()}
    )


def _peer_document(peer: PeerRecord, boot_id: str) -> dict[str, Any]:
    return {
        "boot_id": boot_id,
        "peer": peer.peer,
        "address": peer.address,
        "gate_until_s": peer.gate_until_s,
        "links": [
            {
                "type": link.type,
                "local_port": link.local_port,
                "peer_port": link.peer_port,
                "attached": link.attached,
                "in": [_sa_document(sa) for sa in link.in_sas],
                "out": [_sa_document(sa) for sa in link.out_sas],
            }
            for link in peer.links.values()
        ],
    }


def _sa_document(sa: SaRecord) -> dict[str, Any]:
    return {"spi": sa.spi, "expires_s": sa.expires_s, "retire_s": sa.retire_s}


def _peer(entry: Any) -> PeerRecord:
    links = [
        LinkRecord(
            type=type_name(link["type"]),
            local_port=number(link["local_port"]),
            peer_port=number(link["peer_port"]),
            in_sas=tuple(_sa(sa) for sa in link["in"]),
            out_sas=tuple(_sa(sa) for sa in link["out"]),
            attached=link["attached"] is True,
        )
        for link in entry["links"]
    ]
    return PeerRecord(
        peer=HostName(plain_name(entry["peer"])),
        address=canonical_address(entry["address"]),
        gate_until_s=_seconds(entry["gate_until_s"]),
        links={link.type: link for link in links},
    )


def _sa(entry: Any) -> SaRecord:
    retire = entry["retire_s"]
    return SaRecord(
        spi=number(entry["spi"]),
        expires_s=_seconds(entry["expires_s"]),
        retire_s=None if retire is None else _seconds(retire),
    )


def number(value: Any) -> int:
    """An integer as JSON has it. Raises ValueError."""
    if type(value) is not int:
        raise ValueError(f"not a number: {value!r:.40}")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"not seconds: {value!r:.40}")
    return float(value)


def malformed(kind: str, key: str, error: object) -> BackendFailed:
    """A document of links that this program did not write."""
    return BackendFailed(
        "the record of links is malformed",
        where=f"store {kind}/{key}",
        found=str(error)[:200],
        remedy="Stop the unit, remove the record, start the unit: links come up again with the next attestation.",
    )
