"""The five checks of normal operation, and what all 13 have in common."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from shamon_host.domain import admission, monitor
from shamon_host.domain.admission import PeerState
from shamon_host.domain.decision import Check, Decision, Rule
from shamon_host.domain.labels import HostName, TypeName, VmLabel, VmName
from shamon_host.domain.policy import Policy, TpmDemand
from shamon_host.domain.results import TpmKind
from tests.unit.domain.decisions import ADMITTED, NOW_S, admitted, assert_denied, assert_permitted
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
    running,
)

UNKNOWN_TYPE, UNKNOWN_VM = TypeName("no/such"), VmName("unknown")


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


def start(
    vm: VmName,
    host: HostName = BETA,
    *,
    policy: Policy = POLICY,
    beside: Mapping[VmName, VmLabel] | None = None,
    host_tpm: TpmKind = TpmKind.HARDWARE,
    admitted: bool = True,
) -> Decision:
    return monitor.vm_start(policy, vm, host=host, running=beside or {}, host_tpm=host_tpm, admitted=admitted)


def test_a_decision_goes_into_the_log_whole() -> None:
    decision = start(WEB, ALPHA)
    assert decision.check == "vm.start"
    assert decision.as_detail() == {
        "permitted": True,
        "rule": "all",
        "reason": "every rule holds",
        "subject": "web",
        "object": "alpha",
    }


# vm.start


def test_vm_start() -> None:
    assert_permitted(start(WEB, ALPHA))
    assert_permitted(start(SPY, beside=running(BROKER)))
    assert_permitted(start(SPY, beside=running(SPY, BROKER)))


def test_vm_start_denies_a_vm_in_conflict_and_names_both() -> None:
    decision = start(SPY, beside=running(DB, BROKER))
    words = "acme/red", "rival/blue", "competitors", "beta", "running: db"
    assert_denied(decision, Rule.CHINESE_WALL, *words, key="conflicts.competitors")


def test_vm_start_denies_unknown_misplaced_and_unfit() -> None:
    assert_denied(start(UNKNOWN_VM), Rule.KNOWN, "unknown")
    assert_denied(start(WEB), Rule.ASSIGNMENT, "alpha", "beta", key="vms.web.host")
    moved = replace(POLICY, vms={**POLICY.vms, SPY: replace(POLICY.vms[SPY], host=ALPHA)})
    assert_denied(
        start(SPY, ALPHA, policy=moved), Rule.MANAGEMENT_LABEL, "alpha", "rival/blue", key="hosts.alpha.types"
    )
    lost = replace(POLICY, vms={**POLICY.vms, WEB: replace(POLICY.vms[WEB], host=NOBODY)})
    assert_denied(start(WEB, NOBODY, policy=lost), Rule.KNOWN, "nobody")
    bare = replace(POLICY, vm_labels={**POLICY.vm_labels, "red": VmLabel(name="red", types=frozenset())})
    assert_denied(start(WEB, ALPHA, policy=bare), Rule.WELL_FORMED, "no type")
    torn = replace(POLICY, vm_labels={})
    assert_denied(start(WEB, ALPHA, policy=torn), Rule.WELL_FORMED, "no type")


def test_vm_start_denies_a_resource_without_a_shared_type() -> None:
    greedy = replace(POLICY, vms={**POLICY.vms, SPY: replace(POLICY.vms[SPY], resources=("red-archive",))})
    assert_denied(
        start(SPY, policy=greedy), Rule.STE, "red-archive", "share no type", key="resources.red-archive.types"
    )
    vague = replace(POLICY, vms={**POLICY.vms, SPY: replace(POLICY.vms[SPY], resources=("nothing",))})
    assert_denied(start(SPY, policy=vague), Rule.KNOWN, "nothing", key="vms.spy.resources")


# vm.attach


def test_vm_attach() -> None:
    assert_permitted(monitor.vm_attach(POLICY, WEB, RED))
    assert_denied(monitor.vm_attach(POLICY, WEB, BLUE), Rule.STE, "web", "rival/blue", key="labels.red.types")
    assert_denied(monitor.vm_attach(POLICY, WEB, UNKNOWN_TYPE), Rule.KNOWN)
    assert_denied(monitor.vm_attach(POLICY, UNKNOWN_VM, RED), Rule.KNOWN)


# vm.migrate


MOVING = replace(
    POLICY,
    vms={
        name: replace(entry, may_move_to=frozenset({*POLICY.hosts, NOBODY}) - {entry.host})
        for name, entry in POLICY.vms.items()
    },
)


def migrate(
    *,
    policy: Policy = MOVING,
    vm: VmName = WEB,
    source: HostName = ALPHA,
    destination: HostName = BETA,
    there: tuple[VmName, ...] = (),
    peer_state: PeerState = ADMITTED,
    now_s: float = NOW_S,
) -> Decision:
    return monitor.vm_migrate(
        policy,
        vm,
        source=source,
        destination=destination,
        running_there=running(*there),
        peer_state=peer_state,
        local_tpm=TpmKind.HARDWARE,
        now_s=now_s,
    )


def test_vm_migrate() -> None:
    assert_permitted(migrate())
    assert_permitted(migrate(there=(DB, BROKER)))
    assert_permitted(migrate(peer_state=admitted(ALPHA)))


@pytest.mark.parametrize(
    ("decide", "rule"),
    [
        (lambda: migrate(vm=UNKNOWN_VM), Rule.KNOWN),
        (lambda: migrate(vm=DB), Rule.ASSIGNMENT),
        (lambda: migrate(destination=ALPHA), Rule.ASSIGNMENT),
        (lambda: migrate(policy=POLICY), Rule.ASSIGNMENT),
        (lambda: migrate(policy=MOVING.placed({WEB: GAMMA})), Rule.ASSIGNMENT),
        (lambda: migrate(destination=NOBODY), Rule.IDENTITY),
        (lambda: migrate(there=(SPY,)), Rule.CHINESE_WALL),
        (lambda: migrate(peer_state=PeerState(host=BETA)), Rule.ADMISSION),
        (lambda: migrate(now_s=NOW_S + 60), Rule.LEASE),
        (lambda: migrate(destination=GAMMA, peer_state=admitted(GAMMA)), Rule.MANAGEMENT_LABEL),
        (lambda: migrate(destination=NOBODY, peer_state=admitted(ALPHA)), Rule.KNOWN),
    ],
)
def test_vm_migrate_denies(decide: Callable[[], Decision], rule: Rule) -> None:
    assert_denied(decide(), rule)


# link.open, link.accept


Decide = Callable[..., Decision]


@pytest.fixture(params=["link_open", "link_accept"])
def link(request: pytest.FixtureRequest) -> Decide:
    """The check, asked with everything shared and a hardware TPM where a test says nothing else."""
    check: Decide = getattr(monitor, request.param)

    def decide(local: HostName, peer: HostName, name: TypeName, state: PeerState, **said: object) -> Decision:
        given = {"policy": POLICY, "shared": POLICY.types, "local_tpm": TpmKind.HARDWARE, "now_s": NOW_S} | said
        return check(given.pop("policy"), local, peer, name, state, **given)

    return decide


class TestLinks:
    def test_a_type_of_both_hosts_to_an_admitted_peer(self, link: Decide) -> None:
        assert_permitted(link(ALPHA, BETA, RED, ADMITTED))
        assert_permitted(link(ALPHA, BETA, ORDERS, ADMITTED))

    def test_types_that_a_host_or_the_policy_lacks(self, link: Decide) -> None:
        assert_denied(
            link(ALPHA, BETA, BLUE, ADMITTED), Rule.MANAGEMENT_LABEL, "alpha", "rival/blue", key="hosts.alpha.types"
        )
        assert_denied(link(BETA, GAMMA, RED, admitted(GAMMA)), Rule.MANAGEMENT_LABEL, "gamma", key="hosts.gamma.types")
        assert_denied(link(ALPHA, BETA, UNKNOWN_TYPE, ADMITTED), Rule.KNOWN, "no/such")

    def test_types_that_the_two_policies_may_not_share(self, link: Decide) -> None:
        shared = frozenset({ORDERS})
        assert_permitted(link(ALPHA, BETA, ORDERS, ADMITTED, shared=shared))
        assert_denied(link(ALPHA, BETA, RED, ADMITTED, shared=shared), Rule.COMPATIBLE, "acme/red", "beta")
        assert_denied(link(ALPHA, BETA, RED, ADMITTED, shared=frozenset()), Rule.COMPATIBLE)

    def test_a_type_that_demands_hardware_from_both(self, link: Decide) -> None:
        definitions = {**POLICY.definitions, RED: replace(POLICY.definitions[RED], tpm=TpmDemand.HARDWARE)}
        policy, software = replace(POLICY, definitions=definitions), admitted(BETA, tpm=TpmKind.SOFTWARE)
        assert_permitted(link(ALPHA, BETA, RED, ADMITTED, policy=policy))
        for state, tpm, host in (
            (ADMITTED, TpmKind.SOFTWARE, "alpha"),
            (software, TpmKind.HARDWARE, "beta"),
            (software, TpmKind.SOFTWARE, "alpha"),
        ):
            decision = link(ALPHA, BETA, RED, state, policy=policy, local_tpm=tpm)
            assert_denied(
                decision, Rule.TPM_KIND, "acme/red", f"that of {host} is software", key='types."acme/red".tpm'
            )
            assert_permitted(link(ALPHA, BETA, ORDERS, state, policy=policy, local_tpm=tpm))

    def test_peers_that_prove_nothing_now(self, link: Decide) -> None:
        silent = admission.suspend(ADMITTED, "it fell silent")
        assert_denied(link(ALPHA, BETA, RED, PeerState(host=BETA)), Rule.ADMISSION, "enrolled")
        assert_denied(link(ALPHA, BETA, RED, silent), Rule.ADMISSION, "it fell silent")
        assert_denied(link(ALPHA, BETA, RED, ADMITTED, now_s=NOW_S + 60), Rule.LEASE, "beta")
        assert_denied(link(ALPHA, BETA, RED, admission.expel(ADMITTED, "stolen")), Rule.EXPELLED, "stolen")

    def test_strangers_mixed_up_states_and_itself(self, link: Decide) -> None:
        assert_denied(link(ALPHA, NOBODY, RED, PeerState(host=NOBODY)), Rule.KNOWN)
        assert_denied(link(NOBODY, BETA, RED, ADMITTED), Rule.KNOWN)
        assert_denied(link(ALPHA, GAMMA, ORDERS, ADMITTED), Rule.IDENTITY, "beta")
        assert_denied(link(BETA, BETA, RED, ADMITTED), Rule.IDENTITY, "itself")
