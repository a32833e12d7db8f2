"""Every mistake of a policy file is told with its file, line, key, what was expected and what is nearest."""

import pytest

from tests.unit.domain.policy_text import TEXT, assert_one_mistake, changed, errors, line_of

# One by one: (what to replace, by what, key path, words)


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
            ["unknown Chinese Wall type", "acme/green", "Did you mean acme/red?"],
        ),
        (
            'port = 7444\ntypes = ["acme/red"',
            'port = 7444\ntypes = ["acme/red", "no/such"',
            "hosts.beta.types",
            ["unknown type", "no/such"],
        ),
        (
            'label = "blue"',
            'label = "bleu"',
            "vms.spy.label",
            ["unknown label", "expected one of: unlabelled, blue", "bleu"],
        ),
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
def test_a_mistake_is_told_once_with_its_key_and_line(old: str, new: str, key: str, words: list[str]) -> None:
    assert_one_mistake(changed(old, new), key, *words)


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
        assert f"\n  line {line_of(text, finding.key)}: {finding.key}: {finding.what}" in str(error)


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
