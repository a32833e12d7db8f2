"""Entries of the SPD as plain values (RFC 4301, section 4.4.1)."""

from dataclasses import dataclass, field

from .constants import ALL_ALGORITHMS, PROTO_ESP, Action, Direction, Mode, PolicyFlag, PolicyType
from .errors import invalid
from .sa_options import Offload
from .values import UNLIMITED, Address, Lifetime, Mark, Selector, Usage, check_context, in_range

TEMPLATES_MAX = 6
"""XFRM_MAX_DEPTH."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What SA a policy demands: struct xfrm_user_tmpl. An address that is None is any (transport mode)."""

    source: Address | None = None
    destination: Address | None = None
    spi: int = 0
    protocol: int = PROTO_ESP
    mode: Mode = Mode.TRANSPORT
    reqid: int = 0
    optional: bool = False
    share: int = 0
    auth_algorithms: int = ALL_ALGORITHMS
    cipher_algorithms: int = ALL_ALGORITHMS
    compression_algorithms: int = ALL_ALGORITHMS

    def __post_init__(self) -> None:
        versions = {address.version for address in (self.source, self.destination) if address is not None}
        if len(versions) > 1:
            raise invalid("template", f"{self.source} and {self.destination} are of different families")
        in_range("template", "SPI", self.spi, 2**32 - 1)
        in_range("template", "protocol", self.protocol, 0xFF)
        in_range("template", "reqid", self.reqid, 2**32 - 1)
        in_range("template", "share", self.share, 0xFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyId:
    """What the kernel finds a policy by: its index, or (index 0) selector and security context. The security context
    is compared byte by byte, so it must be the one that the policy was added with."""

    direction: Direction
    selector: Selector | None = None
    security_context: str | None = None
    index: int = 0
    type: PolicyType = PolicyType.MAIN
    mark: Mark | None = None
    interface_id: int = 0

    def __post_init__(self) -> None:
        if (self.selector is None) == (self.index == 0):
            raise invalid("policy id", "a policy is named by its selector, or else by its index")
        in_range("policy id", "index", self.index, 2**32 - 1)
        in_range("policy id", "interface id", self.interface_id, 2**32 - 1)
        check_context("policy id", self.security_context)

    def __str__(self) -> str:
        what = f"index {self.index}" if self.selector is None else str(self.selector)
        return f"dir {self.direction.name.lower()} {what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One SPD entry: struct xfrm_userpolicy_info and its attributes. A lower `priority` wins.

    A packet must fit the selector, then `mark` and `interface_id`; a policy of PolicyType.SUB is looked at before those
    of MAIN. `index` is the kernel's number for it, 0 until read back. `unmodelled` as in SecurityAssociation.
    """

    selector: Selector
    direction: Direction
    action: Action = Action.ALLOW
    priority: int = 0
    templates: tuple[Template, ...] = ()
    security_context: str | None = None
    lifetime: Lifetime = UNLIMITED
    flags: PolicyFlag = PolicyFlag.NONE
    share: int = 0
    type: PolicyType = PolicyType.MAIN
    mark: Mark | None = None
    interface_id: int = 0
    offload: Offload | None = None
    unmodelled: frozenset[int] = frozenset()
    index: int = field(default=0, compare=False)
    usage: Usage | None = field(default=None, compare=False)
    last_used: int = field(default=0, compare=False)
    """Seconds since the epoch of the last packet, for Mobile IPv6 alone, else 0."""

    def __post_init__(self) -> None:
        in_range("policy", "priority", self.priority, 2**32 - 1)
        in_range("policy", "index", self.index, 2**32 - 1)
        in_range("policy", "share", self.share, 0xFF)
        in_range("policy", "flags", self.flags, 0xFF)
        in_range("policy", "interface id", self.interface_id, 2**32 - 1)
        if len(self.templates) > TEMPLATES_MAX:
            raise invalid("policy", f"at most {TEMPLATES_MAX} templates, found {len(self.templates)}")
        check_context("policy", self.security_context)

    @property
    def id(self) -> PolicyId:
        """By selector, as others would name it."""
        return PolicyId(
            direction=self.direction,
            selector=self.selector,
            security_context=self.security_context,
            type=self.type,
            mark=self.mark,
            interface_id=self.interface_id,
        )

    @property
    def index_id(self) -> PolicyId:
        """By index: only for a policy that was read from the kernel."""
        return PolicyId(
            direction=self.direction,
            index=self.index,
            type=self.type,
            mark=self.mark,
            interface_id=self.interface_id,
        )
