"""Explanations: every rule that bears on a question, with its answer, and keys that are in the file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given, settings

from shamon_host.domain import monitor
from shamon_host.domain.decision import Decision
from shamon_host.domain.decisions import conflict_with, may_send
from shamon_host.domain.errors import BadInput
from shamon_host.domain.explain import Explanation, dry_run, explain
from shamon_host.domain.labels import HostName, TypeName, VmLabel, VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.results import TpmKind
from shamon_host.domain.toml_positions import positions, split_path
from shamon_host.interchange.policy_toml import policy_toml
from tests.examples import examples
from tests.unit.domain.generated import policies
from tests.unit.domain.policy_text import FINANCE_TEXT, TEXT, changed, changed_finance, parse
from tests.unit.domain.values import ALPHA, BETA, BROKER, DB, GAMMA, ORDERS, POLICY, SPY, WEB, running

FINANCE = parse(FINANCE_TEXT)
EXAMPLES = [each.read_text() for each in sorted((Path(__file__).parents[3] / "examples").glob("*.toml"))]


def one_way(policy: Policy, one: str, other: str) -> Explanation:
    return explain(policy, one, other)[0]


def checks(answers: Sequence[Explanation]) -> list[tuple[str, bool]]:
    return [(answer.check, answer.permitted) for answer in answers]


# Two VMs


def test_two_vms_are_asked_about_both_ways_and_on_one_host() -> None:
    there, back, beside = explain(POLICY, "web", "db")
    assert checks((there, back, beside)) == [
        ("exchange frames", True),
        ("exchange frames", True),
        ("run on one host", True),
    ]
    assert (there.subject, there.object) == ("web", "db") == (back.object, back.subject)
    assert there.reason == "web writes and db reads acme/red"
    assert there.keys == ("vms.web.label", "labels.red", "vms.db.label", "labels.red")
    assert beside.rule == "chinese-wall"
    assert beside.reason == "no conflict set has something of both"


def test_what_shares_nothing_says_what_each_has() -> None:
    there, back, beside = explain(POLICY, "web", "spy")
    assert (there.permitted, back.permitted) == (False, False)
    assert (there.rule, there.reason) == ("ste", "web writes acme/red; spy reads rival/blue")
    assert not beside.permitted
    assert "competitors" in beside.reason
    assert beside.keys[-1] == "conflicts.competitors"


def test_a_label_that_only_reads_goes_one_way() -> None:
    """review reads the ledger, and trader has it both ways."""
    there, back, _ = explain(FINANCE, "desk", "reviewer")
    assert (there.permitted, there.reason) == (
        True,
        "desk writes and reviewer reads bank/ledger; less what overlays.quiet take away",
    )
    assert not back.permitted
    assert "and bank/ledger one way only" in back.reason
    assert "reviewer writes audit/report" in back.reason


def test_labels_stand_for_vms() -> None:
    there, back, beside = explain(POLICY, "red", "red-orders")
    assert (there.permitted, back.permitted, beside.permitted) == (True, True, True)
    assert there.keys == ("labels.red", "labels.red-orders")
    assert one_way(POLICY, "web", "red").permitted


def test_conflicts_of_owners_and_of_apart() -> None:
    (_, _, beside) = explain(FINANCE, "desk", "clerk")
    assert beside.reason == "bank/ledger, rival (conflict set bank/ledger apart rival) would run together"
    assert beside.keys[-1] == 'types."bank/ledger".apart'
    owners = parse(changed_finance('apart = ["rival", "lobby"]\n', ""))
    (_, _, beside) = explain(owners, "desk", "clerk")
    assert beside.reason == "bank/markets, rival (conflict set competitors) would run together"
    assert beside.keys[-1] == "conflicts.competitors"


def test_overlays_are_mentioned_where_something_is_left_to_take_away() -> None:
    there = one_way(FINANCE, "reviewer", "reader")
    assert there.permitted
    assert there.reason.endswith("; less what overlays.office-hours take away")
    assert there.keys[-1] == "overlays.office-hours"
    denied = one_way(FINANCE, "clerk", "reader")
    assert "overlays" not in denied.reason
    assert not any(key.startswith("overlays") for key in denied.keys)


def test_a_vm_without_an_interface_for_it_exchanges_nothing() -> None:
    """Its label would let it, and there is no tap."""
    text = changed_finance(
        'label = "auditor"\nimage = "app"\nhost = "beta"',
        'label = "auditor"\nimage = "app"\nhost = "beta"\ninterfaces = []',
    )
    there = one_way(parse(text), "reviewer", "reader")
    assert not there.permitted
    assert there.reason == "reviewer and reader have no interfaces for the same one of audit/report"
    assert there.keys[-1] == "vms.reader.interfaces"
    assert one_way(parse(text), "reviewer", "auditor").permitted


def test_the_unlabelled_run_beside_everybody_and_share_nothing() -> None:
    there, back, beside = explain(FINANCE, "tools", "desk")
    assert (there.permitted, back.permitted, beside.permitted) == (False, False, True)
    assert there.keys == ("vms.tools.label", "vms.desk.label", "labels.trader")
    assert "tools writes none" in there.reason


def test_keys_of_names_with_dots_are_quoted() -> None:
    text = changed("[labels.blue]", '[labels."blue.v2"]').replace('label = "blue"', 'label = "blue.v2"')
    text = changed("[vms.spy]", '[vms."spy.1"]', text).replace("[conflicts.competitors]", '[conflicts."a.b"]')
    beside = explain(parse(text), "spy.1", "web")[2]
    assert beside.keys == ('vms."spy.1".label', 'labels."blue.v2"', "vms.web.label", "labels.red", 'conflicts."a.b"')


@given(policies())
@settings(max_examples=examples(100), deadline=None)
def test_an_explanation_is_what_is_decided(policy: Policy) -> None:
    for one, other in product(policy.vms, repeat=2):
        there, back, beside = explain(policy, one, other)
        labels = policy.label_of(one), policy.label_of(other)
        taps = set(policy.interfaces_of(one)).intersection(policy.interfaces_of(other))
        assert there.permitted is bool(may_send(policy, *labels) & taps)
        assert back.permitted is bool(may_send(policy, labels[1], labels[0]) & taps)
        assert beside.permitted is (conflict_with(policy, labels[0], [labels[1]]) is None)


# A VM and a resource


def test_a_resource() -> None:
    (answer,) = explain(POLICY, "web", "red-archive")
    assert (answer.check, answer.permitted, answer.reason) == ("use", True, "both have acme/red")
    assert answer.keys == ("vms.web.label", "labels.red", "resources.red-archive")
    assert explain(POLICY, "red-archive", "web") == (answer,)
    (answer,) = explain(POLICY, "orders", "red-archive")
    assert (answer.permitted, answer.reason) == (False, "orders has supplier/orders; red-archive has acme/red")


def test_an_inaccessible_resource() -> None:
    (answer,) = explain(FINANCE, "desk", "old")
    assert (answer.permitted, answer.reason) == (False, "old is inaccessible")


def test_a_vm_with_the_name_of_a_resource_is_the_vm() -> None:
    policy = parse(changed("[vms.spy]", "[vms.red-archive]"))
    assert len(explain(policy, "web", "red-archive")) == 3


# Names that are not there


@pytest.mark.parametrize(("one", "other"), [("wep", "db"), ("db", "wep")])
def test_an_unknown_name_has_the_nearest_one(one: str, other: str) -> None:
    with pytest.raises(BadInput, match="no such VM, label or resource") as caught:
        explain(POLICY, one, other)
    assert caught.value.where == "wep"
    assert caught.value.remedy == "Did you mean web?"


def test_an_unknown_name_that_is_like_none() -> None:
    with pytest.raises(BadInput) as caught:
        explain(POLICY, "x" * 1000, "web")
    assert (caught.value.where, caught.value.remedy) == ("x" * 80, "")


def test_two_resources_do_not_meet() -> None:
    with pytest.raises(BadInput, match="two resources"):
        explain(POLICY, "red-archive", "shared-archive")


# Dry runs


def rehearsed(
    policy: Policy = POLICY,
    vm: VmName = WEB,
    host: HostName = ALPHA,
    *,
    running: Mapping[VmName, VmLabel] = MappingProxyType({}),
    host_tpm: TpmKind = TpmKind.HARDWARE,
    admitted: bool = True,
    to_come: Sequence[Decision] = (),
    shared: Mapping[HostName, frozenset[TypeName]] | None = None,
) -> tuple[Explanation, ...]:
    start = monitor.vm_start(policy, vm, host=host, running=running, host_tpm=host_tpm, admitted=admitted)
    return dry_run(policy, vm, host, start=[start, *to_come], host_tpm=host_tpm, shared=shared)


def test_every_check_of_a_start() -> None:
    answers = rehearsed()
    assert [(answer.check, answer.object, answer.permitted) for answer in answers] == [
        ("vm.start", "alpha", True),
        ("use", "red-archive", True),
        ("vm.attach", "acme/red", True),
        ("link.open", "beta acme/red", True),
    ]
    assert answers[0].keys == ("vms.web.label", "labels.red")
    assert answers[-1].keys == ("hosts.alpha.types", "hosts.beta.types", "vms.db")


def test_what_runs_there_counts_and_the_vm_itself_does_not() -> None:
    denied = rehearsed(vm=SPY, host=BETA, running=running(DB, BROKER))[0]
    assert (denied.permitted, denied.rule, denied.keys) == (False, "chinese-wall", ("conflicts.competitors",))
    assert rehearsed(vm=DB, host=BETA, running=running(DB, BROKER))[0].permitted


def test_another_host_than_its_own() -> None:
    first, *others = rehearsed(vm=WEB, host=GAMMA)
    assert (first.permitted, first.rule, first.keys) == (False, "assignment", ("vms.web.host",))
    links = [answer for answer in others if answer.check == "link.open"]
    assert links
    assert all((link.rule, link.keys) == ("management-label", ("hosts.gamma.types",)) for link in links)


def test_what_the_policies_do_not_let_both_share_is_not_linked() -> None:
    link = rehearsed(shared={BETA: frozenset({ORDERS})})[-1]
    assert (link.check, link.permitted, link.rule) == ("link.open", False, "compatible")
    assert rehearsed(shared={BETA: frozenset({TypeName("acme/red")})})[-1].permitted


def test_a_software_tpm() -> None:
    policy = parse(changed('on_failure = "suspend"', 'on_failure = "suspend"\ntpm = "hardware"'))
    denied = [answer for answer in rehearsed(policy, host_tpm=TpmKind.SOFTWARE) if not answer.permitted]
    assert [(answer.check, answer.rule, answer.keys) for answer in denied] == [
        ("vm.start", "tpm-kind", ('types."acme/red".tpm',)),
        ("link.open", "tpm-kind", ('types."acme/red".tpm',)),
    ]
    assert all(answer.permitted for answer in rehearsed(policy))


def test_a_host_that_nobody_has_admitted() -> None:
    alpha = replace(POLICY.hosts[ALPHA], starting=frozenset())
    policy = replace(POLICY, hosts={**POLICY.hosts, ALPHA: alpha})
    denied = rehearsed(policy, admitted=False)[0]
    assert (denied.check, denied.permitted) == ("vm.start", False)
    assert rehearsed(policy)[0].permitted


def test_what_a_version_to_come_denies() -> None:
    decision = monitor.vm_start(POLICY, WEB, host=BETA, running={}, host_tpm=TpmKind.HARDWARE)
    permitted, denied, *_ = rehearsed(to_come=[decision])
    assert (permitted.permitted, denied.permitted, denied.rule) == (True, False, "assignment")


def test_each_interface_is_asked_about() -> None:
    answers = rehearsed(FINANCE, VmName("desk"))
    assert [answer.object for answer in answers if answer.check == "vm.attach"] == ["bank/mail", "bank/ledger"]
    assert not [answer for answer in answers if answer.check == "link.open"]


def test_the_unlabelled_have_a_start_alone() -> None:
    (only,) = rehearsed(FINANCE, VmName("tools"), host_tpm=TpmKind.SOFTWARE)
    assert (only.check, only.permitted, only.keys) == ("vm.start", True, ("vms.tools.label",))


@pytest.mark.parametrize(
    ("vm", "host", "what", "near"), [("wbe", "alpha", "VM", "web"), ("web", "alhpa", "host", "alpha")]
)
def test_a_dry_run_of_unknown_names(vm: str, host: str, what: str, near: str) -> None:
    with pytest.raises(BadInput, match=f"no such {what}") as caught:
        rehearsed(vm=VmName(vm), host=HostName(host))
    assert near in caught.value.remedy


# Keys


def all_answers(policy: Policy) -> list[Explanation]:
    names = [*policy.vms, *policy.vm_labels]
    found = [
        answer
        for one, other in product(names, [*names, *policy.resource_labels])
        for answer in explain(policy, one, other)
    ]
    everybody = {vm: policy.label_of(vm) for vm in policy.vms}
    for vm, host, tpm in product(policy.vms, policy.hosts, TpmKind):
        for others in ({}, everybody):
            found += rehearsed(policy, vm, host, running=others, host_tpm=tpm)
    return found


def assert_keys_are_there(text: str) -> None:
    """Not only that a line is found: a key that is not there has that of the table around it."""
    places = positions(text)
    answers = all_answers(parse_policy(text.encode(), source="policy.toml"))
    assert answers
    for answer in answers:
        assert answer.keys, answer
        for key in answer.keys:
            assert split_path(key) in places, answer
            assert places.line(split_path(key)) > 0


@pytest.mark.parametrize("text", [TEXT, FINANCE_TEXT, *EXAMPLES], ids=lambda text: text[:30])
def test_every_key_is_in_the_file(text: str) -> None:
    assert_keys_are_there(text)


@given(policies())
@settings(max_examples=examples(60), deadline=None)
def test_every_key_is_in_any_file(policy: Policy) -> None:
    if policy.vms or policy.vm_labels:
        assert_keys_are_there(policy_toml(policy))


def test_keys_point_to_a_host_that_may_not_run_it() -> None:
    """A policy that was read has none; one that is made up by a program may."""
    policy = replace(POLICY, hosts={**POLICY.hosts, ALPHA: replace(POLICY.hosts[ALPHA], types=frozenset({ORDERS}))})
    assert rehearsed(policy)[0].keys == ("hosts.alpha.types",)
