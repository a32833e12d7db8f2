"""The FLASK module allows exactly what the policy does, forbids everybody to allow more, and compiles."""

import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shamon_host.domain.errors import BadInput
from shamon_host.domain.flask_labels import flask_type, partners_of
from shamon_host.domain.flask_rules import FlaskModule, access
from shamon_host.domain.labels import UNLABELLED
from shamon_host.domain.policy import Policy
from shamon_host.domain.ste import may_send
from shamon_host.interchange.flask import flask_base_source, flask_source
from shamon_host.testing.te_source import Access, Rules, evaluated, monolithic
from tests.examples import examples
from tests.unit.domain.generated import policies
from tests.unit.domain.policy_text import FINANCE_TEXT, parse
from tests.unit.domain.values import POLICY
from tests.unit.interchange.policies import AWKWARD_NAMES, Document, awkward_document, big_document, policy_of

FINANCE = parse(FINANCE_TEXT)
MAC = "shamon_mac_t"
LABEL_NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,8}[a-z0-9])?", fullmatch=True)
CHECKPOLICY = shutil.which("checkpolicy") or ""
needs_checkpolicy = pytest.mark.skipif(not CHECKPOLICY, reason="checkpolicy is not installed (Debian: checkpolicy)")


def shares_pages(rules: Rules, one: str, other: str) -> bool:
    """Whether domains of the first type may use pages that those of the second have offered."""
    return (one, other, "grant", "map_read") in rules.allowed


def connects(rules: Rules, one: str, other: str) -> bool:
    """Whether Xen lets domains of the two types have an event channel: `flask_evtchn_interdomain` asks this."""
    ends = (rules.transitions[one, other, "event"], rules.transitions[other, one, "event"])
    asked = {
        (one, ends[0], "event", "create"),
        (ends[0], other, "event", "bind"),
        (ends[1], one, "event", "bind"),
        (one, ends[0], "event", "send"),
    }
    return asked <= rules.allowed


def between_domains(one: str, other: str) -> set[Access]:
    """What lets something pass from one domain to another one of these types, or gives power over it."""
    grants = {(one, other, "grant", each) for each in ("map_read", "map_write", "copy", "transfer", "unmap")}
    power = {(one, other, "mmu", "map_read"), (one, other, "domain", "pause"), (one, other, "hvm", "share_mem")}
    return grants | power | {(f"{one}_channel", other, "event", "bind"), (one, other, "argo", "send")}


def decided(policy: Policy, one: str, other: str) -> bool:
    labels = policy.vm_labels
    return bool(may_send(labels[one], labels[other]) and may_send(labels[other], labels[one]))


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(policies())
def test_vms_share_pages_and_events_exactly_where_both_may_send(policy: Policy) -> None:
    rules = evaluated(flask_source(policy))
    for one, other in product(policy.vm_labels, repeat=2):
        expected = decided(policy, one, other)
        assert shares_pages(rules, flask_type(one), flask_type(other)) is expected
        assert connects(rules, flask_type(one), flask_type(other)) is expected


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(policies())
def test_what_is_not_allowed_between_guests_nobody_may_allow(policy: Policy) -> None:
    rules = evaluated(flask_source(policy))
    assert rules.allowed.isdisjoint(rules.forbidden)
    guests = [flask_type(name) for name in (*policy.vm_labels, UNLABELLED.name)]
    for one, other in product(guests, repeat=2):
        assert between_domains(one, other) <= rules.allowed | rules.forbidden
    for guest, outside in product(guests, ("domU_t",)):
        assert between_domains(guest, outside) <= rules.forbidden
        assert between_domains(outside, guest) <= rules.forbidden


def test_unlabelled_guests_share_with_the_toolstack_alone() -> None:
    rules = evaluated(flask_source(FINANCE))
    lonely = flask_type(UNLABELLED.name)
    everybody = {name for name, attributes in rules.types.items() if "domain_type" in attributes}
    own = {lonely, f"{lonely}_self"}
    reached = {access for access in rules.allowed if access[0] == lonely and access[1] in everybody}
    assert {target for _, target, _, _ in reached} == {f"{lonely}_self", "dom0_t"}
    assert {access[2:] for access in reached if access[1] == "dom0_t"} == {("grant", "copy")}
    meeting = {
        other
        for other in everybody - own
        if (lonely, other, "event") in rules.transitions
        and (f"{lonely}_channel", other, "event", "bind") in rules.allowed
    }
    assert meeting == {"dom0_t", "xenstore_t"}
    assert {source for source, target, _, _ in rules.allowed if target == lonely} & everybody == {
        "dom0_t",
        "xenstore_t",
    }
    assert between_domains(MAC, lonely) <= rules.forbidden


def test_the_mac_domain_carries_frames_of_every_labelled_vm() -> None:
    rules = evaluated(flask_source(FINANCE))
    for label in FINANCE.vm_labels:
        guest = flask_type(label)
        assert shares_pages(rules, MAC, guest)
        assert not shares_pages(rules, guest, MAC)
        assert connects(rules, MAC, guest)


def test_only_the_toolstack_has_power_over_domains() -> None:
    rules = evaluated(flask_source(FINANCE))
    guests = [name for name, attributes in rules.types.items() if "shamon_domain" in attributes]
    assert len(guests) == len(FINANCE.vm_labels) + 2
    for guest in guests:
        assert {source for source, target, _, each in rules.allowed if target == guest and each == "create"} == {
            "dom0_t"
        }
        powers = {"domain", "domain2", "hvm", "mmu", "shadow", "security", "resource", "xen", "xen2", "argo"}
        assert {target for source, target, kind, _ in rules.allowed if source == guest and kind in powers} == {
            f"{guest}_self"
        }


def test_a_one_way_label_gets_no_channel_and_is_told_of() -> None:
    partners = partners_of(FINANCE.vm_labels)
    assert partners["trader"].sends == {"archive", "review"}
    assert partners["archive"].receives == {"trader"}
    assert partners["archive"].both_ways == frozenset()
    assert "#   trader -> archive, review\n" in flask_source(FINANCE)


@given(st.lists(LABEL_NAMES, min_size=2, max_size=2, unique=True))
def test_different_labels_have_different_types(names: list[str]) -> None:
    one, other = (flask_type(name) for name in names)
    assert one != other
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", one)


def test_awkward_names_are_told_apart() -> None:
    policy = policy_of(awkward_document())
    rules = evaluated(flask_source(policy))
    for (number, one), (place, other) in product(enumerate(AWKWARD_NAMES), repeat=2):
        assert shares_pages(rules, flask_type(one), flask_type(other)) is (abs(number - place) < 2)


def test_names_of_types_are_valid_and_stay() -> None:
    assert flask_type("red-orders") == "shamon_vm_red_orders_t"
    assert flask_type("db.main_1") == "shamon_vm_dbDmainU1_t"
    assert flask_type("mac") != MAC
    assert flask_type("unlabelled") == "shamon_unlabelled_t"


def test_every_vm_is_there_with_its_seclabel() -> None:
    source = flask_source(FINANCE)
    assert "#   auditor -> system_u:system_r:shamon_vm_auditor_t\n#       reader on beta\n" in source
    assert "#   unlabelled -> system_u:system_r:shamon_unlabelled_t\n#       tools on alpha\n" in source
    assert FINANCE.digest in source


def test_the_text_is_the_same_for_the_same_policy_and_safe_in_m4() -> None:
    source = flask_source(FINANCE)
    assert source == flask_source(parse(FINANCE_TEXT))
    code = re.sub(r"#.*", "", source + flask_source(policy_of(awkward_document())))
    assert re.fullmatch(r"[A-Za-z0-9_\s{}~*;:,-]*", code)
    assert not set(re.findall(r"\w+", code)) & {"define", "dnl", "include", "index", "len", "shift", "eval", "format"}
    assert source.isascii()


def test_other_trusted_domains() -> None:
    source = flask_source(POLICY, toolstack="domctl_t", trusted=())
    assert "xenstore_t" not in source
    assert "allow domctl_t shamon_domain:domain {" in source
    with pytest.raises(BadInput, match="bad FLASK type"):
        flask_source(POLICY, trusted=("x; allow domU_t",))


def compiled(path: Path, source: str, *, mls: bool = False) -> subprocess.CompletedProcess[str]:
    path.write_text(monolithic(source, mls=mls))
    options = ["-M"] if mls else []
    return subprocess.run(
        [CHECKPOLICY, "-t", "Xen", "-c", "30", *options, "-o", str(path.with_suffix(".bin")), str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(policies())
def test_the_text_and_what_is_expected_of_the_hypervisor_are_the_same(policy: Policy) -> None:
    rules, base = evaluated(flask_source(policy)), evaluated("")
    told = access(FlaskModule.of(policy.vm_labels))
    stated = {(*question, each) for question, permissions in told.items() for each in permissions}
    assert stated <= rules.allowed
    more = rules.allowed - stated - base.allowed
    assert all(source.startswith("xenstore_t") or target == "xenstore_t" for source, target, _, _ in more)


def test_without_a_coalition_there_are_two_domains_and_they_are_apart() -> None:
    rules = evaluated(flask_base_source())
    lonely = flask_type(UNLABELLED.name)
    assert {name for name, attributes in rules.types.items() if "shamon_domain" in attributes} == {lonely, MAC}
    assert rules.allowed.isdisjoint(rules.forbidden)
    assert between_domains(lonely, MAC) | between_domains(MAC, lonely) <= rules.forbidden
    assert "neverallow" in flask_base_source()
    assert flask_base_source().isascii()


def test_the_toolstack_alone_reaches_what_lost_its_label() -> None:
    for source in (flask_source(FINANCE), flask_base_source()):
        assert {access for access in evaluated(source).allowed if access[1] == "unlabeled_t"} == {
            *(("dom0_t", "unlabeled_t", "domain", each) for each in ("getdomaininfo", "pause", "destroy")),
            ("dom0_t", "unlabeled_t", "grant", "unmap"),
        }


@needs_checkpolicy
@pytest.mark.parametrize("mls", [False, True])
def test_the_module_of_no_coalition_compiles(mls: bool, tmp_path: Path) -> None:
    result = compiled(tmp_path / "policy.conf", flask_base_source(), mls=mls)
    assert result.returncode == 0, result.stderr


@needs_checkpolicy
@pytest.mark.parametrize("mls", [False, True])
@pytest.mark.parametrize("policy", [FINANCE, POLICY], ids=["finance", "coalition"])
def test_it_compiles(policy: Policy, mls: bool, tmp_path: Path) -> None:
    result = compiled(tmp_path / "policy.conf", flask_source(policy), mls=mls)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "policy.bin").stat().st_size > 1000


@needs_checkpolicy
@pytest.mark.parametrize(
    "document",
    [big_document(organisations=6, types=40, labels_of_several=20), awkward_document()],
    ids=["big", "awkward"],
)
def test_other_ones_compile(document: Document, tmp_path: Path) -> None:
    policy = policy_of(document)
    result = compiled(tmp_path / "policy.conf", flask_source(policy))
    assert result.returncode == 0, result.stderr


@needs_checkpolicy
@settings(max_examples=examples(10), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(policies())
def test_any_compiles(tmp_path_factory: pytest.TempPathFactory, policy: Policy) -> None:
    result = compiled(tmp_path_factory.mktemp("flask") / "policy.conf", flask_source(policy))
    assert result.returncode == 0, result.stderr


@needs_checkpolicy
@pytest.mark.parametrize(
    "rule",
    [
        "allow shamon_vm_review_t shamon_vm_trader_t:grant map_read;",
        "allow shamon_vm_archive_t_channel shamon_vm_trader_t:event bind;",
        "allow shamon_vm_archive_t shamon_vm_trader_t_channel:event send;",
        "allow shamon_vm_auditor_t shamon_unlabelled_t:grant copy;",
        "allow shamon_mac_t_channel shamon_unlabelled_t:event bind;",
        "allow domU_t shamon_vm_review_t:grant map_read;",
        "allow domU_t_channel shamon_mac_t:event bind;",
        "allow shamon_vm_review_t dom0_t:grant map_write;",
        "allow shamon_vm_review_t shamon_vm_trader_t:mmu map_read;",
        "allow shamon_mac_t shamon_vm_trader_t:domain destroy;",
        "allow shamon_vm_review_t security_t:security load_policy;",
        "allow shamon_vm_review_t device_t:resource use_iommu;",
        "allow shamon_vm_review_t xen_t:xen debug;",
        "allow domain_type domain_type:argo { send register_single_source };",
        "allow domain_type xen_t:argo enable;",
        "allow dom0_t unlabeled_t:domain create;",
        "allow shamon_vm_review_t unlabeled_t:domain destroy;",
    ],
)
def test_checkpolicy_refuses_a_base_policy_that_allows_more(rule: str, tmp_path: Path) -> None:
    result = compiled(tmp_path / "policy.conf", flask_source(FINANCE) + rule)
    assert result.returncode != 0
    assert "neverallow" in result.stderr
