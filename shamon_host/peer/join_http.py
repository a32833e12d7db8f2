"""Joining over the network: HTTP/1.1 over TLS 1.3, where only the operator's side has a certificate.

The host has none yet; its token, inside TLS, says who it is. The operator's is made for this one invitation, under a
name that no host can have (`JOIN_NAME`), and the host takes no other CA than the one in its invitation.
"""

import asyncio
import logging
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from yarl import URL

from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, Refused, ShamonError, Unreachable
from shamon_host.peer.coalition_ca import CoalitionCa, key_pem
from shamon_host.peer.errors import cause_in_words
from shamon_host.peer.host_record import HostRecord
from shamon_host.peer.join_messages import JOIN_NAME, MAX_JOIN_BYTES, PROOF, REQUEST, Granted, Invitation
from shamon_host.peer.joining import Joiner, Reception, Stage
from shamon_host.peer.registry_messages import Exchange
from shamon_host.peer.wire import MAX_REFUSAL_BYTES, MAX_REGISTRY_MESSAGE, decode_refusal, encode_refusal, printable

_LOG = logging.getLogger(__name__)
_CONTENT_TYPE = "application/octet-stream"
_ANSWERED, _REFUSED = 200, 403
_MAX_CONNECTIONS = 16
_BODY_TIMEOUT_S = 30.0
_HANDSHAKE_TIMEOUT_S = 10.0
_CALL_TIMEOUT_S = 60.0
_LINGER_S = 2.0
"""For the last answer to reach the host before the server goes."""
_GOODBYE_S = 0.2
"""For the end of a TLS connection."""
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What came of an invitation."""

    joiner: Joiner
    record: HostRecord


class JoinServer:
    """Serves one invitation. `grant` issues the certificate and writes the record; `told` gets the refusals that
    do not use the invitation up."""

    def __init__(
        self,
        reception: Reception,
        *,
        grant: Callable[[Joiner], tuple[HostRecord, Granted]],
        told: Callable[[ShamonError], None] = lambda _: None,
    ) -> None:
        self._reception = reception
        self._grant = grant
        self._told = told
        self._done: asyncio.Future[Joined] = asyncio.get_running_loop().create_future()
        self._http = web.Server(self._serve, access_log=None, auto_decompress=False, max_headers=32)
        self._listener: asyncio.Server | None = None

    @property
    def port(self) -> int:
        if self._listener is None:
            raise BackendFailed("nobody listens for the host that is invited")
        return int(self._listener.sockets[0].getsockname()[1])

    async def start(self, tls: ssl.SSLContext, address: str, port: int) -> None:
        """Listen. Raises BackendFailed when the address cannot be had."""
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._http,
                address,
                port,
                ssl=tls,
                ssl_handshake_timeout=_HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=_GOODBYE_S,
            )
        except OSError as error:
            raise BackendFailed(
                "cannot listen for the host", where=f"{address} port {port}", found=error.strerror or ""
            ) from error

    async def outcome(self) -> Joined:
        """Wait until the host has joined. Raises what used the invitation up, Refused when its time was over."""
        left_s = self._reception.invitation.expires_s - datetime.now(UTC).timestamp()
        try:
            return await asyncio.wait_for(asyncio.shield(self._done), max(0.0, left_s))
        except TimeoutError:
            raise Refused(
                "the invitation has expired, and the host did not join", where=self._reception.invitation.host
            ) from None

    async def close(self) -> None:
        """Stop listening, after what is being answered."""
        if self._listener is not None:
            self._listener.close()
            self._http.pre_shutdown()
            await self._http.shutdown(_LINGER_S)
            await self._listener.wait_closed()
            await asyncio.sleep(2 * _GOODBYE_S)  # the event loop ends next, and TLS still has to close
            self._listener = None
        self._done.cancel()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        # Only who has the token gets the reception to another stage; nobody else can end the invitation.
        before = None
        try:
            if len(self._http.connections) > _MAX_CONNECTIONS:
                raise Refused("too many connections at once")
            body = await self._body(request)
            before = self._reception.stage
            return _response(_ANSWERED, self._answer(request.rel_url.raw_path, body))
        except ShamonError as error:
            self._refused(error, ended=before is not None and self._has_ended(before))
            return _response(_REFUSED, encode_refusal(error))
        except Exception:  # noqa: BLE001 - a bug must not leave the operator waiting, nor tell a stranger about this machine
            _LOG.exception("a request to join could not be answered")
            failed = BackendFailed("an error on the operator's machine, see its log")
            self._refused(failed, ended=before is not None and self._reception.stage is not before)
            return _response(_REFUSED, encode_refusal(failed))

    def _has_ended(self, before: Stage) -> bool:
        return self._reception.stage is Stage.USED_UP and before is not Stage.USED_UP

    def _refused(self, error: ShamonError, *, ended: bool) -> None:
        """Tell the operator; `ended`: it has used the invitation up."""
        if self._done.done():
            return
        if ended:
            self._done.set_exception(error)
        else:
            self._told(error)

    def _answer(self, path: str, body: bytes) -> bytes:
        now = datetime.now(UTC)
        if path == REQUEST:
            return self._reception.request(body, now)
        if path == PROOF:
            joiner = self._reception.prove(body, now)
            try:
                record, answer = self._grant(joiner)
            except ShamonError as error:
                self._done.set_exception(error)
                raise
            self._done.set_result(Joined(joiner=joiner, record=record))
            return answer.encode()
        raise BadInput("nothing is served here", where=printable(path, 80), expected=f"{REQUEST}, {PROOF}")

    async def _body(self, request: web.BaseRequest) -> bytes:
        if request.method != "POST" or request.query_string or "Content-Encoding" in request.headers:
            raise BadInput("only a plain POST is answered")
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                return await _bounded(request.content, MAX_JOIN_BYTES)
        except TimeoutError:
            raise Refused("the request did not come in time") from None
        except (OSError, web.RequestPayloadError) as error:
            raise Refused("the connection was lost in the midst of a request", found=type(error).__name__) from None


def server_context(ca: CoalitionCa, valid: timedelta) -> ssl.SSLContext:
    """The operator's side of TLS 1.3, with a certificate that the CA issues for this alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    load_own_certificate(context, ca, JOIN_NAME, valid, server=True)
    return context


def load_own_certificate(
    context: ssl.SSLContext, ca: CoalitionCa, name: str, valid: timedelta, *, server: bool
) -> None:
    """Give a context a new key with a certificate of the operator's own; both are gone from disk afterwards."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = ca.issue_operator(name, key.public_key(), valid, server=server)
    with tempfile.TemporaryDirectory(prefix="shamon-") as directory:  # mode 0700; ssl takes only files
        path = Path(directory) / "own.pem"
        path.touch(mode=0o600)
        path.write_bytes(key_pem(key) + certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(path)


def call(invitation: Invitation, path: str, body: bytes) -> bytes:
    """One request of a host that joins. Raises Unreachable, NotTrusted (it is not the operator's machine that answers),
    Refused in the operator's words."""

    async def once() -> bytes:
        try:
            return await _call(invitation, path, body)
        finally:
            await asyncio.sleep(_GOODBYE_S)  # the event loop ends next, and TLS still has to close

    return asyncio.run(once())


async def _call(invitation: Invitation, path: str, body: bytes) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False
    try:
        context.load_verify_locations(cadata=invitation.ca_pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError):
        raise BadInput("the invitation has no certificate of a CA", where="invitation") from None
    where = f"{invitation.address} port {invitation.port}"
    url = URL.build(scheme="https", host=invitation.address, port=invitation.port, path=path)
    try:
        async with (
            asyncio.timeout(_CALL_TIMEOUT_S),
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as session,
            session.post(
                url,
                data=body,
                ssl=context,
                server_hostname=JOIN_NAME,
                allow_redirects=False,
                headers={"Content-Type": _CONTENT_TYPE},
            ) as response,
        ):
            if response.status == _ANSWERED:
                return await _bounded(response.content, MAX_REGISTRY_MESSAGE)
            refusal = await _bounded(response.content, MAX_REFUSAL_BYTES)
    except TimeoutError:
        raise Unreachable("no answer in time", where=where) from None
    except aiohttp.ClientSSLError as error:
        raise NotTrusted(
            "it is not the operator who invited that answers",
            where=where,
            expected="a certificate of the CA in the invitation",
            found=cause_in_words(error),
        ) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Unreachable(
            "the operator's machine does not answer",
            where=where,
            found=cause_in_words(error),
            remedy="`shamon coalition invite` has to run there; ask for a new invitation if it has ended.",
        ) from error
    raise decode_refusal(refusal, where)


async def _bounded(content: aiohttp.StreamReader, limit: int) -> bytes:
    body = bytearray()
    while chunk := await content.read(_CHUNK):
        body += chunk
        if len(body) > limit:
            raise BadInput("the message is too long", expected=f"at most {limit} bytes")
    return bytes(body)


def _response(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type=_CONTENT_TYPE)


def granted(ca_pem: bytes, records: tuple[HostRecord, ...], cas: tuple[bytes, ...]) -> Granted:
    """What a host gets that has joined: the CA, and everybody's record."""
    return Granted(ca_pem=ca_pem, exchange=Exchange.of({}, records, cas))
