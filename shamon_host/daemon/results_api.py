"""What the daemon answers about Attestation Results: their history, signed ones, Evidence, and stories."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shamon_host.daemon.host_daemon import HostDaemon
from shamon_host.daemon.result_history import MAX_RUNS_ASKED
from shamon_host.daemon.verdict_story import Known, tell
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.peer.result_envelope import sign_result

_RUNS_TOLD = 200


@dataclass(kw_only=True)
class ResultsApi:
    """Stateless; one for each request."""

    daemon: HostDaemon

    async def route(self, what: list[str], fields: Mapping[str, Any]) -> Any:
        """Answer `GET /v1/results/...`. Raises ShamonError."""
        host = self._host(fields)
        history, blocking = self.daemon.history, self.daemon.backends.blocking
        match what:
            case []:
                limit = _limit(fields)
                runs = await blocking(lambda: [run.to_document() for run in history.runs(host, limit=limit)])
                return runs or self._nothing_of(host)
            case ["signed"]:
                return await blocking(lambda: {"envelope": self._signed(host)})
            case ["evidence"]:
                trusted = _which(fields)
                return await blocking(lambda: json.loads(history.evidence(host, trusted=trusted)))
            case ["explain"]:
                return await self._explain(host)
            case _:
                raise BadInput("no such request", expected="results, or results/signed, evidence or explain")

    def _signed(self, host: HostName) -> str:
        return sign_result(self.daemon.history.newest(host), self.daemon.backends.record_key).decode("ascii")

    def _nothing_of(self, host: HostName) -> list[dict[str, Any]]:
        """There is no result of the host. Raises BadInput where it is no host at all."""
        if host not in self.daemon.admissions.peers:
            raise BadInput(
                "the policy has no such other host",
                where=host,
                expected=", ".join(sorted(self.daemon.admissions.peers)) or "a host of the policy",
            )
        return []

    async def _explain(self, host: HostName) -> dict[str, Any]:
        daemon = self.daemon
        self._nothing_of(host)
        runs, records = await daemon.backends.blocking(
            lambda: (daemon.history.runs(host, limit=_RUNS_TOLD), daemon.audit.about(host, also="vm."))
        )
        known = Known(
            verifier=daemon.name,
            state=daemon.admissions.peers[host],
            runs=runs,
            records=records,
            pending=daemon.reactions.pending,
            last_error=daemon.schedule.unreachable.get(host, ""),
            refuses_us=daemon.host.refusals.get(host, ()),
            now_s=daemon.backends.clock.boottime_s(),
        )
        return tell(known).to_document()

    def _host(self, fields: Mapping[str, Any]) -> HostName:
        host = HostName(plain_name(str(fields.get("host", ""))[:80], "host name"))
        if host == self.daemon.name:
            raise BadInput(
                "a host does not appraise itself",
                where=host,
                expected="another host of the coalition",
                remedy=f"Ask on a peer what it says of {host}.",
            )
        return host


def _limit(fields: Mapping[str, Any]) -> int:
    try:
        value = int(fields.get("limit", 20))
    except (TypeError, ValueError, OverflowError):
        value = 0
    if value < 1:
        raise BadInput("bad limit", expected=f"1 to {MAX_RUNS_ASKED}", found=repr(fields.get("limit"))[:40])
    return value


def _which(fields: Mapping[str, Any]) -> bool:
    value = fields.get("which", "failed")
    if value not in ("failed", "passed"):
        raise BadInput("bad which", expected="failed or passed", found=repr(value)[:40])
    return bool(value == "passed")
