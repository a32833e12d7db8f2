"""What every `PeerTransport` and its listener must do, whatever carries the bytes.

Subclass `TransportContract` and give it a `run` that calls the scenario with a `TransportWorld`. A scenario takes about
a second of its world's time at most.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

import pytest

from shamon_host.domain.errors import BadInput, NotTrusted, Refused, ShamonError, Unreachable
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HostEntry
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.errors import Busy
from shamon_host.peer.ports import PeerIdentity, PeerTransport
from shamon_host.peer.wire import CONFIRM, EVIDENCE, HELLO, HINT, REGISTRY, body_limit
from shamon_host.testing.memory_ca import memory_expelled

ALPHA, BETA, GAMMA, STRANGER = HostName("alpha"), HostName("beta"), HostName("gamma"), HostName("stranger")
"""`STRANGER` has a certificate like the others, and is enrolled with nobody but itself."""
TIMEOUT_S = 5.0
SHORT_S = 0.2


class TransportWorld(ABC):
    """Four hosts with certificates. Each has a registry of its own with alpha, beta and gamma in it."""

    @abstractmethod
    def registry(self, host: HostName) -> PeerRegistry: ...

    @abstractmethod
    def entry(self, host: HostName) -> HostEntry: ...

    @abstractmethod
    def transport(self, host: HostName) -> PeerTransport:
        """The transport by which `host` calls others; the same one each time."""

    @abstractmethod
    async def listen(self, host: HostName, handler: "Answers", *, at: HostName | None = None) -> None:
        """`host` listens, with its own certificate, at its own address or at that of another host."""

    @abstractmethod
    async def stop(self, host: HostName) -> None:
        """Nobody listens at the address of `host` any more."""


Scenario = Callable[[TransportWorld], Awaitable[None]]


class Answers:
    """A `PeerHandler` that keeps what came and answers what it is told to."""

    def __init__(self, answer: Callable[[bytes], Awaitable[bytes]] | None = None) -> None:
        self.seen: list[tuple[PeerIdentity, str, bytes]] = []
        self._answer = answer

    async def handle(self, caller: PeerIdentity, path: str, body: bytes) -> bytes:
        self.seen.append((caller, path, body))
        return body if self._answer is None else await self._answer(body)


def raising(error: ShamonError) -> Answers:
    async def answer(body: bytes) -> bytes:
        raise error

    return Answers(answer)


class TransportContract(ABC):
    """The suite."""

    @abstractmethod
    def run(self, scenario: Scenario) -> None:
        """Make a world, await the scenario in it, and take it down."""

    @pytest.mark.parametrize("body", [b"", b"{}", b"\x00\n\r\n\xff" * 7, b"0\r\n\r\n"])
    def test_bytes_pass_unchanged_and_the_caller_is_known(self, body: bytes) -> None:
        async def scenario(world: TransportWorld) -> None:
            handler = Answers()
            await world.listen(BETA, handler)
            assert await world.transport(ALPHA).call(world.entry(BETA), HELLO, body, timeout_s=TIMEOUT_S) == body
            certificate = world.registry(BETA).enrolled(ALPHA).certificate_sha256
            assert handler.seen == [(PeerIdentity(host=ALPHA, certificate_sha256=certificate), HELLO, body)]

        self.run(scenario)

    def test_a_large_body_passes(self) -> None:
        async def scenario(world: TransportWorld) -> None:
            await world.listen(BETA, Answers())
            body = bytes(range(256)) * 12 * 1024
            assert await world.transport(ALPHA).call(world.entry(BETA), EVIDENCE, body, timeout_s=TIMEOUT_S) == body

        self.run(scenario)

    def test_calls_in_sequence_and_at_once(self) -> None:
        async def scenario(world: TransportWorld) -> None:
            await world.listen(BETA, Answers())
            await world.listen(GAMMA, Answers())
            transport = world.transport(ALPHA)
            for number in range(3):
                body = str(number).encode()
                assert await transport.call(world.entry(BETA), CONFIRM, body, timeout_s=TIMEOUT_S) == body
            answers = await asyncio.gather(
                *(
                    transport.call(world.entry(host), HELLO, host.encode(), timeout_s=TIMEOUT_S)
                    for host in (BETA, GAMMA)
                )
            )
            assert answers == [b"beta", b"gamma"]

        self.run(scenario)

    @pytest.mark.parametrize("kind", [Refused, NotTrusted, BadInput])
    def test_errors_of_the_handler_are_refusals_in_its_words(self, kind: type[ShamonError]) -> None:
        async def scenario(world: TransportWorld) -> None:
            await world.listen(BETA, raising(kind("policy says no")))
            with pytest.raises(Refused, match="beta: policy says no") as caught:
                await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
            assert not isinstance(caught.value, Busy)

        self.run(scenario)

    def test_busy_stays_busy(self) -> None:
        async def scenario(world: TransportWorld) -> None:
            await world.listen(BETA, raising(Busy("in a moment")))
            with pytest.raises(Busy, match="in a moment"):
                await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)

        self.run(scenario)

    def test_a_long_refusal_is_cut(self) -> None:
        async def scenario(world: TransportWorld) -> None:
            await world.listen(BETA, raising(Refused("x\x1b\n" * 100_000)))
            with pytest.raises(Refused) as caught:
                await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
            assert len(str(caught.value)) < 2000
            assert str(caught.value).isprintable()

        self.run(scenario)

    def test_a_path_that_is_not_served(self) -> None:
        async def scenario(world: TransportWorld) -> None:
            handler = Answers()
            await world.listen(BETA, handler)
            with pytest.raises(BadInput, match="nothing is served here"):
                await world.transport(ALPHA).call(world.entry(BETA), "/v1/other", b"", timeout_s=TIMEOUT_S)
            assert handler.seen == []

        self.run(scenario)

    def test_a_request_beyond_the_limit_is_not_sent(self) -> None:
        async def scenario(world: TransportWorld) -> None:
            handler = Answers()
            await world.listen(BETA, handler)
            with pytest.raises(BadInput, match="too long"):
                await world.transport(ALPHA).call(
                    world.entry(BETA), HINT, bytes(body_limit(HINT) + 1), timeout_s=TIMEOUT_S
                )
            assert handler.seen == []

        self.run(scenario)

    def test_an_answer_beyond_the_limit_is_not_taken(self) -> None:
        async def answer(body: bytes) -> bytes:
            return bytes(body_limit(HINT) + 1)

        async def scenario(world: TransportWorld) -> None:
            await world.listen(BETA, Answers(answer))
            with pytest.raises(BadInput, match="too long"):
                await world.transport(ALPHA).call(world.entry(BETA), HINT, b"", timeout_s=TIMEOUT_S)

        self.run(scenario)

    def test_nobody_listens(self) -> None:
        async def scenario(world: TransportWorld) -> None:
            with pytest.raises(Unreachable):
                await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)

        self.run(scenario)

    def test_a_host_that_comes_back_is_reached_again(self) -> None:
        async def scenario(world: TransportWorld) -> None:
            transport = world.transport(ALPHA)
            await world.listen(BETA, Answers())
            await transport.call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
            await world.stop(BETA)
            with pytest.raises(Unreachable):
                await transport.call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
            await world.listen(BETA, Answers())
            assert await transport.call(world.entry(BETA), HELLO, b"again", timeout_s=TIMEOUT_S) == b"again"

        self.run(scenario)

    def test_no_answer_in_time_and_the_handler_goes_on(self) -> None:
        ended = asyncio.Event()

        async def answer(body: bytes) -> bytes:
            await asyncio.sleep(2 * SHORT_S)
            ended.set()
            return b""

        async def scenario(world: TransportWorld) -> None:
            await world.listen(BETA, Answers(answer))
            with pytest.raises(Unreachable, match="in time"):
                await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"", timeout_s=SHORT_S)
            async with asyncio.timeout(TIMEOUT_S):
                await ended.wait()

        self.run(scenario)

    def test_another_hosts_certificate_at_the_address_is_not_taken(self) -> None:
        async def scenario(world: TransportWorld) -> None:
            handler = Answers()
            await world.listen(GAMMA, handler, at=BETA)
            with pytest.raises(NotTrusted):
                await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
            assert handler.seen == []

        self.run(scenario)

    def test_a_caller_that_is_not_enrolled_is_not_served(self) -> None:
        async def scenario(world: TransportWorld) -> None:
            handler = Answers()
            await world.listen(BETA, handler)
            with pytest.raises((Refused, Unreachable)):
                await world.transport(STRANGER).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
            assert handler.seen == []

        self.run(scenario)

    def test_a_host_that_is_not_enrolled_is_not_called(self) -> None:
        async def scenario(world: TransportWorld) -> None:
            handler = Answers()
            await world.listen(STRANGER, handler)
            with pytest.raises(NotTrusted, match="not enrolled"):
                await world.transport(ALPHA).call(world.entry(STRANGER), HELLO, b"", timeout_s=TIMEOUT_S)
            assert handler.seen == []

        self.run(scenario)

    def test_a_host_that_nobody_knows_yet_exchanges_records_and_nothing_else(self) -> None:
        async def scenario(world: TransportWorld) -> None:
            handler = Answers()
            await world.listen(BETA, handler)
            transport = world.transport(STRANGER)
            await transport.call(world.entry(BETA), REGISTRY, b"records", timeout_s=TIMEOUT_S)
            ((caller, path, body),) = handler.seen
            assert (caller.host, path, body) == (STRANGER, REGISTRY, b"records")
            assert caller.certificate_sha256 == world.registry(STRANGER).enrolled(STRANGER).certificate_sha256
            with pytest.raises(Refused, match="not enrolled"):
                await transport.call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
            out = memory_expelled(world.registry(STRANGER).enrolled(STRANGER))
            world.registry(BETA).take(out)
            with pytest.raises(Refused, match="expelled"):
                await transport.call(world.entry(BETA), REGISTRY, b"", timeout_s=TIMEOUT_S)
            assert len(handler.seen) == 1

        self.run(scenario)

    def test_an_expelled_host_neither_calls_nor_is_called_even_on_an_open_connection(self) -> None:
        async def scenario(world: TransportWorld) -> None:
            handler = Answers()
            await world.listen(BETA, handler)
            await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
            world.registry(BETA).take(memory_expelled(world.registry(BETA).enrolled(ALPHA)))
            with pytest.raises(Refused, match="expelled"):
                await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
            world.registry(GAMMA).take(memory_expelled(world.registry(GAMMA).enrolled(BETA)))
            with pytest.raises(NotTrusted, match="expelled"):
                await world.transport(GAMMA).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
            assert len(handler.seen) == 1

        self.run(scenario)
