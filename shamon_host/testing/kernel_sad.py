"""The SAD in memory: ESP with AES-GCM and extended sequence numbers, anti-replay, lifetimes on the wall clock.

ESP packets are RFC 4303 with RFC 4106's cipher, so what is on the wire can only be read, or made, with the key.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import SelinuxContext
from shamon_host.links.model import SaId, SecurityAssociation
from shamon_host.testing.kernel_selinux import LINK_TYPE, MemorySelinux
from shamon_host.testing.wire import PROTO_ESP, PROTO_UDP, WirePacket

LARVAL_S = 30.0
"""net.core.xfrm_acq_expires: how long a reserved SPI, or an ACQUIRE, is kept."""
_KEY_BYTES = 36
_REPLAY_WINDOW = 128


@dataclass(kw_only=True)
class InstalledSa:
    """An SA with its state. `sa.key` is set; readers outside get it without."""

    sa: SecurityAssociation
    added_s: float
    """Wall clock."""
    sent: int = 0
    packets: int = 0
    bytes: int = 0
    """Of the UDP packets inside (`SaLimits`)."""
    dying: bool = False
    """A soft limit was reached, and told."""
    highest: int = 0
    seen: set[int] = field(default_factory=set)
    _reading: SecurityAssociation | None = None

    def reading(self) -> SecurityAssociation:
        """As readers outside get it: without its key, and with what it has carried."""
        last = self._reading
        if last is None or (last.packets, last.bytes) != (self.packets, self.bytes):
            last = self._reading = replace(self.sa, key=None, packets=self.packets, bytes=self.bytes)
        return last


class MemorySad:
    """SAs by destination and SPI, larval ones apart. `wall_s` ends lifetimes, as in the kernel."""

    def __init__(self, selinux: MemorySelinux, wall_s: Callable[[], float], boottime_s: Callable[[], float]) -> None:
        self._selinux = selinux
        self._wall_s, self._boottime_s = wall_s, boottime_s
        self._sas: dict[SaId, InstalledSa] = {}
        self._larval: dict[SaId, float] = {}
        self._next_spi = 0xC0000000
        self.on_expired: Callable[[SaId, bool], None] = lambda sa_id, hard: None
        """Told of each SA at its soft limit (False), and of one that is gone at a hard one (True)."""

    def allocate(self, destination: str) -> int:
        """ALLOCSPI: reserve an SPI for LARVAL_S."""
        self._next_spi += 1
        self._larval[SaId(destination=destination, spi=self._next_spi)] = self._boottime_s() + LARVAL_S
        return self._next_spi

    def add(self, sa: SecurityAssociation) -> SecurityAssociation:
        """Give a larval SA its key, or add one. Returns it as stored. Raises BackendFailed: EEXIST, bad context."""
        if sa.key is None or len(sa.key) != _KEY_BYTES or sa.hard_lifetime_s < 1 or sa.spi < 0x100:
            raise ValueError("no kernel takes an SA without a key, a lifetime and an SPI that is not reserved")
        self._expire()
        if sa.id in self._sas:
            raise BackendFailed("an SA with this SPI exists", where=sa.destination, found=f"{sa.spi:#010x}")
        stored = replace(sa, context=self._selinux.keep(sa.context, LINK_TYPE))
        self._larval.pop(sa.id, None)
        self._sas[sa.id] = InstalledSa(sa=stored, added_s=self._wall_s())
        return stored

    def delete(self, sa_id: SaId) -> None:
        self._larval.pop(sa_id, None)
        self._sas.pop(sa_id, None)

    def flush(self) -> None:
        self._larval.clear()
        self._sas.clear()

    def read(self) -> frozenset[SecurityAssociation]:
        """All of them, without larval ones and keys."""
        self._expire()
        return frozenset(item.reading() for item in self._sas.values())

    def reserved(self) -> frozenset[SaId]:
        """Larval SAs."""
        now = self._boottime_s()
        self._larval = {sa_id: until for sa_id, until in self._larval.items() if until > now}
        return frozenset(self._larval)

    def outgoing(
        self, source: str, destination: str, reqid: int, label: SelinuxContext | None, *, labelled: bool
    ) -> InstalledSa | None:
        """The SA that a packet takes (`xfrm_state_look_at`): one below its soft limits if there is one, the newest by
        the second, of those of one second the last. For a labelled policy only one whose context equals the socket's
        (`selinux_xfrm_state_pol_flow_match`)."""
        self._expire()
        fitting = [
            item
            for item in self._sas.values()
            if (item.sa.source, item.sa.destination, item.sa.reqid) == (source, destination, reqid)
            and (item.sa.context is not None if labelled else item.sa.context is None)
            and (not labelled or item.sa.context == label)
        ]
        return max(reversed(fitting), key=lambda item: (not item.dying, int(item.added_s)), default=None)

    def incoming(self, sa_id: SaId) -> InstalledSa | None:
        self._expire()
        return self._sas.get(sa_id)

    def usable(self, item: InstalledSa) -> bool:
        """Before a packet takes the SA (`xfrm_state_check_expire`): False, and it is gone, at a hard limit."""
        limits = item.sa.limits
        if _reached(item.bytes, limits.hard_bytes) or _reached(item.packets, limits.hard_packets):
            del self._sas[item.sa.id]
            self.on_expired(item.sa.id, True)
            return False
        if not item.dying and (_reached(item.bytes, limits.soft_bytes) or _reached(item.packets, limits.soft_packets)):
            item.dying = True
            self.on_expired(item.sa.id, False)
        return True

    def _expire(self) -> None:
        now = self._wall_s()
        for sa_id, item in tuple(self._sas.items()):
            if now >= item.added_s + item.sa.hard_lifetime_s:
                del self._sas[sa_id]
                self.on_expired(sa_id, True)


def _reached(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


def seal(sa: SecurityAssociation, sequence: int, udp: bytes) -> WirePacket:
    """An ESP packet of this SA around a UDP packet, as anybody with the key could make it."""
    assert sa.key is not None
    iv = struct.pack(">Q", sequence)
    aad = struct.pack(">IQ", sa.spi, sequence)
    sealed = AESGCM(sa.key[:32]).encrypt(sa.key[32:] + iv, udp + bytes([PROTO_UDP]), aad)
    payload = struct.pack(">II", sa.spi, sequence & 0xFFFFFFFF) + iv + sealed
    return WirePacket(source=sa.source, destination=sa.destination, protocol=PROTO_ESP, payload=payload)


def unseal(item: InstalledSa, packet: WirePacket) -> bytes | str:
    """The UDP packet inside, or the name of the counter of /proc/net/xfrm_stat that says why there is none."""
    sequence = struct.unpack_from(">Q", packet.payload, 8)[0]
    if sequence == 0 or sequence in item.seen or sequence + _REPLAY_WINDOW <= item.highest:
        return "XfrmInStateSeqError"
    assert item.sa.key is not None
    aad = struct.pack(">IQ", item.sa.spi, sequence)
    try:
        plain = AESGCM(item.sa.key[:32]).decrypt(item.sa.key[32:] + packet.payload[8:16], packet.payload[16:], aad)
    except InvalidTag:
        return "XfrmInStateProtoError"
    if plain[-1] != PROTO_UDP or packet.source != item.sa.source:
        return "XfrmInStateProtoError"
    item.highest = max(item.highest, sequence)
    item.seen = {number for number in (*item.seen, sequence) if number + _REPLAY_WINDOW > item.highest}
    item.packets += 1
    item.bytes += len(plain) - 1
    return plain[:-1]
