"""Run on a lab host in the daemon's domain: the product's daemon, which dies with a message of an update of its own.

    dying_coordinator.py NUMBER before|after

The process ends as by `kill -9`, before message NUMBER of the update is sent, or after its answer has come.
"""

import os
import sys

from shamon_host.cli.main import main
from shamon_host.peer.http_transport import HttpTransport
from shamon_host.peer.wire import POLICY_COMMIT, POLICY_PREPARE

_number, _when = int(sys.argv[1]), sys.argv[2]
_call = HttpTransport.call
_seen: list[str] = []


async def _counted(self, host, path, body, *, timeout_s):  # type: ignore[no-untyped-def]
    if path not in (POLICY_PREPARE, POLICY_COMMIT):
        return await _call(self, host, path, body, timeout_s=timeout_s)
    _seen.append(path)
    dies = len(_seen) == _number
    if dies and _when == "before":
        os._exit(137)
    answer = await _call(self, host, path, body, timeout_s=timeout_s)
    if dies:
        os._exit(137)
    return answer


HttpTransport.call = _counted  # type: ignore[method-assign]
sys.exit(main(["daemon", "--config", "/etc/shamon/host.toml"]))
