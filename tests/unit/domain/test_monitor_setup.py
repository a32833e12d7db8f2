"""The eight checks of setting up: what each permits, and every rule by which it denies."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from shamon_host.domain import admission, monitor
from shamon_host.domain.admission import PeerState
from shamon_host.domain.contexts import allocate_for
from shamon_host.domain.decision import Decision, Rule
from shamon_host.domain.label_map import EMPTY, LabelMap
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName, VmLabel, VmName
from shamon_host.domain.policy import Demands, Intervals, Policy, PolicyVersion, Renames
from shamon_host.domain.policy_form import with_digest
from shamon_host.domain.results import AttestationResult, ClaimName, ClaimStatus, TpmKind
from tests.unit.domain.decisions import ADMITTED, WALL_S, assert_denied, assert_permitted
from tests.unit.domain.policy_text import FINANCE_TEXT, parse
from tests.unit.domain.successors import renaming
from tests.unit.domain.values import ALPHA, BETA, BLUE, DB, GAMMA, NOBODY, ORDERS, POLICY, RED, SPY, WEB, result

SUCCESSOR = with_digest(replace(POLICY, version=2, parent=POLICY.digest))
LABEL_MAP = allocate_for(POLICY, BETA)
CONTEXT = LABEL_MAP.vm_context(DB, [RED])
FINANCE = parse(FINANCE_TEXT)
UNKNOWN_TYPE, UNKNOWN_VM = TypeName("no/such"), VmName("unknown")
AK, OTHER_AK = b"\x00\x0b" + bytes(32), b"\x00\x0b" + b"\x01" * 32


# policy.install


def install(policy: Policy, current: PolicyVersion | None = None, *, now_wall_s: float = WALL_S) -> Decision:
    return monitor.policy_install(policy, current, now_wall_s=now_wall_s)


def test_policy_install() -> None:
    assert_permitted(install(POLICY))
    assert_permitted(install(POLICY, POLICY.which))
    assert_permitted(install(SUCCESSOR))
    assert_denied(install(SUCCESSOR, POLICY.which), Rule.LINEAGE, "in force")


def test_policy_install_looks_at_the_policy_again() -> None:
    forged = replace(POLICY, digest="0" * 64)
    assert_denied(install(forged), Rule.WELL_FORMED, "digest")
    both = VmLabel(name="red", types=frozenset({RED, BLUE}))
    torn = with_digest(replace(POLICY, vm_labels={**POLICY.vm_labels, "red": both}))
    assert_denied(
        install(torn), Rule.WELL_FORMED, "labels.red.types", "in conflict with itself", key="labels.red.types"
    )
    endless = with_digest(replace(POLICY, intervals=Intervals(period_s=90.0, lease_s=90.0)))
    assert_denied(install(endless), Rule.WELL_FORMED, "intervals.period_s", key="intervals.period_s")


def test_policy_install_denies_what_lacks_a_signature() -> None:
    lacking = ["2 of 3 operators must sign"]
    decision = monitor.policy_install(POLICY, None, now_wall_s=WALL_S, unsigned=lacking)
    assert_denied(decision, Rule.SIGNATURE, lacking[0])


def test_an_expired_policy_is_neither_installed_nor_an_update_and_admits_nobody() -> None:
    expiring = with_digest(replace(SUCCESSOR, expires_s=int(WALL_S)))
    for now_wall_s in (0.0, WALL_S - 0.001):
        assert_permitted(install(expiring, now_wall_s=now_wall_s))
        assert_permitted(install(expiring, expiring.which, now_wall_s=now_wall_s))
        assert_permitted(update(expiring, now_wall_s=now_wall_s))
        assert_permitted(admit(expiring, now_wall_s=now_wall_s))
    for now_wall_s in (WALL_S, WALL_S + 3600):
        words = f"version 2 expired {int(now_wall_s - WALL_S)} s ago"
        for decision in (
            install(expiring, now_wall_s=now_wall_s),
            install(expiring, expiring.which, now_wall_s=now_wall_s),
            update(expiring, now_wall_s=now_wall_s),
            admit(expiring, now_wall_s=now_wall_s),
        ):
            assert_denied(decision, Rule.EXPIRED, words, key="coalition.expires")


# policy.update


def update(
    policy: Policy,
    current: Policy = POLICY,
    *,
    now_wall_s: float = WALL_S,
    unsigned: Sequence[str] = (),
    violations: Sequence[str] = (),
) -> Decision:
    return monitor.policy_update(policy, current, now_wall_s=now_wall_s, unsigned=unsigned, violations=violations)


def test_policy_update() -> None:
    assert_permitted(update(SUCCESSOR))
    assert_denied(update(POLICY), Rule.ROLLBACK, "version 1")
    assert_denied(update(POLICY, SUCCESSOR), Rule.ROLLBACK, "version 1", "version 2 is in force")
    skipped = with_digest(replace(SUCCESSOR, version=3))
    assert_denied(update(skipped), Rule.LINEAGE, "version 3", "next one is 2")
    stranger = with_digest(replace(SUCCESSOR, coalition="others"))
    assert_denied(update(stranger), Rule.LINEAGE, "others")
    orphan = with_digest(replace(SUCCESSOR, parent="1" * 64))
    assert_denied(update(orphan), Rule.LINEAGE, "parent")
    assert_denied(update(replace(SUCCESSOR, digest="0" * 64)), Rule.WELL_FORMED, "digest")


def test_policy_update_denies_what_lacks_a_signature_or_forbids_what_runs() -> None:
    unsigned, violations = ["2 of 3 operators must sign"], ["web: another host", "db: no such VM"]
    assert_denied(update(SUCCESSOR, unsigned=unsigned), Rule.SIGNATURE, unsigned[0])
    assert_denied(update(SUCCESSOR, violations=violations), Rule.RUNNING, violations[0])
    assert_denied(update(SUCCESSOR, unsigned=unsigned, violations=violations), Rule.SIGNATURE)


CRIMSON = TypeName("acme/crimson")


def test_policy_update_follows_renames() -> None:
    assert_permitted(update(renaming(POLICY, {RED: CRIMSON}, {"red": "crimson"})))
    assert_permitted(update(renaming(POLICY, {RED: CRIMSON, BLUE: TypeName("rival/azure")}, {})))


@pytest.mark.parametrize(
    ("renames", "rule", "words", "key"),
    [
        (Renames(types={UNKNOWN_TYPE: CRIMSON}), Rule.KNOWN, "no type no/such", 'renames.types."no/such"'),
        (Renames(labels={"scarlet": "crimson"}), Rule.KNOWN, "no label scarlet", "renames.labels.scarlet"),
        (Renames(types={UNKNOWN_TYPE: ORDERS}), Rule.KNOWN, "no/such", 'renames.types."no/such"'),
    ],
)
def test_policy_update_denies_renames_of_what_was_not_there(renames: Renames, rule: Rule, words: str, key: str) -> None:
    renamed = renaming(POLICY, {RED: CRIMSON}, {"red": "crimson"})
    decision = update(with_digest(replace(renamed, renames=renames)))
    assert_denied(decision, rule, words, key=key)


def test_policy_update_denies_renames_onto_what_was_there() -> None:
    """The old name is gone and the new one is there, so that only the version before shows what is wrong."""
    orders_were = with_digest(
        replace(renaming(POLICY, {RED: CRIMSON}, {"red": "crimson"}), renames=Renames(types={RED: ORDERS}))
    )
    assert_denied(
        update(orders_were),
        Rule.WELL_FORMED,
        "acme/red cannot be renamed to supplier/orders",
        key='renames.types."acme/red"',
    )
    label_was = with_digest(
        replace(renaming(POLICY, {RED: CRIMSON}, {"red": "crimson"}), renames=Renames(labels={"red": "blue"}))
    )
    assert_denied(update(label_was), Rule.WELL_FORMED, "red cannot be renamed to blue", key="renames.labels.red")


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


@pytest.mark.parametrize(
    ("host", "ek", "endorsed", "word"),
    [
        (BETA, b"ek", {ALPHA: b"ek"}, "alpha is enrolled with the same TPM"),
        (BETA, b"ek", {BETA: b"other"}, "beta is enrolled with another TPM"),
        (BETA, b"", {BETA: b"ek"}, "has shown its TPM before"),
    ],
)
def test_host_enrol_is_for_one_tpm_and_one_name(
    host: HostName, ek: bytes, endorsed: dict[HostName, bytes], word: str
) -> None:
    decision = monitor.host_enrol(POLICY, host, ak_name=AK, ek=ek, enrolled={}, endorsed=endorsed)
    assert_denied(decision, Rule.IDENTITY, word)
    others = {other: digest for other, digest in endorsed.items() if digest == ek and other == host}
    assert_permitted(monitor.host_enrol(POLICY, host, ak_name=AK, ek=ek, enrolled={}, endorsed=others))


@pytest.mark.parametrize("allowed", [True, False])
def test_host_enrol_takes_a_software_tpm_only_if_the_policy_does(*, allowed: bool) -> None:
    policy = replace(POLICY, demands=replace(POLICY.demands, allow_software_tpm=allowed))
    decision = monitor.host_enrol(policy, BETA, ak_name=AK, tpm=TpmKind.SOFTWARE, enrolled={})
    if allowed:
        assert_permitted(decision)
    else:
        assert_denied(decision, Rule.TPM_KIND, "software")
    assert_permitted(monitor.host_enrol(policy, BETA, ak_name=AK, tpm=TpmKind.HARDWARE, enrolled={}))


def admit(
    policy: Policy = POLICY,
    peer: HostName = BETA,
    found: AttestationResult | None = None,
    *,
    peer_policy: PolicyVersion | None = None,
    newest_seen: int = 0,
    state: PeerState | None = None,
    now_wall_s: float = WALL_S,
) -> Decision:
    return monitor.host_admit(
        policy,
        peer,
        result(peer) if found is None else found,
        peer_policy=policy.which if peer_policy is None else peer_policy,
        newest_seen=newest_seen,
        state=PeerState(host=peer) if state is None else state,
        now_wall_s=now_wall_s,
    )


def test_host_admit() -> None:
    for state in (PeerState(host=BETA), ADMITTED, admission.suspend(ADMITTED, "silent")):
        assert_permitted(admit(state=state))


def test_host_admit_allows_a_software_tpm_only_if_the_policy_does() -> None:
    found = result(tpm=TpmKind.SOFTWARE)
    lab = with_digest(replace(POLICY, demands=Demands(allow_software_tpm=True)))
    assert_permitted(admit(lab, found=found))
    assert_denied(admit(found=found), Rule.TPM_KIND, key="demands.allow_software_tpm")


def test_host_admit_denies_a_failed_and_an_absent_claim() -> None:
    for found in (
        result(statuses={ClaimName.SELINUX: ClaimStatus.FAIL}),
        result(statuses={ClaimName.SELINUX: ClaimStatus.ABSENT}),
        result(without=ClaimName.SELINUX),
    ):
        assert_denied(admit(found=found), Rule.ATTESTATION, "selinux")


def test_host_admit_denies_strangers_and_the_expelled() -> None:
    assert_denied(admit(peer=NOBODY), Rule.KNOWN, "nobody")
    assert_denied(admit(found=result(GAMMA)), Rule.IDENTITY, "gamma")
    assert_denied(admit(state=PeerState(host=GAMMA)), Rule.IDENTITY, "gamma")
    assert_denied(admit(state=admission.expel(ADMITTED, "stolen")), Rule.EXPELLED, "stolen")


def test_host_admit_denies_other_coalitions_and_older_policies_than_before() -> None:
    """Another policy of the same coalition decides what is carried (`link.open`), not who is a member."""
    assert_permitted(admit(peer_policy=SUCCESSOR.which, newest_seen=1))
    assert_permitted(admit(peer_policy=SUCCESSOR.which, newest_seen=2))
    assert_permitted(admit(SUCCESSOR, peer_policy=POLICY.which, newest_seen=1))
    assert_denied(admit(peer_policy=POLICY.which, newest_seen=2), Rule.ROLLBACK, "version 1", "version 2")
    rivals = replace(POLICY.which, coalition="rivals")
    assert_denied(admit(peer_policy=rivals), Rule.LINEAGE, "rivals", "supply-chain")


def test_reference_update() -> None:
    def change(
        host: HostName = BETA, made_for: HostName = BETA, replaces: str | None = "old", new: str = "new"
    ) -> Decision:
        return monitor.reference_update(POLICY, host, made_for=made_for, current="old", replaces=replaces, new=new)

    assert_permitted(change())
    assert_denied(change(host=NOBODY, made_for=NOBODY), Rule.KNOWN)
    assert_denied(change(made_for=GAMMA), Rule.IDENTITY, "gamma")
    assert_denied(change(replaces="older"), Rule.LINEAGE, "older")
    assert_denied(change(replaces=None), Rule.LINEAGE, "none")
    assert_denied(change(new=""), Rule.WELL_FORMED)


def test_reference_values_do_not_go_back() -> None:
    def change(version: int, newest_seen: int, *, signed: bool, new: str = "new") -> Decision:
        return monitor.reference_update(
            POLICY,
            BETA,
            made_for=BETA,
            current="old",
            replaces="old",
            new=new,
            version=version,
            newest_seen=newest_seen,
            signed=signed,
        )

    for signed in (False, True):
        assert_permitted(change(1, 0, signed=signed))
        assert_permitted(change(4, 3, signed=signed))
        assert_denied(change(2, 3, signed=signed), Rule.ROLLBACK, "version 2", "version 3")
    assert_permitted(change(3, 3, signed=False))  # as an operator edits a file
    assert_denied(change(3, 3, signed=True), Rule.ROLLBACK, "another version 3")
    assert_permitted(change(3, 3, signed=True, new="old"))


# labelmap.install, label.vm, label.resource


def test_labelmap_install() -> None:
    assert_permitted(monitor.labelmap_install(POLICY, BETA, LABEL_MAP))
    for host in (ALPHA, GAMMA):
        own = allocate_for(POLICY, host)
        assert_permitted(monitor.labelmap_install(POLICY, host, own))


TYPES, VMS = LABEL_MAP.types, LABEL_MAP.vms


@pytest.mark.parametrize(
    ("label_map", "rule", "word"),
    [
        (EMPTY, Rule.KNOWN, "acme/red"),
        (replace(LABEL_MAP, vms={}), Rule.KNOWN, "no category for VM"),
        (replace(LABEL_MAP, types={**TYPES, UNKNOWN_TYPE: 9}), Rule.KNOWN, "no/such"),
        (replace(LABEL_MAP, vms={**VMS, WEB: (700, 701)}), Rule.KNOWN, "web, not in the policy"),
        (replace(LABEL_MAP, types={**TYPES, RED: TYPES[BLUE]}), Rule.WELL_FORMED, "same"),
        (replace(LABEL_MAP, types={**TYPES, RED: 600}), Rule.WELL_FORMED, "c1-c511"),
        (replace(LABEL_MAP, types={**TYPES, RED: 0}), Rule.WELL_FORMED, "c1-c511"),
        (replace(LABEL_MAP, vms={**VMS, SPY: VMS[DB]}), Rule.WELL_FORMED, "same"),
        (replace(LABEL_MAP, vms={**VMS, SPY: (3, 4)}), Rule.WELL_FORMED, "c512-c1023"),
        (replace(LABEL_MAP, vms={**VMS, SPY: (600, 600)}), Rule.WELL_FORMED, "same"),
    ],
)
def test_labelmap_install_denies(label_map: LabelMap, rule: Rule, word: str) -> None:
    assert_denied(monitor.labelmap_install(POLICY, BETA, label_map), rule, word)


def test_labelmap_install_looks_at_disks() -> None:
    label_map = allocate_for(FINANCE, ALPHA)
    disks, vm = label_map.disks, next(iter(label_map.vms.values()))
    assert set(disks) == {"ledger-disk", "manual"}
    for changed, rule, word in (
        ({}, Rule.KNOWN, "no category for disk ledger-disk, manual"),
        ({**disks, "books": (700, 701)}, Rule.KNOWN, "books, not in the policy"),
        ({**disks, "manual": vm}, Rule.WELL_FORMED, "same"),
        ({**disks, "manual": disks["ledger-disk"]}, Rule.WELL_FORMED, "same"),
        ({**disks, "manual": (3, 4)}, Rule.WELL_FORMED, "c512-c1023"),
    ):
        assert_denied(monitor.labelmap_install(FINANCE, ALPHA, replace(label_map, disks=changed)), rule, word)


def test_the_label_map_of_one_host_is_not_that_of_another() -> None:
    assert_denied(monitor.labelmap_install(POLICY, ALPHA, LABEL_MAP), Rule.KNOWN, "categories for type rival/blue")
    assert_denied(monitor.labelmap_install(POLICY, NOBODY, LABEL_MAP), Rule.KNOWN, "no host nobody")


def test_label_vm() -> None:
    assert_permitted(monitor.label_vm(POLICY, DB, wanted=CONTEXT, found=SelinuxContext.parse(str(CONTEXT))))
    assert_denied(monitor.label_vm(POLICY, DB, wanted=CONTEXT, found=None), Rule.LABEL, "no label", str(CONTEXT))
    other = replace(CONTEXT, categories=frozenset({7}))
    assert_denied(monitor.label_vm(POLICY, DB, wanted=CONTEXT, found=other), Rule.LABEL, str(other), str(CONTEXT))
    assert_denied(monitor.label_vm(POLICY, UNKNOWN_VM, wanted=CONTEXT, found=CONTEXT), Rule.KNOWN, "unknown")


def test_label_resource() -> None:
    wanted = LABEL_MAP.link_context(RED)
    assert_permitted(monitor.label_resource(POLICY, "red-archive", wanted=wanted, found=wanted))
    assert_denied(monitor.label_resource(POLICY, "red-archive", wanted=wanted, found=None), Rule.LABEL)
    assert_denied(monitor.label_resource(POLICY, "red-archive", wanted=wanted, found=CONTEXT), Rule.LABEL)
    assert_denied(monitor.label_resource(POLICY, "nothing", wanted=wanted, found=wanted), Rule.KNOWN)
