"""The MAC policy of this host's Xen: the coalition's in force, in the hypervisor, as what the hypervisor answers shows.

Xen boots with a policy that knows no label of a coalition. This host loads the module of the policy in force before a
VM starts, at its start and at each change of the policy, and asks Xen whether what it enforces is that. It asks again
before each start of a VM, for each report to a peer, and every few seconds. Where another policy has taken the place of
ours, ours is put back, as foreign kernel objects in the way of links are; the audit log says so, and so do the reports
of a whole period, so that every peer hears of it: what happened between two looks nobody knows. What loading does not
mend (a permissive FLASK, a boolean, a hypervisor that takes no policy) stays in the reports and in `shamon status`, and
no VM starts meanwhile.

Two notes make that outlive the daemon and a change of version. One is which version this host has loaded in this boot,
and which it was about to load: what Xen enforces must be one of them, whichever version counts now. The other is what
was found instead, and when; it is written down before it is replaced.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from shamon_host.daemon.ports import Clock
from shamon_host.domain import monitor
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted
from shamon_host.domain.flask_expected import (
    ExpectedFlask,
    access_differences,
    expected_flask,
    flask_differences,
    some,
)
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HypervisorKind, Policy
from shamon_host.hypervisor.flask_report import MAX_FOREIGN
from shamon_host.hypervisor.ports import Audit, Documents, FlaskPolicy, FlaskState
from shamon_host.interchange.flask import flask_source

_KIND, _LOADED, _FOREIGN = "hypervisor-policy", "loaded", "foreign"


@dataclass(frozen=True, slots=True)
class _Foreign:
    """How Xen differed when it did not enforce what this host had loaded, and when that was seen (boot time, seconds).
    `told_s`: since when reports say so; `told`: they did for a whole period."""

    words: str
    seen_s: float
    told_s: float | None = None
    told: bool = False


@dataclass(frozen=True, slots=True)
class _Note:
    """Digests of versions of the policy: the one that Xen enforced after this host had loaded it, and the one that it
    was about to load since; empty where there is none in this boot."""

    loaded: str = ""
    loading: str = ""


@dataclass(kw_only=True)
class HypervisorPolicy:
    """One for each daemon on Xen. Synchronous, from any thread; calls wait for each other."""

    host: HostName
    flask: FlaskPolicy
    policy: Callable[[], Policy]
    kept: Callable[[str], Policy | None]
    """A version that is or was in force on this host, by its digest, while it is kept."""
    documents: Documents
    audit: Audit
    clock: Clock
    boot_id: str
    on_loaded: Callable[[], None] = lambda: None
    """A policy was replaced, by whichever thread: domains may have lost their labels before it or by it."""
    wrong: str = field(init=False, default="it was not asked yet")
    """Why no VM starts, as of the last look; empty while Xen enforces the policy in force."""
    replaced: int = field(init=False, default=0)
    """How often this daemon has found another policy in the place of ours."""
    _state: FlaskState | None = field(init=False, default=None)
    """What Xen answered last, where it did."""
    _foreign: _Foreign | None = field(init=False)
    _left: tuple[str, list[str]] = field(init=False, default=("", []))
    """Digest of a policy, and how Xen differed from it right after it was loaded: to load it again mends nothing."""
    _failed: tuple[str, str] = field(init=False, default=("", ""))
    """Digest of a policy that could not be loaded, and what foreign one it was to replace: told of already."""
    _told: str = field(init=False, default="")
    _looks: int = field(init=False, default=0)
    _lock: threading.RLock = field(init=False, default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        found = self._noted(_FOREIGN)
        self._foreign = None
        if found:  # an earlier daemon may not have had the time to tell everybody
            self._foreign = _Foreign(str(found["words"]), float(found["seen_s"]), told=bool(found["told"]))

    def bring_about(self) -> None:
        """Have Xen enforce the policy in force; whether it does now says `wrong`.

        Whoever waits while another one looks takes what the next one finds. Raises only what the audit log and the
        store do: BackendFailed.
        """
        before = self._looks
        with self._lock:
            if self._looks > before:
                return
            self._looks += 1
            self._state = None
            try:
                self._put_in_force(self.policy())
            except _NoAnswerError as error:
                self.wrong = str(error)
                self._tell("flask.not-loaded", {"reason": self.wrong})

    def require(self) -> None:
        """Before a VM starts. Raises NotTrusted where Xen does not enforce the policy in force."""
        self.bring_about()
        if self.wrong:
            raise NotTrusted(
                "Xen does not enforce the coalition's policy: no VM starts",
                where=self.host,
                found=self.wrong,
                remedy="Boot Xen with XSM, flask=enforcing and this program's base policy; see the audit log.",
            )

    def reported(self) -> FlaskState:
        """What a report says of FLASK: what Xen answers now, and for a period what was found in place of what this host
        had loaded. Raises BackendFailed where it does not answer."""
        with self._lock:
            self.bring_about()
            if self._state is None:
                raise BackendFailed("Xen does not say what it enforces", where=self.host, found=self.wrong)
            return replace(self._state, foreign=self._to_tell())

    def status(self) -> dict[str, Any]:
        """For people. `changed_by_others`: what was found last in place of what this host had loaded."""
        foreign = self._foreign
        return {"wrong": self.wrong, "changed_by_others": foreign.words if foreign else ""}

    def _put_in_force(self, policy: Policy) -> None:
        """Load the policy where Xen's is another one, and decide about what Xen then answers. Raises _NoAnswerError."""
        expected = self._expected(policy)
        self._state = state = self._asked(expected)
        differences, note = list(access_differences(expected, state.access)), self._note()
        if (policy.digest, differences) != self._left and (differences or note.loaded != policy.digest):
            self._replace(policy, note, self._instead(policy, note, differences))
            self._state = None
            self._state = state = self._asked(expected)
            self._left = policy.digest, list(access_differences(expected, state.access))
            if not self._left[1]:
                self._put_note(_Note(loaded=policy.digest))
        decision = monitor.flask_install(policy, self.host, _all_differences(expected, state))
        self.wrong = "" if decision.permitted else decision.reason
        self._tell(decision.check, decision.as_detail())

    def _instead(self, policy: Policy, note: _Note, differences: list[str]) -> str:
        """What Xen enforces in place of what this host had loaded, in words; empty where it enforces that, or where
        nothing was loaded in this boot. `differences`: from `policy`."""
        if not note.loaded or (not differences and policy.digest in (note.loaded, note.loading)):
            return ""
        words = ""
        for digest in filter(None, (note.loading, note.loaded)):
            found = some(differences) if digest == policy.digest else self._changed_from(digest)
            if not found:
                return ""
            words = found
        return words[:MAX_FOREIGN]

    def _changed_from(self, digest: str) -> str:
        """How Xen differs from a version that is in force no more; what nobody can compare does."""
        policy = self.kept(digest)
        if policy is None:
            return f"what this host had loaded, version {digest}, is not kept, and so cannot be compared"
        expected = self._expected(policy)
        return some(access_differences(expected, self._asked(expected).access))

    def _replace(self, policy: Policy, note: _Note, foreign: str) -> None:
        """Load the policy. Everything that is to be known of it afterwards is written down before."""
        which = {"version": policy.version, "digest": policy.digest}
        if foreign:
            self._found(foreign)
        if self._failed != (policy.digest, foreign):
            if foreign:
                self.audit("flask.foreign", self.host, {**which, "found": foreign})
                self.replaced += 1
            self.audit("flask.load", self.host, which)
            self._told = ""
        if policy.digest not in (note.loaded, note.loading):
            self._put_note(replace(note, loading=policy.digest))
        self._failed = policy.digest, foreign
        self._load(policy)
        self._failed = "", ""
        self.on_loaded()

    def _expected(self, policy: Policy) -> ExpectedFlask:
        try:
            return expected_flask(policy, self.host)
        except BadInput as error:
            raise _NoAnswerError(str(error)) from error

    def _asked(self, expected: ExpectedFlask) -> FlaskState:
        try:
            return self.flask.state(expected.access)
        except BackendFailed as error:
            raise _NoAnswerError(str(error)) from error

    def _load(self, policy: Policy) -> None:
        try:
            self.flask.load(flask_source(policy))
        except (BackendFailed, BadInput) as error:
            raise _NoAnswerError(str(error)) from error

    def _note(self) -> _Note:
        found = self._noted(_LOADED)
        return _Note(str(found["digest"]), str(found.get("loading", ""))) if found else _Note()

    def _put_note(self, note: _Note) -> None:
        self.documents.put(_KIND, _LOADED, {"boot_id": self.boot_id, "digest": note.loaded, "loading": note.loading})

    def _noted(self, key: str) -> dict[str, Any] | None:
        """Of this boot, whichever daemon wrote it down."""
        found = self.documents.get(_KIND, key)
        return found if found is not None and found.get("boot_id") == self.boot_id else None

    def _to_tell(self) -> str:
        """What the reports of a period say was foreign."""
        foreign, now = self._foreign, self.clock.boottime_s()
        if foreign is None or foreign.told:
            return ""
        if foreign.told_s is None:
            self._foreign = replace(foreign, told_s=now)
        elif now - foreign.told_s > self.policy().intervals.period_s:
            self._keep_foreign(replace(foreign, told=True))
            return ""
        return foreign.words

    def _found(self, words: str) -> None:
        """Something foreign: whatever was told until now, a period begins with the next report."""
        known, foreign = self._foreign, _Foreign(words, self.clock.boottime_s())
        if known is None or known.told or known.words != words:
            self._keep_foreign(foreign)
        self._foreign = foreign

    def _keep_foreign(self, foreign: _Foreign) -> None:
        detail = {"words": foreign.words, "seen_s": foreign.seen_s, "told": foreign.told}
        self.documents.put(_KIND, _FOREIGN, {"boot_id": self.boot_id, **detail})
        self._foreign = foreign

    def _tell(self, kind: str, detail: dict[str, Any]) -> None:
        """The audit log, once until something else is to be told."""
        words = f"{kind} {detail}"
        if self._told != words:
            self._told = words
            self.audit(kind, self.host, detail)


class _NoAnswerError(Exception):
    """The hypervisor, or what compiles its policy, failed."""


def require_own_hypervisor(policy: Policy, host: HostName, found: HypervisorKind) -> None:
    """Raises NotTrusted where a host has another hypervisor than its policy says: labels would mean nothing there."""
    expected = policy.hypervisor_of(host)
    if found is not expected:
        raise NotTrusted(
            "this host has another hypervisor than the policy says",
            where=f"hosts.{host}.hypervisor",
            expected=expected.value,
            found=found.value,
            remedy="Correct [hypervisor] type in the host's configuration, or the policy.",
        )


def _all_differences(expected: ExpectedFlask, state: FlaskState) -> list[str]:
    return list(flask_differences(expected, enforcing=state.enforcing, booleans=state.booleans, answers=state.access))
