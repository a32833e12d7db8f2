"""Requests about policies reach their handler from enrolled hosts alone, and never take part in a handshake."""

from dataclasses import dataclass, field

import pytest

from shamon_host.domain.errors import NotTrusted, Refused
from shamon_host.domain.labels import HostName
from shamon_host.peer.handshake import Busy, PeerService
from shamon_host.peer.wire import POLICY_PATHS, body_limit
from shamon_host.testing.clock import run_virtual
from shamon_host.testing.memory_ca import memory_expelled
from shamon_host.testing.network import memory_identity
from tests.unit.peer.handshake_world import ALPHA, BETA, World


@dataclass
class Noted:
    """`PolicyHandler` that takes down what it is asked."""

    asked: list[tuple[HostName, str, bytes]] = field(default_factory=list)

    async def handle_policy(self, peer: HostName, path: str, body: bytes) -> bytes:
        self.asked.append((peer, path, body))
        return b"answer"


def service(world: World, handler: Noted) -> PeerService:
    """Beta, which answers requests about policies."""
    return PeerService(handshaker=world.handshakers[BETA], hinted=lambda _peer, _about: None, policies=handler)


@pytest.mark.parametrize("path", sorted(POLICY_PATHS))
def test_an_enrolled_host_is_answered_and_no_handshake_begins(path: str) -> None:
    async def main() -> None:
        world, handler = World(), Noted()
        assert await service(world, handler).handle(memory_identity(ALPHA), path, b"body") == b"answer"
        assert handler.asked == [(ALPHA, path, b"body")]
        assert not world.hosts[BETA].calls
        assert not world.hosts[BETA].met

    run_virtual(main())


@pytest.mark.parametrize("path", sorted(POLICY_PATHS))
def test_strangers_the_expelled_and_too_much_are_refused_before_the_handler_hears_of_them(path: str) -> None:
    async def main() -> None:
        world, handler = World(), Noted()
        beta = service(world, handler)
        with pytest.raises(NotTrusted, match="not enrolled"):
            await beta.handle(memory_identity(HostName("stranger")), path, b"body")
        with pytest.raises(Refused, match="too long"):
            await beta.handle(memory_identity(ALPHA), path, bytes(body_limit(path) + 1))
        world.registries[BETA].take(memory_expelled(world.registries[BETA].enrolled(ALPHA)))
        with pytest.raises(NotTrusted, match="expelled"):
            await beta.handle(memory_identity(ALPHA), path, b"body")
        assert handler.asked == []

    run_virtual(main())


@pytest.mark.parametrize("path", sorted(POLICY_PATHS))
def test_a_host_without_handler_refuses(path: str) -> None:
    async def main() -> None:
        with pytest.raises(Refused, match="changes no policies"):
            await World().services[BETA].handle(memory_identity(ALPHA), path, b"body")

    run_virtual(main())


def test_a_host_that_asks_on_and_on_is_slowed_down() -> None:
    async def main() -> None:
        world, handler = World(), Noted()
        beta = service(world, handler)

        async def ask() -> None:
            while len(handler.asked) < 100:
                await beta.handle(memory_identity(ALPHA), min(POLICY_PATHS), b"body")

        with pytest.raises(Busy):
            await ask()
        answered = len(handler.asked)
        assert answered < 100
        await world.clock.sleep(60)
        await beta.handle(memory_identity(ALPHA), min(POLICY_PATHS), b"body")
        assert len(handler.asked) == answered + 1

    run_virtual(main())
