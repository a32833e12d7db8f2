"""The API on a Unix socket, for root only: the socket's mode is 0600, in a directory of mode 0700."""

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

from aiohttp import web

from shamon_host.daemon.api import Answer, Api, error_body
from shamon_host.domain.errors import BackendFailed, BadInput

_LOG = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 8 << 20
"""An envelope around the largest policy, as a string in JSON."""


async def serve_api(api: Api, socket: Path) -> web.AppRunner:
    """Listen on `socket`; a socket file that a dead daemon left is replaced. The caller cleans the runner up.

    Raises BackendFailed."""

    async def handle(request: web.Request) -> web.Response:
        try:
            answer = await _answer(api, request)
        except Exception:  # noqa: BLE001 - a mistake in this program must not look as if no daemon were there
            _LOG.exception("a request could not be answered")
            error = BackendFailed("an error in the daemon", remedy="See its log: `journalctl -u shamon`.")
            answer = Answer(status=500, body=error_body(error))
        return web.json_response(answer.body, status=answer.status)

    application = web.Application(client_max_size=MAX_REQUEST_BYTES)
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        socket.unlink(missing_ok=True)
        await _listen(runner, socket)
    except OSError as error:
        await runner.cleanup()
        raise BackendFailed("the API cannot listen", where=str(socket), found=error.strerror or str(error)) from error
    return runner


async def _listen(runner: web.AppRunner, socket: Path) -> None:
    previous = os.umask(0o177)
    try:
        await web.UnixSite(runner, str(socket)).start()
    finally:
        os.umask(previous)


async def _answer(api: Api, request: web.Request) -> Answer:
    fields: dict[str, Any] = dict(request.query)
    if request.can_read_body:
        try:
            body = json.loads(await asyncio.wait_for(request.read(), timeout=5))
        except (ValueError, RecursionError, TimeoutError, web.HTTPRequestEntityTooLarge):
            body = None
        if not isinstance(body, dict):
            return Answer(
                status=400,
                body=error_body(BadInput("bad request", expected="a JSON object of a few megabytes at most")),
            )
        fields |= body
    return await api.handle(request.method, request.path, fields)
