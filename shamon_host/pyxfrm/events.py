"""What the kernel tells of its own accord, as plain values (multicast groups ACQUIRE, EXPIRE, SA, POLICY)."""

from dataclasses import dataclass, replace

from .association import SaId, SecurityAssociation
from .attributes import attributes, unpack_security_context
from .constants import Attribute, Message
from .errors import malformed
from .framing import Frame
from .policy import Policy, PolicyId
from .policy_codec import decode_policy, decode_policy_id
from .sa_codec import decode_sa, decode_sa_id
from .structs import (
    ACQUIRE_SIZE,
    ACQUIRE_TAIL,
    HARD,
    ID,
    SELECTOR,
    USER_TMPL,
    USERPOLICY_ID_SIZE,
    USERPOLICY_INFO_SIZE,
    USERSA_INFO_SIZE,
    family_of,
    unpack_address,
    unpack_selector,
)
from .values import Address, Selector


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquire:
    """A packet matched an out-policy and no SA was there for it (XFRM_MSG_ACQUIRE).

    `selector` describes the packet: full addresses, protocol, ports. `security_context` is that of the packet's socket,
    None without SELinux. `policy` is the one that matched; its own security context is not told. An SA that answers
    carries `sequence`. Told once: then the kernel waits net.core.xfrm_acq_expires seconds before it tells again.
    """

    source: Address
    destination: Address
    protocol: int
    selector: Selector
    policy: Policy
    sequence: int
    security_context: str | None


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
    sa_id: SaId


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
    """Every policy was deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Something was told and could not be kept (receive buffer full) or understood: read the kernel anew."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """A message that has no class here, such as XFRM_MSG_MAPPING."""

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
    | Lost
    | Other
)


def decode_event(frame: Frame) -> Event:
    """Raises XfrmError for a message that cannot be understood whole."""
    body = frame.body
    match frame.type:
        case Message.ACQUIRE:
            return _decode_acquire(body)
        case Message.EXPIRE:
            offset = USERSA_INFO_SIZE + HARD.size
            return Expire(sa=decode_sa(body, offset), hard=bool(body[USERSA_INFO_SIZE]))
        case Message.POLEXPIRE:
            offset = USERPOLICY_INFO_SIZE + HARD.size
            return PolicyExpire(policy=decode_policy(body, offset), hard=bool(body[USERPOLICY_INFO_SIZE]))
        case Message.NEWSA | Message.UPDSA:
            return SaChanged(sa=decode_sa(body), updated=frame.type == Message.UPDSA)
        case Message.DELSA:
            return SaDeleted(sa_id=decode_sa_id(body))
        case Message.FLUSHSA:
            if len(body) < 1:
                raise malformed("read a flush of SAs", "empty")
            return SasFlushed(protocol=body[0])
        case Message.NEWPOLICY | Message.UPDPOLICY:
            return PolicyChanged(policy=decode_policy(body), updated=frame.type == Message.UPDPOLICY)
        case Message.DELPOLICY:
            return _decode_policy_deleted(body)
        case Message.FLUSHPOLICY:
            return PoliciesFlushed()
        case other:
            return Other(type=other)


def _decode_acquire(body: bytes) -> Acquire:
    if len(body) < ACQUIRE_SIZE:
        raise malformed("read an ACQUIRE", f"{len(body)} of {ACQUIRE_SIZE} bytes")
    daddr, _spi, protocol = ID.unpack_from(body)
    saddr = body[ID.size : ID.size + 16]
    selector_at = ID.size + 16
    selector = unpack_selector(body, selector_at)
    if selector is None:
        raise malformed("read an ACQUIRE", "its selector has no address family")
    _aalgos, _ealgos, _calgos, sequence = ACQUIRE_TAIL.unpack_from(body, ACQUIRE_SIZE - ACQUIRE_TAIL.size)
    found = attributes(body, ACQUIRE_SIZE)
    # The SA's addresses are of the template's family, which in tunnel mode may differ from the packet's.
    family = family_of(selector.version)
    if len(templates := found.get(Attribute.TMPL, b"")) >= USER_TMPL.size:
        family = USER_TMPL.unpack_from(templates)[3] or family
    policy = decode_policy(body, ACQUIRE_SIZE, start=selector_at + SELECTOR.size)
    return Acquire(
        source=unpack_address(saddr, family),
        destination=unpack_address(daddr, family),
        protocol=protocol,
        selector=selector,
        # The context in the attributes is the wanted SA's.
        policy=replace(policy, security_context=None),
        sequence=sequence,
        security_context=(unpack_security_context(found[Attribute.SEC_CTX]) if Attribute.SEC_CTX in found else None),
    )


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
