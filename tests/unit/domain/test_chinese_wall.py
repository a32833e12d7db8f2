"""The Chinese Wall: whatever starts and stops in whatever order, types in conflict never run together."""

from collections.abc import Mapping
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shamon_host.domain import monitor
from shamon_host.domain.chinese_wall import first_conflict
from shamon_host.domain.decision import Rule
from shamon_host.domain.labels import TypeName, VmLabel, VmName
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.results import TpmKind
from tests.examples import examples
from tests.unit.domain.values import BETA

NAMES = [TypeName(f"org/t{number}") for number in range(6)]
TYPES = st.frozensets(st.sampled_from(NAMES))
SETS = st.dictionaries(st.sampled_from("abc"), st.frozensets(st.sampled_from(NAMES), min_size=2))


@settings(deadline=None)
@given(sets=SETS, types=TYPES, running=TYPES)
def test_a_conflict_is_two_types_of_one_set_one_of_them_the_newcomers(
    sets: Mapping[str, frozenset[TypeName]], types: frozenset[TypeName], running: frozenset[TypeName]
) -> None:
    oracle = any(
        {one, other} <= members and {one, other} & types
        for members in sets.values()
        for one, other in combinations(types | running, 2)
    )
    found = first_conflict(sets, types, running)
    assert (found is not None) == oracle
    if found:
        assert len(found.types) > 1
        assert found.types <= sets[found.conflict_set] & (types | running)


def test_it_says_which_types_and_which_set() -> None:
    found = first_conflict({"rivals": frozenset(NAMES[:3])}, {NAMES[0]}, NAMES[1:2])
    assert str(found) == "org/t0, org/t1 (conflict set rivals)"


MACHINE_POLICY = parse_policy(
    b"""
    types = ["org/t0", "org/t1", "org/t2", "org/t3", "org/t4", "org/t5"]
    coalition = {name = "walls", version = 1}
    conflicts = {first = {types = ["org/t0", "org/t1", "org/t2"]}, second = {types = ["org/t2", "org/t3"]}}
    images = {i = {sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}}
    hosts.beta = {address = "192.0.2.2", types = ["org/t0", "org/t1", "org/t2", "org/t3", "org/t4", "org/t5"]}
    labels.l0 = {types = ["org/t0"]}
    labels.l1 = {types = ["org/t1", "org/t3"]}
    labels.l2 = {types = ["org/t2"]}
    labels.l3 = {types = ["org/t3", "org/t4"]}
    labels.l4 = {types = ["org/t4", "org/t5"]}
    vms.v0 = {label = "l0", image = "i", host = "beta"}
    vms.w0 = {label = "l0", image = "i", host = "beta"}
    vms.v1 = {label = "l1", image = "i", host = "beta"}
    vms.v2 = {label = "l2", image = "i", host = "beta"}
    vms.v3 = {label = "l3", image = "i", host = "beta"}
    vms.v4 = {label = "l4", image = "i", host = "beta"}
    """,
    source="walls.toml",
)


class OneHost(RuleBasedStateMachine):
    """VMs that start when the monitor permits it, and stop when they like."""

    def __init__(self) -> None:
        super().__init__()
        self.running: dict[VmName, VmLabel] = {}

    @rule(vm=st.sampled_from(sorted(MACHINE_POLICY.vms)))
    def start(self, vm: VmName) -> None:
        label = MACHINE_POLICY.vm_labels[MACHINE_POLICY.vms[vm].label]
        decision = monitor.vm_start(MACHINE_POLICY, vm, host=BETA, running=self.running, host_tpm=TpmKind.SOFTWARE)
        types = [name for other, held in self.running.items() if other != vm for name in held.types]
        allowed = all(
            len(members & (label.types | set(types))) < 2 or not members & label.types
            for members in MACHINE_POLICY.conflict_sets.values()
        )
        assert decision.permitted == allowed
        if decision.permitted:
            self.running[vm] = label
        else:
            assert decision.rule is Rule.CHINESE_WALL

    @rule(vm=st.sampled_from(sorted(MACHINE_POLICY.vms)))
    def stop(self, vm: VmName) -> None:
        self.running.pop(vm, None)

    @invariant()
    def no_two_types_of_a_conflict_set_run(self) -> None:
        together = {name for label in self.running.values() for name in label.types}
        for members in MACHINE_POLICY.conflict_sets.values():
            assert len(members & together) < 2


TestOneHost = OneHost.TestCase
TestOneHost.settings = settings(deadline=None, max_examples=examples(60), stateful_step_count=25)
