"""The memory network does what every transport must, and can be cut, slowed and tapped."""

import asyncio
from dataclasses import replace

import pytest

from shamon_host.domain.errors import Unreachable
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HostEntry
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.ports import PeerTransport
from shamon_host.peer.wire import HELLO
from shamon_host.testing.clock import run_virtual
from shamon_host.testing.contracts.transport import (
    ALPHA,
    BETA,
    GAMMA,
    STRANGER,
    Answers,
    Scenario,
    TransportContract,
    TransportWorld,
)
from shamon_host.testing.network import Deliver, MemoryNetwork, MemoryTransport, Request, memory_identity
from tests.unit.peer.handshake_world import enrolled, entry


class MemoryWorld(TransportWorld):
    def __init__(self) -> None:
        self.network = MemoryNetwork(latency_s=0.001)
        known = (ALPHA, BETA, GAMMA)
        self.registries = {name: PeerRegistry(enrolled(host) for host in known) for name in known}
        self.registries[STRANGER] = PeerRegistry(enrolled(host) for host in (*known, STRANGER))
        self.transports: dict[HostName, MemoryTransport] = {}

    def registry(self, host: HostName) -> PeerRegistry:
        return self.registries[host]

    def entry(self, host: HostName) -> HostEntry:
        return entry(host)

    def transport(self, host: HostName) -> PeerTransport:
        return self.transports.setdefault(host, self.network.transport(memory_identity(host), self.registries[host]))

    async def listen(self, host: HostName, handler: Answers, *, at: HostName | None = None) -> None:
        self.network.listen(memory_identity(host), handler, self.registries[host], at=at)

    async def stop(self, host: HostName) -> None:
        self.network.stop(host)


class TestMemoryTransport(TransportContract):
    def run(self, scenario: Scenario) -> None:
        async def main() -> None:
            await scenario(MemoryWorld())

        run_virtual(main())


async def call(world: MemoryWorld, caller: HostName = ALPHA, callee: HostName = BETA, body: bytes = b"?") -> bytes:
    return await world.transport(caller).call(entry(callee), HELLO, body, timeout_s=5.0)


def test_a_cut_is_silent_and_heals() -> None:
    async def main() -> None:
        world = MemoryWorld()
        await world.listen(BETA, Answers())
        await world.listen(GAMMA, Answers())
        loop = asyncio.get_running_loop()
        for isolate in (False, True):
            if isolate:
                world.network.cut_host(BETA)
            else:
                world.network.cut(BETA, ALPHA)
            before = loop.time()
            with pytest.raises(Unreachable):
                await call(world)
            assert loop.time() - before == pytest.approx(5.0)
            assert await call(world, callee=GAMMA) == b"?"
            world.network.heal(ALPHA, BETA)
            world.network.heal_host(BETA)
            assert await call(world) == b"?"

    run_virtual(main())


def test_answer_is_lost_when_the_cut_comes_in_between() -> None:
    async def main() -> None:
        world = MemoryWorld()

        async def answer(body: bytes) -> bytes:
            world.network.cut(ALPHA, BETA)
            return body

        handler = Answers(answer)
        await world.listen(BETA, handler)
        with pytest.raises(Unreachable):
            await call(world)
        assert len(handler.seen) == 1

    run_virtual(main())


def test_host_that_stops_drops_what_it_was_answering() -> None:
    async def main() -> None:
        world = MemoryWorld()
        ended = []

        async def answer(body: bytes) -> bytes:
            await asyncio.sleep(3)
            ended.append(body)
            return body

        await world.listen(BETA, Answers(answer))
        attempt = asyncio.create_task(call(world))
        await asyncio.sleep(1)
        await world.stop(BETA)
        with pytest.raises(Unreachable, match="lost"):
            await attempt
        await asyncio.sleep(10)
        assert ended == []

    run_virtual(main())


def test_tap_sees_changes_repeats_and_drops() -> None:
    async def main() -> None:
        world = MemoryWorld()
        handler = Answers()
        await world.listen(BETA, handler)

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.body == b"drop":
                raise Unreachable("dropped")
            await deliver(request)
            return (await deliver(replace(request, body=b"changed"))) + b"!"

        world.network.tap = tap
        assert await call(world) == b"changed!"
        assert [body for _, _, body in handler.seen] == [b"?", b"changed"]
        with pytest.raises(Unreachable, match="dropped"):
            await call(world, body=b"drop")

    run_virtual(main())


def test_exchanges_are_recorded_when_asked_for() -> None:
    async def main() -> None:
        world = MemoryWorld()
        await world.listen(BETA, Answers())
        await call(world)
        world.network.record = True
        await call(world)
        assert [(exchange.request.to, exchange.answer, exchange.refused) for exchange in world.network.exchanges] == [
            (BETA, b"?", False)
        ]

    run_virtual(main())
