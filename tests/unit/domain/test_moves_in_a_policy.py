"""Where VMs may be moved to, where they are, and which tokens count."""

from dataclasses import replace

import pytest

from shamon_host.domain import monitor
from shamon_host.domain.contexts import allocate_for, vm_context
from shamon_host.domain.decision import Rule
from shamon_host.domain.errors import NotTrusted
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import PolicyErrors, parse_canonical, parse_policy
from shamon_host.domain.policy_form import policy_bytes
from shamon_host.domain.replay import Running, violations
from shamon_host.domain.results import TpmKind
from shamon_host.domain.vm_tokens import VmToken, owners, require_new, why_not_its_disk

ALPHA, BETA, GAMMA = HostName("alpha"), HostName("beta"), HostName("gamma")
WEB, DB = VmName("web"), VmName("db")
TEXT = f"""
types = ["acme/red", "rival/blue"]
coalition = {{name = "unit", version = 1}}
labels.red.types = ["acme/red"]
labels.both.types = ["acme/red", "rival/blue"]
hosts.alpha = {{address = "192.0.2.1", types = ["acme/red", "rival/blue"]}}
hosts.beta = {{address = "192.0.2.2", types = ["acme/red", "rival/blue"]}}
hosts.gamma = {{address = "192.0.2.3", types = ["acme/red"]}}
hosts.delta = {{address = "192.0.2.4", types = ["acme/red"], hypervisor = "xen"}}
images.app.sha256 = "{"0" * 64}"
resources.cache.types = ["acme/red"]
resources.manual = {{types = ["acme/red"], sha256 = "{"1" * 64}"}}
vms.web = {{label = "red", image = "app", host = "alpha", may_move_to = ["beta", "gamma"]}}
vms.db = {{label = "red", image = "app", host = "beta"}}
"""


def parse(text: str = TEXT) -> Policy:
    return parse_policy(text.encode(), source="policy.toml")


POLICY = parse()


def token(**changes: object) -> VmToken:
    fields = {
        "coalition": "unit",
        "vm": WEB,
        "generation": 1,
        "owner": BETA,
        "previous": ALPHA,
        "policy": POLICY.digest,
        "disk": "",
        "size": 0,
        "base": "",
        "runs": True,
        "time": 0,
    }
    return VmToken(**(fields | changes))  # type: ignore[arg-type]


def test_the_canonical_form_says_it_only_where_it_is_said() -> None:
    assert parse_canonical(policy_bytes(POLICY), source="peer") == POLICY
    assert b'"may_move_to":["beta","gamma"]' in policy_bytes(POLICY)
    assert b"may_move_to" not in policy_bytes(parse(TEXT.replace(', may_move_to = ["beta", "gamma"]', "")))
    assert (
        parse(TEXT.replace('["beta", "gamma"]', "[]")).digest
        == parse(TEXT.replace(', may_move_to = ["beta", "gamma"]', "")).digest
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([('"gamma"]', '"gama"]')], "unknown host"),
        ([('"gamma"]', '"alpha"]')], "it is its host already"),
        ([('"gamma"]', '"gamma", "gamma"]')], "given twice"),
        ([('"gamma"]', '"delta"]')], "different hypervisors"),
        ([('web = {label = "red"', 'web = {label = "both"')], "gamma cannot run it"),
        ([('web = {label = "red"', 'web = {resources = ["cache"], label = "red"')], "a disk that does not move"),
    ],
)
def test_mistakes(changes: list[tuple[str, str]], words: str) -> None:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    with pytest.raises(PolicyErrors, match="may_move_to") as raised:
        parse(text)
    assert words in str(raised.value)


def test_a_disk_that_it_only_reads_is_no_hindrance() -> None:
    policy = parse(TEXT.replace('web = {label = "red"', 'web = {resources = ["manual"], label = "red"'))
    assert policy.disks_on(GAMMA) == ("manual",)


def test_a_vm_is_at_home_until_it_is_moved() -> None:
    moved = POLICY.placed({WEB: BETA})
    assert (POLICY.host_of(WEB), moved.host_of(WEB)) == (ALPHA, BETA)
    assert (moved.vms_of(ALPHA), moved.vms_of(BETA)) == ((), (DB, WEB))
    assert moved.digest == POLICY.digest
    assert policy_bytes(moved) == policy_bytes(POLICY)
    assert moved.placed({WEB: ALPHA}) == moved.placed({}) == POLICY
    assert POLICY.placed({}) is POLICY


def test_where_the_policy_does_not_let_it_be_it_is_not() -> None:
    """A version that takes a host back gives the VM to its home; a VM that it does not know moves nothing."""
    assert POLICY.placed({WEB: HostName("delta"), DB: ALPHA, VmName("nobody"): BETA}).host_of(WEB) == ALPHA
    assert POLICY.placed({DB: ALPHA}).host_of(DB) == BETA


def test_only_its_owner_may_start_it() -> None:
    for host in (ALPHA, BETA, GAMMA):
        decision = monitor.vm_start(POLICY.placed({WEB: BETA}), WEB, host=host, running={}, host_tpm=TpmKind.HARDWARE)
        assert decision.permitted is (host == BETA)
        assert decision.permitted or (decision.rule is Rule.ASSIGNMENT and "was moved to beta" in decision.reason)


def test_a_version_that_takes_its_host_back_waits_until_it_is_elsewhere() -> None:
    without = parse(TEXT.replace('["beta", "gamma"]', '["gamma"]'))
    moved, tpm = {WEB: BETA}, TpmKind.HARDWARE
    there = Running(host=BETA, tpm=tpm, vms={WEB: POLICY.interfaces_of(WEB)})
    [violation] = violations(without.placed(moved), POLICY.placed(moved), there)
    assert "the policy gives web to alpha, not to beta" in violation
    assert violations(POLICY.placed(moved), POLICY.placed(moved), there) == ()
    assert violations(without.placed(moved), POLICY.placed(moved), replace(there, vms={})) == ()


def test_a_host_has_categories_for_what_may_be_moved_to_it() -> None:
    """So the label map does not depend on where VMs are, and a peer need not know that to judge it."""
    for host in (ALPHA, BETA, GAMMA):
        label_map = allocate_for(POLICY, host)
        assert label_map == allocate_for(POLICY.placed({WEB: BETA}), host)
        assert WEB in label_map.vms
        assert monitor.labelmap_install(POLICY.placed({WEB: BETA}), host, label_map).permitted
        vm_context(POLICY, label_map, WEB)


def test_tokens_in_a_row() -> None:
    require_new(token(), POLICY, None)
    require_new(token(generation=2, previous=BETA, owner=GAMMA), POLICY, token())
    require_new(token(generation=2, previous=BETA, owner=ALPHA), POLICY, token())
    require_new(token(generation=7, previous=GAMMA, owner=BETA), POLICY, token())
    assert owners({WEB: token()}) == {WEB: BETA}


@pytest.mark.parametrize(
    ("changes", "newest", "words"),
    [
        ({"coalition": "other"}, None, "of the coalition other"),
        ({"vm": VmName("nobody")}, None, "knows no such VM"),
        ({"owner": HostName("delta")}, None, "does not let it be moved to delta"),
        ({"vm": DB, "owner": ALPHA, "previous": BETA}, None, "does not let it be moved to alpha"),
        ({"previous": BETA}, None, "gives a VM to itself"),
        ({"previous": GAMMA}, None, "gamma gives it away, and alpha owned it"),
        ({}, token(), "number 1 is known"),
        ({"generation": 3}, token(generation=4), "number 4 is known"),
        ({"generation": 2}, token(), "alpha gives it away, and beta owned it"),
    ],
)
def test_tokens_that_do_not_count(changes: dict[str, object], newest: VmToken | None, words: str) -> None:
    with pytest.raises(NotTrusted) as raised:
        require_new(token(**changes), POLICY, newest)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("base", "has_disk", "stands_alone", "words"),
    [
        ("", False, False, ""),
        ("", False, True, ""),
        ("aa", True, False, ""),
        ("aa", True, True, ""),
        ("bb", True, True, ""),
        ("bb", True, False, "another clean image"),
        ("", True, False, "nobody noted"),
        (None, True, False, "nobody noted"),
        (None, True, True, "nobody noted"),
        ("aa", False, False, "not there"),
        ("aa", False, True, "not there"),
        (None, False, False, "not there"),
    ],
)
def test_disks_that_another_host_can_go_on_with(
    base: str | None, has_disk: bool, stands_alone: bool, words: str
) -> None:
    why = why_not_its_disk(base, has_disk=has_disk, pin="aa", stands_alone=stands_alone)
    assert words in why
    assert bool(words) is bool(why)


def test_after_a_version_that_took_a_host_back_its_home_gives_it_away() -> None:
    """Beta owned it, and may not any more: by the new version it is alpha's again."""
    without = parse(TEXT.replace('["beta", "gamma"]', '["gamma"]'))
    require_new(token(generation=2, owner=GAMMA, previous=ALPHA), without, token())
    with pytest.raises(NotTrusted):
        require_new(token(generation=2, owner=GAMMA, previous=BETA), without, token())
    assert replace(token(), runs=False) != token()
