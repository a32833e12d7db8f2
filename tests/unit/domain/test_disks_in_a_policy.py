"""Disks whose content the policy pins: labelled by what they are, read by several types, written by nobody."""

from shamon_host.domain.explain import explain
from shamon_host.domain.flows import flow_system
from shamon_host.domain.labels import VmName
from shamon_host.domain.policy import MAX_RESOURCES
from tests.unit.domain.policy_text import FINANCE_TEXT, assert_one_mistake, changed_finance, errors, parse

PIN = 'sha256 = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"\n'
POLICY = parse(FINANCE_TEXT)


def test_a_pinned_disk_lets_nothing_flow_and_one_that_is_written_does() -> None:
    names = flow_system(POLICY).labels.keys()
    assert not any("manual" in name for name in names)
    assert any("ledger-disk" in name for name in names)


def test_only_a_pinned_disk_may_have_types_of_several_levels() -> None:
    error = errors(changed_finance(PIN, ""))
    assert [finding.key for finding in error.findings] == ["resources.manual"] * 2
    assert "it lets bank/ledger flow to rival/books, against their confidentiality" in str(error)


def test_a_pin_is_a_digest() -> None:
    short = '[resources.short]\ntypes = ["bank/mail"]\nsha256 = "60303ae2"\n'
    assert_one_mistake(FINANCE_TEXT + short, "resources.short.sha256", "64 lower-case hexadecimal digits")


def test_the_same_content_has_one_label() -> None:
    same = f'[resources.again]\ntypes = ["rival/books", "bank/ledger"]\n{PIN}'
    parse(FINANCE_TEXT + same)
    other = same.replace('"rival/books", ', "")
    assert_one_mistake(
        FINANCE_TEXT + other, "resources.manual.sha256", "the same content as again", "found bank/ledger, rival/books"
    )


def test_a_network_has_no_content() -> None:
    network = f'[resources.net]\nkind = "network"\ntypes = ["bank/mail"]\nsha256 = "{"0" * 64}"\n'
    assert_one_mistake(FINANCE_TEXT + network, "resources.net.sha256", "a network has no content")


def test_a_vm_has_a_bounded_number_of_resources() -> None:
    def text(number: int) -> str:
        names = [f"r{each:02}" for each in range(number)]
        disks = "".join(f'[resources.{name}]\ntypes = ["bank/ledger"]\n' for name in names)
        return changed_finance('resources = ["ledger-disk", "manual"]', f"resources = {names}") + disks

    assert len(parse(text(MAX_RESOURCES)).vms[VmName("desk")].resources) == MAX_RESOURCES
    assert_one_mistake(text(MAX_RESOURCES + 1), "vms.desk.resources", "too many resources", "at most 16", "found 17")


def test_explained() -> None:
    (pinned,) = explain(POLICY, "desk", "manual")
    assert pinned.permitted
    assert pinned.reason == "both have bank/ledger; read-only: its content is pinned"
    (read,) = explain(POLICY, "ledger-disk", "review")
    assert read.permitted
    assert read.reason == "both have bank/ledger; read-only: review only reads them"
    (written,) = explain(POLICY, "trader", "ledger-disk")
    assert written.permitted
    assert written.reason == "both have bank/ledger"
    vault = parse(FINANCE_TEXT + '[resources.vault]\ntypes = ["audit/vault"]\n')
    (denied,) = explain(vault, "archive", "vault")
    assert not denied.permitted
    assert denied.reason.endswith("of which archive reads none")
