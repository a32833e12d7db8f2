"""The MAC policy of this host's Xen: the coalition's in force, in the hypervisor, as what the hypervisor answers shows.

Xen boots with a policy that knows no label of a coalition. This host loads the module of the policy in force before a
VM starts, at its start and at each change of the policy, and asks Xen whether what it enforces is that. It asks again
before each start of a VM, for each report to a peer, and every few seconds. Where another policy has taken the place of
ours, ours is put back, as foreign kernel objects in the way of links are; the audit log says so, and so do the reports
of a whole period, so that every peer hears of it: what happened between two looks nobody knows. What loading does not
mend (a permissive FLASK, a boolean, a hypervisor that takes no policy) stays in the reports and in `shamon status`, and
no VM starts meanwhile.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shamon_host.daemon.ports import Clock
from shamon_host.domain import monitor
from shamon_host.domain.errors import BackendFailed, NotTrusted
from shamon_host.domain.flask_expected import (
    ExpectedFlask,
    access_differences,
    expected_flask,
    flask_differences,
    some,
)
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HypervisorKind, Policy
from shamon_host.hypervisor.ports import Audit, Documents, FlaskPolicy, FlaskState
from shamon_host.interchange.flask import flask_source

_KIND, _KEY = "hypervisor-policy", "loaded"


@dataclass(frozen=True, slots=True)
class _Foreign:
    """What Xen answered when it did not enforce what this host had loaded, and when that was (boot time, seconds)."""

    state: FlaskState
    words: str
    seen_s: float


@dataclass(kw_only=True)
class HypervisorPolicy:
    """One for each daemon on Xen. Synchronous, from any thread; calls wait for each other."""

    host: HostName
    flask: FlaskPolicy
    policy: Callable[[], Policy]
    documents: Documents
    audit: Audit
    clock: Clock
    boot_id: str
    wrong: str = field(init=False, default="it was not asked yet")
    """Why no VM starts, as of the last look; empty while Xen enforces the policy in force."""
    replaced: int = field(init=False, default=0)
    """How often this daemon has found another policy in the place of ours."""
    _state: FlaskState | None = field(init=False, default=None)
    _foreign: _Foreign | None = field(init=False, default=None)
    _left: tuple[str, list[str]] = field(init=False, default=("", []))
    """Digest of a policy, and how Xen differed from it right after it was loaded: to load it again mends nothing."""
    _told: str = field(init=False, default="")
    _looks: int = field(init=False, default=0)
    _lock: threading.RLock = field(init=False, default_factory=threading.RLock, repr=False)

    def bring_about(self) -> None:
        """Have Xen enforce the policy in force; whether it does now says `wrong`.

        Whoever waits while another one looks takes what the next one finds. Raises only what the audit log and the
        store do.
        """
        before = self._looks
        with self._lock:
            if self._looks > before:
                return
            self._looks += 1
            try:
                self._state = self._put_in_force(self.policy())
            except _NoAnswerError as error:
                self._state, self.wrong = None, str(error)
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
        """What a report says of FLASK: what Xen answers now, or in the last period when it was not what this host had
        loaded. Raises BackendFailed where it does not answer."""
        with self._lock:
            self.bring_about()
            if self._foreign is not None and self._is_fresh(self._foreign):
                return self._foreign.state
            if self._state is None:
                raise BackendFailed("Xen does not say what it enforces", where=self.host, found=self.wrong)
            return self._state

    def status(self) -> dict[str, Any]:
        """For people. `changed_by_others`: what was found last in place of what this host had loaded."""
        foreign = self._foreign
        return {"wrong": self.wrong, "changed_by_others": foreign.words if foreign else ""}

    def _put_in_force(self, policy: Policy) -> FlaskState:
        """Load the policy where Xen's is another one, and decide about what Xen then answers. Raises _NoAnswerError."""
        expected = expected_flask(policy, self.host)
        state = self._asked(expected)
        differences, loaded = list(access_differences(expected, state.access)), self._was_loaded(policy)
        if (policy.digest, differences) != self._left and (differences or not loaded):
            which = {"version": policy.version, "digest": policy.digest}
            if loaded:
                words = some(differences)
                self.replaced += 1
                self._foreign = _Foreign(state, words, self.clock.boottime_s())
                self.audit("flask.foreign", self.host, {**which, "found": words})
            self.audit("flask.load", self.host, which)
            self._told = ""
            self._load(policy)
            state = self._asked(expected)
            self._left = policy.digest, list(access_differences(expected, state.access))
            if not self._left[1]:
                self.documents.put(_KIND, _KEY, {"boot_id": self.boot_id, "digest": policy.digest})
        decision = monitor.flask_install(policy, self.host, _all_differences(expected, state))
        self.wrong = "" if decision.permitted else decision.reason
        self._tell(decision.check, decision.as_detail())
        return state

    def _asked(self, expected: ExpectedFlask) -> FlaskState:
        try:
            return self.flask.state(expected.access)
        except BackendFailed as error:
            raise _NoAnswerError(str(error)) from error

    def _load(self, policy: Policy) -> None:
        try:
            self.flask.load(flask_source(policy))
        except BackendFailed as error:
            raise _NoAnswerError(str(error)) from error

    def _was_loaded(self, policy: Policy) -> bool:
        """By this host, in this boot, whichever daemon it was, and Xen enforced it."""
        return self.documents.get(_KIND, _KEY) == {"boot_id": self.boot_id, "digest": policy.digest}

    def _is_fresh(self, foreign: _Foreign) -> bool:
        return self.clock.boottime_s() - foreign.seen_s <= self.policy().intervals.period_s

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
