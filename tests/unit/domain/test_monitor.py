"""Each of the 13 checks: what it permits, and every rule by which it denies."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from shamon_host.domain import admission, monitor
from shamon_host.domain.admission import PeerState
from shamon_host.domain.decision import Check, Decision, Rule
from shamon_host.domain.errors import Refused
from shamon_host.domain.label_map import EMPTY, LabelMap, allocate
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName, VmLabel, VmName
from shamon_host.domain.policy import Demands, Intervals
from shamon_host.domain.policy_form import with_digest
from shamon_host.domain.results import ClaimName, ClaimStatus, TpmKind
from tests.unit.domain.values import (
    ALPHA,
    BETA,
    BLUE,
    BROKER,
    DB,
    GAMMA,
    NOBODY,
    ORDERS,
    POLICY,
    RED,
    SPY,
    WEB,
    result,
    running,
)

NOW_S = 1000.0
ADMITTED = admission.admit(PeerState(host=BETA), result(), lease_until_s=NOW_S + 60)
SUCCESSOR = with_digest(replace(POLICY, version=2, parent=POLICY.digest))
LABEL_MAP = allocate(EMPTY, POLICY.types, POLICY.vms)
CONTEXT = LABEL_MAP.vm_context(WEB, [RED])
UNKNOWN_TYPE, UNKNOWN_VM = TypeName("no/such"), VmName("unknown")
AK, OTHER_AK = b"\x00\x0b" + bytes(32), b"\x00\x0b" + b"\x01" * 32


def assert_denied(decision: Decision, rule: Rule, *words: str) -> None:
    assert not decision.permitted
    assert decision.rule is rule
    for word in words:
        assert word in decision.reason
    with pytest.raises(Refused, match=rule):
        decision.enforce()


def assert_permitted(decision: Decision) -> None:
    assert decision.permitted, decision.reason
    assert decision.rule is Rule.ALL
    assert decision.enforce() is decision


def test_there_are_13_checks_and_5_of_them_are_normal() -> None:
    assert len(Check) == 13
    assert [check for check in Check if check.split(".")[0] in ("vm", "link")] == [
        "vm.start",
        "vm.attach",
        "vm.migrate",
        "link.open",
        "link.accept",
    ]


def test_every_check_has_its_function() -> None:
    for check in Check:
        assert callable(getattr(monitor, check.replace(".", "_")))


def test_a_decision_goes_into_the_log_whole() -> None:
    decision = monitor.vm_start(POLICY, WEB, host=ALPHA, running={})
    assert decision.check == "vm.start"
    assert decision.as_detail() == {
        "permitted": True,
        "rule": "all",
        "reason": "every rule holds",
        "subject": "web",
        "object": "alpha",
    }


# policy.install and policy.update


def test_policy_install() -> None:
    assert_permitted(monitor.policy_install(POLICY, None))
    assert_permitted(monitor.policy_install(POLICY, POLICY.which))
    assert_permitted(monitor.policy_install(SUCCESSOR, None))
    assert_denied(monitor.policy_install(SUCCESSOR, POLICY.which), Rule.LINEAGE, "in force")


def test_policy_install_looks_at_the_policy_again() -> None:
    forged = replace(POLICY, digest="0" * 64)
    assert_denied(monitor.policy_install(forged, None), Rule.WELL_FORMED, "digest")
    both = VmLabel(name="red", types=frozenset({RED, BLUE}))
    torn = with_digest(replace(POLICY, vm_labels={**POLICY.vm_labels, "red": both}))
    assert_denied(monitor.policy_install(torn, None), Rule.WELL_FORMED, "labels.red.types", "in conflict with itself")
    endless = with_digest(replace(POLICY, intervals=Intervals(period_s=90.0, lease_s=90.0)))
    assert_denied(monitor.policy_install(endless, None), Rule.WELL_FORMED, "intervals.period_s")


def test_policy_update() -> None:
    assert_permitted(monitor.policy_update(SUCCESSOR, POLICY.which))
    assert_denied(monitor.policy_update(POLICY, POLICY.which), Rule.LINEAGE, "version 1", "next one is 2")
    skipped = with_digest(replace(SUCCESSOR, version=3))
    assert_denied(monitor.policy_update(skipped, POLICY.which), Rule.LINEAGE, "version 3")
    stranger = with_digest(replace(SUCCESSOR, coalition="others"))
    assert_denied(monitor.policy_update(stranger, POLICY.which), Rule.LINEAGE, "others")
    orphan = with_digest(replace(SUCCESSOR, parent="1" * 64))
    assert_denied(monitor.policy_update(orphan, POLICY.which), Rule.LINEAGE, "parent")
    assert_denied(monitor.policy_update(replace(SUCCESSOR, digest="0" * 64), POLICY.which), Rule.WELL_FORMED, "digest")


# host.enrol, host.admit, reference.update


def test_host_enrol() -> None:
    assert_permitted(monitor.host_enrol(POLICY, BETA, ak_name=AK, enrolled={ALPHA: OTHER_AK}))
    assert_permitted(monitor.host_enrol(POLICY, BETA, ak_name=AK, enrolled={BETA: AK}))


@pytest.mark.parametrize(
    ("host", "ak", "enrolled", "expelled", "rule", "word"),
    [
        (NOBODY, AK, {}, set(), Rule.KNOWN, "nobody"),
        (BETA, AK, {}, {BETA}, Rule.EXPELLED, "expelled"),
        (BETA, b"", {}, set(), Rule.IDENTITY, "no AK"),
        (BETA, AK, {BETA: OTHER_AK}, set(), Rule.IDENTITY, "another AK"),
        (BETA, AK, {ALPHA: AK}, set(), Rule.IDENTITY, "same AK"),
    ],
)
def test_host_enrol_denies(
    *, host: HostName, ak: bytes, enrolled: dict[HostName, bytes], expelled: set[HostName], rule: Rule, word: str
) -> None:
    assert_denied(monitor.host_enrol(POLICY, host, ak_name=ak, enrolled=enrolled, expelled=expelled), rule, word)


def test_host_admit() -> None:
    for state in (PeerState(host=BETA), ADMITTED, admission.suspend(ADMITTED, "silent")):
        assert_permitted(monitor.host_admit(POLICY, BETA, result(), peer_policy_digest=POLICY.digest, state=state))


def test_host_admit_allows_a_software_tpm_only_if_the_policy_does() -> None:
    found = result(tpm=TpmKind.SOFTWARE)
    lab = with_digest(replace(POLICY, demands=Demands(allow_software_tpm=True)))
    state = PeerState(host=BETA)
    assert_permitted(monitor.host_admit(lab, BETA, found, peer_policy_digest=lab.digest, state=state))
    assert_denied(monitor.host_admit(POLICY, BETA, found, peer_policy_digest=POLICY.digest, state=state), Rule.TPM_KIND)


def test_host_admit_denies_a_failed_and_an_absent_claim() -> None:
    for found in (
        result(statuses={ClaimName.SELINUX: ClaimStatus.FAIL}),
        result(statuses={ClaimName.SELINUX: ClaimStatus.ABSENT}),
        result(without=ClaimName.SELINUX),
    ):
        decision = monitor.host_admit(POLICY, BETA, found, peer_policy_digest=POLICY.digest, state=PeerState(host=BETA))
        assert_denied(decision, Rule.ATTESTATION, "selinux")


def test_host_admit_denies_strangers_the_expelled_and_other_policies() -> None:
    digest = POLICY.digest
    assert_denied(
        monitor.host_admit(POLICY, NOBODY, result(NOBODY), peer_policy_digest=digest, state=PeerState(host=NOBODY)),
        Rule.KNOWN,
        "nobody",
    )
    assert_denied(
        monitor.host_admit(POLICY, BETA, result(GAMMA), peer_policy_digest=digest, state=PeerState(host=BETA)),
        Rule.IDENTITY,
        "gamma",
    )
    assert_denied(
        monitor.host_admit(POLICY, BETA, result(), peer_policy_digest=digest, state=PeerState(host=GAMMA)),
        Rule.IDENTITY,
        "gamma",
    )
    gone = admission.expel(ADMITTED, "stolen")
    assert_denied(
        monitor.host_admit(POLICY, BETA, result(), peer_policy_digest=digest, state=gone), Rule.EXPELLED, "stolen"
    )
    assert_denied(
        monitor.host_admit(POLICY, BETA, result(), peer_policy_digest=SUCCESSOR.digest, state=PeerState(host=BETA)),
        Rule.SAME_POLICY,
        SUCCESSOR.digest,
    )


def test_reference_update() -> None:
    def update(
        host: HostName = BETA, made_for: HostName = BETA, replaces: str | None = "old", new: str = "new"
    ) -> Decision:
        return monitor.reference_update(POLICY, host, made_for=made_for, current="old", replaces=replaces, new=new)

    assert_permitted(update())
    assert_denied(update(host=NOBODY, made_for=NOBODY), Rule.KNOWN)
    assert_denied(update(made_for=GAMMA), Rule.IDENTITY, "gamma")
    assert_denied(update(replaces="older"), Rule.LINEAGE, "older")
    assert_denied(update(replaces=None), Rule.LINEAGE, "none")
    assert_denied(update(new=""), Rule.WELL_FORMED)


# labelmap.install, label.vm, label.resource


def test_labelmap_install() -> None:
    assert_permitted(monitor.labelmap_install(POLICY, LABEL_MAP))


@pytest.mark.parametrize(
    ("label_map", "rule", "word"),
    [
        (EMPTY, Rule.KNOWN, "acme/red"),
        (LabelMap(types=LABEL_MAP.types, vms={}), Rule.KNOWN, "no category for VM"),
        (LabelMap(types={**LABEL_MAP.types, UNKNOWN_TYPE: 9}, vms=LABEL_MAP.vms), Rule.KNOWN, "no/such"),
        (LabelMap(types={**LABEL_MAP.types, RED: LABEL_MAP.types[BLUE]}, vms=LABEL_MAP.vms), Rule.WELL_FORMED, "same"),
        (LabelMap(types={**LABEL_MAP.types, RED: 600}, vms=LABEL_MAP.vms), Rule.WELL_FORMED, "c1-c511"),
        (LabelMap(types=LABEL_MAP.types, vms={**LABEL_MAP.vms, WEB: LABEL_MAP.vms[DB]}), Rule.WELL_FORMED, "same"),
        (LabelMap(types=LABEL_MAP.types, vms={**LABEL_MAP.vms, WEB: (3, 4)}), Rule.WELL_FORMED, "c512-c1023"),
        (LabelMap(types=LABEL_MAP.types, vms={**LABEL_MAP.vms, WEB: (600, 600)}), Rule.WELL_FORMED, "same"),
    ],
)
def test_labelmap_install_denies(label_map: LabelMap, rule: Rule, word: str) -> None:
    assert_denied(monitor.labelmap_install(POLICY, label_map), rule, word)


def test_label_vm() -> None:
    assert_permitted(monitor.label_vm(POLICY, WEB, wanted=CONTEXT, found=SelinuxContext.parse(str(CONTEXT))))
    assert_denied(monitor.label_vm(POLICY, WEB, wanted=CONTEXT, found=None), Rule.LABEL, "no label", str(CONTEXT))
    other = replace(CONTEXT, categories=frozenset({7}))
    assert_denied(monitor.label_vm(POLICY, WEB, wanted=CONTEXT, found=other), Rule.LABEL, str(other), str(CONTEXT))
    assert_denied(monitor.label_vm(POLICY, UNKNOWN_VM, wanted=CONTEXT, found=CONTEXT), Rule.KNOWN, "unknown")


def test_label_resource() -> None:
    wanted = LABEL_MAP.link_context(RED)
    assert_permitted(monitor.label_resource(POLICY, "red-archive", wanted=wanted, found=wanted))
    assert_denied(monitor.label_resource(POLICY, "red-archive", wanted=wanted, found=None), Rule.LABEL)
    assert_denied(monitor.label_resource(POLICY, "red-archive", wanted=wanted, found=CONTEXT), Rule.LABEL)
    assert_denied(monitor.label_resource(POLICY, "nothing", wanted=wanted, found=wanted), Rule.KNOWN)


# vm.start, vm.attach, vm.migrate


def test_vm_start() -> None:
    assert_permitted(monitor.vm_start(POLICY, WEB, host=ALPHA, running={}))
    assert_permitted(monitor.vm_start(POLICY, SPY, host=BETA, running=running(BROKER)))
    assert_permitted(monitor.vm_start(POLICY, SPY, host=BETA, running=running(SPY, BROKER)))


def test_vm_start_denies_a_vm_in_conflict_and_names_both() -> None:
    decision = monitor.vm_start(POLICY, SPY, host=BETA, running=running(DB, BROKER))
    assert_denied(decision, Rule.CHINESE_WALL, "acme/red", "rival/blue", "competitors", "beta", "running: db")


def test_vm_start_denies_unknown_misplaced_and_unfit() -> None:
    assert_denied(monitor.vm_start(POLICY, UNKNOWN_VM, host=ALPHA, running={}), Rule.KNOWN, "unknown")
    assert_denied(monitor.vm_start(POLICY, WEB, host=BETA, running={}), Rule.ASSIGNMENT, "alpha", "beta")
    moved = replace(POLICY, vms={**POLICY.vms, SPY: replace(POLICY.vms[SPY], host=ALPHA)})
    assert_denied(monitor.vm_start(moved, SPY, host=ALPHA, running={}), Rule.MANAGEMENT_LABEL, "alpha", "rival/blue")
    lost = replace(POLICY, vms={**POLICY.vms, WEB: replace(POLICY.vms[WEB], host=NOBODY)})
    assert_denied(monitor.vm_start(lost, WEB, host=NOBODY, running={}), Rule.KNOWN, "nobody")
    bare = replace(POLICY, vm_labels={**POLICY.vm_labels, "red": VmLabel(name="red", types=frozenset())})
    assert_denied(monitor.vm_start(bare, WEB, host=ALPHA, running={}), Rule.WELL_FORMED, "no type")


def test_vm_start_denies_a_resource_without_a_shared_type() -> None:
    greedy = replace(POLICY, vms={**POLICY.vms, SPY: replace(POLICY.vms[SPY], resources=("red-archive",))})
    assert_denied(monitor.vm_start(greedy, SPY, host=BETA, running={}), Rule.STE, "red-archive", "share no type")
    vague = replace(POLICY, vms={**POLICY.vms, SPY: replace(POLICY.vms[SPY], resources=("nothing",))})
    assert_denied(monitor.vm_start(vague, SPY, host=BETA, running={}), Rule.KNOWN, "nothing")


def test_vm_attach() -> None:
    assert_permitted(monitor.vm_attach(POLICY, WEB, RED))
    assert_denied(monitor.vm_attach(POLICY, WEB, BLUE), Rule.STE, "web", "rival/blue")
    assert_denied(monitor.vm_attach(POLICY, WEB, UNKNOWN_TYPE), Rule.KNOWN)
    assert_denied(monitor.vm_attach(POLICY, UNKNOWN_VM, RED), Rule.KNOWN)


def migrate(
    *,
    vm: VmName = WEB,
    source: HostName = ALPHA,
    destination: HostName = BETA,
    there: tuple[VmName, ...] = (),
    peer_state: PeerState = ADMITTED,
    now_s: float = NOW_S,
) -> Decision:
    return monitor.vm_migrate(
        POLICY,
        vm,
        source=source,
        destination=destination,
        running_there=running(*there),
        peer_state=peer_state,
        now_s=now_s,
    )


def test_vm_migrate() -> None:
    assert_permitted(migrate())
    assert_permitted(migrate(there=(DB, BROKER)))


@pytest.mark.parametrize(
    ("decide", "rule"),
    [
        (lambda: migrate(vm=UNKNOWN_VM), Rule.KNOWN),
        (lambda: migrate(vm=DB), Rule.ASSIGNMENT),
        (lambda: migrate(destination=ALPHA), Rule.ASSIGNMENT),
        (lambda: migrate(destination=NOBODY), Rule.IDENTITY),
        (lambda: migrate(there=(SPY,)), Rule.CHINESE_WALL),
        (lambda: migrate(peer_state=PeerState(host=BETA)), Rule.ADMISSION),
        (lambda: migrate(now_s=NOW_S + 60), Rule.LEASE),
        (
            lambda: migrate(
                destination=GAMMA,
                peer_state=admission.admit(PeerState(host=GAMMA), result(GAMMA), lease_until_s=NOW_S + 60),
            ),
            Rule.MANAGEMENT_LABEL,
        ),
    ],
)
def test_vm_migrate_denies(decide: Callable[[], Decision], rule: Rule) -> None:
    assert_denied(decide(), rule)


# link.open, link.accept


@pytest.mark.parametrize("check", [monitor.link_open, monitor.link_accept])
class TestLinks:
    def test_a_type_of_both_hosts_to_an_admitted_peer(self, check: Callable[..., Decision]) -> None:
        assert_permitted(check(POLICY, ALPHA, BETA, RED, ADMITTED, now_s=NOW_S))
        assert_permitted(check(POLICY, ALPHA, BETA, ORDERS, ADMITTED, now_s=NOW_S))

    def test_types_that_a_host_or_the_policy_lacks(self, check: Callable[..., Decision]) -> None:
        assert_denied(
            check(POLICY, ALPHA, BETA, BLUE, ADMITTED, now_s=NOW_S), Rule.MANAGEMENT_LABEL, "alpha", "rival/blue"
        )
        gamma = admission.admit(PeerState(host=GAMMA), result(GAMMA), lease_until_s=NOW_S + 60)
        assert_denied(check(POLICY, BETA, GAMMA, RED, gamma, now_s=NOW_S), Rule.MANAGEMENT_LABEL, "gamma")
        assert_denied(check(POLICY, ALPHA, BETA, UNKNOWN_TYPE, ADMITTED, now_s=NOW_S), Rule.KNOWN, "no/such")

    def test_peers_that_prove_nothing_now(self, check: Callable[..., Decision]) -> None:
        silent = admission.suspend(ADMITTED, "it fell silent")
        assert_denied(check(POLICY, ALPHA, BETA, RED, PeerState(host=BETA), now_s=NOW_S), Rule.ADMISSION, "enrolled")
        assert_denied(check(POLICY, ALPHA, BETA, RED, silent, now_s=NOW_S), Rule.ADMISSION, "it fell silent")
        assert_denied(check(POLICY, ALPHA, BETA, RED, ADMITTED, now_s=NOW_S + 60), Rule.LEASE, "beta")
        gone = admission.expel(ADMITTED, "stolen")
        assert_denied(check(POLICY, ALPHA, BETA, RED, gone, now_s=NOW_S), Rule.EXPELLED, "stolen")

    def test_strangers_mixed_up_states_and_itself(self, check: Callable[..., Decision]) -> None:
        assert_denied(check(POLICY, ALPHA, NOBODY, RED, PeerState(host=NOBODY), now_s=NOW_S), Rule.KNOWN)
        assert_denied(check(POLICY, NOBODY, BETA, RED, ADMITTED, now_s=NOW_S), Rule.KNOWN)
        assert_denied(check(POLICY, ALPHA, GAMMA, ORDERS, ADMITTED, now_s=NOW_S), Rule.IDENTITY, "beta")
        assert_denied(check(POLICY, BETA, BETA, RED, ADMITTED, now_s=NOW_S), Rule.IDENTITY, "itself")
