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
from shamon_host.links.model import PORT_BLOCK

_KIND = "links"
_MAX_PEERS = 4096


class Documents(Protocol):
    """Small durable state of this host; `daemon.store` implements it."""

    def get(self, kind: str, key: str) -> dict[str, Any] | None: ...

    def put(self, kind: str, key: str, document: Mapping[str, Any]) -> None: ...


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


@dataclass(kw_only=True)
class PortBook:
    """The local port of each (peer, type), kept for good; the port of a pair that has no link now is given to another
    pair only when no port is free."""

    documents: Documents

    def port(self, peer: HostName, name: TypeName, *, in_use: Collection[int]) -> int:
        """The pair's port, allocated if it has none. Raises BackendFailed when every port is in use."""
        ports = self._load()
        if (known := ports.get((peer, name))) is not None:
            return known
        taken = set(ports.values())
        free = next((port for port in PORT_BLOCK if port not in taken), None)
        if free is None:
            idle = next((pair for pair, port in ports.items() if port not in in_use), None)
            if idle is None:
                raise BackendFailed("no ports left for links", expected=f"at most {len(PORT_BLOCK)} links")
            free = ports.pop(idle)
        ports[peer, name] = free
        self.documents.put(_KIND, "ports", {"ports": [[*pair, port] for pair, port in ports.items()]})
        return free

    def _load(self) -> dict[tuple[HostName, TypeName], int]:
        document = self.documents.get(_KIND, "ports")
        if document is None:
            return {}
        try:
            ports = {(HostName(peer), TypeName(name)): _int(port) for peer, name, port in document["ports"]}
        except (KeyError, TypeError, ValueError) as error:
            raise _malformed("ports", error) from None
        if len(set(ports.values())) != len(ports) or not set(ports.values()) <= set(PORT_BLOCK):
            raise _malformed("ports", "ports twice or outside the block")
        return ports


def load_peers(documents: Documents, boot_id: str) -> dict[HostName, PeerRecord]:
    """The records of this boot, {} when there are none: what an earlier boot held is gone. Raises BackendFailed."""
    document = documents.get(_KIND, "peers")
    if document is None or document.get("boot_id") != boot_id:
        return {}
    try:
        peers = [_peer(entry) for entry in document["peers"][:_MAX_PEERS]]
    except (KeyError, TypeError, ValueError, BadInput) as error:
        raise _malformed("peers", error) from None
    return {peer.peer: peer for peer in peers}


def save_peers(documents: Documents, boot_id: str, peers: Mapping[HostName, PeerRecord]) -> None:
    """Remember all of them, in place of what was there."""
    entries = [
        {
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
        for peer in peers.values()
    ]
    documents.put(_KIND, "peers", {"boot_id": boot_id, "peers": entries})


def _sa_document(sa: SaRecord) -> dict[str, Any]:
    return {"spi": sa.spi, "expires_s": sa.expires_s, "retire_s": sa.retire_s}


def _peer(entry: Any) -> PeerRecord:
    links = [
        LinkRecord(
            type=type_name(link["type"]),
            local_port=_int(link["local_port"]),
            peer_port=_int(link["peer_port"]),
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
        spi=_int(entry["spi"]),
        expires_s=_seconds(entry["expires_s"]),
        retire_s=None if retire is None else _seconds(retire),
    )


def _int(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"not a number: {value!r:.40}")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"not seconds: {value!r:.40}")
    return float(value)


def _malformed(key: str, error: object) -> BackendFailed:
    return BackendFailed(
        "the record of links is malformed",
        where=f"store {_KIND}/{key}",
        found=str(error)[:200],
        remedy="Stop the unit, remove the record, start the unit: links come up again with the next attestation.",
    )
