"""`Xfrm`: the kernel's SAD and SPD, read and written.

Every call blocks until the kernel has answered, which takes microseconds, and raises XfrmError. Nothing is checked
beyond what the kernel checks: with SELinux off it drops a security context without a word, so read back what matters.
"""

import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from .association import SaId, SecurityAssociation
from .attributes import attributes, fixed, pack_policy_type
from .constants import (
    PROTO_ALL,
    PROTO_ESP,
    XFRMA_SAD_CNT,
    XFRMA_SPD_INFO,
    DefaultAction,
    Message,
    Mode,
    PolicyType,
)
from .errors import XfrmError, invalid, malformed
from .policy import Policy, PolicyId
from .policy_codec import decode_policy, encode_policy, encode_policy_id
from .sa_codec import decode_sa, encode_alloc_spi, encode_flush, encode_renewal, encode_sa, encode_sa_id
from .structs import SPD_INFO, U32, USERPOLICY_DEFAULT
from .transport import Channel
from .values import Address, Lifetime

_Id = TypeVar("_Id", SaId, PolicyId)

SPI_MIN = 0x100
"""SPIs below are reserved (RFC 4303, section 2.1)."""
SPI_MAX = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many there are: SAs, and policies by direction; `socket_policies` of single sockets."""

    sas: int
    policies_in: int
    policies_out: int
    policies_fwd: int
    socket_policies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultPolicy:
    """What happens to packets that no policy matches."""

    incoming: DefaultAction
    forwarded: DefaultAction
    outgoing: DefaultAction


class Xfrm:
    """One netlink socket for requests. May be shared between threads; close it, or use it in `with`.

    `netns`: name (of `ip netns`) or path of a network namespace, None for the process's own. Raises XfrmError:
    EPROTONOSUPPORT if the kernel has no XFRM_USER, ENOENT if there is no such namespace. Calls raise EPERM without
    CAP_NET_ADMIN.
    """

    def __init__(self, *, netns: str | None = None) -> None:
        self._channel = Channel(netns=netns)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket. What it added stays in the kernel."""
        self._channel.close()

    # SAs

    def add_sa(self, sa: SecurityAssociation) -> None:
        """Add a new SA. EEXIST if one has its address, protocol and SPI, also a larval one: see `allocate_spi`."""
        self._channel.request(Message.NEWSA, encode_sa(sa), operation=f"add SA {sa.id}")

    def update_sa(self, sa: SecurityAssociation) -> None:
        """Give an SA new limits, or a larval one its keys. ESRCH if there is none.

        The whole SA must be given, key included, but of one that is in use the kernel takes over little more than the
        lifetime: keys, security context and sequence numbers stay (xfrm_state_update). To change
        only limits, `renew_sa` is simpler.
        """
        self._channel.request(Message.UPDSA, encode_sa(sa), operation=f"update SA {sa.id}")

    def renew_sa(self, sa_id: SaId, lifetime: Lifetime) -> None:
        """Give an SA in use other limits, without having its key at hand. Hard limits in time count from when the SA
        was added, not from now. ESRCH if there is none, ENOKEY for a larval one."""
        operation = f"renew SA {sa_id}"
        body = self._ask(Message.GETSA, encode_sa_id(sa_id), operation)
        if decode_sa(body).larval:
            raise XfrmError(operation=operation, errno=errno.ENOKEY, detail="it has no keys yet")
        self._channel.request(Message.UPDSA, encode_renewal(body, lifetime), operation=operation)

    def delete_sa(self, sa_id: SaId) -> None:
        """ESRCH if there is none."""
        self._channel.request(Message.DELSA, encode_sa_id(sa_id), operation=f"delete SA {sa_id}")

    def delete_sas(self, sa_ids: Iterable[SaId]) -> dict[SaId, XfrmError]:
        """Delete many in one go, as fast as the kernel takes them. Returns those that were there and could not be
        deleted, with the reason: one that is gone already is no failure, and one that fails does not stop the rest."""
        wanted = list(dict.fromkeys(sa_ids))
        return self._failures(wanted, Message.DELSA, encode_sa_id, "delete SA")

    def get_sa(self, sa_id: SaId) -> SecurityAssociation:
        """The SA without its keys. ESRCH if there is none."""
        operation = f"get SA {sa_id}"
        return decode_sa(self._ask(Message.GETSA, encode_sa_id(sa_id), operation))

    def dump_sas(self, where: Callable[[SecurityAssociation], bool] | None = None) -> tuple[SecurityAssociation, ...]:
        """All SAs without their keys, larval ones too, or those that `where` picks."""
        sas = (decode_sa(frame.body) for frame in self._channel.dump(Message.GETSA, operation="dump SAs"))
        return tuple(sa for sa in sas if where is None or where(sa))

    def flush_sas(self, protocol: int = PROTO_ALL) -> None:
        """Delete every SA (of the protocol, if one is given) in the namespace. No error if there is none."""
        self._channel.request(Message.FLUSHSA, encode_flush(protocol), operation="flush SAs")

    def allocate_spi(
        self,
        *,
        source: Address,
        destination: Address,
        protocol: int = PROTO_ESP,
        mode: Mode = Mode.TRANSPORT,
        reqid: int = 0,
        first: int = SPI_MIN,
        last: int = SPI_MAX,
    ) -> SecurityAssociation:
        """Reserve a free SPI of first..last at `destination`. ENOENT if the kernel found none, in as many random tries
        as the range is wide; that leaves a larval SA without SPI behind, which expires.

        Returns the larval SA that holds it. It goes away by itself after net.core.xfrm_acq_expires seconds. It is
        there, so keys are given to it by `update_sa`; `add_sa` says EEXIST.
        """
        operation = f"allocate an SPI {first:#x}..{last:#x} to {destination} proto {protocol}"
        if not 0 < first <= last <= SPI_MAX:
            raise invalid(operation, "not a range of SPIs")
        body = encode_alloc_spi(
            source=source, destination=destination, protocol=protocol, mode=mode, reqid=reqid, first=first, last=last
        )
        return decode_sa(self._ask(Message.ALLOCSPI, body, operation))

    # Policies

    def add_policy(self, policy: Policy) -> None:
        """Add a new policy. EEXIST if one has its selector, direction and security context."""
        self._channel.request(Message.NEWPOLICY, encode_policy(policy), operation=f"add policy {policy.id}")

    def update_policy(self, policy: Policy) -> None:
        """Add a policy, or put it in the place of the one with its selector, direction and security context."""
        self._channel.request(Message.UPDPOLICY, encode_policy(policy), operation=f"update policy {policy.id}")

    def delete_policy(self, policy_id: PolicyId) -> None:
        """ENOENT if there is none."""
        self._channel.request(Message.DELPOLICY, encode_policy_id(policy_id), operation=f"delete policy {policy_id}")

    def delete_policies(self, policy_ids: Iterable[PolicyId]) -> dict[PolicyId, XfrmError]:
        """As `delete_sas`."""
        wanted = list(dict.fromkeys(policy_ids))
        return self._failures(wanted, Message.DELPOLICY, encode_policy_id, "delete policy")

    def get_policy(self, policy_id: PolicyId) -> Policy:
        """ENOENT if there is none."""
        operation = f"get policy {policy_id}"
        return decode_policy(self._ask(Message.GETPOLICY, encode_policy_id(policy_id), operation))

    def dump_policies(self, where: Callable[[Policy], bool] | None = None) -> tuple[Policy, ...]:
        """All policies, also those of single sockets (Direction.SOCKET_*), or those that `where` picks."""
        frames = self._channel.dump(Message.GETPOLICY, operation="dump policies")
        policies = (decode_policy(frame.body) for frame in frames)
        return tuple(policy for policy in policies if where is None or where(policy))

    def flush_policies(self, kind: PolicyType = PolicyType.MAIN) -> None:
        """Delete every policy in the namespace, except those of single sockets."""
        self._channel.request(Message.FLUSHPOLICY, pack_policy_type(kind), operation="flush policies")

    # The whole

    def counts(self) -> Counts:
        """How many SAs and policies there are, without reading them."""
        sad = self._info(Message.GETSADINFO, XFRMA_SAD_CNT, "count SAs")
        spd = self._info(Message.GETSPDINFO, XFRMA_SPD_INFO, "count policies")
        incoming, outgoing, forwarded, *of_sockets = fixed(SPD_INFO, XFRMA_SPD_INFO, spd)
        return Counts(
            sas=fixed(U32, XFRMA_SAD_CNT, sad)[0],
            policies_in=incoming,
            policies_out=outgoing,
            policies_fwd=forwarded,
            socket_policies=sum(of_sockets),
        )

    def default_policy(self) -> DefaultPolicy:
        """What happens to packets that no policy matches (Linux 5.15 and later; EINVAL before)."""
        operation = "get the default policy"
        body = self._ask(Message.GETDEFAULT, bytes(USERPOLICY_DEFAULT.size), operation)
        if len(body) < USERPOLICY_DEFAULT.size:
            raise malformed(operation, f"{len(body)} bytes")
        incoming, forwarded, outgoing = (DefaultAction(value) for value in USERPOLICY_DEFAULT.unpack_from(body))
        return DefaultPolicy(incoming=incoming, forwarded=forwarded, outgoing=outgoing)

    def _info(self, kind: Message, attribute: int, operation: str) -> bytes:
        body = self._ask(kind, U32.pack(0xFFFFFFFF), operation)
        found = attributes(body, U32.size)
        if attribute not in found:
            raise malformed(operation, "the answer has no count")
        return found[attribute]

    def _failures(
        self, wanted: Sequence[_Id], kind: Message, encode: Callable[[_Id], bytes], verb: str
    ) -> dict[_Id, XfrmError]:
        outcomes = self._channel.batch([(kind, encode(one), f"{verb} {one}") for one in wanted])
        return {
            one: error
            for one, error in zip(wanted, outcomes, strict=True)
            if error is not None and error.errno not in (errno.ESRCH, errno.ENOENT)
        }

    def _ask(self, kind: Message, body: bytes, operation: str) -> bytes:
        """The body of the one answer."""
        frames = self._channel.request(kind, body, operation=operation)
        if len(frames) != 1:
            raise malformed(operation, f"{len(frames)} answers instead of one")
        return frames[0].body
