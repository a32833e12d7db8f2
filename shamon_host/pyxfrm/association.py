"""Security associations as plain values (RFC 4301, section 4.4.2)."""

from dataclasses import dataclass, field

from .constants import ESN_WINDOW_MAX, PROTO_ESP, Mode, SaFlag
from .errors import invalid
from .values import UNLIMITED, Address, Algorithm, Lifetime, Mark, Replay, Selector, Usage, check_context, in_range


@dataclass(frozen=True, slots=True, kw_only=True)
class SaId:
    """What the kernel finds an SA by. `spi` in host byte order."""

    destination: Address
    spi: int
    protocol: int = PROTO_ESP
    mark: Mark | None = None

    def __post_init__(self) -> None:
        in_range("SA id", "SPI", self.spi, 2**32 - 1)
        in_range("SA id", "protocol", self.protocol, 0xFF)

    def __str__(self) -> str:
        return f"to {self.destination} proto {self.protocol} spi {self.spi:#010x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityAssociation:
    """One SA, in one direction: struct xfrm_usersa_info and its attributes.

    `selector` None: any packet of the SA's family. `replay_window` in packets; ESN (SaFlag.ESN) needs at least 1.
    `unmodelled`: numbers of attributes found in the kernel that this class has no field for (an SA with UDP
    encapsulation, hardware offload and the like), so that it never equals one that was asked for here.
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
    extra_flags: int = 0
    replay_window: int = 0
    lifetime: Lifetime = UNLIMITED
    security_context: str | None = None
    mark: Mark | None = None
    interface_id: int = 0
    unmodelled: frozenset[int] = frozenset()
    sequence: int = field(default=0, compare=False)
    """Number of the ACQUIRE that this SA answers, else 0; not a packet number."""
    usage: Usage | None = field(default=None, compare=False)
    replay: Replay | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.source.version != self.destination.version:
            raise invalid("SA", f"{self.source} and {self.destination} are of different families")
        in_range("SA", "SPI", self.spi, 2**32 - 1)
        in_range("SA", "protocol", self.protocol, 0xFF)
        in_range("SA", "reqid", self.reqid, 2**32 - 1)
        in_range("SA", "extra flags", self.extra_flags, 2**32 - 1)
        in_range("SA", "replay window", self.replay_window, ESN_WINDOW_MAX)
        in_range("SA", "interface id", self.interface_id, 2**32 - 1)
        in_range("SA", "sequence", self.sequence, 2**32 - 1)
        check_context("SA", self.security_context)

    @property
    def id(self) -> SaId:
        return SaId(destination=self.destination, spi=self.spi, protocol=self.protocol, mark=self.mark)

    @property
    def larval(self) -> bool:
        """True for a placeholder without keys: an SPI that was allocated, or the kernel waiting after an ACQUIRE."""
        return self.aead is None and self.auth is None and self.cipher is None and self.compression is None
