"""`Xfrm`: the kernel's SAD and SPD, read and written.

Every call blocks until the kernel has answered, which takes microseconds, and raises XfrmError. Nothing is checked
beyond what the kernel checks: with SELinux off it drops a security context without a word, so read back what matters.
`AsyncXfrm` has the same methods for coroutines.
"""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from . import requests
from .acquire import Acquire
from .association import SaId, SecurityAssociation
from .async_event import AsyncEvent
from .batch import Batch, Outcomes, still_there
from .constants import PROTO_ALL, PROTO_ESP, Mode, PolicyType, SaDirection
from .databases import Counts, DefaultPolicy, HashThreshold, SadInfo, SpdInfo, counts_of
from .errors import XfrmError
from .migration import Migration
from .policy import Policy, PolicyId
from .requests import SPI_MAX, SPI_MIN
from .transport import Channel, Namespace
from .values import Address, AddressFilter, Lifetime, Mark


class Xfrm:
    """One netlink socket for requests. May be shared between threads; close it, or use it in `with`.

    `netns`: name (of `ip netns`), path or file descriptor of a network namespace, None for the process's own. Raises
    XfrmError: EPROTONOSUPPORT if the kernel has no XFRM_USER, ENOENT if there is no such namespace. Calls raise EPERM
    without CAP_NET_ADMIN.
    """

    def __init__(self, *, netns: Namespace = None) -> None:
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
        self._channel.call(requests.add_sa(sa))

    def update_sa(self, sa: SecurityAssociation) -> None:
        """Give an SA new limits, or a larval one its keys. ESRCH if there is none.

        The whole SA must be given, key included, but of one that is in use the kernel takes over little more than the
        lifetime: keys, security context and sequence numbers stay (xfrm_state_update). To change only limits,
        `renew_sa` is simpler.
        """
        self._channel.call(requests.update_sa(sa))

    def renew_sa(self, sa_id: SaId, lifetime: Lifetime) -> None:
        """Give an SA in use other limits, without having its key at hand. Hard limits in time count from when the SA
        was added, not from now. ESRCH if there is none, ENOKEY for a larval one."""
        asked = requests.get_sa_bytes(sa_id, "renew SA")
        self._channel.call(requests.renewal(asked, self._channel.call(asked), lifetime))

    def delete_sa(self, sa_id: SaId) -> None:
        """ESRCH if there is none."""
        self._channel.call(requests.delete_sa(sa_id))

    def delete_sas(self, sa_ids: Iterable[SaId]) -> dict[SaId, XfrmError]:
        """Delete many in one go, as fast as the kernel takes them. Returns those that were there and could not be
        deleted, with the reason: one that is gone already is no failure, and one that fails does not stop the rest."""
        wanted = list(dict.fromkeys(sa_ids))
        return still_there(wanted, self._channel.batch([requests.delete_sa(one) for one in wanted]))

    def get_sa(self, sa_id: SaId) -> SecurityAssociation:
        """The SA without its keys. ESRCH if there is none."""
        return self._channel.call(requests.get_sa(sa_id))

    def dump_sas(
        self,
        where: Callable[[SecurityAssociation], bool] | None = None,
        *,
        protocol: int = PROTO_ALL,
        addresses: AddressFilter | None = None,
    ) -> tuple[SecurityAssociation, ...]:
        """All SAs without their keys, larval ones too, or those that `where` picks. `protocol` and `addresses` are
        picked by the kernel already."""
        request = requests.dump_sas(protocol, addresses)
        return requests.picked(request, self._channel.dump(request), where)

    def flush_sas(self, protocol: int = PROTO_ALL) -> None:
        """Delete every SA (of the protocol, if one is given) in the namespace. No error if there is none."""
        self._channel.call(requests.flush_sas(protocol))

    def expire_sa(self, sa_id: SaId, *, hard: bool) -> None:
        """Tell all that an SA reached a limit, and with `hard` delete it. ENOENT if there is none, EINVAL for a
        larval one."""
        self._channel.call(requests.expire_sa(sa_id, hard=hard))

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
        sequence: int = 0,
        mark: Mark | None = None,
        interface_id: int = 0,
        direction: SaDirection | None = None,
        cpu: int | None = None,
    ) -> SecurityAssociation:
        """Reserve a free SPI of first..last at `destination`. ENOENT if the kernel found none, in as many random tries
        as the range is wide; that leaves a larval SA without SPI behind, which expires.

        Returns the larval SA that holds it; with the `sequence` of an ACQUIRE, the one that the kernel made then. It
        goes away by itself after net.core.xfrm_acq_expires seconds. It is there, so keys are given to it by
        `update_sa`; `add_sa` says EEXIST.
        """
        request = requests.allocate_spi(
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
        return self._channel.call(request)

    def get_async_event(self, sa_id: SaId) -> AsyncEvent:
        """An SA's sequence numbers, usage and thresholds of events. ESRCH if there is none."""
        return self._channel.call(requests.get_async_event(sa_id))

    def set_async_event(self, event: AsyncEvent) -> None:
        """Set those of an SA that has its keys. ESRCH if there is none, EINVAL for a bitmap of another length."""
        self._channel.call(requests.set_async_event(event))

    def acquire(self, wanted: Acquire) -> None:
        """Ask all key managers for an SA, as the kernel does; it gives the request a number of its own."""
        self._channel.call(requests.acquire(wanted))

    # Policies

    def add_policy(self, policy: Policy) -> None:
        """Add a new policy. EEXIST if one has its selector, direction and security context."""
        self._channel.call(requests.add_policy(policy))

    def update_policy(self, policy: Policy) -> None:
        """Add a policy, or put it in the place of the one with its selector, direction and security context."""
        self._channel.call(requests.update_policy(policy))

    def delete_policy(self, policy_id: PolicyId) -> None:
        """ENOENT if there is none."""
        self._channel.call(requests.delete_policy(policy_id))

    def delete_policies(self, policy_ids: Iterable[PolicyId]) -> dict[PolicyId, XfrmError]:
        """As `delete_sas`."""
        wanted = list(dict.fromkeys(policy_ids))
        return still_there(wanted, self._channel.batch([requests.delete_policy(one) for one in wanted]))

    def get_policy(self, policy_id: PolicyId) -> Policy:
        """ENOENT if there is none."""
        return self._channel.call(requests.get_policy(policy_id))

    def dump_policies(self, where: Callable[[Policy], bool] | None = None) -> tuple[Policy, ...]:
        """All policies, also those of single sockets (Direction.SOCKET_*), or those that `where` picks."""
        request = requests.dump_policies()
        return requests.picked(request, self._channel.dump(request), where)

    def flush_policies(self, kind: PolicyType = PolicyType.MAIN) -> None:
        """Delete every policy of a type in the namespace, except those of single sockets."""
        self._channel.call(requests.flush_policies(kind))

    def expire_policy(self, policy_id: PolicyId, *, hard: bool) -> None:
        """Tell all that a policy reached a limit, and with `hard` delete it. ENOENT if there is none."""
        self._channel.call(requests.expire_policy(policy_id, hard=hard))

    def migrate(self, migration: Migration) -> None:
        """Move a policy's templates, and SAs that match them, to other addresses. ENOENT if no policy has the selector;
        ENOPROTOOPT from a kernel without XFRM_MIGRATE."""
        self._channel.call(requests.migrate(migration))

    # Both as wholes

    def run(self, batch: Batch) -> Outcomes:
        """Send a batch, in as few messages as the socket's buffers allow. Raises nothing: see `Outcomes`."""
        return Outcomes(errors=self._channel.batch(batch.requests))

    def counts(self) -> Counts:
        """How many SAs and policies there are, without reading them."""
        return counts_of(self.sad_info(), self.spd_info())

    def sad_info(self) -> SadInfo:
        """The SAD's size."""
        return self._channel.call(requests.sad_info())

    def spd_info(self) -> SpdInfo:
        """The SPD's sizes and hash thresholds."""
        return self._channel.call(requests.spd_info())

    def set_hash_thresholds(self, *, v4: HashThreshold | None = None, v6: HashThreshold | None = None) -> None:
        """From which prefix lengths on policies are hashed; None leaves that family as it is."""
        self._channel.call(requests.set_hash_thresholds(v4, v6))

    def default_policy(self) -> DefaultPolicy:
        """What happens to packets that no policy matches (Linux 5.15 and later; EINVAL before)."""
        return self._channel.call(requests.default_policy())

    def set_default_policy(self, default: DefaultPolicy) -> None:
        """Say so. BLOCK takes from the host every connection for which there is no policy, at once."""
        self._channel.call(requests.set_default_policy(default))

    def statistics(self) -> dict[str, int]:
        """Its namespace's account of refused packets (`xfrm_stat`). EPERM without CAP_SYS_ADMIN, with which another
        namespace is entered."""
        return self._channel.statistics()
