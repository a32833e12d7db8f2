"""What the kernel tells of its own accord, as plain values: one class for each kind of notification."""

from dataclasses import dataclass, field

from .acquire import Acquire, decode_acquire
from .association import SaId, SecurityAssociation
from .async_event import AsyncEvent, decode_async_event
from .attributes import attributes, unpack_policy_type
from .constants import Attribute, Message, PolicyType
from .databases import DefaultPolicy, decode_default_policy
from .errors import malformed
from .framing import Frame
from .migration import Migration, decode_migration
from .policy import Policy, PolicyId
from .policy_codec import decode_policy, decode_policy_id
from .sa_decode import decode_deleted_sa, decode_sa, decode_sa_id
from .structs import (
    HARD,
    MAPPING_SIZE,
    MAPPING_TAIL,
    REPORT_HEAD,
    REPORT_SIZE,
    USERPOLICY_ID_SIZE,
    USERPOLICY_INFO_SIZE,
    USERSA_ID,
    USERSA_INFO_SIZE,
    family_of,
    unpack_address,
    unpack_selector,
)
from .values import Address, Selector


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire:
    """An SA reached a limit (XFRM_MSG_EXPIRE): `hard`, and it is gone, or soft."""

    sa: SecurityAssociation
    hard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyExpire:
    """A policy reached a limit (XFRM_MSG_POLEXPIRE)."""

    policy: Policy
    hard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SaChanged:
    """An SA was added, or given other limits (`updated`), by whomever."""

    sa: SecurityAssociation
    updated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SaDeleted:
    """An SA was deleted. `sa` is what it was, as far as it is told."""

    sa_id: SaId
    sa: SecurityAssociation | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SasFlushed:
    """Every SA of the protocol was deleted (0: of all protocols)."""

    protocol: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChanged:
    """A policy was added, or put in the place of another (`updated`)."""

    policy: Policy
    updated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDeleted:
    """`policy` is what was deleted, `policy_id` how it was named."""

    policy_id: PolicyId
    policy: Policy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoliciesFlushed:
    """Every policy of the type was deleted."""

    type: PolicyType = PolicyType.MAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultPolicyChanged:
    """What becomes of packets that no policy matches is now this."""

    default: DefaultPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class SaProgressed:
    """An SA has sent or received so much, or its numbers were set (XFRM_MSG_NEWAE)."""

    event: AsyncEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """SAs and a policy moved to other addresses (XFRM_MSG_MIGRATE)."""

    migration: Migration


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """Packets of an SA with encapsulation come from elsewhere now: a NAT changed its mind (XFRM_MSG_MAPPING)."""

    sa_id: SaId
    reqid: int
    old_source: Address
    old_port: int
    new_source: Address
    new_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A packet of Mobile IPv6 was refused (XFRM_MSG_REPORT). `address` is its care-of address."""

    protocol: int
    selector: Selector | None
    address: Address | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Something was told and could not be kept (receive buffer full) or understood: read the kernel anew."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """A message that has no class here: of a newer kernel."""

    type: int


Event = (
    Acquire
    | Expire
    | PolicyExpire
    | SaChanged
    | SaDeleted
    | SasFlushed
    | PolicyChanged
    | PolicyDeleted
    | PoliciesFlushed
    | DefaultPolicyChanged
    | SaProgressed
    | Migrated
    | Mapped
    | Reported
    | Lost
    | Other
)


def decode_event(frame: Frame) -> Event:
    """Raises XfrmError for a message that cannot be understood whole."""
    try:
        return _decode_event(frame.type, frame.body)
    except ValueError as error:
        raise malformed(f"read message {frame.type:#x}", str(error)) from None


def _decode_event(kind: int, body: bytes) -> Event:
    match kind:
        case Message.ACQUIRE:
            return decode_acquire(body)
        case Message.EXPIRE:
            offset = USERSA_INFO_SIZE + HARD.size
            return Expire(sa=decode_sa(body, offset), hard=bool(body[USERSA_INFO_SIZE]))
        case Message.POLEXPIRE:
            offset = USERPOLICY_INFO_SIZE + HARD.size
            return PolicyExpire(policy=decode_policy(body, offset), hard=bool(body[USERPOLICY_INFO_SIZE]))
        case Message.NEWSA | Message.UPDSA:
            return SaChanged(sa=decode_sa(body), updated=kind == Message.UPDSA)
        case Message.DELSA:
            return SaDeleted(sa_id=decode_sa_id(body), sa=decode_deleted_sa(body))
        case Message.FLUSHSA:
            if len(body) < 1:
                raise malformed("read a flush of SAs", "empty")
            return SasFlushed(protocol=body[0])
        case Message.NEWPOLICY | Message.UPDPOLICY:
            return PolicyChanged(policy=decode_policy(body), updated=kind == Message.UPDPOLICY)
        case Message.DELPOLICY:
            return _decode_policy_deleted(body)
        case Message.FLUSHPOLICY:
            return PoliciesFlushed(type=unpack_policy_type(attributes(body, 0)))
        case _:
            return _decode_rarer(kind, body)


def _decode_rarer(kind: int, body: bytes) -> Event:
    match kind:
        case Message.GETDEFAULT | Message.SETDEFAULT:
            return DefaultPolicyChanged(default=decode_default_policy(body))
        case Message.NEWAE:
            return SaProgressed(event=decode_async_event(body))
        case Message.MIGRATE:
            return Migrated(migration=decode_migration(body))
        case Message.MAPPING:
            return _decode_mapping(body)
        case Message.REPORT:
            return _decode_report(body)
        case other:
            return Other(type=other)


def _decode_policy_deleted(body: bytes) -> PolicyDeleted:
    if len(body) < USERPOLICY_ID_SIZE:
        raise malformed("read a deleted policy", f"{len(body)} of {USERPOLICY_ID_SIZE} bytes")
    # The fixed part comes as an attribute, the policy's own attributes stand beside it (xfrm_notify_policy).
    fixed_part = attributes(body, USERPOLICY_ID_SIZE).get(Attribute.POLICY)
    return PolicyDeleted(
        policy_id=decode_policy_id(body),
        policy=None
        if fixed_part is None
        else decode_policy(fixed_part[:USERPOLICY_INFO_SIZE] + body[USERPOLICY_ID_SIZE:]),
    )


def _decode_mapping(body: bytes) -> Mapped:
    if len(body) < MAPPING_SIZE:
        raise malformed("read a MAPPING", f"{len(body)} of {MAPPING_SIZE} bytes")
    daddr, spi, family, protocol = USERSA_ID.unpack_from(body)
    reqid, old_saddr, new_saddr, old_port, new_port = MAPPING_TAIL.unpack_from(body, USERSA_ID.size)
    return Mapped(
        sa_id=SaId(destination=unpack_address(daddr, family), spi=int.from_bytes(spi, "big"), protocol=protocol),
        reqid=reqid,
        old_source=unpack_address(old_saddr, family),
        old_port=int.from_bytes(old_port, "big"),
        new_source=unpack_address(new_saddr, family),
        new_port=int.from_bytes(new_port, "big"),
    )


def _decode_report(body: bytes) -> Reported:
    if len(body) < REPORT_SIZE:
        raise malformed("read a REPORT", f"{len(body)} of {REPORT_SIZE} bytes")
    (protocol,) = REPORT_HEAD.unpack_from(body)
    selector = unpack_selector(body, REPORT_HEAD.size)
    address = None
    payload = attributes(body, REPORT_SIZE).get(Attribute.COADDR)
    if payload is not None and selector is not None and len(payload) >= 16:
        address = unpack_address(payload[:16], family_of(selector.version))
    return Reported(protocol=protocol, selector=selector, address=address)
