"""The network between hosts, in memory: `PeerTransport` for callers, and `PeerHandler`s that answer.

It does what mutual TLS and pinned certificates do for the real one: both ends know each other's certificate or do not
talk. It can be cut between two hosts or around one, be slow, and be in the hands of an adversary (`tap`) who sees every
request below TLS, changes it, keeps it, sends it again or elsewhere. Without one, nothing is lost or changed.
A handler runs in a task of its own, as on a server: it goes on when its caller gives up, and dies when its host does.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from shamon_host.domain.errors import BadInput, NotTrusted, Refused, ShamonError, Unreachable
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HostEntry
from shamon_host.peer.callers import known_caller
from shamon_host.peer.ports import PeerDirectory, PeerHandler, PeerIdentity
from shamon_host.peer.wire import body_limit, decode_refusal, encode_refusal
from shamon_host.testing.memory_ca import memory_identity_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request on its way."""

    caller: PeerIdentity
    to: HostName
    path: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request that was answered, as the network saw it."""

    request: Request
    answer: bytes
    refused: bool
    """True: `answer` is a refusal."""


Deliver = Callable[[Request], Awaitable[bytes]]
Tap = Callable[[Request, Deliver], Awaitable[bytes]]
"""Gets each request and how to deliver one; returns the answer for the caller. It may deliver another request, several,
or none (raise Unreachable), and may wait."""


def memory_identity(host: HostName) -> PeerIdentity:
    """Who has the certificate of `host` (`memory_ca`)."""
    return PeerIdentity(host=host, certificate_sha256=memory_identity_sha256(host))


@dataclass(slots=True, kw_only=True)
class _Listener:
    identity: PeerIdentity
    handler: PeerHandler
    directory: PeerDirectory
    tasks: set[asyncio.Task[tuple[bool, bytes]]] = field(default_factory=set)


class MemoryNetwork:
    """All hosts of a world. `latency_s` is the time that a request takes, and again its answer."""

    def __init__(self, *, latency_s: float = 0.0) -> None:
        self.latency_s = latency_s
        self.tap: Tap | None = None
        self.record = False
        """True: keep every exchange in `exchanges`."""
        self.exchanges: list[Exchange] = []
        self._listeners: dict[HostName, _Listener] = {}
        self._cuts: set[frozenset[HostName]] = set()
        self._isolated: set[HostName] = set()

    def listen(
        self, identity: PeerIdentity, handler: PeerHandler, directory: PeerDirectory, *, at: HostName | None = None
    ) -> None:
        """From now on `handler` answers with the certificate of `identity`, to callers that `directory` knows, at the
        address of `identity.host` or of another host. Raises BadInput when somebody listens there."""
        address = identity.host if at is None else at
        if address in self._listeners:
            raise BadInput("the address is in use", where=address)
        self._listeners[address] = _Listener(identity=identity, handler=handler, directory=directory)

    def stop(self, host: HostName) -> None:
        """Nobody listens at the address of `host` any more; what was being answered is not. Does nothing when nobody
        did."""
        listener = self._listeners.pop(host, None)
        if listener is not None:
            for task in listener.tasks:
                task.cancel()

    def transport(self, identity: PeerIdentity, directory: PeerDirectory) -> "MemoryTransport":
        """The `PeerTransport` of the host with `identity`, which takes only certificates that `directory` has."""
        return MemoryTransport(network=self, identity=identity, directory=directory)

    def cut(self, one: HostName, other: HostName) -> None:
        """Nothing passes between the two any more, and nobody is told: requests run into their timeout."""
        self._cuts.add(frozenset({one, other}))

    def heal(self, one: HostName, other: HostName) -> None:
        self._cuts.discard(frozenset({one, other}))

    def cut_host(self, host: HostName) -> None:
        """Nothing passes between the host and any other."""
        self._isolated.add(host)

    def heal_host(self, host: HostName) -> None:
        self._isolated.discard(host)

    def connected(self, one: HostName, other: HostName) -> bool:
        """True iff packets pass between the two."""
        return frozenset({one, other}) not in self._cuts and not {one, other} & self._isolated

    async def send(self, request: Request) -> bytes:
        """Deliver a request and return the answer. Raises what `PeerTransport.call` raises."""
        await self._travel(request.caller.host, request.to)
        listener = self._listeners.get(request.to)
        if listener is None:
            raise Unreachable("nobody listens", where=request.to)
        task = asyncio.get_running_loop().create_task(_answer(listener, request))
        listener.tasks.add(task)
        task.add_done_callback(listener.tasks.discard)
        await asyncio.wait({task})
        if task.cancelled():
            raise Unreachable("the connection was lost", where=request.to)
        accepted, answer = task.result()
        await self._travel(request.to, request.caller.host)
        if self.record:
            self.exchanges.append(Exchange(request=request, answer=answer, refused=not accepted))
        if not accepted:
            raise decode_refusal(answer, request.to)
        return answer

    def certificate_of(self, host: HostName) -> bytes | None:
        """SHA-256 of the certificate that answers at `host` now."""
        listener = self._listeners.get(host)
        return None if listener is None else listener.identity.certificate_sha256

    async def _travel(self, sender: HostName, receiver: HostName) -> None:
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if not self.connected(sender, receiver):
            await asyncio.get_running_loop().create_future()


class MemoryTransport:
    """`PeerTransport` of one host on a `MemoryNetwork`."""

    def __init__(self, *, network: MemoryNetwork, identity: PeerIdentity, directory: PeerDirectory) -> None:
        self._network = network
        self._identity = identity
        self._directory = directory

    async def call(self, host: HostEntry, path: str, body: bytes, *, timeout_s: float) -> bytes:
        """See `PeerTransport.call`."""
        limit = body_limit(path)
        if len(body) > limit:
            raise BadInput("the message is too long", where=path, expected=f"at most {limit} bytes")
        enrolled = self._directory.enrolled(host.name)
        network = self._network
        request = Request(caller=self._identity, to=host.name, path=path, body=body)
        try:
            async with asyncio.timeout(timeout_s):
                shown = network.certificate_of(host.name)
                if (
                    shown is not None
                    and network.connected(self._identity.host, host.name)
                    and (shown != enrolled.certificate_sha256)
                ):
                    raise NotTrusted(
                        "another certificate answers",
                        where=host.name,
                        expected=enrolled.certificate_sha256.hex(),
                        found=shown.hex(),
                    )
                if network.tap is None:
                    answer = await network.send(request)
                else:
                    answer = await network.tap(request, network.send)
        except TimeoutError:
            raise Unreachable("no answer in time", where=host.name, expected=f"one within {timeout_s} s") from None
        if len(answer) > limit:
            raise BadInput("the answer is too long", where=host.name, expected=f"at most {limit} bytes")
        return answer


async def _answer(listener: _Listener, request: Request) -> tuple[bool, bytes]:
    """True and the answer, or False and the refusal."""
    try:
        caller = known_caller(listener.directory, request.caller, request.path)
        if len(request.body) > body_limit(request.path):
            raise Refused("the message is too long", where=request.path)
        return True, await listener.handler.handle(caller, request.path, request.body)
    except ShamonError as error:
        return False, encode_refusal(error)
