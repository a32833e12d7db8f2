"""The streams of a VM that comes while it runs: what the other host does with them ties nobody up here."""

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest

from shamon_host.daemon.live_arrivals import DISK_STREAM, HELLO_S, MEMORY_STREAM, LiveArrivals, _Open
from shamon_host.domain.errors import BackendFailed, NotTrusted, Refused
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.peer.move_messages import Join

WEB, ALPHA, BETA = VmName("web"), HostName("alpha"), HostName("beta")
SECRET, MOVE = b"s" * 32, b"m" * 16


class Streams:
    """A listener, its streams and the clock. Of each stream: what it says, and how long it takes for each byte."""

    def __init__(self, *said: bytes, byte_s: float = 0.0) -> None:
        self.now_s, self.byte_s = 100.0, byte_s
        self.streams = [Said(self, words) for words in said]
        self.waiting = list(self.streams)
        self.meanwhile: Callable[[], None] = lambda: None
        self.is_closed = False

    def boottime_s(self) -> float:
        return self.now_s

    def accept(self, timeout_s: float) -> "Said":
        assert timeout_s > 0
        return self.waiting.pop(0)

    def close(self) -> None:
        self.is_closed = True


class Said:
    def __init__(self, world: Streams, words: bytes) -> None:
        self.world, self.words, self.timeout_s = world, words, 0.0
        self.ended: list[str] = []

    def settimeout(self, seconds: float | None) -> None:
        assert seconds
        self.timeout_s = seconds

    def recv(self, most: int) -> bytes:
        assert not self.ended, "whoever waits does not any more"
        self.world.meanwhile()
        if self.world.byte_s > self.timeout_s:
            self.world.now_s += self.timeout_s
            raise TimeoutError("timed out")
        self.world.now_s += self.world.byte_s
        data, self.words = (
            self.words[: 1 if self.world.byte_s else most],
            self.words[1 if self.world.byte_s else most :],
        )
        return data

    def sendall(self, data: bytes) -> None: ...

    def shutdown(self, how: int) -> None:
        self.ended.append("shut down")

    def close(self) -> None:
        self.ended.append("closed")


def arrivals_of(streams: Streams) -> tuple[LiveArrivals, Any, _Open]:
    parts: dict[str, Any] = {
        name: MagicMock() for name in LiveArrivals.__dataclass_fields__ if not name.startswith("_")
    }
    live = parts["live"]

    async def blocking(work: Callable[[], Any]) -> Any:
        await asyncio.sleep(0)
        return work()

    arrivals = LiveArrivals(**{**parts, "name": BETA, "clock": streams, "blocking": blocking})
    opened = _Open(
        peer=ALPHA, move=MOVE, type=TypeName("acme/red"), secret=SECRET, spec=MagicMock(), began_s=0.0, listener=streams
    )
    arrivals._open[WEB] = opened
    return arrivals, live, opened


async def join(arrivals: LiveArrivals) -> None:
    await arrivals.join(ALPHA, Join(move=MOVE, vm=WEB))


BOTH = (SECRET + DISK_STREAM, SECRET + MEMORY_STREAM)


def test_both_streams_are_given_to_the_machine() -> None:
    streams = Streams(*BOTH)
    arrivals, live, opened = arrivals_of(streams)
    asyncio.run(join(arrivals))
    assert live.receive.call_args.kwargs == {"disk": streams.streams[0], "memory": streams.streams[1]}
    assert opened.receiving is live.receive.return_value
    assert streams.is_closed
    assert not any(stream.ended for stream in streams.streams)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ((b"x" * 33, BOTH[1]), "a stranger's"),
        ((BOTH[0], BOTH[0]), "not one that was announced"),
        ((SECRET + b"X", BOTH[1]), "not one that was announced"),
        ((SECRET, BOTH[1]), "does not say whose it is"),
    ],
)
def test_streams_of_strangers(said: tuple[bytes, ...], words: str) -> None:
    streams = Streams(*said)
    arrivals, live, _ = arrivals_of(streams)
    with pytest.raises(NotTrusted, match=words):
        asyncio.run(join(arrivals))
    assert all(stream.ended for stream in streams.streams if stream not in streams.waiting)
    assert streams.is_closed
    assert not live.receive.called


@pytest.mark.parametrize("byte_s", [1.0, HELLO_S - 1, 10 * HELLO_S])
def test_one_that_speaks_slowly_has_as_long_as_any_other(byte_s: float) -> None:
    """Each byte comes within the time that one call would have."""
    streams = Streams(*BOTH, byte_s=byte_s)
    arrivals, live, _ = arrivals_of(streams)
    with pytest.raises((NotTrusted, Refused), match=r"in time|timed out"):
        asyncio.run(join(arrivals))
    assert streams.now_s - 100 <= 2 * HELLO_S + 1
    assert not live.receive.called


def test_it_is_said_once_that_they_are_there() -> None:
    streams = Streams(*BOTH)
    arrivals, live, _ = arrivals_of(streams)

    async def twice() -> tuple[BaseException | None, BaseException | None]:
        return await asyncio.gather(join(arrivals), join(arrivals), return_exceptions=True)

    first, second = asyncio.run(twice())
    assert first is None
    assert isinstance(second, Refused)
    assert live.receive.call_count == 1
    asyncio.run(join(arrivals))
    assert live.receive.call_count == 1


def test_a_move_that_is_given_up_meanwhile_ends_streams_that_are_waited_for() -> None:
    streams = Streams(*BOTH)
    arrivals, live, _ = arrivals_of(streams)
    streams.byte_s, streams.meanwhile = 0.1, lambda: arrivals.discard(WEB)
    with pytest.raises(Refused, match="in time"):
        asyncio.run(join(arrivals))
    assert streams.streams[0].ended[:2] == ["shut down", "closed"]
    assert streams.streams[1] in streams.waiting
    assert not live.receive.called


def test_a_stream_that_ends_while_the_machine_gets_it() -> None:
    streams = Streams(*BOTH)
    arrivals, live, _ = arrivals_of(streams)
    live.receive.side_effect = ConnectionResetError("reset")
    with pytest.raises(BackendFailed, match="ended too early"):
        asyncio.run(join(arrivals))
    assert all(stream.ended for stream in streams.streams)


def test_a_move_that_is_given_up_while_the_machine_gets_them() -> None:
    streams = Streams(*BOTH)
    arrivals, live, _ = arrivals_of(streams)
    receiving = MagicMock()

    def receive(*_which: Any, **_named: Any) -> Any:
        arrivals.discard(WEB)
        return receiving

    live.receive = receive
    with pytest.raises(Refused, match="given up"):
        asyncio.run(join(arrivals))
    assert receiving.close.called
    assert all(stream.ended for stream in streams.streams)
