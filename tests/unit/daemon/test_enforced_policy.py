"""Which policy a start begins with, and how another takes its place, whenever the daemon dies in the midst of it."""

from dataclasses import replace

import pytest

from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.policy_versions import PolicyRecord
from shamon_host.domain.errors import BadInput, NotTrusted, Refused
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.policy import Policy
from tests.unit.daemon.daemon_world import changed_policy
from tests.unit.daemon.signed_world import envelope, signed_policy
from tests.unit.daemon.versions_world import ALPHA, Crash, VersionsWorld, successor

FIRST = signed_policy()
SECOND = signed_policy(after=FIRST)
THIRD = signed_policy(after=SECOND)
UNSIGNED = changed_policy()
RED, BLACK = TypeName("acme/red"), TypeName("audit/black")
CRIMSON = TypeName("acme/crimson")


@pytest.fixture
def world() -> VersionsWorld:
    return VersionsWorld()


def record(policy: Policy) -> PolicyRecord:
    return PolicyRecord(policy=policy, envelope=envelope(policy), commit=b"{}")


# Starts


@pytest.mark.parametrize("file", [FIRST, UNSIGNED])
def test_a_first_start_takes_the_file(world: VersionsWorld, file: Policy) -> None:
    enforced = world.runs(file)
    assert enforced.policy == file
    assert world.in_force() == (1, world.tpm.counter())
    assert world.tpm.counter() == world.tpm.highest_count
    assert enforced.label_map == world.versions.label_map()
    assert set(enforced.label_map.types) == file.hosts[ALPHA].types
    assert [each["permitted"] for each in world.recorded("policy.install")] == [True]
    assert [each["permitted"] for each in world.recorded("labelmap.install")] == [True]


def test_its_envelope_is_kept_for_hosts_that_ask(world: VersionsWorld) -> None:
    enforced = world.runs(FIRST, envelope(FIRST))
    kept = world.versions.enforced(FIRST.digest)
    assert kept == enforced.record == PolicyRecord(policy=FIRST, envelope=envelope(FIRST), counter=world.tpm.counter())


def test_a_restart_changes_nothing_and_counts_nothing(world: VersionsWorld) -> None:
    before = world.runs(FIRST, envelope(FIRST))
    counted = world.tpm.counter()
    after = world.runs(FIRST)
    assert after.record == before.record
    assert after.label_map == before.label_map
    assert world.tpm.counter() == counted
    assert [each["permitted"] for each in world.recorded("policy.install")] == [True, True]
    assert len(world.recorded("labelmap.install")) == 1


def test_nothing_is_in_force_before_it_is_installed(world: VersionsWorld) -> None:
    world.starts(FIRST)
    assert world.in_force() == (None, None)
    assert world.tpm.counter() is None


def test_a_host_that_the_policy_does_not_have(world: VersionsWorld) -> None:
    with pytest.raises(BadInput, match="this host is not in the policy") as caught:
        world.starts(FIRST, host=HostName("delta"))
    assert (caught.value.expected, caught.value.found) == ("alpha, beta, gamma", "delta")


def test_a_file_that_hangs_together_in_no_way(world: VersionsWorld) -> None:
    with pytest.raises(Refused, match="well-formed"):
        world.runs(replace(FIRST, digest="0" * 64))
    assert world.in_force() == (None, None)
    assert not world.recorded("policy.install")[0]["permitted"]


# Files that were changed by hand


def test_the_successor_of_an_unsigned_policy_counts(world: VersionsWorld) -> None:
    world.runs(UNSIGNED)
    counted = world.tpm.counter()
    assert counted is not None
    assert world.runs(successor(UNSIGNED)).policy.version == 2
    assert world.in_force() == (2, counted + 1)
    assert world.recorded("policy.update")[-1]["permitted"]


@pytest.mark.parametrize(
    ("file", "rule"),
    [
        (replace(successor(UNSIGNED), parent="ab" * 32), "well-formed"),
        (successor(successor(UNSIGNED)), "lineage"),
        (successor(UNSIGNED, coalition="another"), "lineage"),
        (changed_policy(('on_failure = "keep"', 'on_failure = "suspend"')), "rollback"),
    ],
)
def test_any_other_file_is_refused(world: VersionsWorld, file: Policy, rule: str) -> None:
    world.runs(UNSIGNED)
    with pytest.raises(Refused, match=rule):
        world.runs(file)
    assert world.in_force()[0] == 1
    assert not world.recorded("policy.update")[-1]["permitted"]
    assert world.runs(UNSIGNED).policy == UNSIGNED


def test_a_signed_policy_is_not_changed_by_hand(world: VersionsWorld) -> None:
    world.runs(FIRST)
    for file in (SECOND, successor(UNSIGNED)):
        with pytest.raises(Refused, match=r"rule (signature|lineage)"):
            world.runs(file)
    with pytest.raises(Refused, match="it came without signatures"):
        world.runs(SECOND)
    with pytest.raises(Refused, match="unsigned policy cannot replace a signed one"):
        world.runs(successor(FIRST, signing=None))
    assert world.runs(FIRST).policy == FIRST


def test_an_envelope_as_the_file_counts_if_those_signed_who_must(world: VersionsWorld) -> None:
    world.runs(FIRST)
    with pytest.raises(Refused, match="1 of 2"):
        world.runs(SECOND, envelope(SECOND, "o1"))
    with pytest.raises(Refused, match="around another policy"):
        world.runs(SECOND, envelope(THIRD))
    assert world.runs(SECOND, envelope(SECOND)).policy == SECOND
    assert world.versions.enforced(FIRST.digest) is not None
    assert world.versions.enforced(SECOND.digest) is not None


def test_an_unsigned_policy_becomes_a_signed_one_with_the_new_ones_signatures(world: VersionsWorld) -> None:
    world.runs(UNSIGNED)
    signed = signed_policy(after=UNSIGNED)
    with pytest.raises(Refused, match="without signatures"):
        world.runs(signed)
    assert world.runs(signed, envelope(signed)).policy.signing is not None


def test_an_older_file_is_what_the_host_was_set_up_with(world: VersionsWorld) -> None:
    world.runs(FIRST)
    world.runs(SECOND, envelope(SECOND))
    assert world.runs(FIRST).policy == SECOND
    assert world.recorded("policy.file-not-used") == [
        {"file": f"version 1, {FIRST.digest}", "in_force": 2},
    ]


def test_an_envelope_that_is_not_ascii(world: VersionsWorld) -> None:
    with pytest.raises(BadInput, match="not ASCII"):
        world.starts(FIRST, envelope(FIRST).replace(b"{", '{"note": "é", '.encode(), 1))


# Time


def test_an_expired_policy_is_neither_installed_nor_taken_up_again(world: VersionsWorld) -> None:
    expiring = signed_policy(("version = 1", f"version = 1\nexpires = {int(world.now_s) + 60}"))
    world.runs(expiring)
    world.now_s += 60
    with pytest.raises(Refused, match="expired 0 s ago"):
        world.runs(expiring)
    after = signed_policy(after=expiring)
    assert world.runs(after, envelope(after)).policy == after
    with pytest.raises(Refused, match="expired"):
        VersionsWorld(now_s=world.now_s).runs(expiring)


# Updates


def updated(world: VersionsWorld) -> EnforcedPolicy:
    """FIRST is in force, and SECOND comes into force."""
    enforced = world.runs(FIRST)
    assert enforced.decide(record(SECOND)).permitted
    enforced.successor = SECOND
    enforced.change(record(SECOND))
    return enforced


def test_an_update(world: VersionsWorld) -> None:
    enforced = updated(world)
    assert enforced.policy == SECOND
    assert enforced.successor is None
    assert world.in_force() == (2, world.tpm.counter())
    assert enforced.record == world.versions.current() == replace(record(SECOND), counter=world.tpm.counter())
    assert world.versions.pending() is None
    assert world.runs(FIRST).policy == SECOND


def test_a_decision_is_neither_a_change_nor_in_the_log(world: VersionsWorld) -> None:
    enforced = world.runs(FIRST)
    denied = enforced.decide(record(SECOND), ("db runs",))
    assert (denied.permitted, denied.rule, denied.reason) == (False, "running", "db runs")
    assert not enforced.decide(record(THIRD)).permitted
    assert not enforced.decide(replace(record(SECOND), envelope=b"")).permitted
    assert enforced.policy == FIRST
    assert not world.recorded("policy.update")


def test_categories_stay_with_what_is_only_renamed(world: VersionsWorld) -> None:
    enforced = world.runs(FIRST)
    before = enforced.label_map
    renamed = signed_policy(
        ("acme/red", "acme/crimson"), after=FIRST, also='[renames]\ntypes = {"acme/red" = "acme/crimson"}\n'
    )
    wanted = enforced.allocated(renamed)
    assert enforced.label_map == before
    enforced.change(record(renamed))
    after = world.versions.label_map()
    assert after == wanted == enforced.label_map
    assert after is not None
    assert after.types == {CRIMSON if name == RED else name: category for name, category in before.types.items()}
    assert after.vms == before.vms
    for _ in range(2):  # and it is not renamed again
        assert world.runs(FIRST).label_map == after
    third = successor(renamed)
    world.runs(FIRST).change(record(third))
    assert world.versions.label_map() == after


def test_a_type_that_goes_loses_its_category_and_a_new_one_gets_another(world: VersionsWorld) -> None:
    world.runs(FIRST)
    before = world.versions.label_map()
    assert before is not None
    host = FIRST.hosts[ALPHA]
    less = successor(FIRST, hosts={**FIRST.hosts, ALPHA: replace(host, types=host.types - {BLACK})}, vms={})
    world.runs(FIRST).change(record(less))
    again = successor(less, hosts=FIRST.hosts)
    enforced = world.runs(FIRST)
    assert set(enforced.label_map.types) == host.types - {BLACK}
    enforced.change(record(again))
    assert enforced.label_map.types[BLACK] not in before.types.values()
    assert enforced.label_map.types[RED] == before.types[RED]


# The daemon dies


@pytest.mark.parametrize("where", ["before", "after", "finish"])
@pytest.mark.parametrize("first", [True, False])
def test_what_came_into_force_is_finished_after_a_crash(world: VersionsWorld, where: str, first: bool) -> None:
    """Before the TPM counted, after it, or after that, when the version should have been written down."""

    def dies() -> None:
        if where == "finish":
            world.store.dies = 1
        else:
            setattr(world.tpm, where, 1)

    if not first:
        world.runs(FIRST)
    counted = world.tpm.counter()
    dies()
    with pytest.raises(Crash):
        world.runs(SECOND, envelope(SECOND)) if not first else world.runs(FIRST)
    pending = world.versions.pending()
    assert pending is not None
    assert world.in_force() == ((None, None) if first else (1, counted))
    expected = FIRST if first else SECOND
    assert world.runs(FIRST).policy == expected
    assert world.in_force() == (expected.version, world.tpm.counter())
    assert world.versions.pending() is None
    if counted is not None:
        assert world.tpm.counter() == counted + 1
    assert world.runs(FIRST).policy == expected


def test_it_may_die_again_while_it_finishes(world: VersionsWorld) -> None:
    enforced = world.runs(FIRST)
    counted = world.tpm.counter()
    assert counted is not None
    world.tpm.before = world.tpm.after = world.store.dies = 1
    with pytest.raises(Crash):
        enforced.change(record(SECOND))
    for _ in range(2):
        with pytest.raises(Crash):
            world.runs(FIRST)
        assert world.in_force() == (1, counted)
    assert world.runs(FIRST).policy == SECOND
    assert world.in_force() == (2, counted + 1)


def test_what_is_coming_comes_before_what_lies_in_the_file(world: VersionsWorld) -> None:
    enforced = world.runs(FIRST)
    world.store.dies = 1
    with pytest.raises(Crash):
        enforced.change(record(SECOND))
    begun = world.starts(THIRD, envelope(THIRD))
    assert begun.policy == SECOND
    begun.install()
    assert world.in_force()[0] == 2
    assert world.runs(THIRD, envelope(THIRD)).policy == THIRD


def test_a_renamed_type_keeps_its_category_over_a_crash(world: VersionsWorld) -> None:
    enforced = world.runs(FIRST)
    category = enforced.label_map.types[RED]
    renamed = signed_policy(
        ("acme/red", "acme/crimson"), after=FIRST, also='[renames]\ntypes = {"acme/red" = "acme/crimson"}\n'
    )
    world.store.dies = 1
    with pytest.raises(Crash):
        enforced.change(record(renamed))
    assert world.runs(FIRST).label_map.types[CRIMSON] == category


# The disk is put back


@pytest.mark.parametrize("steps", [-1, 1, 2])
def test_a_counter_that_is_elsewhere_is_found_out(world: VersionsWorld, steps: int) -> None:
    world.runs(FIRST)
    kept = world.versions.current()
    assert kept is not None
    assert kept.counter is not None
    world.versions.finish(replace(kept, counter=kept.counter - steps), world.runs(FIRST).label_map)
    with pytest.raises(NotTrusted, match="not the one that it left") as caught:
        world.runs(FIRST)
    assert caught.value.found == str(world.tpm.counter())
    assert "enrol the host again" in caught.value.remedy


def test_a_tpm_that_was_cleared_is_found_out(world: VersionsWorld) -> None:
    world.runs(FIRST)
    world.tpm.nv_public = None
    with pytest.raises(NotTrusted) as caught:
        world.runs(FIRST)
    assert caught.value.found == "no counter"


def test_an_interrupted_version_that_was_put_back_is_found_out(world: VersionsWorld) -> None:
    """The disk is as it was while SECOND came into force; since then THIRD has."""
    enforced = world.runs(FIRST)
    world.store.dies = 1
    with pytest.raises(Crash):
        enforced.change(record(SECOND))
    pending = world.versions.pending()
    current = world.versions.current()
    assert pending is not None
    assert current is not None
    world.runs(FIRST).change(record(THIRD))
    world.versions.finish(current, enforced.label_map)
    world.versions.begin(pending)
    with pytest.raises(NotTrusted):
        world.runs(FIRST)


def test_a_daemon_without_a_past_takes_any_counter(world: VersionsWorld) -> None:
    """Its database was removed, as after a rollback that its operator explained: its peers know what it had."""
    world.runs(FIRST)
    other = VersionsWorld(tpm=world.tpm)
    assert other.runs(FIRST).policy == FIRST
    assert other.in_force() == (1, world.tpm.counter())


def test_a_first_version_that_says_who_signs_it_comes_signed(world: VersionsWorld) -> None:
    for lacking in (b"", envelope(FIRST, "o1"), envelope(SECOND)):
        with pytest.raises(Refused, match="signature"):
            world.runs(FIRST, lacking)
    assert world.in_force() == (None, None)
    assert world.runs(FIRST, envelope(FIRST)).policy == FIRST
