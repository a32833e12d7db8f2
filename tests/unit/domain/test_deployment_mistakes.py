"""Mistakes about labels, resources, hosts, VMs, overlays and renames: each with its key, its line, and words."""

import pytest

from tests.unit.domain.policy_text import FINANCE_TEXT, assert_one_mistake, changed_finance, errors, line_of, parse

REVIEW = '[labels.review]\ntypes = ["audit/report"]\nreads = ["bank/ledger"]\nwalls = ["board"]'
DISKS = '["ledger-disk", "manual"]'
DESK = "vms.desk"


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        (REVIEW, REVIEW + '\nwrites = ["bank/ledger"]', "labels.review.writes", ["in reads too", "bank/ledger"]),
        (REVIEW, REVIEW + '\nwrites = ["audit/report"]', "labels.review.types", ["both ways", "audit/report"]),
        (REVIEW, REVIEW + '\nwrites = ["audit/reports"]', "labels.review.types", ["unknown type", "audit/report?"]),
        (REVIEW, REVIEW + "\nwrites = [7]", "labels.review.writes", ["a list of strings, types"]),
        (REVIEW, REVIEW + "\nwrite = []", "labels.review.write", ["unknown key", "Did you mean writes?"]),
        (REVIEW, REVIEW.replace('"board"', '"boards"'), "labels.review.walls", ["Chinese Wall type", "board?"]),
        (REVIEW, REVIEW.replace('"board"', '"lobby", "board"'), "labels.review.types", ["with itself", "lobby"]),
        (REVIEW, REVIEW.replace('"board"', '"board", "board"'), "labels.review.walls", ["given twice"]),
        (REVIEW, REVIEW.replace("audit/report", "bank/ledger"), "labels.review.types", ["both ways", "bank/ledger"]),
        (
            '[labels.auditor]\ntypes = ["audit/report"]',
            '[labels.auditor]\ntypes = ["audit/report"]\n\n[labels.idle]\nreads = []\nwrites = []',
            "labels.idle.types",
            ["missing", "a list of strings, types"],
        ),
        (
            '[labels.auditor]\ntypes = ["audit/report"]',
            '[labels.auditor]\ntypes = ["audit/report"]\n\n[labels.idle]\ntypes = []\nreads = []',
            "labels.idle.types",
            ["a label without types"],
        ),
        (
            "[labels.auditor]",
            '[labels.unlabelled]\ntypes = ["audit/report"]\n\n[labels.auditor]',
            "labels.unlabelled",
            ["a reserved name"],
        ),
        # through its organisations, not its types
        (
            '[labels.trader]\ntypes = ["bank/ledger"]\nreads = ["bank/mail"]',
            '[labels.trader]\ntypes = ["bank/ledger"]\nreads = ["bank/mail"]\nwalls = ["rival"]',
            "labels.trader.types",
            ["in conflict with itself", "bank/ledger apart rival"],
        ),
        # resources
        (
            "inaccessible = true",
            'inaccessible = 1\ntypes = ["bank/mail"]',
            "resources.old.inaccessible",
            ["true or false", "the integer 1"],
        ),
        ("inaccessible = true\n", "", "resources.old.types", ["missing", "a list of strings, types"]),
        ("inaccessible = true", "inaccessible = false\ntypes = []", "resources.old.types", ["at least one type"]),
        (
            "inaccessible = true",
            'inaccessible = true\ntypes = ["bank/mail"]',
            "resources.old.types",
            ["an inaccessible resource has no types", "found bank/mail"],
        ),
        ('kind = "network"', 'kind = "net"', "resources.report-net.kind", ['"disk", "network"', "mean network?"]),
        ('kind = "network"', 'sort = "network"', "resources.report-net.sort", ["unknown key"]),
        (
            DISKS,
            '["old"]',
            f"{DESK}.resources",
            ["it may not use old", "found it is inaccessible"],
        ),
        (
            DISKS,
            '["report-net"]',
            f"{DESK}.resources",
            ["it may not use report-net", "audit/report"],
        ),
        # conflict sets
        ('["board", "lobby"]\n\n[hosts', '["board", "lobbies"]\n\n[hosts', "conflicts.rooms.types", ["mean lobby?"]),
        (
            '["board", "lobby"]\n\n[hosts',
            '["board"]\n\n[hosts',
            "conflicts.rooms.types",
            ["at least two types", "board"],
        ),
        ('types = ["board", "lobby"]\n', "", "conflicts.rooms.types", ["missing"]),
        ("[conflicts.rooms]", "[conflicts.rooms]\nwalls = []", "conflicts.rooms.walls", ["unknown key"]),
        # hosts
        ('starting = ["audit/report"', 'starting = ["rival/books"', "hosts.alpha.starting", ["types of its own"]),
        ('starting = ["audit/report"', 'starting = ["report"', "hosts.alpha.starting", ["bad type name"]),
        ('starting = ["audit/report"', 'start = ["audit/report"', "hosts.alpha.start", ["unknown key", "starting?"]),
        # VMs
        ('label = "unlabelled"', 'label = "unlabeled"', "vms.tools.label", ["unknown label", "unlabelled?"]),
        (
            'label = "unlabelled"',
            'label = "unlabelled"\nresources = ["ledger-disk"]',
            "vms.tools.resources",
            ["it may not use ledger-disk", "that it reads: none"],
        ),
        (
            'label = "unlabelled"',
            'label = "unlabelled"\ninterfaces = ["bank/mail"]',
            "vms.tools.interfaces",
            ["its label has no such type: bank/mail"],
        ),
        ('["bank/mail", "bank/ledger"]\n\n[vms', '["bank/mail", "bank/mail"]\n\n[vms', f"{DESK}.interfaces", ["twice"]),
        ('["bank/mail", "bank/ledger"]\n\n[vms', '["rival/books"]\n\n[vms', f"{DESK}.interfaces", ["no such type"]),
        ('["bank/mail", "bank/ledger"]\n\n[vms', '["Mail"]\n\n[vms', f"{DESK}.interfaces", ["bad type name", "'Mail'"]),
        ('["bank/mail", "bank/ledger"]\n\n[vms', "2\n\n[vms", f"{DESK}.interfaces", ["a list of strings, types"]),
        # overlays
        ('label = "auditor"\npeers', 'label = "audit"\npeers', "overlays.office-hours.label", ["unknown label"]),
        ('label = "auditor"\npeers', "peers", "overlays.office-hours.label", ["missing", "the name of a label"]),
        ('label = "auditor"\npeers', 'label = "unlabelled"\npeers', "overlays.office-hours.label", ["unknown label"]),
        ('peers = ["reviewer"]', 'peers = ["review"]', "overlays.office-hours.peers", ["unknown VM", "reviewer?"]),
        ('peers = ["reviewer"]', 'peers = "reviewer"', "overlays.office-hours.peers", ["names of VMs"]),
        ('"tcp/443"', '"tcp/0"', "overlays.office-hours.ports", ["bad port", "'tcp/0'"]),
        ('"tcp/443"', '"tcp/65536"', "overlays.office-hours.ports", ["bad port", "1 to 65535"]),
        ('"tcp/443"', '"sctp/443"', "overlays.office-hours.ports", ["bad port", "tcp/PORT or udp/PORT"]),
        ('"tcp/443"', "443", "overlays.office-hours.ports", ["a list of strings", "ports such as tcp/443"]),
        ('"tcp/443"', '"udp/53"', "overlays.office-hours.ports", ["given twice", "udp/53"]),
        ('"sat 09:00-12:00"', '"sat 12:00-09:00"', "overlays.office-hours.times", ["a start before the end"]),
        ('"sat 09:00-12:00"', '"Saturday"', "overlays.office-hours.times", ["bad time window", "'Saturday'"]),
        ("rate_bytes_s = 1250000", "rate_bytes_s = 999", "overlays.office-hours.rate_bytes_s", ["from 1000"]),
        ("rate_bytes_s = 1250000", "rate_bytes_s = 10000000001", "overlays.office-hours.rate_bytes_s", ["10000000000"]),
        ("rate_bytes_s = 1250000", "rate_bytes_s = 1e6", "overlays.office-hours.rate_bytes_s", ["an integer"]),
        (
            "rate_bytes_s = 1250000",
            "rate_byte_s = 1",
            "overlays.office-hours.rate_byte_s",
            ["unknown key", "rate_bytes_s?"],
        ),
        # intervals
        ("rekey_bytes = 1073741824", "rekey_bytes = 65535", "intervals.rekey_bytes", ["from 65536 to 137438953472"]),
        ("rekey_bytes = 1073741824", "rekey_bytes = 137438953473", "intervals.rekey_bytes", ["from 65536"]),
        ("rekey_bytes = 1073741824", "rekey_bytes = 1e9", "intervals.rekey_bytes", ["an integer"]),
        ("rekey_packets = 1_048_576", "rekey_packets = 99", "intervals.rekey_packets", ["from 100 to 4294967296"]),
        ("rekey_packets = 1_048_576", "rekey_packets = 4294967297", "intervals.rekey_packets", ["from 100"]),
        ("rekey_packets = 1_048_576", "rekey_packet = 9", "intervals.rekey_packet", ["unknown key", "rekey_packets?"]),
    ],
)
def test_a_mistake_is_told_once_with_its_key_and_line(old: str, new: str, key: str, words: list[str]) -> None:
    assert_one_mistake(changed_finance(old, new), key, *words)


POST = 'renames.types."bank/post"'


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ('"bank/post" = "bank/mail"', '"bank/post" = "bank/mails"', POST, ["unknown type", "Did you mean bank/mail?"]),
        ('"bank/post" = "bank/mail"', '"bank/post" = 1', POST, ["a string, the new name", "the integer 1"]),
        ('"bank/post" = "bank/mail"', '"bank/post" = "mail"', POST, ["bad type name", "'mail'"]),
        ('"bank/post" = "bank/mail"', 'post = "bank/mail"', "renames.types.post", ["bad type name", "'post'"]),
        (
            '"bank/post" = "bank/mail"',
            '"bank/ledger" = "bank/mail"',
            'renames.types."bank/ledger"',
            ["the old name is still there", "a name that is gone"],
        ),
        (
            '"bank/post" = "bank/mail"',
            '"bank/post" = "bank/mail"\n"bank/pigeon" = "bank/mail"',
            POST,
            ["bank/pigeon is renamed to it too", "one each", "bank/mail"],
        ),
        ('dealer = "trader"', 'dealer = "traders"', "renames.labels.dealer", ["unknown label", "mean trader?"]),
        ('dealer = "trader"', 'auditor = "trader"', "renames.labels.auditor", ["the old name is still there"]),
        ('dealer = "trader"', 'dealer = "unlabelled"', "renames.labels.dealer", ["unknown label", "unlabelled"]),
        (
            'dealer = "trader"',
            'dealer = "trader"\nmerchant = "trader"',
            "renames.labels.merchant",
            ["dealer is renamed to it too"],
        ),
        ("[renames.labels]", "[renames.vms]", "renames.vms", ["unknown key", "types, labels"]),
    ],
)
def test_mistakes_in_renames(old: str, new: str, key: str, words: list[str]) -> None:
    assert_one_mistake(changed_finance(old, new), key, *words)


def test_the_first_version_renames_nothing() -> None:
    start = FINANCE_TEXT.index("parent = ")
    text = FINANCE_TEXT[:start] + FINANCE_TEXT[FINANCE_TEXT.index("\n", start) + 1 :]
    text = text.replace("version = 3", "version = 1")
    error = errors(text)
    assert {finding.key for finding in error.findings} == {POST, "renames.labels.dealer"}
    for finding in error.findings:
        assert finding.what == "the first version renames nothing"
        assert finding.line == line_of(text, finding.key)
    parse(text[: text.index("[renames.types]")] + text[text.index("[intervals]") :])


@pytest.mark.parametrize(
    ("table", "name", "wrong"),
    [
        ("labels", "types", 'types = ["no/such"]'),
        ("labels", "types", 'types = "no/such"'),
        ("resources", "types", 'types = ["no/such"]'),
        ("conflicts", "types", 'types = ["board"]'),
        ("hosts", "address", 'types = ["bank/mail"]\naddress = "alpha.example"'),
        ("vms", "image", 'label = "unlabelled"\nhost = "alpha"\nimage = "apps"'),
        ("overlays", "label", 'label = "auditors"'),
        ("organisations", "key", 'key = "ops-4"'),
        ("keys", "public", 'public = "none"'),
    ],
)
def test_a_name_with_a_dot_is_one_part_of_the_key(table: str, name: str, wrong: str) -> None:
    text = f'{FINANCE_TEXT}\n[{table}."a.b"]\n{wrong}\n'
    assert_one_mistake(text, f'{table}."a.b".{name}')
