"""Security associations as plain values (RFC 4301, section 4.4.2)."""

from dataclasses import dataclass, field

from .constants import ESN_WINDOW_MAX, PROTO_DSTOPTS, PROTO_ESP, PROTO_ROUTING, ExtraFlag, Mode, SaDirection, SaFlag
from .errors import invalid
from .sa_options import Encapsulation, IpTfs, Offload
from .values import (
    UNLIMITED,
    Address,
    Algorithm,
    Drops,
    Lifetime,
    Mark,
    Replay,
    Selector,
    Usage,
    check_context,
    in_range,
)

_U32 = 2**32 - 1
_WITHOUT_SPI = (PROTO_ROUTING, PROTO_DSTOPTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SaId:
    """What the kernel finds an SA by. `spi` in host byte order. `source` is for the protocols of Mobile IPv6 alone,
    whose SAs have no SPI."""

    destination: Address
    spi: int
    protocol: int = PROTO_ESP
    mark: Mark | None = None
    source: Address | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.spi <= _U32 and 0 <= self.protocol <= 0xFF):
            in_range("SA id", "SPI", self.spi, _U32)
            in_range("SA id", "protocol", self.protocol, 0xFF)

    def __str__(self) -> str:
        return f"to {self.destination} proto {self.protocol} spi {self.spi:#010x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityAssociation:
    """One SA, in one direction: struct xfrm_usersa_info and its attributes.

    `selector` None: any packet of the SA's family. `replay_window` in packets; ESN (SaFlag.ESN) needs at least 1, but
    for an SA whose `direction` is OUT, which has none. `replay`: sequence numbers to go on from; an SA that was read
    goes on where it was. `mark`: which packets find it; `output_mark`: what its packets are marked with.
    `unmodelled`: numbers of attributes found in the kernel that this class has no field for (a newer kernel's), so that
    it never equals one that was asked for here.
    """

    source: Address
    destination: Address
    spi: int
    protocol: int = PROTO_ESP
    mode: Mode = Mode.TRANSPORT
    reqid: int = 0
    selector: Selector | None = None
    aead: Algorithm | None = None
    auth: Algorithm | None = None
    cipher: Algorithm | None = None
    compression: Algorithm | None = None
    flags: SaFlag = SaFlag.NONE
    extra_flags: ExtraFlag = ExtraFlag.NONE
    replay_window: int = 0
    lifetime: Lifetime = UNLIMITED
    security_context: str | None = None
    mark: Mark | None = None
    output_mark: Mark | None = None
    interface_id: int = 0
    direction: SaDirection | None = None
    encapsulation: Encapsulation | None = None
    care_of_address: Address | None = None
    offload: Offload | None = None
    tfc_padding: int = 0
    """Bytes that packets are padded to (RFC 4303, section 2.7); tunnel mode."""
    nat_keepalive_s: int = 0
    """Seconds between the kernel's NAT keepalives, 0 for none (Linux 6.11)."""
    mapping_threshold_s: int = 0
    """Least seconds between two MAPPING events, 0 for each change."""
    cpu: int | None = None
    """The CPU whose packets take this SA (Linux 6.13)."""
    iptfs: IpTfs | None = None
    unmodelled: frozenset[int] = frozenset()
    replay_threshold: int | None = field(default=None, compare=False)
    """Packets after which an AsyncEvent is told; None for net.core.xfrm_aevent_rseqth. Not in what is read."""
    timer_threshold: int | None = field(default=None, compare=False)
    """The same in time, in jiffies; the kernel reports tenths of a second (AsyncEvent). Not in what is read."""
    sequence: int = field(default=0, compare=False)
    """Number of the ACQUIRE that this SA answers, else 0; not a packet number."""
    replay: Replay | None = field(default=None, compare=False)
    usage: Usage | None = field(default=None, compare=False)
    drops: Drops | None = field(default=None, compare=False)
    last_used: int = field(default=0, compare=False)
    """Seconds since the epoch of the last packet of Mobile IPv6, else 0."""

    def __post_init__(self) -> None:
        if self.source.version != self.destination.version:
            raise invalid("SA", f"{self.source} and {self.destination} are of different families")
        for name, value, last in (
            ("SPI", self.spi, _U32),
            ("protocol", self.protocol, 0xFF),
            ("reqid", self.reqid, _U32),
            ("flags", self.flags, 0xFF),
            ("extra flags", self.extra_flags, _U32),
            ("replay window", self.replay_window, ESN_WINDOW_MAX),
            ("interface id", self.interface_id, _U32),
            ("TFC padding", self.tfc_padding, _U32),
            ("NAT keepalive", self.nat_keepalive_s, _U32),
            ("mapping threshold", self.mapping_threshold_s, _U32),
            ("CPU", self.cpu or 0, _U32),
            ("replay threshold", self.replay_threshold or 0, _U32),
            ("timer threshold", self.timer_threshold or 0, _U32),
            ("sequence", self.sequence, _U32),
        ):
            if not 0 <= value <= last:
                in_range("SA", name, value, last)
        check_context("SA", self.security_context)

    @property
    def id(self) -> SaId:
        return SaId(
            destination=self.destination,
            spi=self.spi,
            protocol=self.protocol,
            mark=self.mark,
            source=self.source if self.protocol in _WITHOUT_SPI else None,
        )

    @property
    def larval(self) -> bool:
        """True for a placeholder without keys: an SPI that was allocated, or the kernel waiting after an ACQUIRE."""
        return (
            self.aead is None
            and self.auth is None
            and self.cipher is None
            and self.compression is None
            and self.care_of_address is None
        )
