"""The policy file: what it gives, and every mistake with its file, key, what was expected and what is nearest."""

import re
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain.errors import BadInput
from shamon_host.domain.policy import FailureAction, Policy
from shamon_host.domain.policy_file import MAX_POLICY_BYTES, PolicyErrors, parse_policy
from shamon_host.domain.policy_form import policy_digest
from tests.unit.domain.values import ALPHA, BETA, BLUE, BROKER, GAMMA, ORDERS, POLICY, POLICY_BYTES, RED, WEB

SOURCE = "coalition.toml"
TEXT = POLICY_BYTES.decode()


def parse(text: str) -> Policy:
    return parse_policy(text.encode(), source=SOURCE)


def changed(old: str, new: str) -> str:
    assert TEXT.count(old) == 1, f"{TEXT.count(old)} × {old}"
    return TEXT.replace(old, new)


def errors(text: str) -> PolicyErrors:
    with pytest.raises(PolicyErrors) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    assert SOURCE in str(caught.value)
    return caught.value


def test_a_whole_policy() -> None:
    assert POLICY.coalition == "supply-chain"
    assert (POLICY.version, POLICY.parent) == (1, None)
    assert POLICY.types == {RED, BLUE, ORDERS}
    assert POLICY.failure_actions == {
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
    assert policy.failure_actions == {RED: FailureAction.KEEP}
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


# Mistakes, one by one: (what to replace, by what, key path, words)


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        # names that are not there
        (
            '[labels.blue]\ntypes = ["rival/blue"]',
            '[labels.blue]\ntypes = ["rival/blu"]',
            "labels.blue.types",
            ["unknown type", "found rival/blu", "Did you mean rival/blue?"],
        ),
        (
            '[conflicts.competitors]\ntypes = ["acme/red"',
            '[conflicts.competitors]\ntypes = ["acme/green"',
            "conflicts.competitors.types",
            ["unknown type", "acme/green"],
        ),
        (
            'port = 7444\ntypes = ["acme/red"',
            'port = 7444\ntypes = ["acme/red", "no/such"',
            "hosts.beta.types",
            ["unknown type", "no/such"],
        ),
        ('label = "blue"', 'label = "bleu"', "vms.spy.label", ["unknown label", "expected one of: blue", "bleu"]),
        (
            'image = "busybox"\nhost = "alpha"',
            'image = "busybux"\nhost = "alpha"',
            "vms.web.image",
            ["unknown image", "Did you mean busybox?"],
        ),
        ('host = "alpha"', 'host = "alfa"', "vms.web.host", ["unknown host", "Did you mean alpha?"]),
        (
            'resources = ["red-archive"]',
            'resources = ["red-archives"]',
            "vms.web.resources",
            ["unknown resource", "Did you mean red-archive?"],
        ),
        # keys
        ("[demands]", "[demand]", "demand", ["unknown key", "Did you mean demands?"]),
        ("margin_s = 2", "margin = 2", "intervals.margin", ["unknown key", "Did you mean margin_s?"]),
        ("port = 7444", "prot = 7444", "hosts.beta.prot", ["unknown key", "Did you mean port?"]),
        ('on_failure = "suspend"', 'on_fail = "suspend"', 'types."acme/red".on_fail', ["unknown key", "on_failure"]),
        ('label = "blue"\n', "", "vms.spy.label", ["missing", "a string, the name of a label"]),
        ('address = "192.0.2.1"\n', "", "hosts.alpha.address", ["missing", "an IPv4 or IPv6 address"]),
        ('[labels.blue]\ntypes = ["rival/blue"]', "[labels.blue]", "labels.blue.types", ["missing", "a list"]),
        ("version = 1\n", "", "coalition.version", ["missing", "an integer from 1"]),
        # wrong TOML types and values
        ("version = 1", 'version = "1"', "coalition.version", ["an integer", "found the string '1'"]),
        ("version = 1", "version = true", "coalition.version", ["an integer", "found true"]),
        ("version = 1", "version = 0", "coalition.version", ["found the integer 0"]),
        ("version = 1", f"version = {'9' * 300}", "coalition.version", ["a large integer"]),
        ('name = "supply-chain"', 'name = "Supply Chain"', "coalition.name", ["lower case", "'Supply Chain'"]),
        (
            '[labels.blue]\ntypes = ["rival/blue"]',
            '[labels.blue]\ntypes = "rival/blue"',
            "labels.blue.types",
            ["a list of strings, types", "found the string 'rival/blue'"],
        ),
        (
            '[labels.blue]\ntypes = ["rival/blue"]',
            "[labels.blue]\ntypes = [3]",
            "labels.blue.types",
            ["a list of strings", "a list with the integer 3"],
        ),
        ('[labels.blue]\ntypes = ["rival/blue"]', "[labels]\nblue = 3", "labels.blue", ["a table", "the integer 3"]),
        (
            '[labels.blue]\ntypes = ["rival/blue"]',
            '[labels.blue]\ntypes = ["Rival/Blue"]',
            "labels.blue.types",
            ["bad type name", "organisation/type"],
        ),
        (
            "[conflicts.competitors]",
            '[conflicts."Com petitors"]',
            'conflicts."Com petitors"',
            ["bad name", "lower case"],
        ),
        ("port = 7444", "port = 70000", "hosts.beta.port", ["an integer from 1 to 65535", "70000"]),
        ("port = 7444", "port = 74.5", "hosts.beta.port", ["found the float 74.5"]),
        ('"192.0.2.1"', '"alpha.example"', "hosts.alpha.address", ["not an address", "alpha.example"]),
        ('"192.0.2.1"', '"127.0.0.1"', "hosts.alpha.address", ["not the address of one host"]),
        ('"2001:db8::3"', '"::ffff:c000:201"', "hosts.gamma.address", ["stands for another"]),
        ('"2001:db8::3"', '"fe80::1%eth0"', "hosts.gamma.address", ["stands for another"]),
        ('"2001:db8::3"', '"2001:0db8::3"', "hosts.gamma.address", ["usual form", "expected 2001:db8::3"]),
        ("9f86d081", "9F86D081", "images.busybox.sha256", ["SHA-256", "lower-case"]),
        (
            'on_failure = "suspend"',
            'on_failure = "suspende"',
            'types."acme/red".on_failure',
            ['"keep", "suspend", "replace"', "Did you mean suspend?"],
        ),
        ("lease_s = 90.0", 'lease_s = "90"', "intervals.lease_s", ["a number of seconds", "the string '90'"]),
        ("lease_s = 90.0", "lease_s = nan", "intervals.lease_s", ["a number of seconds", "nan"]),
        ("lease_s = 90.0", f"lease_s = 1{'0' * 400}", "intervals.lease_s", ["a number of seconds"]),
        (
            "allow_software_tpm = false",
            "allow_software_tpm = 0",
            "demands.allow_software_tpm",
            ["true or false", "the integer 0"],
        ),
        ("empty_pcrs = [12, 13]", "empty_pcrs = [24]", "demands.empty_pcrs", ["0 to 23"]),
        ("version = 1", 'version = 1\nparent = "abc"', "coalition.parent", ["SHA-256"]),
        # what contradicts itself
        (
            '[labels.blue]\ntypes = ["rival/blue"]',
            "[labels.blue]\ntypes = []",
            "labels.blue.types",
            ["a label without types", "at least one"],
        ),
        (
            '[labels.red]\ntypes = ["acme/red"]',
            '[labels.red]\ntypes = ["acme/red", "acme/red"]',
            "labels.red.types",
            ["given twice", "acme/red"],
        ),
        (
            '[labels.red-orders]\ntypes = ["acme/red", "supplier/orders"]',
            '[labels.red-orders]\ntypes = ["acme/red", "rival/blue"]',
            "labels.red-orders.types",
            ["in conflict with itself", "competitors", "acme/red, rival/blue"],
        ),
        (
            '[conflicts.competitors]\ntypes = ["acme/red", "rival/blue"]',
            '[conflicts.competitors]\ntypes = ["acme/red"]',
            "conflicts.competitors.types",
            ["at least two types"],
        ),
        (
            'image = "busybox"\nhost = "alpha"',
            'image = "busybox"\nhost = "gamma"',
            "vms.web.host",
            ["gamma cannot run it", "gamma lacks acme/red"],
        ),
        (
            'resources = ["shared-archive"]',
            'resources = ["red-archive"]',
            "vms.broker.resources",
            ["may not use red-archive", "supplier/orders"],
        ),
        ('address = "192.0.2.2"', 'address = "192.0.2.1"', "hosts.beta.address", ["the address of alpha too"]),
        ("period_s = 30", "period_s = 90", "intervals.period_s", ["would close", "period 90, lease 90, margin 2"]),
        ("period_s = 30", "period_s = 88", "intervals.period_s", ["would close"]),
        ("period_s = 30", "period_s = 0", "intervals.period_s", ["more than 0"]),
        ("margin_s = 2", "margin_s = -1", "intervals.margin_s", ["0 seconds or more"]),
        ("lease_s = 90.0", "lease_s = 100000", "intervals.lease_s", ["1 to 86400 seconds"]),
        ("version = 1", "version = 2", "coalition.parent", ["no parent"]),
        ("version = 1", f'version = 1\nparent = "{"0" * 64}"', "coalition.parent", ["first version has no parent"]),
    ],
)
def test_a_mistake_is_told_once_with_its_key(old: str, new: str, key: str, words: list[str]) -> None:
    error = errors(changed(old, new))
    assert [finding.key for finding in error.findings] == [key]
    assert error.where == f"{SOURCE}: {key}"
    for word in words:
        assert word in str(error)


def test_all_mistakes_are_told_at_once() -> None:
    text = (
        changed('label = "blue"', 'label = "bleu"')
        .replace("port = 7444", "port = 0")
        .replace("[demands]", "[demands]\nfoo = 1")
    )
    error = errors(text)
    assert {finding.key for finding in error.findings} == {"vms.spy.label", "hosts.beta.port", "demands.foo"}
    assert "3 mistakes" in str(error)
    for finding in error.findings:
        assert f"\n  {finding}" in str(error)


def test_a_broken_section_is_not_followed_by_its_consequences() -> None:
    types = TEXT[TEXT.index("[types.") : TEXT.index("[labels.red]")]
    error = errors(TEXT.replace(types, "[types]\n[labels]\n").replace("[types]", "").replace("[labels]\n", "", 1))
    assert [finding.key for finding in error.findings] == ["types"]


def test_nothing_of_what_it_needs() -> None:
    assert {finding.key for finding in errors("").findings} >= {"coalition", "types", "hosts"}


def test_there_is_an_end_to_the_findings() -> None:
    error = errors(TEXT + "\n".join(f"[vms.v{number}]" for number in range(5000)))
    assert len(error.findings) == 100
    assert "100 or more mistakes" in str(error)


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


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_raise_bad_input_alone(data: bytes) -> None:
    with pytest.raises(BadInput):
        parse_policy(data, source=SOURCE)


@settings(deadline=None, max_examples=150)
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
