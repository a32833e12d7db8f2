"""How far a quarantine goes, as a policy says it: for the VMs of a label, and more for some of them."""

import hashlib

import pytest

from shamon_host.domain.concerns import concerns
from shamon_host.domain.labels import VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import PolicyErrors, parse_canonical, parse_policy
from shamon_host.domain.policy_form import policy_bytes
from shamon_host.domain.quarantine import Grade
from shamon_host.interchange.policy_toml import policy_toml

_TEXT = """
types = ["acme/red"]
coalition = {name = "unit", version = 1}
organisations.acme = {}
labels.red = {types = ["acme/red"]}
hosts.alpha = {address = "192.0.2.1", types = ["acme/red"]}
images.app.sha256 = "SHA"
vms.web = {label = "red", image = "app", host = "alpha"}
vms.bare = {label = "unlabelled", image = "app", host = "alpha"}
""".replace("SHA", hashlib.sha256(b"").hexdigest())
WEB, BARE = VmName("web"), VmName("bare")


def _policy(*, label: str = "", vm: str = "") -> Policy:
    text = _TEXT
    if label:
        text = text.replace('["acme/red"]}\nhosts', f'["acme/red"], quarantine = "{label}"}}\nhosts')
    if vm:
        text = text.replace('label = "red",', f'label = "red", quarantine = "{vm}",')
    return parse_policy(text.encode(), source="policy.toml")


def test_grades_are_in_order() -> None:
    assert [grade.value for grade in Grade] == ["note", "ports-down", "suspend", "destroy"]
    for index, grade in enumerate(Grade):
        assert [grade.is_weaker_than(other) for other in Grade] == [number > index for number in range(4)]
    assert [grade.cuts_off for grade in Grade] == [False, True, True, True]


@pytest.mark.parametrize(
    ("label", "vm", "grade"),
    [
        ("", "", Grade.SUSPEND),
        ("note", "", Grade.NOTE),
        ("destroy", "", Grade.DESTROY),
        ("note", "ports-down", Grade.PORTS_DOWN),
        ("ports-down", "ports-down", Grade.PORTS_DOWN),
        ("", "destroy", Grade.DESTROY),
    ],
)
def test_the_label_says_the_least_and_a_vm_may_say_more(label: str, vm: str, grade: Grade) -> None:
    policy = _policy(label=label, vm=vm)
    assert policy.quarantine_of(WEB) is grade
    assert policy.quarantine_of(BARE) is Grade.SUSPEND
    assert parse_canonical(policy_bytes(policy), source="envelope") == policy
    assert parse_policy(policy_toml(policy).encode(), source="written") == policy


@pytest.mark.parametrize(("label", "vm"), [("", "note"), ("", "ports-down"), ("destroy", "suspend")])
def test_a_vm_may_not_say_less(label: str, vm: str) -> None:
    with pytest.raises(PolicyErrors, match="weaker than its label says") as raised:
        _policy(label=label, vm=vm)
    (finding,) = raised.value.findings
    assert (finding.key, finding.found, finding.line) == ("vms.web.quarantine", vm, 8)
    assert finding.expected.startswith(label or "suspend")


def test_a_policy_that_says_nothing_of_it_has_the_form_that_it_had() -> None:
    """Digests and signatures from before there was this key hold."""
    assert b"quarantine" not in policy_bytes(_policy())
    assert policy_bytes(_policy(label="suspend")) == policy_bytes(_policy())
    assert _policy(vm="suspend").digest != _policy().digest, "what the label says may change without it"


def test_the_owners_of_a_labels_types_are_concerned() -> None:
    assert concerns(_policy(label="note"), _policy()) == {"acme": ("label red changes",)}
    assert not concerns(_policy(vm="destroy"), _policy())


def test_no_such_grade() -> None:
    with pytest.raises(PolicyErrors, match='"ports-down"'):
        _policy(label="ports-up")
