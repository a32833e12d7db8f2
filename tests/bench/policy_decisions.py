"""How many decisions a second a big policy makes, remembered ones and new ones."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeAlias, TypeVar

from shamon_host.domain import chinese_wall, decisions, monitor, ste
from shamon_host.domain.labels import HostName, VmLabel, VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.results import TpmKind
from tests.bench.answers import require
from tests.bench.big_policies import BigPolicy, Size
from tests.bench.measuring import Measurement, Unit, Work, measured
from tests.bench.plain_answers import in_conflict

CACHED_PER_S, UNCACHED_PER_S = 500_000, 100_000
MANY = 10
"""Labels that run beside the one that is asked about, where there are several."""
_CHECKED = 1_000
"""Conflicts of pairs that are looked for plainly, which takes its time."""

Asked = TypeVar("Asked")
Pairs: TypeAlias = Sequence[tuple[VmLabel, VmLabel]]
Beside: TypeAlias = Sequence[tuple[VmLabel, Sequence[VmLabel]]]
"""Labels, and what runs beside each."""
Starts: TypeAlias = Sequence[tuple[VmName, HostName, dict[VmName, VmLabel]]]
"""VMs, the host of each, and what runs there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What is asked of a policy."""

    pairs: Pairs
    """Each of some labels with each of them."""
    beside_one: Beside
    beside_many: Beside
    starts: Starts
    """Each VM, while none, one, two, ... of the VMs of its host run."""

    @classmethod
    def of(cls, written: BigPolicy, policy: Policy, size: Size) -> "Questions":
        random = Random(1)
        labels = [policy.vm_labels[name] for name in random.sample(sorted(policy.vm_labels), size.asked)]
        pairs = [(one, other) for one in labels for other in labels]
        hosts: dict[HostName, list[VmName]] = {}
        for vm, (_, host) in written.vms.items():
            hosts.setdefault(HostName(host), []).append(VmName(vm))
        return cls(
            pairs=pairs,
            beside_one=[(one, (other,)) for one, other in pairs],
            beside_many=[(label, random.sample(labels, MANY)) for label in labels for _ in range(MANY)],
            starts=[
                (vm, host, {other: policy.label_of(other) for other in vms[:number] if other != vm})
                for host, vms in hosts.items()
                for vm in vms
                for number in range(len(vms))
            ],
        )


def check_decisions(written: BigPolicy, policy: Policy, questions: Questions) -> None:
    """Compare with what the file says. Raises WrongAnswer."""
    flows = written.system.labels

    def conflict(label: VmLabel, running: Iterable[VmLabel]) -> bool:
        return in_conflict(written.system, flows[label.name], [flows[other.name] for other in running])

    for one, other in questions.pairs:
        expected = flows[one.name].writes & flows[other.name].reads
        require(f"{one.name} to {other.name}", decisions.may_send(policy, one, other), expected)
        require(f"{one.name} to {other.name}, uncached", ste.may_send(one, other), expected)
    some = Random(1).sample(questions.beside_one, min(_CHECKED, len(questions.beside_one)))
    for label, running in [*some, *questions.beside_many]:
        found = decisions.conflict_with(policy, label, running)
        require(f"a conflict of {label.name}", found is not None, conflict(label, running))
        require(f"the conflict of {label.name}, uncached", chinese_wall.conflicts(policy, label, running), found)
    for vm, host, vms in questions.starts:
        decision = monitor.vm_start(policy, vm, host=host, running=vms, host_tpm=TpmKind.SOFTWARE)
        require(f"the start of {vm}", decision.permitted, not conflict(policy.label_of(vm), vms.values()))


def deciding(policy: Policy, questions: Questions, rounds: int) -> Iterator[Measurement]:
    """Cached decisions, uncached ones, and whole ones of the monitor."""

    def again() -> Policy:
        return policy

    def anew() -> Policy:
        return replace(policy)  # with nothing remembered

    pairs, one, many, starts = questions.pairs, questions.beside_one, questions.beside_many, questions.starts
    lookup, sets = _lookups(pairs), _intersections(pairs)
    for work, baseline, goal in (
        (_work("may_send, cached", again, ask_may_send, pairs), lookup, CACHED_PER_S),
        (_work("conflict_with, 1 running, cached", again, _conflict_with, one), lookup, CACHED_PER_S),
        (_work("conflict_with, 10 running, cached", again, _conflict_with, many), lookup, None),
        (_work("may_send, new", anew, ask_may_send, pairs), sets, UNCACHED_PER_S),
        (_work("conflict_with, 1 running, new", anew, _conflict_with, one), sets, UNCACHED_PER_S),
        (_work("conflict_with, 10 running, new", anew, _conflict_with, many), sets, None),
        (_work("ste.may_send", again, _ste_may_send, pairs), sets, UNCACHED_PER_S),
        (_work("chinese_wall.conflicts, 1 running", again, _conflicts, one), sets, UNCACHED_PER_S),
        (_work("chinese_wall.conflicts, 10 running", again, _conflicts, many), sets, None),
        (_work("monitor.vm_start, cached", again, _vm_start, starts), sets, None),
        (_work("monitor.vm_start, new", anew, _vm_start, starts), sets, None),
        (_work("monitor.vm_attach", again, _vm_attach, starts), sets, None),
    ):
        yield measured(work, baseline, unit=Unit.RATE, rounds=rounds, goal=goal)


def _work(
    name: str, prepare: Callable[[], Policy], ask: Callable[[Policy, Sequence[Asked]], None], asked: Sequence[Asked]
) -> Work[Policy]:
    return Work(name=name, prepare=prepare, run=lambda policy: ask(policy, asked), operations=len(asked))


def ask_may_send(policy: Policy, pairs: Pairs) -> None:
    for one, other in pairs:
        decisions.may_send(policy, one, other)


def _ste_may_send(_policy: Policy, pairs: Pairs) -> None:
    for one, other in pairs:
        ste.may_send(one, other)


def _conflict_with(policy: Policy, beside: Beside) -> None:
    for label, running in beside:
        decisions.conflict_with(policy, label, running)


def _conflicts(policy: Policy, beside: Beside) -> None:
    for label, running in beside:
        chinese_wall.conflicts(policy, label, running)


def _vm_start(policy: Policy, starts: Starts) -> None:
    for vm, host, running in starts:
        monitor.vm_start(policy, vm, host=host, running=running, host_tpm=TpmKind.SOFTWARE)


def _vm_attach(policy: Policy, starts: Starts) -> None:
    for vm, _, _ in starts:
        monitor.vm_attach(policy, vm, next(iter(policy.label_of(vm).types)))


# Baselines


def _lookups(pairs: Pairs) -> Work[None]:
    names = [(one.name, other.name) for one, other in pairs]
    answers = dict.fromkeys(names, True)

    def look_up(_: None) -> None:
        for one, other in names:
            answers.get((one, other))

    return Work(name="a dict's get", prepare=lambda: None, run=look_up, operations=len(names))


def _intersections(pairs: Pairs) -> Work[None]:
    types = [(one.types, other.types) for one, other in pairs]

    def intersect(_: None) -> None:
        for one, other in types:
            one & other
            other & one

    return Work(name="two intersections", prepare=lambda: None, run=intersect, operations=len(types))
