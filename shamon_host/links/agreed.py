"""What a handshake agreed on, as the link manager takes it: checked before anything is done with it.

Port and SPI of the other side come from a peer that passed; they are checked all the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from shamon_host.domain.errors import BadInput, Refused
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.desired import DesiredLink
from shamon_host.links.model import PORT_BLOCK
from shamon_host.links.sa_limits import RARELY, RekeyAfter

KEY_BYTES = 36
"""AES-256 key and salt."""


class AgreedLink(Protocol):
    """What a handshake agreed on for one type (`peer.ports.AgreedLink`)."""

    @property
    def type(self) -> TypeName: ...
    @property
    def local_port(self) -> int: ...
    @property
    def peer_port(self) -> int: ...
    @property
    def in_spi(self) -> int: ...
    @property
    def out_spi(self) -> int: ...
    @property
    def in_key(self) -> bytes: ...
    @property
    def out_key(self) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Where this host wants to receive a type from a peer: its UDP port (and tunnel id), and a reserved SPI."""

    type: TypeName
    port: int
    spi: int


def check_agreed(
    peer: HostName,
    links: Sequence[AgreedLink],
    *,
    lifetime_s: int,
    ports: Mapping[TypeName, int],
    types: Mapping[TypeName, int],
) -> None:
    """Raises BadInput for a link that cannot be, Refused when the lease is over.

    `ports`: this host's port for each type; `types`: the categories of this host's label map."""
    if lifetime_s < 1:
        raise Refused("the lease is over", where=peer, found=f"{lifetime_s} s are left of it")
    for link in links:
        where = f"{peer} {link.type}"
        if link.type not in types:
            raise BadInput("this host has no category for the type", where=where)
        if link.local_port != ports[link.type]:
            raise BadInput("the link's local port is not ours for it", where=where, expected=str(ports[link.type]))
        if link.peer_port not in PORT_BLOCK or not all(0x100 <= spi < 1 << 32 for spi in (link.in_spi, link.out_spi)):
            raise BadInput("the peer's port or SPI is out of range", where=where, found=str(link.peer_port))
        if len(link.in_key) != KEY_BYTES or len(link.out_key) != KEY_BYTES:
            raise BadInput("a key has the wrong length", where=where, expected=f"{KEY_BYTES} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """SAs of one direction to install to a peer. `keys`: type → SPI and key."""

    peer: HostName
    inbound: bool
    keys: Mapping[TypeName, tuple[int, bytes]] = field(repr=False)
    lifetime_s: int
    rekey: RekeyAfter = RARELY

    def give(self, link: DesiredLink) -> DesiredLink:
        """The link with its new SA, if it is one of the peer's that get one."""
        if link.peer != self.peer or link.type not in self.keys:
            return link
        spi, key = self.keys[link.type]
        sa = link.sa(inbound=self.inbound, spi=spi, key=key, lifetime_s=self.lifetime_s, rekey=self.rekey)
        return replace(link, new_sas=(sa,))


def words_of(spis: Iterable[int]) -> list[str]:
    """SPIs for people, in their order."""
    return [f"{spi:#010x}" for spi in sorted(spis)]


def agreed_detail(links: Sequence[AgreedLink], **more: float) -> dict[str, Any]:
    """What was agreed, for the audit log: no keys."""
    return {
        "links": [
            {
                "type": link.type,
                "local_port": link.local_port,
                "peer_port": link.peer_port,
                "in_spi": f"{link.in_spi:#010x}",
                "out_spi": f"{link.out_spi:#010x}",
            }
            for link in links
        ],
        **more,
    }
