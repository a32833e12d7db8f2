"""The policy file: what it gives, which digest it has, and that nothing that comes as one does harm."""

import re
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain.errors import BadInput
from shamon_host.domain.policy import FailureAction, TypeDefinition
from shamon_host.domain.policy_file import MAX_POLICY_BYTES, parse_policy
from shamon_host.domain.policy_form import policy_digest
from tests.examples import examples
from tests.unit.domain.policy_text import SOURCE, TEXT, changed, parse
from tests.unit.domain.values import ALPHA, BETA, BLUE, BROKER, GAMMA, ORDERS, POLICY, RED, WEB


def test_a_whole_policy() -> None:
    assert POLICY.coalition == "supply-chain"
    assert (POLICY.version, POLICY.parent) == (1, None)
    assert POLICY.types == {RED, BLUE, ORDERS}
    assert {name: definition.on_failure for name, definition in POLICY.definitions.items()} == {
        RED: FailureAction.SUSPEND,
        BLUE: FailureAction.REPLACE,
        ORDERS: FailureAction.KEEP,
    }
    assert POLICY.vm_labels["red-orders"].types == {RED, ORDERS}
    assert POLICY.resource_labels["red-archive"].types == {RED}
    assert POLICY.conflict_sets == {"competitors": {RED, BLUE}}
    assert (POLICY.hosts[ALPHA].port, POLICY.hosts[BETA].port) == (7443, 7444)
    assert POLICY.hosts[GAMMA].address == "2001:db8::3"
    assert POLICY.vms[WEB].resources == ("red-archive",)
    assert POLICY.vms[BROKER].host == BETA
    assert POLICY.intervals.lease_s == 90.0
    assert POLICY.demands.empty_pcrs == (12, 13)
    assert POLICY.digest == policy_digest(POLICY)
    assert re.fullmatch("[0-9a-f]{64}", POLICY.digest)


def test_the_least_policy_takes_the_defaults() -> None:
    policy = parse(
        """
        types = ["acme/red"]
        coalition = {name = "one", version = 1}
        hosts.alpha = {address = "192.0.2.1", types = ["acme/red"]}
        """
    )
    assert policy.definitions == {RED: TypeDefinition(name=RED)}
    assert policy.intervals.period_s < policy.intervals.lease_s
    assert policy.demands.allow_software_tpm is False
    assert policy.vms == {}


def test_a_successor_names_its_parent() -> None:
    policy = parse(changed("version = 1", f'version = 2\nparent = "{POLICY.digest}"'))
    assert (policy.version, policy.parent) == (2, POLICY.digest)


# The digest: of what is said, not of how


def test_comments_order_and_defaults_do_not_change_the_digest() -> None:
    blocks = TEXT.split("\n\n")
    assert parse("\n\n".join([blocks[0], *reversed(blocks[1:])])).digest == POLICY.digest
    assert parse(changed("port = 7444", "port = 7444 # another")).digest == POLICY.digest
    assert parse(TEXT.replace("\n", "\r\n")).digest == POLICY.digest
    assert parse(changed('address = "192.0.2.1"', 'address = "192.0.2.1"\nport = 7443')).digest == POLICY.digest
    assert parse(changed("lease_s = 90.0", "lease_s = 90")).digest == POLICY.digest
    red_orders = 'types = ["acme/red", "supplier/orders"]'
    assert parse(TEXT.replace(red_orders, 'types = ["supplier/orders", "acme/red"]')).digest == POLICY.digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "supply-chain"', 'name = "supply-chains"'),
        ("port = 7444", "port = 7445"),
        ('on_failure = "suspend"', 'on_failure = "keep"'),
        ("lease_s = 90.0", "lease_s = 91.0"),
        ("allow_software_tpm = false", "allow_software_tpm = true"),
        ("empty_pcrs = [12, 13]", "empty_pcrs = [12]"),
        ("9f86d0", "9f86d1"),
        ('resources = ["red-archive"]', ""),
        ("[conflicts.competitors]", "[conflicts.rivals]"),
        ('[labels.orders]\ntypes = ["supplier/orders"]', '[labels.orders]\ntypes = ["supplier/orders", "acme/red"]'),
    ],
)
def test_whatever_is_decided_by_it_changes_the_digest(old: str, new: str) -> None:
    assert parse(changed(old, new)).digest != POLICY.digest


# What is not TOML


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("[labels.blue]", "[labels.red]", "[labels.red]", ["the key labels.red is there twice"]),
        ("port = 7444", "port = 7444\nport = 7445", "port = 7445", ["the key hosts.beta.port is there twice"]),
        ("version = 1", "version = ", "version =", ["not TOML", "version ="]),
        ("[labels.blue]", "[labels.blue", "[labels.blue", ["not TOML"]),
    ],
)
def test_a_syntax_error_has_a_position(old: str, new: str, line: str, words: list[str]) -> None:
    text = changed(old, new)
    number = max(index for index, found in enumerate(text.splitlines(), start=1) if found.strip() == line)
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert caught.value.where.startswith(f"{SOURCE}: line {number}, column ")
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value)


def test_a_label_given_twice_in_one_table() -> None:
    with pytest.raises(BadInput, match=r"labels\.red is there twice"):
        parse('[labels]\nred = {types = ["a/b"]}\nred = {types = ["a/b"]}\n')


def test_bytes_that_are_not_text() -> None:
    with pytest.raises(BadInput, match=r"coalition\.toml: line 3: the policy is not UTF-8"):
        parse_policy(b"# one\n# two\n\xff\n", source=SOURCE)


def test_a_large_policy_is_refused_unread() -> None:
    with pytest.raises(BadInput, match="too large"):
        parse_policy(b"#" * (MAX_POLICY_BYTES + 1), source=SOURCE)


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 100_000,
        "x = " + "{a=" * 100_000,
        "x" + ".x" * 100_000 + " = 1",
        "[" + "x." * 100_000 + "x]",
        ".".join("x" * 201) + " = 1",
        "coalition" + ".x" * 190 + " = 1",
    ],
)
def test_deep_nesting_neither_hangs_nor_crashes(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(BadInput):
        parse(text)
    assert time.perf_counter() - started < 10


@settings(deadline=None, max_examples=examples(150))
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_raise_bad_input_alone(data: bytes) -> None:
    with pytest.raises(BadInput):
        parse_policy(data, source=SOURCE)


@settings(deadline=None, max_examples=examples(150))
@given(data=st.data())
def test_any_value_anywhere_raises_bad_input_or_nothing(data: st.DataObject) -> None:
    lines = TEXT.splitlines()
    index = data.draw(st.sampled_from([at for at, line in enumerate(lines) if " = " in line]))
    value = data.draw(
        st.sampled_from(
            [
                "1",
                "-1",
                "1.5",
                "nan",
                "inf",
                "true",
                '""',
                '"x"',
                "[]",
                "[[]]",
                "{}",
                "{a = 1}",
                "[1]",
                '["a"]',
                "[{a = 1}]",
                "1979-05-27",
                "07:32:00",
                '["acme/red"]',
                '"acme/red"',
            ]
        )
    )
    lines[index] = f"{lines[index].split(' = ')[0]} = {value}"
    with suppress(BadInput):
        policy = parse("\n".join(lines))
        assert policy.digest == policy_digest(policy)
