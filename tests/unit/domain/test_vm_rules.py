"""What decides about a VM beside its types: no label, interfaces, resources, where and when its host may run it."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from shamon_host.domain import monitor
from shamon_host.domain.decision import Decision, Rule
from shamon_host.domain.labels import UNLABELLED, HostName, ResourceKind, TypeName, VmLabel, VmName
from shamon_host.domain.policy import HypervisorKind, Policy, Primary, TpmDemand
from shamon_host.domain.results import TpmKind
from shamon_host.domain.ste import may_send, may_use, may_write
from tests.unit.domain.decisions import NOW_S, admitted, assert_denied, assert_permitted
from tests.unit.domain.policy_text import FINANCE_TEXT, changed_finance, parse
from tests.unit.domain.values import running

POLICY = parse(FINANCE_TEXT)
ALPHA, BETA = HostName("alpha"), HostName("beta")
DESK, REVIEWER, ARCHIVER, TOOLS = (VmName(name) for name in ("desk", "reviewer", "archiver", "tools"))
READER, CLERK = VmName("reader"), VmName("clerk")
LEDGER, MAIL, REPORT = TypeName("bank/ledger"), TypeName("bank/mail"), TypeName("audit/report")
VAULT = TypeName("audit/vault")
BOOKS = TypeName("rival/books")


def start(
    vm: VmName,
    host: HostName = ALPHA,
    *,
    policy: Policy = POLICY,
    beside: Mapping[VmName, VmLabel] | None = None,
    host_tpm: TpmKind = TpmKind.HARDWARE,
    is_admitted: bool = True,
) -> Decision:
    return monitor.vm_start(policy, vm, host=host, running=beside or {}, host_tpm=host_tpm, admitted=is_admitted)


# No label


def test_an_unlabelled_vm_runs_beside_all_others_and_they_beside_it() -> None:
    others = running(DESK, REVIEWER, ARCHIVER, policy=POLICY)
    assert_permitted(start(TOOLS, beside=others))
    assert_permitted(start(TOOLS, is_admitted=False))
    assert_permitted(start(TOOLS, host_tpm=TpmKind.SOFTWARE))
    beside_it = running(TOOLS, policy=POLICY)
    for vm in (DESK, REVIEWER, ARCHIVER):
        assert_permitted(start(vm, beside=beside_it))
    assert_denied(start(TOOLS, BETA), Rule.ASSIGNMENT, "alpha")


def test_an_unlabelled_vm_shares_nothing_not_even_with_its_like() -> None:
    for label in [*POLICY.vm_labels.values(), UNLABELLED]:
        assert not may_send(UNLABELLED, label)
        assert not may_send(label, UNLABELLED)
    for resource in POLICY.resource_labels.values():
        assert not may_use(UNLABELLED, resource)
    for name in POLICY.types:
        assert_denied(monitor.vm_attach(POLICY, TOOLS, name), Rule.STE, "none")
    assert POLICY.interfaces_of(TOOLS) == ()


def test_a_resource_that_an_unlabelled_vm_asks_for_is_refused() -> None:
    """No policy file says so; a policy that came another way might."""
    greedy = replace(POLICY, vms={**POLICY.vms, TOOLS: replace(POLICY.vms[TOOLS], resources=("ledger-disk",))})
    assert_denied(start(TOOLS, policy=greedy), Rule.STE, "ledger-disk", "share no type")


def test_a_label_without_types_is_not_unlabelled() -> None:
    bare = replace(POLICY, vm_labels={**POLICY.vm_labels, "review": VmLabel(name="review", types=frozenset())})
    assert_denied(start(REVIEWER, policy=bare), Rule.WELL_FORMED, "no type")
    named = replace(POLICY, vm_labels={**POLICY.vm_labels, "unlabelled": POLICY.vm_labels["trader"]})
    assert named.label_of(TOOLS) is UNLABELLED


# Interfaces


def test_only_its_interfaces_are_attached() -> None:
    assert_permitted(monitor.vm_attach(POLICY, DESK, MAIL))
    assert_permitted(monitor.vm_attach(POLICY, DESK, LEDGER))
    assert_permitted(monitor.vm_attach(POLICY, REVIEWER, LEDGER))
    assert_denied(
        monitor.vm_attach(POLICY, ARCHIVER, LEDGER), Rule.STE, "no interface of archiver", key="vms.archiver.interfaces"
    )
    one = parse(changed_finance('interfaces = ["bank/mail", "bank/ledger"]', 'interfaces = ["bank/mail"]'))
    assert_permitted(monitor.vm_attach(one, DESK, MAIL))
    assert_denied(monitor.vm_attach(one, DESK, LEDGER), Rule.STE, key="vms.desk.interfaces")
    assert_denied(monitor.vm_attach(one, DESK, REPORT), Rule.STE, key="labels.trader.types")


# Resources


def test_nobody_uses_an_inaccessible_resource() -> None:
    for label in [*POLICY.vm_labels.values(), UNLABELLED]:
        assert not may_use(label, POLICY.resource_labels["old"])
        open_but_inaccessible = replace(POLICY.resource_labels["old"], types=label.types)
        assert not may_use(label, open_but_inaccessible)
    greedy = replace(POLICY, vms={**POLICY.vms, DESK: replace(POLICY.vms[DESK], resources=("old",))})
    assert_denied(start(DESK, policy=greedy), Rule.STE, "old", "inaccessible", key="resources.old")


def test_a_disk_is_used_through_any_shared_type_that_is_read() -> None:
    ledger, press = POLICY.resource_labels["ledger-disk"], POLICY.resource_labels["press-disk"]
    for name in ("trader", "review", "archive"):
        assert may_use(POLICY.vm_labels[name], ledger) == {LEDGER}
    assert not may_use(POLICY.vm_labels["auditor"], ledger)
    assert may_use(POLICY.vm_labels["auditor"], press) == {REPORT}
    assert may_use(POLICY.vm_labels["bookkeeper"], press) == {BOOKS}
    assert not may_use(POLICY.vm_labels["trader"], press)
    vault = replace(ledger, types=frozenset({VAULT}))
    assert not may_use(POLICY.vm_labels["archive"], vault), "who uses a disk reads it"
    assert may_use(POLICY.vm_labels["archive"], replace(vault, kind=ResourceKind.NETWORK)) == {VAULT}


def test_a_disk_is_written_by_who_reads_and_writes_one_of_its_types() -> None:
    ledger, manual = POLICY.resource_labels["ledger-disk"], POLICY.resource_labels["manual"]
    assert may_write(POLICY.vm_labels["trader"], ledger) == {LEDGER}
    assert not may_write(POLICY.vm_labels["review"], ledger), "it only reads them"
    assert may_use(POLICY.vm_labels["trader"], manual) == {LEDGER}
    assert not may_write(POLICY.vm_labels["trader"], manual), "its content is pinned"
    assert not may_write(POLICY.vm_labels["auditor"], ledger)


# One-way labels


def test_information_goes_where_one_writes_and_the_other_reads() -> None:
    trader, review, auditor = (POLICY.vm_labels[name] for name in ("trader", "review", "auditor"))
    assert may_send(trader, review) == {LEDGER}
    assert may_send(review, trader) == frozenset()
    assert may_send(trader, trader) == {LEDGER}
    assert may_send(review, auditor) == may_send(auditor, review) == {REPORT}
    assert may_send(review, review) == {REPORT}


# Where and when a host may run it


def test_before_any_peer_has_admitted_the_host_it_runs_what_it_may_start_with() -> None:
    assert_permitted(start(REVIEWER, is_admitted=False))
    for vm in (DESK, ARCHIVER):
        assert_permitted(start(vm))
        assert_denied(
            start(vm, is_admitted=False),
            Rule.MANAGEMENT_LABEL,
            "no peer has admitted alpha in this boot",
            "audit/report, bank/ledger",
            key="hosts.alpha.starting",
        )
    assert_permitted(start(CLERK, BETA, is_admitted=False))
    nothing = parse(changed_finance('starting = ["audit/report", "bank/ledger"]', "starting = []"))
    for vm in (DESK, ARCHIVER, REVIEWER):
        assert_denied(start(vm, policy=nothing, is_admitted=False), Rule.MANAGEMENT_LABEL, "runs none only")
        assert_permitted(start(vm, policy=nothing))
    assert_permitted(start(TOOLS, policy=nothing, is_admitted=False))


def test_a_type_that_demands_a_hardware_tpm_does_not_run_on_another_host() -> None:
    for vm in (DESK, REVIEWER, ARCHIVER):
        assert_denied(
            start(vm, host_tpm=TpmKind.SOFTWARE),
            Rule.TPM_KIND,
            "bank/ledger demands a hardware TPM",
            key='types."bank/ledger".tpm',
        )
    for vm in (READER, CLERK):
        assert_permitted(start(vm, BETA, host_tpm=TpmKind.SOFTWARE))


def test_a_type_that_demands_a_hardware_tpm_does_not_move_to_another_host() -> None:
    alike = {name: replace(host, hypervisor=HypervisorKind.XEN) for name, host in POLICY.hosts.items()}
    reader = replace(POLICY.vms[READER], may_move_to=frozenset({ALPHA}))
    either = replace(POLICY, hosts=alike, vms={**POLICY.vms, READER: reader})
    definitions = {**POLICY.definitions, REPORT: replace(POLICY.definitions[REPORT], tpm=TpmDemand.HARDWARE)}
    policy = replace(either, definitions=definitions)

    def migrate(policy: Policy, *, asks: HostName, there: TpmKind, here: TpmKind = TpmKind.HARDWARE) -> Decision:
        """Either side of a move from beta, whose TPM is `here`, to alpha, whose TPM is `there`, asks."""
        return monitor.vm_migrate(
            policy,
            READER,
            source=BETA,
            destination=ALPHA,
            running_there={},
            peer_state=admitted(ALPHA, tpm=there) if asks == BETA else admitted(BETA, tpm=here),
            local_tpm=here if asks == BETA else there,
            now_s=NOW_S,
        )

    for asks in (ALPHA, BETA):
        assert_permitted(migrate(either, asks=asks, there=TpmKind.SOFTWARE))
        assert_permitted(migrate(policy, asks=asks, there=TpmKind.HARDWARE))
        assert_permitted(migrate(policy, asks=asks, there=TpmKind.HARDWARE, here=TpmKind.SOFTWARE))
        denied = migrate(policy, asks=asks, there=TpmKind.SOFTWARE)
        assert_denied(denied, Rule.TPM_KIND, "that of alpha is software", key='types."audit/report".tpm')
        between = migrate(POLICY, asks=asks, there=TpmKind.HARDWARE)
        assert_denied(between, Rule.ASSIGNMENT, "beta has xen and alpha qemu: no VM moves between them")


def test_what_it_runs_under_itself_does_not_count_against_it() -> None:
    """It is asked for the suspended VM itself, too, and after a new version gave it another label."""
    assert_permitted(start(CLERK, BETA, beside={CLERK: POLICY.vm_labels["trader"]}))
    assert_denied(start(CLERK, BETA, beside={DESK: POLICY.vm_labels["trader"]}), Rule.CHINESE_WALL)


# Which rule is named when both deny


@pytest.mark.parametrize(("primary", "rule"), [(Primary.CHINESE_WALL, Rule.CHINESE_WALL), (Primary.STE, Rule.STE)])
def test_the_primary_rule_is_named_when_both_deny(primary: Primary, rule: Rule) -> None:
    """The clerk would run beside a rival of its organisation, and asks for a disk of that one."""
    clerk = replace(POLICY.vms[CLERK], resources=("ledger-disk",))
    policy = replace(POLICY, primary=primary, vms={**POLICY.vms, CLERK: clerk})
    beside = running(DESK, policy=POLICY)
    assert_denied(start(CLERK, BETA, policy=policy, beside=beside), rule)
    assert_denied(start(CLERK, BETA, policy=policy), Rule.STE, key="resources.ledger-disk.types")
    innocent = replace(policy, vms=POLICY.vms)
    assert_denied(start(CLERK, BETA, policy=innocent, beside=beside), Rule.CHINESE_WALL)


def test_more_basic_rules_come_before_either() -> None:
    clerk = replace(POLICY.vms[CLERK], resources=("ledger-disk",))
    policy = replace(POLICY, primary=Primary.STE, vms={**POLICY.vms, CLERK: clerk})
    poor = replace(policy, hosts={**policy.hosts, BETA: replace(policy.hosts[BETA], types=frozenset({REPORT}))})
    assert_denied(start(CLERK, BETA, policy=poor, beside=running(DESK, policy=POLICY)), Rule.MANAGEMENT_LABEL)


# Chinese Wall types that are not types of the label


@pytest.mark.parametrize(
    ("beside", "conflict_set", "key"),
    [
        # The clerk's organisation is a rival of the department above that of the ledger, and apart from the ledger.
        (DESK, "bank/ledger apart rival", 'types."bank/ledger".apart'),
        (REVIEWER, "bank/ledger apart rival", 'types."bank/ledger".apart'),
    ],
)
def test_owners_are_chinese_wall_types_of_the_label(beside: VmName, conflict_set: str, key: str) -> None:
    decision = start(CLERK, BETA, beside=running(beside, policy=POLICY))
    assert_denied(decision, Rule.CHINESE_WALL, conflict_set, f"running: {beside}", key=key)


def test_departments_above_count_too() -> None:
    policy = parse(changed_finance('apart = ["rival", "lobby"]\n', ""))
    decision = start(CLERK, BETA, policy=policy, beside=running(DESK, policy=policy))
    assert_denied(
        decision, Rule.CHINESE_WALL, "bank/markets, rival", "conflict set competitors", key="conflicts.competitors"
    )
    assert_permitted(start(CLERK, BETA, policy=policy, beside=running(READER, TOOLS, policy=policy)))


def test_walls_of_a_label_count_too() -> None:
    """The review is done in the board room; whoever is in the lobby meets neither board nor ledger."""
    text = changed_finance(
        '[labels.auditor]\ntypes = ["audit/report"]', '[labels.auditor]\ntypes = ["audit/report"]\nwalls = ["lobby"]'
    )
    policy = parse(text)
    decision = start(READER, BETA, policy=policy, beside=running(REVIEWER, policy=policy))
    assert_denied(decision, Rule.CHINESE_WALL, "lobby", "running: reviewer")
    assert_permitted(start(READER, BETA, beside=running(REVIEWER, policy=POLICY)))
