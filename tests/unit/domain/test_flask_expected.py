"""What Xen is asked about FLASK and must answer: exactly what the policy says of every pair that may meet on a host."""

import time
from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings

from shamon_host.domain.consistency import inconsistencies
from shamon_host.domain.errors import BadInput
from shamon_host.domain.flask_expected import (
    BOOLEANS_ON,
    MAX_LABELS_AT_HOME,
    ExpectedFlask,
    expected_flask,
    expected_without_policy,
    flask_differences,
    some,
)
from shamon_host.domain.flask_labels import MAC_DOMAIN, UNLABELLED_TYPE, flask_type
from shamon_host.domain.flask_rules import SHARE, FlaskModule, access
from shamon_host.domain.policy import HypervisorKind, Policy
from shamon_host.domain.ste import may_send
from shamon_host.testing.contracts.flask import ALPHA, BLUE, POLICY, RED, SENDER, with_many_labels
from shamon_host.testing.te_source import PERMISSIONS
from tests.examples import examples
from tests.unit.domain.generated import policies

EXPECTED = expected_flask(POLICY, ALPHA)
BOTH = flask_type("both")


def differences(expected: ExpectedFlask = EXPECTED, **changes: object) -> list[str]:
    told: dict[str, object] = {"enforcing": True, "booleans": {}, "answers": expected.access, **changes}
    return list(flask_differences(expected, **told))  # type: ignore[arg-type]


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(policies())
def test_pages_are_shared_exactly_where_both_may_send(policy: Policy) -> None:
    for host in policy.hosts:
        expected = expected_flask(policy, host).access
        at_home = {policy.vms[vm].label for vm in policy.vms_of(host)} - {"unlabelled"}
        for one, other in product(at_home, repeat=2):
            labels = policy.vm_labels[one], policy.vm_labels[other]
            both = may_send(*labels) and may_send(*reversed(labels))
            source, target = flask_type(one), flask_type(other)
            assert expected[source, target, "grant"] == (frozenset(SHARE) if both else frozenset())
            assert expected[f"{source}_channel", target, "event"] == (frozenset({"bind"}) if both else frozenset())
            for power in ("mmu", "argo", "domain", "domain2", "hvm", "shadow"):
                assert not expected[source, target, power]
        for guest in (*map(flask_type, at_home), UNLABELLED_TYPE):
            assert expected[guest, MAC_DOMAIN, "grant"] == (set() if guest == UNLABELLED_TYPE else {"copy"})
            assert bool(expected[MAC_DOMAIN, guest, "grant"]) == (guest != UNLABELLED_TYPE)
            assert expected[f"{guest}_channel", "dom0_t", "event"] == {"bind"}
            assert expected[guest, "dom0_t", "grant"] == {"copy"}, "frames out of its own pages, by dom0's back end"
            for target, object_class in (("dom0_t", "mmu"), ("xen_t", "xen"), ("security_t", "security")):
                assert not expected[guest, target, object_class]


def test_every_class_and_permission_is_one_of_xen() -> None:
    for (_, _, object_class), permissions in {**EXPECTED.access, **access(FlaskModule.of(POLICY.vm_labels))}.items():
        assert permissions <= set(PERMISSIONS[object_class].split())
    asked = {object_class for _, _, object_class in EXPECTED.access}
    assert asked == set(PERMISSIONS) - {"version"}


def test_a_label_that_is_not_at_home_is_only_asked_for() -> None:
    asked = {question for question in EXPECTED.access if BLUE in question[:2]}
    assert asked == {(BLUE, f"{BLUE}_self", "grant"), (BLUE, f"{BLUE}_channel", "event")}
    assert all(EXPECTED.access[question] for question in asked)


def test_without_a_policy_two_domains_are_known_and_are_apart() -> None:
    expected = expected_without_policy().access
    assert {source for source, _, _ in expected} == {
        *(name + end for name in (UNLABELLED_TYPE, MAC_DOMAIN) for end in ("", "_channel")),
        "dom0_t",
        "unlabeled_t",
    }
    assert not expected[MAC_DOMAIN, UNLABELLED_TYPE, "grant"]


@pytest.mark.parametrize("expected", [EXPECTED, expected_without_policy()], ids=["policy", "none"])
def test_dom0_sees_and_ends_what_lost_its_label_and_no_more(expected: ExpectedFlask) -> None:
    """Where it may not look at a domain, every later one is hidden too."""
    asked = {question: each for question, each in expected.access.items() if question[:2] == ("dom0_t", "unlabeled_t")}
    assert asked == {
        ("dom0_t", "unlabeled_t", "domain"): {"getdomaininfo", "pause", "destroy"},
        ("dom0_t", "unlabeled_t", "grant"): {"unmap"},
    }


def test_only_what_is_told_is_put_into_words() -> None:
    def endless() -> Iterator[str]:
        yield from "abcde"
        raise AssertionError("nobody is told of this")

    assert some(endless()) == "a; b; c; d; and more"
    assert some(iter("abcd")) == "a; b; c; d"
    assert some([]) == ""


def test_the_number_of_questions_is_bounded() -> None:
    assert len(expected_flask(with_many_labels(8), ALPHA).access) == 9 * 10**2 + 37 * 10 + 2 == 1272
    most = with_many_labels(MAX_LABELS_AT_HOME)
    started = time.perf_counter()
    expected = expected_flask(most, ALPHA)
    assert time.perf_counter() - started < 5
    assert len(expected.access) == 97_412
    with pytest.raises(BadInput, match=r"hosts\.alpha"):
        expected_flask(with_many_labels(MAX_LABELS_AT_HOME + 1), ALPHA)


def test_it_is_computed_once_for_a_policy() -> None:
    assert expected_flask(POLICY, ALPHA) is EXPECTED


def test_too_many_labels_at_home_are_a_mistake_in_the_policy() -> None:
    assert not list(inconsistencies(POLICY))
    (finding,) = inconsistencies(with_many_labels(MAX_LABELS_AT_HOME + 1))
    assert finding.key == "hosts.alpha"
    assert "100" in str(finding)
    on_qemu = with_many_labels(MAX_LABELS_AT_HOME + 1, hypervisor=HypervisorKind.QEMU)
    assert not list(inconsistencies(on_qemu))


def test_differences_are_named() -> None:
    assert differences() == []
    assert differences(enforcing=False) == ["FLASK is permissive"]
    assert differences(booleans={"guest_writeconsole": True, "other": False}) == [
        "the boolean guest_writeconsole is on"
    ]
    assert differences(ExpectedFlask(access={}, booleans_on=frozenset({"needed"})), booleans={}) == [
        "the boolean needed is off"
    ]
    answers = dict(EXPECTED.access)
    answers[RED, SENDER, "mmu"] = frozenset({"map_read", "map_write"})
    answers[RED, BOTH, "grant"] = frozenset({"copy", "map_read", "transfer", "unmap"})
    answers["domU_t", RED, "grant"] = frozenset({"copy"})
    del answers[MAC_DOMAIN, RED, "grant"]
    assert differences(answers=answers) == [
        f"domU_t may copy {RED} (grant), more than the policy says",
        f"{MAC_DOMAIN} may not copy, map_read, map_write, unmap {RED} (grant), as the policy says",
        f"{RED} may transfer {BOTH} (grant), more than the policy says",
        f"{RED} may not map_write {BOTH} (grant), as the policy says",
        f"{RED} may map_read, map_write {SENDER} (mmu), more than the policy says",
    ]
    assert frozenset() == BOOLEANS_ON
