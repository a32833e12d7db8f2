"""The real transport over the loopback interface: the contract, and what only real TLS can get wrong. Needs no root."""

import asyncio
import gzip
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, Refused, Unreachable
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HostEntry
from shamon_host.domain.results import TpmKind
from shamon_host.link_agent.relay import Relay
from shamon_host.peer.coalition_ca import init_coalition, issue_host_certificate, parse_certificate
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.handshake import Busy, Handshaker, PeerService
from shamon_host.peer.host_record import HostRecord, enrolled_peer
from shamon_host.peer.http_transport import HttpTransport, PeerServer, serve_peers
from shamon_host.peer.ports import EnrolledPeer, PeerTransport
from shamon_host.peer.tls import TlsFiles, client_context
from shamon_host.peer.wire import EVIDENCE, HELLO, HINT, body_limit
from shamon_host.testing.contracts.transport import (
    ALPHA,
    BETA,
    GAMMA,
    STRANGER,
    TIMEOUT_S,
    Answers,
    Scenario,
    TransportContract,
    TransportWorld,
)
from tests.unit.peer.handshake_world import StubHost

LOOPBACK = "127.0.0.1"


class Coalition:
    """A CA, and the files and entries of hosts that it enrolled."""

    def __init__(self, directory: Path) -> None:
        init_coalition(directory / "ca", "example")
        self.files: dict[HostName, TlsFiles] = {}
        self.peers: dict[HostName, EnrolledPeer] = {}
        for host in (ALPHA, BETA, GAMMA, STRANGER):
            issued = issue_host_certificate(directory / "ca", host, directory / host)
            self.files[host] = TlsFiles(ca=directory / "ca" / "ca.pem", certificate=issued.certificate, key=issued.key)
            ak = TpmPublic.attestation_key(ec.generate_private_key(ec.SECP256R1()).public_key()).encode()
            certificate = parse_certificate(issued.certificate.read_bytes(), where=host)
            self.peers[host] = enrolled_peer(host, certificate, ak, TpmKind.SOFTWARE)

    def registry(self, *hosts: HostName) -> PeerRegistry:
        return PeerRegistry(self.peers[host] for host in hosts)


@pytest.fixture(scope="module")
def coalition(tmp_path_factory: pytest.TempPathFactory) -> Coalition:
    return Coalition(tmp_path_factory.mktemp("coalition"))


@pytest.fixture(scope="module")
def rivals(tmp_path_factory: pytest.TempPathFactory) -> Coalition:
    return Coalition(tmp_path_factory.mktemp("rivals"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class LoopbackWorld(TransportWorld):
    address = LOOPBACK

    def __init__(self, coalition: Coalition, proxy: str | None = None) -> None:
        self.proxy = proxy
        known = (ALPHA, BETA, GAMMA)
        self.files = coalition.files
        self.registries = {host: coalition.registry(*known) for host in known}
        self.registries[STRANGER] = coalition.registry(*known, STRANGER)
        self.ports = {host: free_port() for host in (*known, STRANGER)}
        self.transports: dict[HostName, HttpTransport] = {}
        self.servers: dict[HostName, PeerServer] = {}

    def registry(self, host: HostName) -> PeerRegistry:
        return self.registries[host]

    def entry(self, host: HostName) -> HostEntry:
        return HostEntry(name=host, address=self.address, port=self.ports[host], types=frozenset())

    def transport(self, host: HostName) -> PeerTransport:
        if host not in self.transports:
            files, registry = self.files[host], self.registries[host]
            self.transports[host] = HttpTransport(tls=files, directory=registry, proxy=self.proxy)
        return self.transports[host]

    async def listen(self, host: HostName, handler: Answers, *, at: HostName | None = None) -> None:
        address = host if at is None else at
        self.servers[address] = await serve_peers(
            handler,
            name=host,
            tls=self.files[host],
            directory=self.registries[host],
            address=self.address,
            port=self.ports[address],
        )

    async def stop(self, host: HostName) -> None:
        await self.servers.pop(host).close()

    async def close(self) -> None:
        for transport in self.transports.values():
            await transport.close()
        for server in self.servers.values():
            await server.close()


@asynccontextmanager
async def loopback(
    coalition: Coalition, address: str = LOOPBACK, proxy: str | None = None
) -> AsyncIterator[LoopbackWorld]:
    world = LoopbackWorld(coalition, proxy)
    world.address = address
    try:
        yield world
    finally:
        await world.close()


class TestHttpTransport(TransportContract):
    address = LOOPBACK

    @pytest.fixture(autouse=True)
    def _coalition(self, coalition: Coalition) -> None:
        self.coalition = coalition

    def run(self, scenario: Scenario) -> None:
        async def main() -> None:
            async with loopback(self.coalition, self.address) as world:
                await scenario(world)

        asyncio.run(main())


class TestHttpTransportOverIpv6(TestHttpTransport):
    address = "::1"


class TestHttpTransportThroughAMacVm(TestHttpTransport):
    """All connections to peers go out through the relay of a MAC VM; TLS is with the peer as ever."""

    def run(self, scenario: Scenario) -> None:
        async def main() -> None:
            relay = Relay()
            server = await asyncio.start_server(relay.proxied, LOOPBACK, 0)
            proxy = f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
            async with server, loopback(self.coalition, self.address, proxy) as world:
                await scenario(world)

        asyncio.run(main())


class TestHttpTransportThroughAMacVmOverIpv6(TestHttpTransportThroughAMacVm):
    address = "::1"


async def talk(port: int, context: ssl.SSLContext, request: bytes, *, name: str = BETA) -> bytes:
    """Send bytes over TLS, by hand, and return all that comes back."""
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection(LOOPBACK, port, ssl=context, server_hostname=name)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def post(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: beta", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def context_of(coalition: Coalition, caller: HostName = ALPHA, callee: HostName = BETA) -> ssl.SSLContext:
    return client_context(coalition.files[caller], coalition.peers[callee].certificate_sha256)


async def test_tls_is_1_3_and_nothing_older(coalition: Coalition) -> None:
    async with loopback(coalition) as world:
        await world.listen(BETA, Answers())
        _, writer = await asyncio.open_connection(
            LOOPBACK, world.ports[BETA], ssl=context_of(coalition), server_hostname=BETA
        )
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        writer.close()
        await writer.wait_closed()
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(coalition.files[ALPHA].ca)
        old.load_cert_chain(coalition.files[ALPHA].certificate, coalition.files[ALPHA].key)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await talk(world.ports[BETA], old, b"")


async def test_caller_without_a_certificate_gets_no_answer(coalition: Coalition) -> None:
    async with loopback(coalition) as world:
        handler = Answers()
        await world.listen(BETA, handler)
        bare = ssl.create_default_context(cafile=str(coalition.files[ALPHA].ca))
        with suppress(ssl.SSLError, ConnectionError):
            assert await talk(world.ports[BETA], bare, post(HELLO, b"")) == b""
        assert handler.seen == []


async def test_host_of_another_ca_neither_calls_nor_is_called(coalition: Coalition, rivals: Coalition) -> None:
    async with loopback(coalition) as world, loopback(rivals) as theirs:
        handler, other = Answers(), Answers()
        await world.listen(BETA, handler)
        await theirs.listen(BETA, other)
        theirs.ports, world.ports = world.ports, theirs.ports
        with pytest.raises((NotTrusted, Unreachable)):
            await theirs.transport(ALPHA).call(theirs.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
        with pytest.raises(NotTrusted):
            await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
        assert handler.seen == other.seen == []


async def test_reissued_certificate_is_not_the_enrolled_one(coalition: Coalition, tmp_path: Path) -> None:
    ca = coalition.files[BETA].ca
    issued = issue_host_certificate(ca.parent, BETA, tmp_path)
    files = TlsFiles(ca=ca, certificate=issued.certificate, key=issued.key)
    async with loopback(coalition) as world:
        with pytest.raises(BadInput, match="not the one that it is enrolled with"):
            await serve_peers(Answers(), name=BETA, tls=files, directory=world.registry(BETA), address=LOOPBACK, port=0)
        world.files = {**coalition.files, ALPHA: TlsFiles(ca=ca, certificate=issued.certificate, key=issued.key)}
        handler = Answers()
        await world.listen(BETA, handler)
        with pytest.raises(Refused, match="not enrolled"):
            await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
        assert handler.seen == []


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (post(HELLO, b"", method="GET"), b"only a plain POST"),
        (post(HELLO + "?x=1", b""), b"only a plain POST"),
        (post("/v1/%68ello", b""), b"nothing is served here"),
        (post("/", b""), b"nothing is served here"),
        (post(HELLO, gzip.compress(bytes(1000)), "Content-Encoding: gzip"), b"only a plain POST"),
        (post(HINT, bytes(body_limit(HINT) + 1)), b"too long"),
    ],
)
async def test_odd_requests_are_refused(coalition: Coalition, request_: bytes, words: bytes) -> None:
    async with loopback(coalition) as world:
        handler = Answers()
        await world.listen(BETA, handler)
        answer = await talk(world.ports[BETA], context_of(coalition), request_)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert words in answer
        assert handler.seen == []


@pytest.mark.parametrize("junk", [b"\x00\xff\r\n\r\n", b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 1000, b"A" * 20000])
async def test_junk_is_not_served_and_does_not_end_the_service(coalition: Coalition, junk: bytes) -> None:
    async with loopback(coalition) as world:
        await world.listen(BETA, Answers())
        answer = await talk(world.ports[BETA], context_of(coalition), junk + b"\r\n\r\n")
        assert not answer.startswith(b"HTTP/1.1 200")
        assert await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"!", timeout_s=TIMEOUT_S) == b"!"


async def test_a_request_that_breaks_off_is_no_bug(coalition: Coalition, caplog: pytest.LogCaptureFixture) -> None:
    """A peer could fill this host's journal with them."""
    async with loopback(coalition) as world:
        await world.listen(BETA, Answers())
        for _ in range(3):
            _, writer = await asyncio.open_connection(
                LOOPBACK, world.ports[BETA], ssl=context_of(coalition), server_hostname=BETA
            )
            writer.write(post(HELLO, b"{}").replace(b"Content-Length: 2", b"Content-Length: 200"))
            await writer.drain()
            await asyncio.sleep(0.2)  # until it is being read
            writer.transport.abort()
        await asyncio.sleep(0.2)
        assert "could not be answered" not in caplog.text


async def test_bug_in_the_handler_tells_the_peer_nothing(
    coalition: Coalition, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(body: bytes) -> bytes:
        raise RuntimeError("secret")

    async with loopback(coalition) as world:
        await world.listen(BETA, Answers(answer))
        with pytest.raises(Refused, match="an error in the peer") as caught:
            await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)
        assert "secret" not in str(caught.value)
        assert "could not be answered" in caplog.text


async def serve_raw(answer: bytes, context: ssl.SSLContext | None) -> asyncio.Server:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1)
            writer.write(answer)
            await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    return await asyncio.start_server(connected, LOOPBACK, 0, ssl=context)


def raw_context(coalition: Coalition) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(coalition.files[BETA].certificate, coalition.files[BETA].key)
    return context


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", Refused),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", Unreachable),
        (b"HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\n\xff\xfe{}", Refused),
        (b"nonsense\r\n\r\n", Unreachable),
        (b"", Unreachable),
    ],
)
async def test_odd_answers_are_errors_of_our_own(
    coalition: Coalition, answer: bytes, expected: type[Exception]
) -> None:
    server = await serve_raw(answer, raw_context(coalition))
    async with loopback(coalition) as world, server:
        world.ports[BETA] = server.sockets[0].getsockname()[1]
        with pytest.raises(expected):
            await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)


async def test_service_without_tls_is_not_trusted(coalition: Coalition) -> None:
    server = await serve_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None)
    async with loopback(coalition) as world, server:
        world.ports[BETA] = server.sockets[0].getsockname()[1]
        with pytest.raises((NotTrusted, Unreachable)):
            await world.transport(ALPHA).call(world.entry(BETA), HELLO, b"", timeout_s=TIMEOUT_S)


async def test_no_byte_of_a_request_reaches_a_host_with_another_certificate(coalition: Coalition) -> None:
    received = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            received.append(await reader.read(1))
        except OSError:
            pass
        finally:
            writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(coalition.files[GAMMA].certificate, coalition.files[GAMMA].key)
    server = await asyncio.start_server(connected, LOOPBACK, 0, ssl=context)
    async with loopback(coalition) as world, server:
        entry = HostEntry(name=GAMMA, address=LOOPBACK, port=server.sockets[0].getsockname()[1], types=frozenset())
        world.registry(ALPHA)._records[GAMMA] = HostRecord(peer=coalition.registry(BETA).enrolled(BETA))
        with pytest.raises(NotTrusted):
            await world.transport(ALPHA).call(entry, HELLO, b"a secret", timeout_s=TIMEOUT_S)
        await asyncio.sleep(0.05)
        assert received in ([], [b""])


async def test_address_in_use_is_a_clear_error(coalition: Coalition) -> None:
    async with loopback(coalition) as world:
        await world.listen(BETA, Answers())
        with pytest.raises(BackendFailed, match="cannot listen"):
            await world.listen(BETA, Answers(), at=None)


@pytest.mark.parametrize("broken", ["ca", "certificate", "key"])
async def test_broken_tls_files_are_named(coalition: Coalition, tmp_path: Path, broken: str) -> None:
    good = coalition.files[BETA]
    bad = tmp_path / "bad.pem"
    for content in (None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        if content is not None:
            bad.write_bytes(content)
        paths = {"ca": good.ca, "certificate": good.certificate, "key": good.key, broken: bad}
        files = TlsFiles(ca=paths["ca"], certificate=paths["certificate"], key=paths["key"])
        with pytest.raises(BadInput, match=r"bad\.pem"):
            HttpTransport(tls=files, directory=coalition.registry(BETA))


@pytest.mark.parametrize(("path", "most"), [(HELLO, 4), (EVIDENCE, 1)])
async def test_concurrent_requests_of_one_host_are_bounded(coalition: Coalition, path: str, most: int) -> None:
    gate = asyncio.Event()

    async def answer(body: bytes) -> bytes:
        await gate.wait()
        return body

    async with loopback(coalition) as world:
        await world.listen(BETA, Answers(answer))
        others = [HttpTransport(tls=world.files[ALPHA], directory=world.registry(ALPHA)) for _ in range(3)]
        calls = [
            asyncio.create_task(transport.call(world.entry(BETA), path, b"", timeout_s=TIMEOUT_S))
            for transport in others
            for _ in range(2)
        ]
        for _ in range(len(calls) - most):
            done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            calls = [task for task in calls if task not in done]
            assert all(isinstance(task.exception(), Busy) for task in done)
            if len(calls) == most:
                break
        gate.set()
        assert await asyncio.gather(*calls) == [b""] * most
        for transport in others:
            await transport.close()


async def test_whole_handshake_over_real_tls(coalition: Coalition) -> None:
    async with loopback(coalition) as world:
        hosts, handshakers = {}, {}
        for name in (ALPHA, BETA):
            own = world.registry(name).enrolled(name)
            hosts[name] = StubHost(
                name, terms_changes={"certificate_sha256": own.certificate_sha256, "ak_name": own.ak_name}
            )
            handshakers[name] = Handshaker(
                name=name,
                host=hosts[name],
                directory=world.registry(name),
                transport=world.transport(name),
                boottime_s=time.monotonic,
                timeout=lambda: TIMEOUT_S,
            )
            service = PeerService(handshaker=handshakers[name], hinted=lambda peer, about: None)
            world.servers[name] = await serve_peers(
                service,
                name=name,
                tls=world.files[name],
                directory=world.registry(name),
                address=LOOPBACK,
                port=world.ports[name],
            )
        for one, other in ((ALPHA, BETA), (BETA, ALPHA), (ALPHA, BETA)):
            outcome = await handshakers[one].initiate(world.entry(other))
            theirs = hosts[other].outbound[one]
            assert [link.in_key for link in outcome.links] == [link.out_key for link in theirs.links]
        hosts[BETA].good = False
        with pytest.raises(NotTrusted, match="boot-chain"):
            await handshakers[ALPHA].initiate(world.entry(BETA))
        assert hosts[BETA].refusals
        for handshaker in handshakers.values():
            await handshaker.close()
