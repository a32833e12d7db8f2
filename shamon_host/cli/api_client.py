"""Requests to the daemon of this host over its Unix socket."""

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from shamon_host.domain.errors import BadInput, NotTrusted, ShamonError, Unreachable

_TIMEOUT_S = 600.0
"""A VM start verifies an image and waits for the hypervisor."""
_CLASSES = {2: BadInput, 3: NotTrusted, 4: Unreachable}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True, slots=True)
class ApiClient:
    """Synchronous; one connection for each request."""

    socket: Path

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """The JSON value of the answer. Raises Unreachable, or the daemon's own error."""
        return self._request("GET", path + (f"?{urlencode(query)}" if query else ""), None)

    def post(self, path: str, fields: Mapping[str, Any]) -> Any:
        """See `get`."""
        return self._request("POST", path, json.dumps(fields))

    def _request(self, method: str, target: str, body: str | None) -> Any:
        connection = _UnixConnection(self.socket)
        try:
            connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            value = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(
                "the daemon of this host does not answer",
                where=str(self.socket),
                found=str(error)[:200],
                remedy="Is it running (`systemctl status shamon`)? Only root may ask it.",
            ) from error
        finally:
            connection.close()
        if response.status == http.client.OK:
            return value
        raise _error(value)


def _error(value: Any) -> ShamonError:
    try:
        fields = value["error"]
        error = _CLASSES.get(fields["exit_code"], ShamonError)
        parts = {name: str(fields[name]) for name in ("where", "expected", "found", "remedy")}
        return error(str(fields["what"]), **parts)
    except (KeyError, TypeError):
        return ShamonError("the daemon gave an answer that is no error of its own", found=str(value)[:200])
