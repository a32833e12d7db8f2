"""The same requests for coroutines: between two datagrams of an answer the event loop runs, so that reading a large
database holds nobody up."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any, TypeVar

from .errors import XfrmError
from .exchange import Dump, Leftovers, OneAnswer, SequenceNumbers, Together, not_sent, parts
from .framing import Frame
from .requests import Request
from .transport import (
    ANSWER_LIMIT_S,
    BATCH_BYTES_MAX,
    DATAGRAM_MAX,
    DUMP_ATTEMPTS,
    Namespace,
    batch_size,
    changed_meanwhile,
    namespace_statistics,
    open_socket,
    socket_error,
)

T = TypeVar("T")


class AsyncChannel:
    """As `transport.Channel`; for the tasks of one event loop, one request at a time. A task may be cancelled: what
    still comes for it is passed over."""

    def __init__(self, *, netns: Namespace = None) -> None:
        self._socket: socket.socket = open_socket(netns=netns)
        self._batch_size = batch_size(self._socket)
        self._socket.setblocking(False)
        self._lock = asyncio.Lock()
        self._numbers = SequenceNumbers()
        self._unfinished: int | None = None

    def close(self) -> None:
        self._socket.close()

    async def statistics(self) -> dict[str, int]:
        """As `namespace_statistics`."""
        return await asyncio.to_thread(namespace_statistics, self._socket)

    async def call(self, request: Request[T]) -> T:
        """One request. Raises XfrmError if the kernel refused, or its answer is none."""
        async with self._lock:
            exchange = OneAnswer(request, self._numbers.take())
            await self._run(exchange, request)
        return request.result(exchange.answers)

    async def batch(self, requests: Sequence[Request[None]]) -> list[XfrmError | None]:
        """As `Channel.batch`; other tasks run between its datagrams."""
        outcomes: list[XfrmError | None] = []
        async with self._lock:
            for part in parts(requests, most=self._batch_size, most_bytes=BATCH_BYTES_MAX):
                exchange = Together(part, self._numbers.take(len(part)))
                try:
                    await self._run(exchange, part[0])
                except XfrmError as error:
                    exchange.give_up(error)
                    outcomes += exchange.outcomes
                    return outcomes + not_sent(requests[len(outcomes) :])
                outcomes += exchange.outcomes
                await asyncio.sleep(0)
        return outcomes

    async def dump(self, request: Request[Any]) -> list[Frame]:
        """All objects. Starts over if the kernel says that they changed meanwhile, then raises XfrmError EINTR."""
        async with self._lock:
            for _ in range(DUMP_ATTEMPTS):
                if self._unfinished is not None:
                    await self._run(Leftovers(self._unfinished), request)
                exchange = Dump(request, self._numbers.take())
                self._unfinished = exchange.sequence
                await self._run(exchange, request)
                self._unfinished = None
                if exchange.whole:
                    return exchange.frames
        raise changed_meanwhile(request.operation)

    async def _run(self, exchange: OneAnswer | Together | Dump | Leftovers, request: Request[Any]) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S) as limit:
                if exchange.datagram:
                    await loop.sock_sendall(self._socket, exchange.datagram)
                while True:
                    datagram, sender = await loop.sock_recvfrom(self._socket, DATAGRAM_MAX)
                    if sender[0] != 0:
                        continue  # from a process, not from the kernel
                    if exchange.feed(datagram):
                        return
                    limit.reschedule(loop.time() + ANSWER_LIMIT_S)
                    await asyncio.sleep(0)  # the next one is there already, and would be read without a pause
        except OSError as error:
            raise socket_error(request.operation, error) from None
