"""The parts of SAs and policies as plain values: what callers hand in and get back.

Nothing here knows netlink. Addresses are `ipaddress` objects; selectors hold an interface object (address with prefix
length) rather than a network, because the kernel compares selectors byte by byte, host bits included. What the kernel
reports but nobody can ask for (usage, replay counters) does not take part in comparisons, and keys neither: a value
that was read back equals the one that was installed if the kernel did what it was asked.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface

from .constants import ESN_WINDOW_MAX, SEC_CTX_MAX
from .errors import invalid

Address = IPv4Address | IPv6Address
Prefix = IPv4Interface | IPv6Interface

ALGORITHM_NAME_MAX = 63
"""Bytes, without the NUL (struct xfrm_algo)."""
_ANY = {4: ip_interface("0.0.0.0/0"), 6: ip_interface("::/0")}


def in_range(what: str, name: str, value: int, last: int) -> None:
    """Raise XfrmError unless `value` is in 0..last."""
    if not 0 <= value <= last:
        raise invalid(what, f"{name} must be 0..{last:#x}, is {value}")


def check_context(what: str, context: str | None) -> None:
    """Raise XfrmError unless `context` is None or fits into XFRMA_SEC_CTX."""
    if context is None:
        return
    if not context or "\0" in context:
        raise invalid(what, "a security context may not be empty nor contain NUL")
    if len(context.encode()) + 1 > SEC_CTX_MAX:
        raise invalid(what, f"a security context may have at most {SEC_CTX_MAX - 1} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMatch:
    """A port (or ICMP type or code) under a mask; matches p where p & mask == port & mask."""

    port: int
    mask: int = 0xFFFF

    def __post_init__(self) -> None:
        in_range("port", "port", self.port, 0xFFFF)
        in_range("port", "mask", self.mask, 0xFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which packets: struct xfrm_selector. `protocol` 0 is any; a port that is None is any. Both prefixes are of one
    family, which may be `Selector.any(4)`'s "0.0.0.0/0"."""

    source: Prefix
    destination: Prefix
    protocol: int = 0
    source_port: PortMatch | None = None
    destination_port: PortMatch | None = None
    interface_index: int = 0
    user: int = 0

    def __post_init__(self) -> None:
        if self.source.version != self.destination.version:
            raise invalid("selector", f"{self.source} and {self.destination} are of different families")
        in_range("selector", "protocol", self.protocol, 0xFF)
        in_range("selector", "interface index", self.interface_index, 2**31 - 1)
        in_range("selector", "user", self.user, 2**32 - 1)

    @classmethod
    def any(cls, version: int) -> "Selector":
        """Every packet of IPv4 (4) or IPv6 (6)."""
        return _any_selector(version)

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.source.version

    def __str__(self) -> str:
        def port(match: PortMatch | None) -> str:
            return "" if match is None else f" port {match.port:#x}/{match.mask:#x}"

        return (
            f"{self.source}{port(self.source_port)} to {self.destination}{port(self.destination_port)}"
            f" proto {self.protocol}"
        )


@lru_cache
def _any_selector(version: int) -> Selector:
    return Selector(source=_ANY[version], destination=_ANY[version])


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """Limits of an SA or policy; None is no limit. `add` counts seconds of wall-clock time since it was added (an
    update does not restart it), `use` since its first use. At a soft limit the kernel only tells (EXPIRE)."""

    soft_bytes: int | None = None
    hard_bytes: int | None = None
    soft_packets: int | None = None
    hard_packets: int | None = None
    soft_add_s: int | None = None
    hard_add_s: int | None = None
    soft_use_s: int | None = None
    hard_use_s: int | None = None

    def __post_init__(self) -> None:
        for name in ("soft_bytes", "hard_bytes", "soft_packets", "hard_packets"):
            value = getattr(self, name)
            if value is not None:
                in_range("lifetime", name, value, 2**64 - 2)
        for name in ("soft_add_s", "hard_add_s", "soft_use_s", "hard_use_s"):
            value = getattr(self, name)
            # 0 on the wire means "no limit": asking for it would silently give the opposite of the least lifetime.
            if value is not None and not 1 <= value <= 2**64 - 1:
                raise invalid("lifetime", f"{name} must be 1 or more seconds, is {value}")


UNLIMITED = Lifetime()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What passed so far: struct xfrm_lifetime_cur. Times are seconds since the epoch, 0 for never."""

    bytes: int = 0
    packets: int = 0
    add_time: int = 0
    use_time: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Sequence numbers of an SA, 64 bits with ESN. `bitmap`: the words that say which packets of the window came; bit
    (number - 1) % window with ESN or a window of more than 32, else bit 0 is the last one; () is none yet."""

    sent: int = 0
    received: int = 0
    bitmap: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        in_range("replay", "sent", self.sent, 2**64 - 1)
        in_range("replay", "received", self.received, 2**64 - 1)
        if not self.bitmap:
            return
        if len(self.bitmap) > ESN_WINDOW_MAX // 32 or min(self.bitmap) < 0 or max(self.bitmap) >= 2**32:
            raise invalid("replay", f"a bitmap has at most {ESN_WINDOW_MAX // 32} words of 32 bits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drops:
    """Packets that an SA refused: struct xfrm_stats, counted since it was added."""

    outside_window: int = 0
    replayed: int = 0
    wrong_icv: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """struct xfrm_mark."""

    value: int
    mask: int = 0xFFFFFFFF

    def __post_init__(self) -> None:
        in_range("mark", "value", self.value, 0xFFFFFFFF)
        in_range("mark", "mask", self.mask, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressFilter:
    """Which SAs a dump is to tell: those between addresses of both prefixes, which are of one family."""

    source: Prefix
    destination: Prefix

    def __post_init__(self) -> None:
        if self.source.version != self.destination.version:
            raise invalid("address filter", f"{self.source} and {self.destination} are of different families")


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """An algorithm with its key: for AEAD the key includes the salt (RFC 4106: the last 4 bytes).

    `icv_bits`: length of the integrity check value, for AEAD and auth. `key_bits` follows from the key. What is read
    from the kernel has `key_bits` but never a key.
    """

    name: str
    key: bytes = field(default=b"", repr=False, compare=False)
    icv_bits: int = 0
    key_bits: int = -1

    def __post_init__(self) -> None:
        if self.key_bits < 0 or self.key:
            object.__setattr__(self, "key_bits", len(self.key) * 8)
        if not 0 < len(self.name.encode()) <= ALGORITHM_NAME_MAX or "\0" in self.name:
            raise invalid("algorithm", f"a name has 1..63 bytes and no NUL, found {self.name!r}")
        in_range("algorithm", "icv_bits", self.icv_bits, 4096)
        in_range("algorithm", "key_bits", self.key_bits, 2**20)


def aes_gcm(key: bytes) -> Algorithm:
    """rfc4106(gcm(aes)) with a 16-byte ICV; `key` is 16, 24 or 32 bytes and 4 of salt."""
    if len(key) not in (20, 28, 36):
        raise invalid("algorithm", f"rfc4106(gcm(aes)) takes a key of 20, 28 or 36 bytes, found {len(key)} bytes")
    return Algorithm(name="rfc4106(gcm(aes))", key=key, icv_bits=128)
