"""Which VMs are acted upon when a peer fails, and what becomes of several reasons for one VM."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.daemon.failure_actions import PendingAction, actions_for, made_definite, merge, without_silent
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.policy import FailureAction, Policy
from tests.unit.daemon.daemon_world import BETA, GAMMA, changed_policy

RED, BLUE, BLACK = TypeName("acme/red"), TypeName("rival/blue"), TypeName("audit/black")
WEB, SHOP, BOTH = VmName("web"), VmName("shop"), VmName("both")
POLICY = changed_policy(
    ('[types."rival/blue"]\non_failure = "keep"', '[types."rival/blue"]\non_failure = "suspend"'),
    ("[labels.black]", '[labels.both]\ntypes = ["acme/red", "rival/blue"]\n\n[labels.black]'),
    ("[vms.db]", '[vms.both]\nlabel = "both"\nimage = "app"\nhost = "alpha"\n\n[vms.db]'),
)


def actions(
    *carried: TypeName, policy: Policy = POLICY, running: tuple[VmName, ...] = (WEB, SHOP, BOTH)
) -> dict[str, str]:
    found = actions_for(
        policy, running=running, carried=frozenset(carried), peer=BETA, now_s=100.0, definite=True, reason="why"
    )
    assert all(item.due_s == 115.0 and item.definite and item.reason == "why" and item.peer == BETA for item in found)
    return {item.vm: item.action.value for item in found}


def test_only_vms_with_a_type_that_was_carried() -> None:
    assert actions(RED) == {"web": "replace", "both": "replace"}
    assert actions(BLUE) == {"shop": "suspend", "both": "suspend"}
    assert actions(BLACK) == actions() == {}


def test_the_strongest_action_of_the_shared_types_counts() -> None:
    assert actions(RED, BLUE) == {"web": "replace", "shop": "suspend", "both": "replace"}


def test_keep_is_no_action() -> None:
    assert actions(BLUE, policy=changed_policy(), running=(SHOP,)) == {}


def test_only_vms_that_run() -> None:
    assert actions(RED, running=(SHOP,)) == {}


def pending(
    vm: VmName = WEB,
    *,
    peer: HostName = BETA,
    action: FailureAction = FailureAction.SUSPEND,
    definite: bool = False,
    due_s: float = 10.0,
) -> PendingAction:
    return PendingAction(vm=vm, action=action, peer=peer, due_s=due_s, definite=definite, reason="why")


@pytest.mark.parametrize(
    ("one", "other", "chosen"),
    [
        (pending(action=FailureAction.REPLACE), pending(definite=True), 0),
        (pending(), pending(definite=True, due_s=20), 1),
        (pending(due_s=10), pending(due_s=20), 0),
    ],
)
def test_of_two_actions_for_one_vm_and_peer_one_stays(one: PendingAction, other: PendingAction, chosen: int) -> None:
    assert merge([one], [other]) == ((one, other)[chosen],)
    assert merge([other], [one]) == ((one, other)[chosen],)


def test_what_another_peer_did_is_not_forgotten_when_one_comes_back() -> None:
    silent = pending(action=FailureAction.REPLACE, peer=BETA)
    bad = pending(action=FailureAction.SUSPEND, peer=GAMMA, definite=True)
    assert without_silent(merge([silent], [bad]), BETA) == (bad,)


def test_a_peer_that_is_back_takes_what_was_for_its_silence_alone() -> None:
    silent, bad, other = pending(), pending(SHOP, definite=True), pending(peer=GAMMA)
    assert without_silent([silent, bad, other], BETA) == (bad, other)


def test_a_silent_peer_that_turns_out_bad() -> None:
    silent, other = pending(), pending(peer=GAMMA)
    assert made_definite([silent, other], BETA, "an unknown program") == (
        replace(silent, definite=True, reason="an unknown program"),
        other,
    )


ITEMS = st.lists(
    st.builds(
        pending,
        st.sampled_from([WEB, SHOP]),
        peer=st.sampled_from([BETA, GAMMA]),
        action=st.sampled_from([FailureAction.SUSPEND, FailureAction.REPLACE]),
        definite=st.booleans(),
        due_s=st.floats(0, 100),
    ),
    max_size=6,
)


@given(ITEMS, ITEMS)
def test_merging(first: list[PendingAction], second: list[PendingAction]) -> None:
    merged = merge(first, second)
    assert len({item.key for item in merged}) == len(merged)
    assert {item.key for item in merged} == {item.key for item in (*first, *second)}
    assert merge(merged, merged) == merged
    for item in (*first, *second):
        strongest = next(other for other in merged if other.key == item.key)
        assert strongest.action is FailureAction.REPLACE or item.action is FailureAction.SUSPEND


@given(st.sampled_from([*FailureAction]), st.booleans(), st.floats(0, 1e9))
def test_it_survives_the_store(action: FailureAction, definite: bool, due_s: float) -> None:
    item = pending(action=action, definite=definite, due_s=due_s)
    assert PendingAction.from_document(item.to_document()) == item
