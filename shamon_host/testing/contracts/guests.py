"""What every `daemon.ports.Guests` must do: subclass `GuestsContract`, give it a `bench`.

Runs on the channel in memory, and on the real one over Unix sockets; in a lab over vsock itself.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

import pytest

from shamon_host.attestation.guest_messages import MAX_ANSWER_BYTES, HostsRequest, encode_refusal
from shamon_host.daemon.ports import Guests
from shamon_host.domain.errors import BadInput, Unreachable

ONE, OTHER = 20001, 20002
"""Addresses of two VMs; the first one's agent answers."""
REQUEST = HostsRequest(nonce=bytes(32)).encode()
ANSWER = encode_refusal("an agent is asked for Evidence, and for nothing else")
"""Of every agent, to that request."""
_TIMEOUT_S = 5.0


class Questions:
    """`daemon.ports.GuestQuestions` that says who asked what, after a while if it is to."""

    def __init__(self) -> None:
        self.let_go: asyncio.Event | None = None
        self.heard: list[int] = []
        self._changed = asyncio.Event()

    async def answer(self, cid: int, request: bytes) -> bytes:
        self.heard.append(cid)
        self._changed.set()
        if self.let_go is not None:
            await self.let_go.wait()
        return b"%d asked %d bytes" % (cid, len(request))

    async def until_heard(self, count: int) -> None:
        """Until so many questions have come."""
        while len(self.heard) < count:
            self._changed.clear()
            await self._changed.wait()


class Bench(Protocol):
    """A host with two VMs."""

    @property
    def guests(self) -> Guests: ...

    def silence(self) -> None:
        """The first VM's agent takes questions and answers nothing, from now on."""
        ...

    def chatter(self) -> None:
        """It answers with more than it may, from now on."""
        ...

    async def ask_host(self, cid: int, request: bytes) -> bytes:
        """A program in a VM asks the host. Raises Unreachable where it gets no answer."""
        ...


class GuestsContract:
    """The suite."""

    @pytest.fixture
    def bench(self) -> Bench | Iterator[Bench]:
        """Nothing is served yet."""
        raise NotImplementedError

    async def test_an_agent_answers(self, bench: Bench) -> None:
        for _ in range(3):
            assert await bench.guests.ask(ONE, REQUEST, timeout_s=_TIMEOUT_S) == ANSWER

    async def test_nobody_answers_at_another_address(self, bench: Bench) -> None:
        with pytest.raises(Unreachable):
            await bench.guests.ask(OTHER, REQUEST, timeout_s=_TIMEOUT_S)

    async def test_silence_ends_in_time(self, bench: Bench) -> None:
        bench.silence()
        started = time.monotonic()
        with pytest.raises(Unreachable):
            await bench.guests.ask(ONE, REQUEST, timeout_s=0.2)
        assert time.monotonic() - started < _TIMEOUT_S

    async def test_more_than_an_answer_may_be(self, bench: Bench) -> None:
        bench.chatter()
        with pytest.raises(BadInput, match=f"{MAX_ANSWER_BYTES}"):
            await bench.guests.ask(ONE, REQUEST, timeout_s=_TIMEOUT_S)

    async def test_a_vm_asks_and_the_host_knows_which(self, bench: Bench) -> None:
        questions = Questions()
        async with bench.guests.served(questions):
            for cid in (ONE, OTHER, ONE):
                assert await bench.ask_host(cid, b"x" * 7) == b"%d asked 7 bytes" % cid
        assert questions.heard == [ONE, OTHER, ONE]

    async def test_one_question_of_a_vm_at_a_time(self, bench: Bench) -> None:
        questions = Questions()
        questions.let_go = asyncio.Event()
        async with bench.guests.served(questions):
            first = asyncio.create_task(bench.ask_host(ONE, b"first"))
            await questions.until_heard(1)
            with pytest.raises(Unreachable):
                await bench.ask_host(ONE, b"second")
            other = asyncio.create_task(bench.ask_host(OTHER, b"other"))
            await questions.until_heard(2)
            questions.let_go.set()
            assert (await first, await other) == (b"20001 asked 5 bytes", b"20002 asked 5 bytes")
        assert questions.heard == [ONE, OTHER]

    async def test_a_question_that_is_too_long_is_not_heard(self, bench: Bench) -> None:
        questions = Questions()
        async with bench.guests.served(questions):
            with pytest.raises(Unreachable):
                await bench.ask_host(ONE, bytes(1 << 16))
            assert await bench.ask_host(ONE, b"short") == b"20001 asked 5 bytes"
        assert questions.heard == [ONE]

    async def test_nobody_hears_when_it_is_over(self, bench: Bench) -> None:
        questions = Questions()
        questions.let_go = asyncio.Event()
        async with bench.guests.served(questions):
            waiting = asyncio.create_task(bench.ask_host(ONE, b"never answered"))
            await questions.until_heard(1)
        with contextlib.suppress(Unreachable, asyncio.CancelledError):
            waiting.cancel()
            await waiting
        with pytest.raises(Unreachable):
            await bench.ask_host(ONE, b"too late")
