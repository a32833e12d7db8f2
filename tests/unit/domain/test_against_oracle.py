"""Decisions about generated policies, held against the definitions in words (`oracle`)."""

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain import monitor
from shamon_host.domain.chinese_wall import conflicts
from shamon_host.domain.decision import Decision, Rule
from shamon_host.domain.labels import UNLABELLED, VmLabel
from shamon_host.domain.policy import Policy
from shamon_host.domain.results import TpmKind
from shamon_host.domain.ste import may_send, may_use
from tests.examples import examples
from tests.unit.domain import oracle
from tests.unit.domain.decisions import NOW_S, admitted
from tests.unit.domain.generated import policies

TPMS = st.sampled_from(TpmKind)


def labels(policy: Policy) -> list[VmLabel]:
    return [*policy.vm_labels.values(), UNLABELLED]


def assert_decided(decision: Decision, against: list[Rule]) -> None:
    """Permitted if nothing is against it, else denied for the first of it."""
    assert decision.permitted == (not against), (decision, against)
    assert decision.rule is (against[0] if against else Rule.ALL), (decision, against)


@settings(max_examples=examples(40))
@given(policy=policies())
def test_frames_go_where_one_may_send_and_the_other_receive(policy: Policy) -> None:
    for sender, receiver in product(labels(policy), labels(policy)):
        assert may_send(sender, receiver) == oracle.frames_go(policy, sender, receiver)


@settings(max_examples=examples(40))
@given(policy=policies())
def test_between_labels_without_directions_it_is_the_same_both_ways_and_means_to_share_a_type(policy: Policy) -> None:
    undirected = [label for label in labels(policy) if not label.read_only and not label.write_only]
    for one, other in product(undirected, undirected):
        assert may_send(one, other) == may_send(other, one) == one.types & other.types
    for label in labels(policy):
        assert not may_send(label, UNLABELLED)
        assert not may_send(UNLABELLED, label)


@settings(max_examples=examples(40))
@given(policy=policies())
def test_a_resource_is_used_by_whom_shares_a_type_with_it(policy: Policy) -> None:
    for label, resource in product(labels(policy), policy.resource_labels.values()):
        assert bool(may_use(label, resource)) == oracle.usable(label, resource)
        assert may_use(label, resource) <= label.types & resource.types


@settings(max_examples=examples(40))
@given(policy=policies())
def test_chinese_wall_types_are_types_owners_and_walls(policy: Policy) -> None:
    for name in policy.types:
        assert list(policy.owners_of(name)) == oracle.owners(policy, name)
        organisation = policy.organisation_of(name)
        assert ([organisation.name] if organisation else []) == oracle.owners(policy, name)[-1:]
    for label in labels(policy):
        assert policy.walls_of(label) == oracle.walls(policy, label)


@settings(max_examples=examples(40))
@given(policy=policies(), data=st.data())
def test_a_conflict_is_with_what_never_runs_beside_it(policy: Policy, data: st.DataObject) -> None:
    for label in labels(policy):
        running = data.draw(st.lists(st.sampled_from(labels(policy)), max_size=4))
        found = conflicts(policy, label, running)
        blamed = [other for other in running if oracle.meet(policy, label, other)]
        assert (found is not None) == bool(blamed)
        if found:
            together = oracle.walls(policy, label).union(*(oracle.walls(policy, other) for other in running))
            assert found.types <= together
            assert len(found.types) > 1
            assert all({one, other} in oracle.never_together(policy) for one, other in pairs(found.types))


def pairs(walls: frozenset[str]) -> list[tuple[str, str]]:
    return [(one, other) for one in walls for other in walls if one < other]


@settings(max_examples=examples(80))
@given(policy=policies(least_vms=2), tpm=TPMS, admitted_yet=st.booleans(), data=st.data())
def test_a_vm_starts_if_nothing_is_against_it(
    policy: Policy, tpm: TpmKind, admitted_yet: bool, data: st.DataObject
) -> None:
    running = {
        vm: oracle.label(policy, vm) for vm in data.draw(st.lists(st.sampled_from(sorted(policy.vms)), max_size=5))
    }
    for vm, host in product(sorted(policy.vms), sorted(policy.hosts)):
        decision = monitor.vm_start(policy, vm, host=host, running=running, host_tpm=tpm, admitted=admitted_yet)
        assert_decided(decision, oracle.reasons_against(policy, vm, host, running, tpm=tpm, admitted=admitted_yet))


@settings(max_examples=examples(40))
@given(policy=policies(least_vms=1))
def test_interfaces_are_attached_to_their_types_alone(policy: Policy) -> None:
    for vm in policy.vms:
        assert list(policy.interfaces_of(vm)) == oracle.interfaces(policy, vm)
        for name in policy.types:
            decision = monitor.vm_attach(policy, vm, name)
            assert_decided(decision, [] if name in oracle.interfaces(policy, vm) else [Rule.STE])


@settings(max_examples=examples(50))
@given(policy=policies(least_hosts=2, least_vms=1), here=TPMS, there=TPMS, asked_here=st.booleans(), data=st.data())
def test_a_vm_moves_where_it_could_run(
    policy: Policy, here: TpmKind, there: TpmKind, asked_here: bool, data: st.DataObject
) -> None:
    running = {
        vm: oracle.label(policy, vm) for vm in data.draw(st.lists(st.sampled_from(sorted(policy.vms)), max_size=3))
    }
    for vm, destination in product(sorted(policy.vms), sorted(policy.hosts)):
        source = policy.vms[vm].host
        decision = monitor.vm_migrate(
            policy,
            vm,
            source=source,
            destination=destination,
            running_there=running,
            peer_state=admitted(destination, tpm=there) if asked_here else admitted(source, tpm=here),
            local_tpm=here if asked_here else there,
            now_s=NOW_S,
        )
        against = oracle.reasons_against(policy, vm, destination, running, tpm=there)
        alike = policy.hosts[source].hypervisor is policy.hosts[destination].hypervisor
        moves = source != destination and alike and destination in policy.vms[vm].may_move_to
        assert_decided(
            decision, [rule for rule in against if rule is not Rule.ASSIGNMENT] if moves else [Rule.ASSIGNMENT]
        )


@settings(max_examples=examples(40))
@given(policy=policies(least_hosts=2), here=TPMS, there=TPMS, data=st.data())
def test_a_link_carries_what_both_hosts_have_and_may_share(
    policy: Policy, here: TpmKind, there: TpmKind, data: st.DataObject
) -> None:
    shared = data.draw(st.frozensets(st.sampled_from(sorted(policy.types))))
    local, peer = sorted(policy.hosts)[:2]
    for name in policy.types:
        against = [
            rule
            for rule, denies in (
                (Rule.MANAGEMENT_LABEL, name not in policy.hosts[local].types),
                (Rule.MANAGEMENT_LABEL, name not in policy.hosts[peer].types),
                (Rule.COMPATIBLE, name not in shared),
                (Rule.TPM_KIND, oracle.demands_hardware(policy, [name]) and "software" in (here, there)),
            )
            if denies
        ]
        for check in (monitor.link_open, monitor.link_accept):
            decision = check(
                policy, local, peer, name, admitted(peer, tpm=there), shared=shared, local_tpm=here, now_s=NOW_S
            )
            assert_decided(decision, against)


@settings(max_examples=examples(40))
@given(policy=policies())
def test_a_policy_that_hangs_together_may_be_installed(policy: Policy) -> None:
    expires_s = policy.expires_s
    decision = monitor.policy_install(policy, None, now_wall_s=1.8e9)
    assert_decided(decision, [Rule.EXPIRED] if expires_s is not None and expires_s <= 1.8e9 else [])
