"""The real network between hosts: HTTP/1.1 over mutual TLS 1.3, bounded in size and time on both ends.

`HttpTransport` is the caller's half of `PeerTransport`, `serve_peers` the answering half. A request is answered with
200 and the answer, or with 403 and a refusal in words; nothing else means anything. Redirects, compression, cookies
and proxies of the environment are off. In memory: `shamon_host.testing.network`.
"""

import asyncio
import hashlib
import io
import logging
import ssl
from collections import Counter

import aiohttp
from aiohttp import web
from yarl import URL

from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, Refused, ShamonError, Unreachable
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HostEntry
from shamon_host.peer.callers import known_caller
from shamon_host.peer.coalition_ca import certificate_names, read_der_certificate
from shamon_host.peer.errors import Busy, cause_in_words
from shamon_host.peer.ports import PeerDirectory, PeerHandler, PeerIdentity
from shamon_host.peer.tls import TlsFiles, client_context, server_context
from shamon_host.peer.wire import EVIDENCE, MAX_REFUSAL_BYTES, body_limit, decode_refusal, encode_refusal

_LOG = logging.getLogger(__name__)

_CONTENT_TYPE = "application/octet-stream"
_ANSWERED, _REFUSED = 200, 403
_REUSE_S = 5.0
"""Connections are kept for the next step of a handshake, not for the next handshake: the peer may reboot between."""
_HANDSHAKE_TIMEOUT_S = 10.0
_BODY_TIMEOUT_S = 30.0
_MAX_CONNECTIONS = 512
_MAX_REQUESTS_OF_ONE = 4
_MAX_EVIDENCE_OF_ONE = 1
"""Evidence is large: one host may have this many bodies of it in this host's memory, and no more."""
_CHUNK = 256 * 1024
_HEADERS = 32
_HEADER_BYTES = 2048


class HttpTransport:
    """`PeerTransport` of this host. Close it before the event loop ends."""

    def __init__(self, *, tls: TlsFiles, directory: PeerDirectory, proxy: str | None = None) -> None:
        """`proxy`: URL of what carries connections to peers (HTTP CONNECT), inside which TLS is with the peer as ever.
        Raises BadInput when a TLS file is not what it should be."""
        self._proxy = proxy
        self._tls = tls
        self._directory = directory
        self._contexts: dict[bytes, ssl.SSLContext] = {}
        self._session: aiohttp.ClientSession | None = None
        client_context(tls, bytes(32))

    async def call(self, host: HostEntry, path: str, body: bytes, *, timeout_s: float) -> bytes:
        """See `PeerTransport.call`."""
        limit = body_limit(path)
        if len(body) > limit:
            raise BadInput("the message is too long", where=path, expected=f"at most {limit} bytes")
        context = self._context(self._directory.enrolled(host.name).certificate_sha256)
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._open().post(
                    URL.build(scheme="https", host=host.address, port=host.port, path=path),
                    data=io.BytesIO(body),
                    ssl=context,
                    server_hostname=host.name,
                    proxy=self._proxy,
                    allow_redirects=False,
                ) as response,
            ):
                if response.status == _ANSWERED:
                    return await _bounded(response.content, limit, host.name)
                refusal = await _bounded(response.content, MAX_REFUSAL_BYTES, host.name)
        except TimeoutError:
            raise Unreachable("no answer in time", where=host.name, expected=f"one within {timeout_s} s") from None
        except aiohttp.ClientSSLError as error:
            raise NotTrusted(
                "the TLS connection is not to the enrolled host",
                where=host.name,
                expected="TLS 1.3 with its enrolled certificate",
                found=cause_in_words(error),
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(
                "no connection, or it was lost",
                where=f"{host.name} at {host.address} port {host.port}",
                found=cause_in_words(error),
            ) from error
        raise decode_refusal(refusal, host.name)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, limit_per_host=_MAX_REQUESTS_OF_ONE, keepalive_timeout=_REUSE_S, use_dns_cache=False
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                headers={"Content-Type": _CONTENT_TYPE},
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            )
        return self._session

    def _context(self, certificate_sha256: bytes) -> ssl.SSLContext:
        context = self._contexts.get(certificate_sha256)
        if context is None:
            context = self._contexts[certificate_sha256] = client_context(self._tls, certificate_sha256)
        return context


class PeerServer:
    """The listening half. Made by `serve_peers`."""

    def __init__(self, handler: PeerHandler, directory: PeerDirectory) -> None:
        self._handler = handler
        self._directory = directory
        self._active: Counter[tuple[HostName, bool]] = Counter()
        self._http = web.Server(
            self._serve,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=2 * _REUSE_S,
            lingering_time=1.0,
            max_headers=_HEADERS,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
        )
        self._listener: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        if self._listener is None:
            raise BackendFailed("the peer service does not listen")
        port = self._listener.sockets[0].getsockname()[1]
        return int(port)

    async def start(self, tls: ssl.SSLContext, address: str, port: int) -> None:
        """Listen. Raises BackendFailed when the address cannot be had."""
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._protocol,
                address,
                port,
                ssl=tls,
                ssl_handshake_timeout=_HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=1.0,
            )
        except OSError as error:
            raise BackendFailed(
                "the peer service cannot listen",
                where=f"{address} port {port}",
                found=error.strerror or "",
                remedy="See who else uses the port.",
            ) from error

    async def close(self) -> None:
        """Stop listening, and end what is being answered."""
        if self._listener is not None:
            self._listener.close()
            self._http.pre_shutdown()
            await self._http.shutdown(1.0)
            await self._listener.wait_closed()
            self._listener = None

    def _protocol(self) -> asyncio.Protocol:
        return _TooMany() if len(self._http.connections) >= _MAX_CONNECTIONS else self._http()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            caller = self._caller(request)
            large = request.rel_url.raw_path == EVIDENCE
            key = (caller.host, large)
            if self._active[key] >= (_MAX_EVIDENCE_OF_ONE if large else _MAX_REQUESTS_OF_ONE):
                raise Busy("too many requests of the same host at once")
            self._active[key] += 1
            try:
                return _response(_ANSWERED, await self._answer(caller, request))
            finally:
                self._active[key] -= 1
        except ShamonError as error:
            return _response(_REFUSED, encode_refusal(error))
        except Exception:  # noqa: BLE001 - a bug must not end the service, nor tell a peer about this host
            _LOG.exception("a request of a peer could not be answered")
            return _response(_REFUSED, encode_refusal(BackendFailed("an error in the peer, see its log")))

    def _caller(self, request: web.BaseRequest) -> PeerIdentity:
        connection = request.transport.get_extra_info("ssl_object") if request.transport else None
        certificate = connection.getpeercert(True) if isinstance(connection, ssl.SSLObject) else None
        if not certificate:
            raise NotTrusted("a request without a certificate")
        names = certificate_names(read_der_certificate(certificate, where="certificate"))
        if len(names) != 1:
            raise NotTrusted("a certificate without a name of its own", expected="one dNSName")
        shown = PeerIdentity(host=HostName(names[0]), certificate_sha256=hashlib.sha256(certificate).digest())
        return known_caller(self._directory, shown, request.rel_url.raw_path)

    async def _answer(self, caller: PeerIdentity, request: web.BaseRequest) -> bytes:
        path = request.rel_url.raw_path
        limit = body_limit(path)
        if request.method != "POST" or request.query_string or "Content-Encoding" in request.headers:
            raise BadInput("only a plain POST is answered", where=path)
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                body = await _bounded(request.content, limit, path)
        except TimeoutError:
            raise Refused("the request did not come in time", where=path) from None
        except (OSError, web.RequestPayloadError) as error:
            raise Refused("the connection was lost in the midst of a request", found=cause_in_words(error)) from None
        return await self._handler.handle(caller, path, body)


async def serve_peers(
    handler: PeerHandler, *, name: HostName, tls: TlsFiles, directory: PeerDirectory, address: str, port: int
) -> PeerServer:
    """Answer peers on `address` and `port` (0: any free one) until the server that is returned is closed.

    Raises BadInput when a TLS file is not what it should be or is not what `name` is enrolled with, BackendFailed when
    the address cannot be had.
    """
    context = server_context(tls)
    own, enrolled = tls.certificate_sha256(), directory.enrolled(name).certificate_sha256
    if own != enrolled:
        raise BadInput(
            "the host's certificate is not the one that it is enrolled with",
            where=str(tls.certificate),
            expected=enrolled.hex(),
            found=own.hex(),
            remedy="Enrol the host again, on every host.",
        )
    server = PeerServer(handler, directory)
    await server.start(context, address, port)
    return server


class _TooMany(asyncio.Protocol):
    """For a connection beyond what this server keeps."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.abort()


async def _bounded(content: aiohttp.StreamReader, limit: int, where: str) -> bytes:
    """The whole body, if it is no longer than `limit`. Raises BadInput."""
    body = bytearray()
    while chunk := await content.read(_CHUNK):
        body += chunk
        if len(body) > limit:
            raise BadInput("the message is too long", where=where, expected=f"at most {limit} bytes")
    return bytes(body)


def _response(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type=_CONTENT_TYPE)
