"""Replay of what runs against a version that is to come: every violation, and no others."""

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain import monitor
from shamon_host.domain.label_map import EMPTY, allocate
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.policy import HypervisorKind, Policy
from shamon_host.domain.policy_form import with_digest
from shamon_host.domain.replay import Running, renamed, renamed_label, renamed_map, violations
from shamon_host.domain.results import TpmKind
from tests.examples import examples
from tests.unit.domain import oracle
from tests.unit.domain.decisions import assert_permitted
from tests.unit.domain.generated import policies
from tests.unit.domain.policy_text import FINANCE_TEXT, changed_finance, parse
from tests.unit.domain.successors import only_renamed, renaming, successors

FINANCE = parse(FINANCE_TEXT)
ALPHA, BETA = HostName("alpha"), HostName("beta")
DESK, REVIEWER, CLERK, READER = (VmName(name) for name in ("desk", "reviewer", "clerk", "reader"))
LEDGER, MAIL, REPORT = TypeName("bank/ledger"), TypeName("bank/mail"), TypeName("audit/report")


def runs(policy: Policy, host: HostName, vms: Iterable[VmName], tpm: TpmKind = TpmKind.HARDWARE) -> Running:
    return Running(host=host, tpm=tpm, vms={vm: policy.interfaces_of(vm) for vm in vms})


@st.composite
def running(draw: st.DrawFn, policy: Policy) -> Running:
    """What the policy permits to run on one of its hosts, started one after the other; links to some of the others."""
    host, tpm = draw(st.sampled_from(sorted(policy.hosts))), draw(st.sampled_from(TpmKind))
    vms: list[VmName] = []
    for vm in draw(st.permutations(policy.vms_of(host))):
        beside = {other: oracle.label(policy, other) for other in vms}
        if not oracle.reasons_against(policy, vm, host, beside, tpm=tpm):
            vms.append(vm)
    links = {
        peer: frozenset(draw(st.sets(st.sampled_from(sorted(both)))))
        for peer, entry in policy.hosts.items()
        if peer != host and (both := entry.types & policy.hosts[host].types)
    }
    return replace(runs(policy, host, vms, tpm), links=links)


# No violations


@settings(max_examples=examples(60))
@given(policy=policies(least_hosts=2, least_vms=3), data=st.data())
def test_a_policy_forbids_nothing_that_it_permits(policy: Policy, data: st.DataObject) -> None:
    there = data.draw(running(policy))
    assert violations(policy, policy, there) == ()
    again = with_digest(
        replace(policy, version=policy.version + 1, parent=policy.digest, renames=renaming(policy, {}).renames)
    )
    assert violations(again, policy, there) == ()


def on_xen(policy: Policy, vm: VmName) -> bool:
    return policy.hosts[policy.vms[vm].host].hypervisor is HypervisorKind.XEN


@settings(max_examples=examples(60))
@given(policy=policies(least_hosts=2, least_vms=3), data=st.data())
def test_other_names_alone_break_nothing(policy: Policy, data: st.DataObject) -> None:
    """Interfaces that nobody wrote down are in the order of the types' names. So a name that sorts otherwise would
    exchange them below a running VM: that is no rename alone, and the version has to write them down. Nor is another
    name of a label on Xen, where it is in the context of a VM."""
    there, following = data.draw(running(policy)), data.draw(only_renamed(policy))
    exchanged = [
        vm for vm, types in there.vms.items() if oracle.interfaces(following, vm) != renamed_all(types, following)
    ]
    assert all(policy.vms[vm].interfaces is None for vm in exchanged)
    relabelled = [vm for vm in there.vms if on_xen(policy, vm) and following.vms[vm].label != policy.vms[vm].label]
    told = violations(following, policy, there)
    words = [sentence.split(" runs ", 1) for sentence in told]
    assert [name for name, what in words if what.startswith("with interfaces for ")] == sorted(exchanged)
    assert [name for name, what in words if what.startswith("as ")] == sorted(relabelled)
    assert len(told) == len(exchanged) + len(relabelled)
    decision = monitor.policy_update(
        following,
        policy,
        now_wall_s=-1.0,
        unsigned=(),
        violations=violations(following, policy, replace(there, vms={})),
    )
    assert_permitted(decision)


def renamed_all(types: Iterable[TypeName], following: Policy) -> list[TypeName]:
    return [renamed(name, following.renames) for name in types]


@settings(max_examples=examples(40))
@given(policy=policies(least_vms=2), data=st.data())
def test_contexts_stay_when_names_change(policy: Policy, data: st.DataObject) -> None:
    following = data.draw(only_renamed(policy))
    before = allocate(EMPTY, policy.types, policy.vms)
    after = allocate(renamed_map(before, following.renames), following.types, following.vms)
    assert (after.vms, after.next_category, after.next_pair) == (before.vms, before.next_category, before.next_pair)
    for vm in policy.vms:
        old, new = oracle.label(policy, vm), oracle.label(following, vm)
        assert renamed_label(old, following.renames).types == new.types
        assert after.vm_context(vm, new.types) == before.vm_context(vm, old.types)
    for name in policy.types:
        assert after.link_context(renamed(name, following.renames)) == before.link_context(name)


# Every violation, against the definition


def vm_told(vm: VmName, told: Iterable[str]) -> bool:
    return any(sentence.startswith((f"{vm}: ", f"{vm} runs ")) for sentence in told)


@settings(max_examples=examples(150))
@given(policy=policies(least_hosts=2, least_vms=3), data=st.data())
def test_every_violation_is_found_and_nothing_else(policy: Policy, data: st.DataObject) -> None:
    there, new = data.draw(running(policy)), data.draw(successors(policy))
    told = violations(new, policy, there)
    host = there.host
    if host not in new.hosts:
        assert bool(told) == bool(there.vms)
        return
    assert any("the address of" in sentence for sentence in told) == (
        new.hosts[host].address != policy.hosts[host].address
    )
    known = {vm: oracle.label(new, vm) for vm in there.vms if vm in new.vms}
    for vm, interfaces in there.vms.items():
        against = (
            vm not in known
            or bool(oracle.reasons_against(new, vm, host, {}, tpm=there.tpm))
            or known[vm].types != {new.renames.types.get(name, name) for name in oracle.label(policy, vm).types}
            or oracle.interfaces(new, vm) != [new.renames.types.get(name, name) for name in interfaces]
            or oracle.grants(new, vm) != oracle.grants(policy, vm)
            or (on_xen(new, vm) and on_xen(policy, vm) and new.vms[vm].label != policy.vms[vm].label)
        )
        assert vm_told(vm, told) == against, vm
    together = any("run together" in sentence for sentence in told)
    assert together == oracle.in_conflict(new, list(known.values()))
    for peer, carried in there.links.items():
        for old in carried:
            name = new.renames.types.get(old, old)
            lost = peer not in new.hosts or not (name in new.hosts[host].types and name in new.hosts[peer].types)
            needed = peer not in new.hosts or any(name in label.types for label in known.values())
            assert any(f"{name} is carried to {peer}" in sentence for sentence in told) == (lost and needed)


# In words


def test_a_vm_that_is_gone_moved_or_relabelled_is_named_with_what_is_wrong() -> None:
    there = runs(FINANCE, ALPHA, [DESK, REVIEWER])
    gone = parse(FINANCE_TEXT.replace("[vms.desk]", "[vms.desk2]"))
    assert violations(gone, FINANCE, there) == ("desk: the policy knows no VM desk (known)",)
    relabelled = parse(
        changed_finance('label = "review"', 'label = "auditor"').replace("[renames.labels]", "[renames.labels]\n")
    )
    told = violations(relabelled, FINANCE, there)
    assert told[0] == (
        "reviewer runs with the types audit/report, bank/ledger and would have audit/report: stop it first"
    )
    assert told[1] == (
        "reviewer runs with interfaces for audit/report, bank/ledger and would have audit/report: stop it first"
    )
    assert len(told) == 2


def test_on_xen_a_label_that_is_renamed_is_another_context() -> None:
    there = runs(FINANCE, BETA, [CLERK, READER])
    renamed_label = parse(FINANCE_TEXT.replace("labels.auditor]", "labels.checker]").replace('"auditor"', '"checker"'))
    assert violations(renamed_label, FINANCE, there) == (
        "reader runs as system_u:system_r:shamon_vm_auditor_t and would have "
        "system_u:system_r:shamon_vm_checker_t: stop it first",
    )
    qemu = replace(FINANCE, hosts={**FINANCE.hosts, BETA: replace(FINANCE.hosts[BETA], hypervisor=HypervisorKind.QEMU)})
    assert violations(FINANCE, qemu, there) == (
        "the hypervisor of beta changes: stop its daemon, and install the policy by hand",
    )


def test_interfaces_that_change_places_are_a_violation() -> None:
    swapped = parse(changed_finance('["bank/mail", "bank/ledger"]\n\n[vms', '["bank/ledger", "bank/mail"]\n\n[vms'))
    assert violations(swapped, FINANCE, runs(FINANCE, ALPHA, [REVIEWER])) == ()
    assert violations(swapped, FINANCE, runs(FINANCE, ALPHA, [DESK])) == (
        "desk runs with interfaces for bank/mail, bank/ledger and would have bank/ledger, bank/mail: stop it first",
    )


def test_what_runs_together_and_may_not_any_more_is_told_once() -> None:
    text = changed_finance("[conflicts.rooms]", '[conflicts.mail]\ntypes = ["board", "bank/mail"]\n\n[conflicts.rooms]')
    told = violations(parse(text), FINANCE, runs(FINANCE, ALPHA, [DESK, REVIEWER]))
    assert told == ("bank/mail, board (conflict set mail) run together on alpha",)


def test_a_host_that_is_none_any_more_and_one_that_moves() -> None:
    there = runs(FINANCE, BETA, [CLERK, READER])
    gone = replace(FINANCE, hosts={ALPHA: FINANCE.hosts[ALPHA]}, vms={})
    assert violations(gone, FINANCE, there) == ("beta is no host any more and runs clerk, reader",)
    assert violations(gone, FINANCE, runs(FINANCE, BETA, [])) == ()
    moved = parse(changed_finance('"2001:db8::2"', '"2001:db8::3"'))
    assert violations(moved, FINANCE, there) == (
        "the address of beta changes: stop its daemon, and install the policy by hand",
    )


def test_a_link_is_missed_only_by_a_vm_that_needs_it() -> None:
    carried = {ALPHA: frozenset({REPORT})}
    narrowed = parse(
        changed_finance(
            '"audit/report", "audit/vault"]\nstarting = ["audit/report", "bank/ledger"]', '"audit/vault"]'
        ).replace('[vms.reviewer]\nlabel = "review"', '[vms.reviewer]\nlabel = "archive"')
    )
    without = replace(runs(FINANCE, BETA, [CLERK]), links=carried)
    assert violations(narrowed, FINANCE, without) == ()
    needing = replace(runs(FINANCE, BETA, [CLERK, READER]), links=carried)
    assert violations(narrowed, FINANCE, needing) == (
        "audit/report is carried to alpha for reader, and could not be any more",
    )
    gone = replace(FINANCE, hosts={BETA: FINANCE.hosts[BETA]}, vms={CLERK: FINANCE.vms[CLERK]})
    assert violations(gone, FINANCE, without) == ("audit/report is carried to alpha, which is no host any more",)


def test_a_type_that_comes_to_demand_a_hardware_tpm() -> None:
    harder = parse(changed_finance('[types."rival/books"]', '[types."rival/books"]\ntpm = "hardware"'))
    assert violations(harder, FINANCE, runs(FINANCE, BETA, [CLERK, READER])) == ()
    told = violations(harder, FINANCE, runs(FINANCE, BETA, [CLERK, READER], TpmKind.SOFTWARE))
    assert told == ("clerk: rival/books demands a hardware TPM, and that of beta is software (tpm-kind)",)


def test_a_rename_is_followed_where_it_is_told() -> None:
    crimson = TypeName("bank/post")
    named = renaming(FINANCE, {MAIL: crimson}, {"trader": "dealer"})
    there = replace(runs(FINANCE, ALPHA, [DESK, REVIEWER]), links={BETA: frozenset({REPORT})})
    assert violations(named, FINANCE, there) == ()
    untold = with_digest(replace(named, renames=renaming(FINANCE, {}).renames))
    assert violations(untold, FINANCE, there) == (
        "desk runs with the types bank/ledger, bank/mail and would have bank/ledger, bank/post: stop it first",
        "desk runs with interfaces for bank/mail, bank/ledger and would have bank/post, bank/ledger: stop it first",
    )


def test_a_name_that_sorts_otherwise_exchanges_interfaces_that_nobody_wrote_down() -> None:
    there, report = runs(FINANCE, ALPHA, [REVIEWER, DESK]), TypeName("zoo/report")
    named = renaming(FINANCE, {REPORT: report})
    assert violations(named, FINANCE, there) == (
        "reviewer runs with interfaces for zoo/report, bank/ledger and would have bank/ledger, zoo/report: "
        "stop it first",
    )
    vms = {**named.vms, REVIEWER: replace(named.vms[REVIEWER], interfaces=(report, LEDGER))}
    assert violations(with_digest(replace(named, vms=vms)), FINANCE, there) == ()
