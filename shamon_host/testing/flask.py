"""The FLASK server of a Xen hypervisor in memory: it takes a module's text, evaluates it, and answers from that.

Like Xen it holds one policy, which the next one replaces whole; a policy that checkpolicy would refuse never gets to
it. What it can be asked is what `FLASK_ACCESS` can: types, classes and permissions, no transitions.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.flask_labels import UNLABELLED_TYPE
from shamon_host.domain.flask_rules import LOST as LOST_TYPE
from shamon_host.domain.flask_rules import Question
from shamon_host.domain.labels import FlaskContext, VmContext
from shamon_host.hypervisor.ports import FlaskState
from shamon_host.interchange.flask import flask_base_source
from shamon_host.testing.te_source import PERMISSIONS, Rules, evaluated

TOOLSTACK = "dom0_t"
LOST = FlaskContext(user="system_u", role="system_r", type=LOST_TYPE)
"""The initial SID of what had a label that the policy no longer knows (`xen/xsm/flask/ss/sidtab.c`)."""
WITHOUT_LABEL = FlaskContext(user="system_u", role="system_r", type=UNLABELLED_TYPE)
"""The initial SID of domains for which the toolstack finds no label, in the base policy of a Xen host."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    types: frozenset[str]
    allowed: dict[Question, frozenset[str]]


@dataclass(kw_only=True)
class MemoryFlask:
    """`hypervisor.ports.FlaskPolicy`."""

    enforcing: bool = True
    booleans: dict[str, bool] = field(default_factory=dict)
    boot_module: str = field(default_factory=flask_base_source)
    """What is in the image that Xen boots."""
    broken: str = ""
    """Why it answers nothing and takes nothing; empty while it works."""
    _loaded: _Loaded = field(init=False, repr=False)
    _known: list[frozenset[str]] = field(init=False, repr=False)
    """The types of every policy since the boot, the newest last."""

    def __post_init__(self) -> None:
        self.reboot()

    def load(self, module: str) -> None:
        self._require_working()
        try:
            self._loaded = _evaluated(module)
        except BadInput as error:
            raise BackendFailed("checkpolicy refuses the FLASK policy", found=str(error)[:300]) from error
        self._known.append(self._loaded.types)

    def state(self, questions: Iterable[Question]) -> FlaskState:
        self._require_working()
        answers: dict[Question, frozenset[str]] = {}
        for question in questions:
            source, target, object_class = question
            if object_class not in PERMISSIONS:
                raise BackendFailed("no such class in Xen's FLASK", found=object_class)
            if {source, target} <= self._loaded.types:
                answers[question] = self._loaded.allowed.get(question, frozenset())
        return FlaskState(enforcing=self.enforcing, booleans=dict(self.booleans), access=answers)

    # What its hypervisor asks, and what worlds do to it

    def resolved(self, context: VmContext) -> FlaskContext:
        """The label that a new domain gets: libxl only logs it when the policy does not know the one asked for."""
        return context if isinstance(context, FlaskContext) and self._valid(context) else WITHOUT_LABEL

    @property
    def loads(self) -> int:
        """How often a policy was replaced since the boot."""
        return len(self._known) - 1

    def present(self, context: FlaskContext, loads: int) -> FlaskContext:
        """What a domain that was given this label after so many loads has now. A label that one policy did not know is
        lost for good: Xen drops its SID, and gives it another one when a later policy knows it."""
        return context if all(context.type in types for types in self._known[loads:]) else LOST

    def toolstack_may(self, permission: str, context: VmContext | None) -> bool:
        """Whether dom0 gets this permission of class domain on a domain with such a label. Nothing is denied while
        FLASK is permissive; what is not FLASK's, FLASK does not decide."""
        if not self.enforcing or not isinstance(context, FlaskContext):
            return True
        return permission in self._loaded.allowed.get((TOOLSTACK, context.type, "domain"), frozenset())

    def allow(self, source: str, target: str, object_class: str, *permissions: str) -> None:
        """Somebody with dom0's powers loads a policy that allows more."""
        question, allowed = (source, target, object_class), dict(self._loaded.allowed)
        allowed[question] = allowed.get(question, frozenset()) | frozenset(permissions)
        self._loaded = _Loaded(self._loaded.types, allowed)

    def reboot(self) -> None:
        """Xen starts with the policy of its image."""
        self._loaded, self.enforcing = _evaluated(self.boot_module), True
        self._known = [self._loaded.types]

    def _valid(self, context: FlaskContext) -> bool:
        return (context.user, context.role) == ("system_u", "system_r") and context.type in self._loaded.types

    def _require_working(self) -> None:
        if self.broken:
            raise BackendFailed("the hypervisor does not answer", found=self.broken)


@lru_cache(maxsize=64)
def _evaluated(module: str) -> _Loaded:
    """Raises BadInput, also where a rule allows what another one says nobody may."""
    rules = evaluated(module)
    _require_nothing_forbidden(rules)
    allowed: dict[Question, set[str]] = {}
    for source, target, object_class, permission in rules.allowed:
        allowed.setdefault((source, target, object_class), set()).add(permission)
    return _Loaded(frozenset(rules.types), {question: frozenset(each) for question, each in allowed.items()})


def _require_nothing_forbidden(rules: Rules) -> None:
    for source, target, object_class, permission in sorted(rules.allowed & rules.forbidden)[:1]:
        raise BadInput("neverallow violated", found=f"allow {source} {target}:{object_class} {permission}")
