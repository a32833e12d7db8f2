"""What every `hypervisor.ports.FlaskPolicy` must do: subclass `FlaskPolicyContract`, give it a `flask`.

Runs on the in-memory FLASK in the unit tests, and on the hypervisor of a lab host with Xen that enforces it. It leaves
the policy of no coalition loaded.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.flask_expected import (
    ExpectedFlask,
    expected_flask,
    expected_without_policy,
    flask_differences,
)
from shamon_host.domain.flask_labels import MAC_DOMAIN, flask_type
from shamon_host.domain.flask_rules import Question
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import HypervisorKind, Policy
from shamon_host.domain.policy_file import parse_policy
from shamon_host.hypervisor.ports import FlaskPolicy
from shamon_host.interchange.flask import flask_base_source, flask_source

ALPHA = HostName("alpha")
_TEXT = """
coalition = {name = "contract", version = 1}
types = ["acme/red", "acme/green", "rival/blue"]
labels.red.types = ["acme/red"]
labels.sender = {writes = ["acme/green"]}
labels.receiver = {reads = ["acme/green"]}
labels.blue.types = ["rival/blue"]
labels.both.types = ["acme/red", "rival/blue"]
hosts.alpha = {address = "192.0.2.1", types = ["acme/red", "acme/green", "rival/blue"], hypervisor = "xen"}
images.app.sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
vms.web = {label = "red", image = "app", host = "alpha"}
vms.out = {label = "sender", image = "app", host = "alpha"}
vms.in = {label = "receiver", image = "app", host = "alpha"}
vms.gate = {label = "both", image = "app", host = "alpha"}
vms.tools = {label = "unlabelled", image = "app", host = "alpha"}
"""
POLICY = parse_policy(_TEXT.encode(), source="the contract's policy")
"""Labels that share pages, that send one way, that have nothing in common, and one that is not at home."""
SMALLER = replace(POLICY, vm_labels={"red": POLICY.vm_labels["red"]}, vms={})
RED, BLUE, SENDER = (flask_type(name) for name in ("red", "blue", "sender"))
_GRANT: Question = (RED, f"{RED}_self", "grant")


class FlaskPolicyContract:
    """The suite. Whatever policy is loaded before a test."""

    @pytest.fixture
    def flask(self) -> Iterator[FlaskPolicy]:
        """The FLASK policy of a hypervisor that enforces it."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _afterwards(self, flask: FlaskPolicy) -> Iterator[None]:
        yield
        flask.load(flask_base_source())

    def test_answers_are_those_of_the_module(self, flask: FlaskPolicy) -> None:
        for _ in range(2):
            flask.load(flask_source(POLICY))
            assert differences(flask, expected_flask(POLICY, ALPHA)) == []
        state = flask.state([(RED, flask_type("both"), "grant"), (RED, BLUE, "grant"), (RED, SENDER, "mmu")])
        assert state.enforcing
        assert state.access == {
            (RED, flask_type("both"), "grant"): {"map_read", "map_write", "copy", "unmap"},
            (RED, BLUE, "grant"): frozenset(),
            (RED, SENDER, "mmu"): frozenset(),
        }

    def test_without_a_coalition_everything_is_apart(self, flask: FlaskPolicy) -> None:
        flask.load(flask_source(POLICY))
        flask.load(flask_base_source())
        assert differences(flask, expected_without_policy()) == []
        assert flask.state([_GRANT]).access == {}

    @pytest.mark.parametrize("module", [flask_source(POLICY), flask_base_source()], ids=["policy", "none"])
    def test_dom0_sees_and_ends_what_lost_its_label(self, flask: FlaskPolicy, module: str) -> None:
        flask.load(module)
        asked: list[Question] = [("dom0_t", "unlabeled_t", each) for each in ("domain", "grant", "mmu")]
        assert flask.state(asked).access == {
            asked[0]: {"getdomaininfo", "pause", "destroy"},
            asked[1]: {"unmap"},
            asked[2]: frozenset(),
        }

    def test_another_policy_takes_the_place_of_the_old_one(self, flask: FlaskPolicy) -> None:
        flask.load(flask_source(POLICY))
        flask.load(flask_source(SMALLER))
        assert differences(flask, expected_flask(SMALLER, ALPHA)) == []
        found = differences(flask, expected_flask(POLICY, ALPHA))
        assert any(SENDER in words for words in found)
        assert not any(words.startswith(f"{MAC_DOMAIN} may not map_read") and RED in words for words in found)

    def test_an_unknown_type_has_no_answer(self, flask: FlaskPolicy) -> None:
        flask.load(flask_source(SMALLER))
        asked: list[Question] = [
            _GRANT,
            (SENDER, f"{SENDER}_self", "grant"),
            (RED, "no_such_t", "grant"),
            ("no_such_t", RED, "event"),
            (RED, f"{RED}_channel", "event"),
        ]
        assert flask.state(asked).access.keys() == {asked[0], asked[-1]}

    def test_nothing_is_asked(self, flask: FlaskPolicy) -> None:
        state = flask.state(())
        assert (state.enforcing, state.access) == (True, {})
        assert all(type(is_on) is bool for is_on in state.booleans.values())

    @pytest.mark.parametrize(
        "wrong",
        [
            "this is no policy source",
            "allow no_such_t no_such_t:grant map_read;",
            f"allow {RED} {BLUE}:grant map_read;",
            f"allow {RED} security_t:security load_policy;",
            f"allow {RED} {SENDER}:argo send;",
        ],
    )
    def test_what_is_refused_changes_nothing(self, flask: FlaskPolicy, wrong: str) -> None:
        flask.load(flask_source(SMALLER))
        with pytest.raises(BackendFailed):
            flask.load(flask_source(POLICY) + wrong + "\n")
        assert differences(flask, expected_flask(SMALLER, ALPHA)) == []

    def test_many_labels(self, flask: FlaskPolicy) -> None:
        many = with_many_labels(24)
        flask.load(flask_source(many))
        assert differences(flask, expected_flask(many, ALPHA)) == []


def differences(flask: FlaskPolicy, expected: ExpectedFlask) -> list[str]:
    state = flask.state(expected.access)
    return list(flask_differences(expected, enforcing=state.enforcing, booleans=state.booleans, answers=state.access))


def with_many_labels(count: int, *, hypervisor: HypervisorKind = HypervisorKind.XEN) -> Policy:
    """As many labels, each with a VM at home; all communicate."""
    red, web = POLICY.vm_labels["red"], POLICY.vms[VmName("web")]
    hosts = {ALPHA: replace(POLICY.hosts[ALPHA], hypervisor=hypervisor)}
    labels = {f"l{number}": replace(red, name=f"l{number}") for number in range(count)}
    vms = {VmName(name): replace(web, name=VmName(name), label=name) for name in labels}
    return replace(POLICY, hosts=hosts, vm_labels=labels, vms=vms)
