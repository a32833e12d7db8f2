"""`AsyncXfrm`: the methods of `Xfrm` for coroutines. What each does is said there.

A call ends at once as the kernel answers at once; what is gained is that others run while a large database is read or
a large batch is sent.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from . import requests
from .acquire import Acquire
from .association import SaId, SecurityAssociation
from .async_event import AsyncEvent
from .async_transport import AsyncChannel
from .batch import Batch, Outcomes, still_there
from .constants import PROTO_ALL, PROTO_ESP, Mode, PolicyType, SaDirection
from .databases import Counts, DefaultPolicy, HashThreshold, SadInfo, SpdInfo, counts_of
from .errors import XfrmError
from .framing import Frame
from .migration import Migration
from .policy import Policy, PolicyId
from .requests import SPI_MAX, SPI_MIN, Request
from .transport import Namespace
from .values import Address, AddressFilter, Lifetime, Mark

T = TypeVar("T")
_AT_ONCE = 128
"""Objects that are read from their bytes before others run."""


class AsyncXfrm:
    """One netlink socket, for the tasks of one event loop; opened when it is made. Raises XfrmError as `Xfrm` does."""

    def __init__(self, *, netns: Namespace = None) -> None:
        self._channel = AsyncChannel(netns=netns)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket. Cancel tasks that wait for an answer first."""
        self._channel.close()

    # SAs

    async def add_sa(self, sa: SecurityAssociation) -> None:
        await self._channel.call(requests.add_sa(sa))

    async def update_sa(self, sa: SecurityAssociation) -> None:
        await self._channel.call(requests.update_sa(sa))

    async def renew_sa(self, sa_id: SaId, lifetime: Lifetime) -> None:
        asked = requests.get_sa_bytes(sa_id, "renew SA")
        await self._channel.call(requests.renewal(asked, await self._channel.call(asked), lifetime))

    async def delete_sa(self, sa_id: SaId) -> None:
        await self._channel.call(requests.delete_sa(sa_id))

    async def delete_sas(self, sa_ids: Iterable[SaId]) -> dict[SaId, XfrmError]:
        wanted = list(dict.fromkeys(sa_ids))
        return still_there(wanted, await self._channel.batch([requests.delete_sa(one) for one in wanted]))

    async def get_sa(self, sa_id: SaId) -> SecurityAssociation:
        return await self._channel.call(requests.get_sa(sa_id))

    async def dump_sas(
        self,
        where: Callable[[SecurityAssociation], bool] | None = None,
        *,
        protocol: int = PROTO_ALL,
        addresses: AddressFilter | None = None,
    ) -> tuple[SecurityAssociation, ...]:
        request = requests.dump_sas(protocol, addresses)
        return await _picked(request, await self._channel.dump(request), where)

    async def flush_sas(self, protocol: int = PROTO_ALL) -> None:
        await self._channel.call(requests.flush_sas(protocol))

    async def expire_sa(self, sa_id: SaId, *, hard: bool) -> None:
        await self._channel.call(requests.expire_sa(sa_id, hard=hard))

    async def allocate_spi(
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
        return await self._channel.call(request)

    async def get_async_event(self, sa_id: SaId) -> AsyncEvent:
        return await self._channel.call(requests.get_async_event(sa_id))

    async def set_async_event(self, event: AsyncEvent) -> None:
        await self._channel.call(requests.set_async_event(event))

    async def acquire(self, wanted: Acquire) -> None:
        await self._channel.call(requests.acquire(wanted))

    # Policies

    async def add_policy(self, policy: Policy) -> None:
        await self._channel.call(requests.add_policy(policy))

    async def update_policy(self, policy: Policy) -> None:
        await self._channel.call(requests.update_policy(policy))

    async def delete_policy(self, policy_id: PolicyId) -> None:
        await self._channel.call(requests.delete_policy(policy_id))

    async def delete_policies(self, policy_ids: Iterable[PolicyId]) -> dict[PolicyId, XfrmError]:
        wanted = list(dict.fromkeys(policy_ids))
        return still_there(wanted, await self._channel.batch([requests.delete_policy(one) for one in wanted]))

    async def get_policy(self, policy_id: PolicyId) -> Policy:
        return await self._channel.call(requests.get_policy(policy_id))

    async def dump_policies(self, where: Callable[[Policy], bool] | None = None) -> tuple[Policy, ...]:
        request = requests.dump_policies()
        return await _picked(request, await self._channel.dump(request), where)

    async def flush_policies(self, kind: PolicyType = PolicyType.MAIN) -> None:
        await self._channel.call(requests.flush_policies(kind))

    async def expire_policy(self, policy_id: PolicyId, *, hard: bool) -> None:
        await self._channel.call(requests.expire_policy(policy_id, hard=hard))

    async def migrate(self, migration: Migration) -> None:
        await self._channel.call(requests.migrate(migration))

    # Both as wholes

    async def run(self, batch: Batch) -> Outcomes:
        return Outcomes(errors=await self._channel.batch(batch.requests))

    async def counts(self) -> Counts:
        return counts_of(await self.sad_info(), await self.spd_info())

    async def sad_info(self) -> SadInfo:
        return await self._channel.call(requests.sad_info())

    async def spd_info(self) -> SpdInfo:
        return await self._channel.call(requests.spd_info())

    async def set_hash_thresholds(self, *, v4: HashThreshold | None = None, v6: HashThreshold | None = None) -> None:
        await self._channel.call(requests.set_hash_thresholds(v4, v6))

    async def default_policy(self) -> DefaultPolicy:
        return await self._channel.call(requests.default_policy())

    async def set_default_policy(self, default: DefaultPolicy) -> None:
        await self._channel.call(requests.set_default_policy(default))

    async def statistics(self) -> dict[str, int]:
        return await self._channel.statistics()


async def _picked(request: Request[T], frames: Sequence[Frame], where: Callable[[T], bool] | None) -> tuple[T, ...]:
    found: list[T] = []
    for start in range(0, len(frames), _AT_ONCE):
        found += requests.picked(request, frames[start : start + _AT_ONCE], where)
        await asyncio.sleep(0)
    return tuple(found)
