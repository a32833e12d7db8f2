"""The Attester: gathers the leaves of a moment, quotes once over their root, and adds the logs.

Each handshake asks for Evidence over its own leaf (`evidence`); leaves that come within `gather_s` share one quote, so
a host makes one quote a period however many peers it has. The quote comes first and the logs are read after it, so a
log may run ahead of its quote but never behind. A root is used once: the same bytes are never quoted over twice.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from shamon_host.attestation.evidence import Evidence, Role, leaf
from shamon_host.attestation.merkle import MAX_LEAVES, MerkleTree
from shamon_host.attestation.ports import MeasurementLogs, Quote, Tpm
from shamon_host.attestation.tpm_structures import QuoteAttest, TpmFormatError
from shamon_host.domain.errors import BackendFailed, Refused

T = TypeVar("T")

GATHER_S = 0.05
_ROOTS_REMEMBERED = 4096


class Blocking(Protocol):
    """Run a synchronous call without holding up the event loop, or directly where it takes no time."""

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]: ...


async def directly(call: Callable[[], T], /) -> T:
    """`Blocking` for backends in memory."""
    return call()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quoted:
    """One quote with what all its handshakes share."""

    tree: MerkleTree
    quote: Quote
    reset_count: int
    event_log: bytes


@dataclass(slots=True, eq=False)
class _Gathering:
    """Leaves that will share a quote. `done` ends with the quote, or with the error that kept it from being made."""

    leaves: list[bytes]
    done: asyncio.Future[_Quoted]


@dataclass(kw_only=True)
class Attester:
    """Evidence about this host. One for each TPM; used in one event loop."""

    tpm: Tpm
    logs: MeasurementLogs
    blocking: Blocking = directly
    gather_s: float = GATHER_S
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    reset_count: int | None = field(init=False, default=None)
    """resetCount of the last quote: tells one boot of this host from another."""
    _open: _Gathering | None = field(init=False, default=None)
    _tasks: set[asyncio.Task[None]] = field(init=False, default_factory=set)
    _roots: OrderedDict[bytes, None] = field(init=False, default_factory=OrderedDict)
    _quoting: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    async def evidence(
        self,
        *,
        role: Role,
        transcript: bytes,
        hypervisor_report: bytes,
        network_state: bytes,
        audit_head: bytes,
        ima_offset: int = 0,
        ima_reset_count: int = 0,
    ) -> Evidence:
        """Evidence bound to one side of one handshake.

        `transcript` and `audit_head` are 32 bytes. The IMA log starts at `ima_offset` if this host is still in the boot
        that `ima_reset_count` names, else at 0. Raises BadInput, BackendFailed, and Refused for leaves that have been
        quoted over before.
        """
        own = leaf(
            role, transcript, hypervisor_report=hypervisor_report, network_state=network_state, audit_head=audit_head
        )
        gathering = self._gathering()
        if own not in gathering.leaves:
            gathering.leaves.append(own)
        # Shielded: one handshake that is cancelled takes the quote from no other.
        quoted = await asyncio.shield(gathering.done)
        offset = ima_offset if quoted.reset_count == ima_reset_count else 0
        index = gathering.leaves.index(own)
        return Evidence(
            quote=quoted.quote,
            merkle_index=index,
            merkle_path=quoted.tree.path(index),
            event_log=quoted.event_log,
            ima_offset=offset,
            ima_log=await self.blocking(lambda: self.logs.ima_log(offset)),
            hypervisor_report=hypervisor_report,
            network_state=network_state,
            audit_head=audit_head,
        )

    def _gathering(self) -> _Gathering:
        if self._open is None or len(self._open.leaves) >= MAX_LEAVES:
            self._open = _Gathering([], asyncio.get_running_loop().create_future())
            task = asyncio.create_task(self._close(self._open), name="quote")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._open

    async def _close(self, gathering: _Gathering) -> None:
        """Let leaves gather, quote, and tell all who wait; whatever happens, nobody waits for ever."""
        done = gathering.done
        try:
            await self.sleep(self.gather_s)
            # A TPM does one thing at a time; the leaves that come while it is busy still join.
            async with self._quoting:
                if self._open is gathering:
                    self._open = None
                quoted = await self._quote(MerkleTree.over(gathering.leaves))
            if not done.done():
                done.set_result(quoted)
        except Exception as error:  # noqa: BLE001 -- whoever waits must hear of it, whatever it is
            done.set_exception(error)
            done.exception()  # marks it as seen: whoever waited may be gone
        finally:
            if self._open is gathering:
                self._open = None
            if not done.done():
                done.cancel()

    async def _quote(self, tree: MerkleTree) -> _Quoted:
        if tree.root in self._roots:
            raise Refused("these leaves have been quoted over", remedy="Start a new handshake, with a fresh nonce.")
        self._roots[tree.root] = None
        while len(self._roots) > _ROOTS_REMEMBERED:
            self._roots.popitem(last=False)
        quote = await self.blocking(lambda: self.tpm.quote(tree.root))
        try:
            self.reset_count = QuoteAttest.parse(quote.attest).clock_info.reset_count
        except TpmFormatError as error:
            raise BackendFailed(f"the TPM's quote is unreadable: {error}", where="TPM") from error
        event_log = await self.blocking(self.logs.event_log)
        return _Quoted(tree=tree, quote=quote, reset_count=self.reset_count, event_log=event_log)
