"""Each request to the kernel as a value: what is sent, what the answer means, and in words what it was to do.

`Xfrm` and `AsyncXfrm` send them one by one, `Batch` gathers those that change something. Pure.
"""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .acquire import Acquire, encode_acquire
from .association import SaId, SecurityAssociation
from .async_event import AsyncEvent, decode_async_event, encode_async_event, encode_get_async_event
from .attributes import iterate_attributes, pack_policy_type
from .constants import PROTO_ALL, Attribute, Message, Mode, NetlinkFlag, PolicyType, SaDirection
from .databases import (
    DefaultPolicy,
    HashThreshold,
    SadInfo,
    SpdInfo,
    decode_default_policy,
    decode_sad_info,
    decode_spd_info,
    encode_default_policy,
    encode_info_request,
    encode_thresholds,
)
from .errors import XfrmError, invalid, malformed
from .framing import HEADER, Frame
from .migration import Migration, encode_migration
from .policy import Policy, PolicyId
from .policy_codec import decode_policy, encode_policy, encode_policy_expiry, encode_policy_id
from .sa_decode import decode_sa
from .sa_encode import (
    encode_alloc_spi,
    encode_flush,
    encode_renewal,
    encode_sa,
    encode_sa_expiry,
    encode_sa_filter,
    encode_sa_id,
)
from .structs import (
    ACQUIRE_SIZE,
    AEVENT_ID_SIZE,
    HARD,
    SPI_RANGE,
    USERPOLICY_ID_SIZE,
    USERPOLICY_INFO_SIZE,
    USERSA_ID,
    USERSA_INFO_SIZE,
)
from .values import Address, AddressFilter, Lifetime, Mark, in_range

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

SPI_MIN = 0x100
"""SPIs below are reserved (RFC 4303, section 2.1)."""
SPI_MAX = 0xFFFFFFFF
_HEADS = {
    Message.NEWSA: USERSA_INFO_SIZE,
    Message.UPDSA: USERSA_INFO_SIZE,
    Message.DELSA: USERSA_ID.size,
    Message.GETSA: USERSA_ID.size,
    Message.NEWPOLICY: USERPOLICY_INFO_SIZE,
    Message.UPDPOLICY: USERPOLICY_INFO_SIZE,
    Message.DELPOLICY: USERPOLICY_ID_SIZE,
    Message.GETPOLICY: USERPOLICY_ID_SIZE,
    Message.ALLOCSPI: USERSA_INFO_SIZE + SPI_RANGE.size,
    Message.ACQUIRE: ACQUIRE_SIZE,
    Message.EXPIRE: USERSA_INFO_SIZE + HARD.size,
    Message.POLEXPIRE: USERPOLICY_INFO_SIZE + HARD.size,
    Message.NEWAE: AEVENT_ID_SIZE,
    Message.GETAE: AEVENT_ID_SIZE,
    Message.MIGRATE: USERPOLICY_ID_SIZE,
}
"""Bytes of the fixed part, after which attributes of XFRMA_* follow."""


@dataclass(frozen=True, slots=True)
class Request(Generic[T_co]):
    """`body` may hold a key, so it never shows. `verb` and `subject` are put into words only when they are needed."""

    kind: Message
    body: bytes
    verb: str
    subject: object
    read: Callable[[bytes], T_co] | None = None
    """For the one answer; None if there is none but the ACK."""
    flags: int = 0

    def __repr__(self) -> str:
        return f"Request({self.operation}, {len(self.body)} bytes)"

    @property
    def operation(self) -> str:
        match self.subject:
            case None:
                return self.verb
            case SecurityAssociation(id=name) | Policy(id=name):
                return f"{self.verb} {name}"
            case name:
                return f"{self.verb} {name}"

    def result(self, answers: Sequence[Frame]) -> T_co:
        """What the frames before the ACK say. Raises XfrmError if they are not what was asked for."""
        if self.read is None:
            if answers:
                raise malformed(self.operation, f"{len(answers)} answers instead of none")
            return None  # type: ignore[return-value]  # T_co is None wherever nothing is read
        if len(answers) != 1:
            raise malformed(self.operation, f"{len(answers)} answers instead of one")
        return self.read(answers[0].body)

    def failed(self, error: XfrmError) -> XfrmError:
        """The kernel's refusal in this request's words, with the name of the attribute that it points at."""
        return XfrmError(
            operation=self.operation,
            errno=error.errno,
            detail=error.detail,
            offset=error.offset,
            attribute=None if error.offset is None else self._attribute_at(error.offset),
        )

    def _attribute_at(self, offset: int) -> str | None:
        place = _HEADS.get(self.kind)
        if place is None:
            return None
        for kind, payload in iterate_attributes(self.body, place):
            length = 4 + len(payload)
            if HEADER.size + place <= offset < HEADER.size + place + length:
                return Attribute(kind).name
            place += (length + 3) & ~3
        return None


def add_sa(sa: SecurityAssociation) -> Request[None]:
    return Request(Message.NEWSA, encode_sa(sa), "add SA", sa)


def update_sa(sa: SecurityAssociation) -> Request[None]:
    return Request(Message.UPDSA, encode_sa(sa), "update SA", sa)


def delete_sa(sa_id: SaId) -> Request[None]:
    return Request(Message.DELSA, encode_sa_id(sa_id), "delete SA", sa_id)


def get_sa(sa_id: SaId) -> Request[SecurityAssociation]:
    return Request(Message.GETSA, encode_sa_id(sa_id), "get SA", sa_id, decode_sa)


def get_sa_bytes(sa_id: SaId, verb: str) -> Request[bytes]:
    """The SA as the kernel tells it, keys included."""
    return Request(Message.GETSA, encode_sa_id(sa_id), verb, sa_id, lambda body: body)


def renewal(asked: Request[bytes], body: bytes, lifetime: Lifetime) -> Request[None]:
    """The same SA with other limits. Raises XfrmError ENOKEY if it is larval."""
    if decode_sa(body).larval:
        raise XfrmError(operation=asked.operation, errno=errno.ENOKEY, detail="it has no keys yet")
    return Request(Message.UPDSA, encode_renewal(body, lifetime), asked.verb, asked.subject)


def picked(request: Request[T], frames: Sequence[Frame], where: Callable[[T], bool] | None) -> tuple[T, ...]:
    """The objects of a dump, or those that `where` picks."""
    assert request.read is not None
    found = map(request.read, (frame.body for frame in frames))
    return tuple(found if where is None else filter(where, found))


def expire_sa(sa_id: SaId, *, hard: bool) -> Request[None]:
    return Request(Message.EXPIRE, encode_sa_expiry(sa_id, hard=hard), "expire SA", sa_id)


def acquire(wanted: Acquire) -> Request[None]:
    return Request(Message.ACQUIRE, encode_acquire(wanted), f"ask for an SA to {wanted.destination}", None)


def flush_sas(protocol: int) -> Request[None]:
    in_range("flush SAs", "protocol", protocol, 0xFF)
    return Request(Message.FLUSHSA, encode_flush(protocol), "flush SAs", None)


def dump_sas(protocol: int = PROTO_ALL, addresses: AddressFilter | None = None) -> Request[SecurityAssociation]:
    in_range("dump SAs", "protocol", protocol, 0xFF)
    return Request(Message.GETSA, encode_sa_filter(protocol, addresses), "dump SAs", None, decode_sa)


def allocate_spi(
    *,
    source: Address,
    destination: Address,
    protocol: int,
    mode: Mode,
    reqid: int,
    first: int,
    last: int,
    sequence: int,
    mark: Mark | None,
    interface_id: int,
    direction: SaDirection | None,
    cpu: int | None,
) -> Request[SecurityAssociation]:
    operation = f"allocate an SPI {first:#x}..{last:#x} to {destination} proto {protocol}"
    if not 0 < first <= last <= SPI_MAX:
        raise invalid(operation, "not a range of SPIs")
    in_range(operation, "interface id", interface_id, 2**32 - 1)
    body = encode_alloc_spi(
        source=source,
        destination=destination,
        protocol=protocol,
        mode=mode,
        reqid=reqid,
        first=first,
        last=last,
        sequence=sequence,
        mark=mark,
        interface_id=interface_id,
        direction=direction,
        cpu=cpu,
    )
    return Request(Message.ALLOCSPI, body, operation, None, decode_sa)


def get_async_event(sa_id: SaId) -> Request[AsyncEvent]:
    return Request(Message.GETAE, encode_get_async_event(sa_id), "get the numbers of SA", sa_id, decode_async_event)


def set_async_event(event: AsyncEvent) -> Request[None]:
    body = encode_async_event(event)
    return Request(Message.NEWAE, body, "set the numbers of SA", event.sa_id, flags=NetlinkFlag.REPLACE)


def add_policy(policy: Policy) -> Request[None]:
    return Request(Message.NEWPOLICY, encode_policy(policy), "add policy", policy)


def update_policy(policy: Policy) -> Request[None]:
    return Request(Message.UPDPOLICY, encode_policy(policy), "update policy", policy)


def delete_policy(policy_id: PolicyId) -> Request[None]:
    return Request(Message.DELPOLICY, encode_policy_id(policy_id), "delete policy", policy_id)


def get_policy(policy_id: PolicyId) -> Request[Policy]:
    return Request(Message.GETPOLICY, encode_policy_id(policy_id), "get policy", policy_id, decode_policy)


def expire_policy(policy_id: PolicyId, *, hard: bool) -> Request[None]:
    return Request(Message.POLEXPIRE, encode_policy_expiry(policy_id, hard=hard), "expire policy", policy_id)


def dump_policies() -> Request[Policy]:
    return Request(Message.GETPOLICY, b"", "dump policies", None, decode_policy)


def flush_policies(kind: PolicyType) -> Request[None]:
    return Request(Message.FLUSHPOLICY, pack_policy_type(kind), "flush policies", None)


def migrate(migration: Migration) -> Request[None]:
    return Request(Message.MIGRATE, encode_migration(migration), "migrate policy", migration.policy_id)


def sad_info() -> Request[SadInfo]:
    return Request(Message.GETSADINFO, encode_info_request(), "count SAs", None, decode_sad_info)


def spd_info() -> Request[SpdInfo]:
    return Request(Message.GETSPDINFO, encode_info_request(), "count policies", None, decode_spd_info)


def set_hash_thresholds(v4: HashThreshold | None, v6: HashThreshold | None) -> Request[None]:
    return Request(Message.NEWSPDINFO, encode_thresholds(v4, v6), "set hash thresholds", None)


def default_policy() -> Request[DefaultPolicy]:
    body = encode_default_policy()
    return Request(Message.GETDEFAULT, body, "get the default policy", None, decode_default_policy)


def set_default_policy(default: DefaultPolicy) -> Request[None]:
    return Request(Message.SETDEFAULT, encode_default_policy(default), "set the default policy", None)
