"""What the daemon answers on its Unix socket: requests in, JSON values out. `api_server` puts it on a socket.

Every mutating request goes through the managers, hence through the reference monitor and the audit log. Errors come
back as they are, with the exit code that the command line ends with.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shamon_host import __version__
from shamon_host.daemon.api_fields import integer, text
from shamon_host.daemon.host_daemon import HostDaemon
from shamon_host.daemon.link_doctor import LinkDoctor
from shamon_host.daemon.results_api import ResultsApi
from shamon_host.daemon.suspension import describe
from shamon_host.daemon.vms_api import VmsApi
from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.errors import BadInput, ShamonError
from shamon_host.domain.explain import Explanation, dry_run, explain
from shamon_host.domain.labels import HostName, VmName, plain_name
from shamon_host.domain.policy import PolicyVersion
from shamon_host.hypervisor.vm_disks import DiskStatus

MAX_AUDIT_RECORDS = 1000
MAX_WITHHELD = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`status` is an HTTP status; `body` is a JSON value."""

    status: int
    body: Any


@dataclass(kw_only=True)
class Api:
    """Stateless; one for each daemon."""

    daemon: HostDaemon

    async def handle(self, method: str, path: str, fields: Mapping[str, Any]) -> Answer:
        """Answer one request. `fields` are query parameters or the JSON body. Never raises ShamonError."""
        try:
            return Answer(status=200, body=await self._route(method, path.strip("/").split("/"), fields))
        except ShamonError as error:
            status = {2: 400, 3: 403, 4: 503}.get(error.exit_code, 409)
            return Answer(status=status, body=error_body(error))

    async def _route(self, method: str, parts: list[str], fields: Mapping[str, Any]) -> Any:
        match method, parts:
            case "GET", ["v1", "status" | "mac-vm" as what]:
                return self._status() if what == "status" else await self._blocking(self._mac_vm)
            case "GET", ["v1", "peers"]:
                return await self._blocking(self._peers)
            case "GET", ["v1", "links", *what] if what in ([], ["plan"]):
                return await self._links(plan=bool(what))
            case "GET", ["v1", "link", "doctor"]:
                return await LinkDoctor(daemon=self.daemon).examine(fields)
            case "GET", ["v1", "audit"]:
                return self._audit(fields)
            case "GET", ["v1", "results", *what]:
                return await ResultsApi(daemon=self.daemon).route(what, fields)
            case "GET", ["v1", "policy"]:
                return self.daemon.own.enforced.status()
            case "GET", ["v1", "policy", "explain"]:
                one, other = text(fields, "one", ""), text(fields, "other", "")
                explanations = explain(self.daemon.policy, one, other)
                carried = await self._blocking(lambda: list(self._carried(VmName(one), VmName(other))))
                return _explanations([*explanations, *carried])
            case "GET", ["v1", "policy", "dry-run"]:
                return await self._dry_run(VmName(text(fields, "vm", "")))
            case "POST", ["v1", "policy", "update"]:
                return await self._update(fields)
            case "POST", ["v1", "leave"]:
                return {"host": self.daemon.name, "unheard": dict(await self.daemon.members.leave())}
            case "POST", ["v1", "attest"]:
                self.daemon.schedule.wake_all()
                return {"attesting": sorted(self.daemon.admissions.peers)}
            case _, ["v1", "vms" | "images" as first, *rest]:
                answer = await VmsApi(daemon=self.daemon).route(method, [first, *rest], fields)
                if answer is not None:
                    return answer
            case _, ["v1", "disks", *what] if what in ([], [*what[:1], "adopt"]):
                return await self._disks(method, what)
        raise _no_such_request(method, parts)

    def _status(self) -> dict[str, Any]:
        daemon = self.daemon
        states = [state.state for state in daemon.admissions.peers.values()]
        return {
            "version": __version__,
            "host": daemon.name,
            "coalition": daemon.policy.coalition,
            "policy": daemon.own.enforced.status(),
            "flask": daemon.own.xen.status() if daemon.own.xen else None,
            "boot_id": daemon.backends.boot_id,
            "enrolment": daemon.members.own_enrolment(),
            "peers": {state.value: states.count(state) for state in AdmissionState},
            "refused_by": {peer: list(words) for peer, words in sorted(daemon.host.refusals.items())},
            "no_links_because": daemon.own.links.no_links_because,
            "resisting": sorted(daemon.own.vms.resisting),
            "audit_head": daemon.audit.head().hex(),
            "figures": daemon.figures.summary(),
        }

    def _mac_vm(self) -> dict[str, Any] | None:
        own = self.daemon.own
        if own.mac_vm is None:
            return None
        attestation = self.daemon.attestation
        told = attestation.document(own.mac_vm.name) if attestation else None
        return {**own.mac_vm.status(own.vms.states), "attestation": told}

    def _peers(self) -> list[dict[str, Any]]:
        now = self.daemon.backends.clock.boottime_s()
        return [self._peer(host, now) for host in sorted(self.daemon.admissions.peers)]

    def _peer(self, host: HostName, now_s: float) -> dict[str, Any]:
        state = self.daemon.admissions.peers[host]
        admitted = state.state is AdmissionState.ADMITTED
        policies, policy = self.daemon.policies, self.daemon.policy
        shared, enrolled = policies.shared(host), self.daemon.registry.get(host)
        return {
            "host": host,
            "address": self.daemon.policy.hosts[host].address,
            "state": state.state.value,
            "lease_s": round(max(0.0, state.lease_until_s - now_s), 3) if admitted else 0.0,
            "reason": state.reason,
            "claims": [describe(claim) for claim in state.result.claims] if state.result else [],
            "tpm": state.result.tpm.value if state.result else "",
            "ek": enrolled.ek_sha256.hex() if enrolled else "",
            "carried": sorted(self.daemon.admissions.carried(host)),
            "policy": _version(policies.says(host)),
            "shared": sorted(shared.types),
            "withheld": {name: shared.why_not(name) for name in sorted(policy.types - shared.types)[:MAX_WITHHELD]},
            "audit_head": str((self.daemon.store.get("peer-audit-head", host) or {}).get("head", "")),
            "refuses_us": list(self.daemon.host.refusals.get(host, ())),
            "last_error": self.daemon.schedule.unreachable.get(host, ""),
        }

    def _carried(self, one: VmName, other: VmName) -> Iterator[Explanation]:
        """Whether the types that a VM of this host and one of a peer share are carried between the two hosts."""
        policy, peers = self.daemon.policy, self.daemon.admissions.peers
        if not {one, other} <= policy.vms.keys():
            return
        for peer in sorted({policy.host_of(one), policy.host_of(other)} & peers.keys()):
            shared = self.daemon.policies.shared(peer)
            for name in sorted(policy.label_of(one).types & policy.label_of(other).types):
                reason = shared.why_not(name) or f"the policies of both hosts permit what follows from sharing {name}"
                yield Explanation(
                    check="carry",
                    subject=self.daemon.name,
                    object=f"{peer} {name}",
                    permitted=name in shared.types,
                    rule="compatible",
                    reason=reason,
                    keys=(f'types."{name}"',),
                )

    async def _dry_run(self, vm: VmName) -> list[dict[str, Any]]:
        """Of a start on this host, beside what runs here now."""
        daemon = self.daemon
        vms = daemon.own.vms
        start = await self._blocking(lambda: [*vms.start_decisions(vm), *vms.disks.decisions(vm)])
        peers = tuple(daemon.admissions.peers)
        shared = await self._blocking(lambda: {peer: daemon.policies.shared(peer).types for peer in peers})
        return _explanations(
            dry_run(
                daemon.policy,
                vm,
                daemon.name,
                start=start,
                host_tpm=daemon.registry.enrolled(daemon.name).tpm,
                shared=shared,
            )
        )

    async def _update(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        envelope, without = fields.get("envelope"), fields.get("without", [])
        if not isinstance(envelope, str) or not envelope.isascii() or not isinstance(without, list):
            raise BadInput("bad request", expected="an envelope, and a list of hosts to leave out")
        hosts = [HostName(plain_name(str(host)[:80], "host name")) for host in without]
        outcome = await self.daemon.changes.update(envelope.encode("ascii"), hosts)
        return {
            "version": outcome.version.version,
            "digest": outcome.version.digest,
            "confirmed": list(outcome.confirmed),
            "unconfirmed": dict(outcome.unconfirmed),
        }

    def _audit(self, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        after, limit = integer(fields, "after", 0), integer(fields, "limit", 100)
        records = self.daemon.audit.records(after=after, limit=min(limit, MAX_AUDIT_RECORDS))
        return [
            {
                "sequence": record.sequence,
                "wall_s": record.wall_s,
                "boottime_s": record.boottime_s,
                "kind": record.kind,
                "subject": record.subject,
                "detail": dict(record.detail),
                "digest": record.digest.hex(),
            }
            for record in records
        ]

    async def _links(self, *, plan: bool) -> Any:
        if plan:
            return asdict(await self._blocking(self.daemon.own.reconciler.pending))
        return await self._blocking(lambda: list(self.daemon.own.links.status()))

    async def _disks(self, method: str, what: list[str]) -> Any:
        """All disks of this host's VMs, or one after it took what lies at its path."""
        vms = self.daemon.own.vms
        match method, what:
            case "GET", []:
                return [_disk(status) for status in await self._blocking(vms.disks.statuses)]
            case "POST", [name, "adopt"]:
                await self._blocking(lambda: vms.adopt_disk(plain_name(name, "name of a disk")))
                statuses = await self._blocking(vms.disks.statuses)
                return next(_disk(status) for status in statuses if status.name == name)
            case _:
                raise _no_such_request(method, ["v1", "disks", *what])

    async def _blocking(self, call: Callable[[], Any]) -> Any:
        return await self.daemon.backends.blocking(call)


def _version(which: PolicyVersion | None) -> dict[str, Any] | None:
    return None if which is None else {"version": which.version, "digest": which.digest}


def _explanations(explanations: Sequence[Explanation]) -> list[dict[str, Any]]:
    return [asdict(explanation) for explanation in explanations]


def error_body(error: ShamonError) -> dict[str, Any]:
    """An error as JSON: its parts and its exit code."""
    return {
        "error": {
            "what": error.what,
            "where": error.where,
            "expected": error.expected,
            "found": error.found,
            "remedy": error.remedy,
            "exit_code": error.exit_code,
        }
    }


def _disk(status: DiskStatus) -> dict[str, Any]:
    return {**asdict(status), "label": str(status.label or "")}


def _no_such_request(method: str, parts: Sequence[str]) -> BadInput:
    return BadInput(
        "no such request", expected="a path that this version serves", found=f"{method} /{'/'.join(parts)}"[:200]
    )
