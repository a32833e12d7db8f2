"""Addresses of VMs: each one's own in its type, and what is no address of an interface."""

import pytest

from shamon_host.domain.addresses import MAX_ADDRESSES, undeclared, underlay_families
from shamon_host.domain.labels import TypeName, VmName
from shamon_host.domain.policy_file import parse_canonical
from shamon_host.domain.policy_form import policy_bytes
from tests.unit.domain.policy_text import FINANCE_TEXT, assert_one_mistake, changed_finance, errors, parse

DECLARED = 'addresses = { "rival/books" = ["10.1.0.5", "fd00::5"] }'
KEY = 'vms.clerk.addresses."rival/books"'
BOOKS = TypeName("rival/books")
SECOND = """
[vms.second]
label = "bookkeeper"
image = "app"
host = "beta"
"""


def declared(addresses: str) -> str:
    return changed_finance(DECLARED, f"addresses = {addresses}")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("10.1.0", ["not an address"]),
        ("10.1.0.0/24", ["not an address"]),
        ("FD00::5", ["usual form", "fd00::5"]),
        ("fd00:0::5", ["usual form", "fd00::5"]),
        ("0.0.0.0", ["one interface"]),
        ("::", ["one interface"]),
        ("255.255.255.255", ["one interface"]),
        ("224.0.0.1", ["one interface"]),
        ("ff02::1", ["one interface"]),
        ("127.0.0.1", ["one interface"]),
        ("::1", ["one interface"]),
        ("::ffff:a00:1", ["stands for another"]),
        ("fe80::1%eth0", ["stands for another"]),
    ],
)
def test_what_no_interface_can_have_is_a_mistake(address: str, words: list[str]) -> None:
    error = errors(declared(f'{{ "rival/books" = ["{address}"] }}'))
    (finding,) = error.findings
    assert finding.key == KEY
    assert finding.line == FINANCE_TEXT.splitlines().index(DECLARED) + 1
    for word in words:
        assert word in str(error)


def test_addresses_belong_to_interfaces_of_the_vm() -> None:
    error = errors(declared('{ "bank/ledger" = ["10.1.0.5"] }'))
    assert [finding.key for finding in error.findings] == ['vms.clerk.addresses."bank/ledger"']
    assert "no interface" in str(error)
    assert "rival/books" in str(error)


def test_an_address_is_one_vm_s_in_a_type() -> None:
    text = FINANCE_TEXT + SECOND + 'addresses = { "rival/books" = ["10.1.0.6", "fd00::5"] }\n'
    error = errors(text)
    (finding,) = error.findings
    assert finding.key == 'vms.second.addresses."rival/books"'
    assert finding.line == len(text.splitlines())
    assert "clerk" in finding.what
    assert finding.found == "fd00::5"


def test_the_same_address_in_two_types_is_two() -> None:
    desk = changed_finance(
        'interfaces = ["bank/mail", "bank/ledger"]\n',
        'interfaces = ["bank/mail", "bank/ledger"]\n'
        'addresses = { "bank/mail" = ["10.1.0.5"], "bank/ledger" = ["10.1.0.5"] }\n',
    )
    assert parse(desk).vms[VmName("desk")].addresses == {
        TypeName("bank/mail"): frozenset({"10.1.0.5"}),
        TypeName("bank/ledger"): frozenset({"10.1.0.5"}),
    }


def test_too_many_are_a_mistake() -> None:
    many = ", ".join(f'"fd00::{number:x}"' for number in range(1, MAX_ADDRESSES + 2))
    text = declared('{ "rival/books" = [\n' + many.replace(", ", ",\n") + "] }")
    assert "too many addresses" in str(errors(text))


@pytest.mark.parametrize(
    "value",
    [
        '["10.1.0.5"]',
        '{ "rival/books" = "10.1.0.5" }',
        '{ "rival/books" = [5] }',
        '{ "no name" = ["10.1.0.5"] }',
        '{ "rival/books" = ["10.1.0.5", "10.1.0.5"] }',
    ],
)
def test_other_shapes_are_mistakes(value: str) -> None:
    assert errors(declared(value)).findings[0].key.startswith("vms.clerk.addresses")


def test_what_is_left_open_is_known() -> None:
    open_ones = undeclared(parse(FINANCE_TEXT))
    assert (VmName("desk"), TypeName("bank/mail")) in open_ones
    assert (VmName("clerk"), BOOKS) not in open_ones
    assert (VmName("clerk"), BOOKS) in undeclared(parse(declared("{}")))
    assert (VmName("clerk"), BOOKS) not in undeclared(parse(declared('{ "rival/books" = [] }')))


def test_a_policy_without_addresses_is_the_same_as_before_there_were_any() -> None:
    """Its canonical form, hence its digest, which its successors and signatures name."""
    bare, empty = parse(changed_finance(DECLARED + "\n", "")), parse(declared("{}"))
    assert bare.digest == empty.digest != parse(FINANCE_TEXT).digest
    assert b"addresses" not in policy_bytes(bare)
    assert parse_canonical(policy_bytes(parse(FINANCE_TEXT)), source="x") == parse(FINANCE_TEXT)


def test_families_of_hosts() -> None:
    assert underlay_families(parse(FINANCE_TEXT)) == {4: ("alpha",), 6: ("beta",)}
    assert underlay_families(parse(changed_finance('"2001:db8::2"', '"192.0.2.2"'))) == {4: ("alpha", "beta")}


def test_a_host_s_link_local_address_is_a_mistake() -> None:
    assert_one_mistake(changed_finance('"2001:db8::2"', '"fe80::2"'), "hosts.beta.address", "link-local", "fe80::2")
