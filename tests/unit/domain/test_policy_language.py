"""The policy language: what every key of every section gives, and that each of them is part of what is agreed on."""

import tomllib

import pytest

from shamon_host.domain.labels import UNLABELLED, HostName, ResourceKind, ResourceLabel, TypeName, VmLabel, VmName
from shamon_host.domain.overlay import Overlay, PortLimit, Transport
from shamon_host.domain.policy import (
    Demands,
    Department,
    FailureAction,
    HostEntry,
    HypervisorKind,
    Intervals,
    Organisation,
    PinnedImage,
    Primary,
    Renames,
    Signing,
    TpmDemand,
    TypeDefinition,
    VmEntry,
)
from shamon_host.domain.policy_form import policy_document
from shamon_host.domain.policy_sections import SECTIONS
from shamon_host.domain.time_windows import TimeWindow
from tests.unit.domain.policy_text import FINANCE_TEXT, changed_finance, parse

POLICY = parse(FINANCE_TEXT)
FILE = tomllib.loads(FINANCE_TEXT)
LEDGER, MAIL, BOOKS = TypeName("bank/ledger"), TypeName("bank/mail"), TypeName("rival/books")
REPORT, VAULT = TypeName("audit/report"), TypeName("audit/vault")
ALPHA, BETA = HostName("alpha"), HostName("beta")
MANUAL = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"


def test_the_file_has_every_section() -> None:
    assert set(FILE) == set(SECTIONS)


def test_coalition_signing_and_keys() -> None:
    assert (POLICY.coalition, POLICY.version, POLICY.parent) == ("finance", 3, FILE["coalition"]["parent"])
    assert POLICY.expires_s == 1814313600
    assert POLICY.primary is Primary.STE
    assert POLICY.signing == Signing(threshold=2, keys=("ops-1", "ops-2", "ops-3"))
    assert POLICY.keys == {name: table["public"] for name, table in FILE["keys"].items()}


def test_organisations_and_departments() -> None:
    assert POLICY.organisations == {
        "bank": Organisation(name="bank", key="bank-2026"),
        "rival": Organisation(name="rival"),
        "audit": Organisation(name="audit"),
    }
    assert POLICY.departments == {
        "bank/markets": Department(name="bank/markets", of="bank"),
        "bank/trading": Department(name="bank/trading", of="bank/markets"),
    }


def test_types() -> None:
    assert POLICY.types == {LEDGER, MAIL, BOOKS, REPORT, VAULT}
    assert POLICY.definitions[LEDGER] == TypeDefinition(
        name=LEDGER,
        owner="bank/trading",
        on_failure=FailureAction.REPLACE,
        tpm=TpmDemand.HARDWARE,
        confidentiality=2,
        integrity=1,
        apart=frozenset({"rival", "lobby"}),
        downgraders=frozenset({"review"}),
        equivalent=frozenset({BOOKS}),
    )
    assert POLICY.definitions[MAIL] == TypeDefinition(
        name=MAIL, owner="bank", on_failure=FailureAction.SUSPEND, integrity=1
    )
    assert POLICY.definitions[VAULT] == TypeDefinition(name=VAULT, owner="audit", confidentiality=15)


def test_labels_and_which_way_information_goes() -> None:
    review, trader, archive = (POLICY.vm_labels[name] for name in ("review", "trader", "archive"))
    assert review == VmLabel(
        name="review", types=frozenset({REPORT, LEDGER}), read_only=frozenset({LEDGER}), walls=frozenset({"board"})
    )
    assert review.reads == {REPORT, LEDGER}
    assert review.writes == {REPORT}
    assert trader.reads == {LEDGER, MAIL}
    assert trader.writes == {LEDGER}
    assert archive.types == {LEDGER, VAULT}
    assert archive.reads == {LEDGER}
    assert archive.writes == {VAULT}
    auditor = POLICY.vm_labels["auditor"]
    assert auditor.types == auditor.reads == auditor.writes == {REPORT}


def test_resources() -> None:
    assert POLICY.resource_labels == {
        "ledger-disk": ResourceLabel(name="ledger-disk", types=frozenset({LEDGER})),
        "press-disk": ResourceLabel(name="press-disk", types=frozenset({REPORT, BOOKS})),
        "report-net": ResourceLabel(name="report-net", types=frozenset({REPORT}), kind=ResourceKind.NETWORK),
        "manual": ResourceLabel(name="manual", types=frozenset({LEDGER, BOOKS}), sha256=MANUAL),
        "old": ResourceLabel(name="old", types=frozenset(), kind=ResourceKind.DISK, inaccessible=True),
    }


def test_chinese_wall_types() -> None:
    assert POLICY.walls == {"board", "lobby"}
    assert POLICY.conflict_sets == {"competitors": {"bank/markets", "rival"}, "rooms": {"board", "lobby"}}
    assert POLICY.wall_sets == {
        **POLICY.conflict_sets,
        "bank/ledger apart rival": {LEDGER, "rival"},
        "bank/ledger apart lobby": {LEDGER, "lobby"},
    }
    assert POLICY.walls_of(POLICY.vm_labels["review"]) == {
        "board",
        LEDGER,
        "bank/trading",
        "bank/markets",
        "bank",
        REPORT,
        "audit",
    }
    assert POLICY.walls_of(UNLABELLED) == frozenset()
    assert POLICY.organisation_of(LEDGER) == POLICY.organisations["bank"]


def test_hosts_and_vms() -> None:
    assert POLICY.hosts == {
        ALPHA: HostEntry(
            name=ALPHA,
            address="192.0.2.1",
            port=7443,
            types=frozenset({LEDGER, MAIL, REPORT, VAULT}),
            starting=frozenset({REPORT, LEDGER}),
        ),
        BETA: HostEntry(
            name=BETA,
            address="2001:db8::2",
            port=7444,
            types=frozenset({BOOKS, REPORT}),
            hypervisor=HypervisorKind.XEN,
        ),
    }
    assert POLICY.vms[VmName("desk")] == VmEntry(
        name=VmName("desk"),
        label="trader",
        image="app",
        host=ALPHA,
        resources=("ledger-disk", "manual"),
        interfaces=(MAIL, LEDGER),
        attest="app",
    )
    assert POLICY.vms[VmName("clerk")].addresses == {BOOKS: frozenset({"10.1.0.5", "fd00::5"})}
    assert POLICY.images == {"app": PinnedImage(name="app", sha256=FILE["images"]["app"]["sha256"])}
    assert POLICY.label_of(VmName("tools")) is UNLABELLED
    assert POLICY.vms_of(BETA) == ("clerk", "reader")


def test_interfaces_in_their_order_or_one_for_each_type_by_name() -> None:
    assert POLICY.interfaces_of(VmName("desk")) == (MAIL, LEDGER)
    assert POLICY.interfaces_of(VmName("reviewer")) == (REPORT, LEDGER)
    assert POLICY.interfaces_of(VmName("archiver")) == ()
    assert POLICY.interfaces_of(VmName("tools")) == ()


def test_overlays() -> None:
    assert POLICY.overlays["office-hours"] == Overlay(
        name="office-hours",
        label="auditor",
        peers=frozenset({VmName("reviewer")}),
        ports=frozenset({PortLimit(transport=Transport.TCP, port=443), PortLimit(transport=Transport.UDP, port=53)}),
        times=frozenset(
            {
                TimeWindow(days=frozenset(range(5)), start_minute=480, end_minute=1080),
                TimeWindow(days=frozenset({5}), start_minute=540, end_minute=720),
            }
        ),
        rate_bytes_s=1250000,
    )
    assert POLICY.overlays["quiet"] == Overlay(name="quiet", label="trader")


def test_an_empty_limit_is_not_the_same_as_none() -> None:
    closed = parse(
        changed_finance('[overlays.quiet]\nlabel = "trader"', '[overlays.quiet]\nlabel = "trader"\nports = []')
    )
    assert closed.overlays["quiet"].ports == frozenset()
    assert closed.digest != POLICY.digest
    idle = parse(changed_finance('starting = ["audit/report", "bank/ledger"]', "starting = []"))
    assert idle.hosts[ALPHA].starting == frozenset()


def test_renames_intervals_and_demands() -> None:
    assert POLICY.renames == Renames(types={TypeName("bank/post"): MAIL}, labels={"dealer": "trader"})
    assert POLICY.intervals == Intervals(
        period_s=20,
        lease_s=60.5,
        margin_s=1,
        timeout_s=10,
        action_delay_s=5,
        rekey_bytes=1 << 30,
        rekey_packets=1 << 20,
    )
    assert POLICY.demands == Demands(allow_software_tpm=True, empty_pcrs=(12,))


def test_the_least_policy_takes_the_defaults() -> None:
    policy = parse(
        """
        coalition = {name = "one", version = 1}
        organisations.acme = {}
        types = {"acme/red" = {}}
        hosts.alpha = {address = "192.0.2.1", types = ["acme/red"]}
        labels.red = {types = ["acme/red"]}
        resources.disk = {types = ["acme/red"]}
        images.app.sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        vms.web = {label = "red", image = "app", host = "alpha"}
        overlays.none = {label = "red"}
        """
    )
    red = TypeName("acme/red")
    assert (policy.expires_s, policy.primary, policy.signing, policy.parent) == (None, Primary.CHINESE_WALL, None, None)
    assert policy.definitions[red] == TypeDefinition(name=red, owner="acme")
    assert policy.vm_labels["red"].reads == policy.vm_labels["red"].writes == {red}
    assert policy.resource_labels["disk"] == ResourceLabel(name="disk", types=frozenset({red}), kind=ResourceKind.DISK)
    assert policy.hosts[ALPHA].starting is None
    assert policy.hosts[ALPHA].hypervisor is HypervisorKind.QEMU
    assert "hypervisor" not in policy_document(policy)["hosts"]["alpha"]
    assert policy.vms[VmName("web")].interfaces is None
    assert policy.overlays["none"] == Overlay(name="none", label="red")
    assert (policy.walls, policy.renames) == (frozenset(), Renames())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2027-06-30T00:00:00Z", 1814313600),
        ("2027-06-30 00:00:00.75Z", 1814313600),
        ("2027-06-29T17:00:00-07:00", 1814313600),
        ("1814313600", 1814313600),
        ("9999-12-31T23:59:59Z", 253402300799),
    ],
)
def test_a_moment_is_in_seconds_since_the_epoch(text: str, seconds: int) -> None:
    policy = parse(changed_finance("2027-06-30T02:00:00+02:00", text))
    assert policy.expires_s == seconds
    assert (policy.digest == POLICY.digest) == (seconds == POLICY.expires_s)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('walls = ["board", "lobby"]', 'walls = ["board", "lobby", "roof"]'),
        ('name = "finance"', 'name = "finances"'),
        ("version = 3", "version = 4"),
        (FILE["coalition"]["parent"], "0" * 64),
        ("expires = 2027-06-30T02:00:00+02:00", "expires = 2027-06-30T02:00:00Z"),
        ("expires = 2027-06-30T02:00:00+02:00", ""),
        ('primary = "ste"', 'primary = "chinese-wall"'),
        ("threshold = 2", "threshold = 3"),
        ('keys = ["ops-3", "ops-1", "ops-2"]', 'keys = ["ops-1", "ops-2"]'),
        ("MCowBQYDK2VwAyEAgd+D", "MCowBQYDK2VwAyEAgd+E"),
        ('key = "bank-2026"', ""),
        ('key = "bank-2026"', 'key = "ops-1"'),
        ("[organisations.audit]", '[organisations.audit]\nkey = "ops-1"'),
        ('of = "bank/markets"', 'of = "bank"'),
        ('owner = "bank/trading"', 'owner = "bank/markets"'),
        ('owner = "bank/trading"', ""),
        ('on_failure = "replace"', 'on_failure = "keep"'),
        ('tpm = "hardware"', 'tpm = "any"'),
        ("confidentiality = 2", "confidentiality = 3"),
        ("integrity = 1\napart", "integrity = 0\napart"),
        ('apart = ["rival", "lobby"]', 'apart = ["rival"]'),
        ('[types."audit/vault"]', '[types."audit/vault"]\ndowngraders = ["review"]'),
        ('equivalent = ["rival/books"]', ""),
        ("[labels.auditor]\ntypes", "[labels.auditor]\nreads"),
        ("[labels.auditor]\ntypes", "[labels.auditor]\nwrites"),
        ('walls = ["board"]', 'walls = ["bank"]'),
        ('kind = "network"', 'kind = "disk"'),
        ('[resources.old]\nkind = "disk"\ninaccessible = true', '[resources.old]\ntypes = ["audit/vault"]'),
        ('types = ["board", "lobby"]', 'types = ["board", "rival"]'),
        ('types = ["board", "lobby"]', 'types = ["board", "lobby", "rival"]'),
        ('starting = ["audit/report", "bank/ledger"]', 'starting = ["bank/ledger"]'),
        ('starting = ["audit/report", "bank/ledger"]', ""),
        ("port = 7444", ""),
        ('label = "unlabelled"', 'label = "auditor"'),
        ('interfaces = ["bank/mail", "bank/ledger"]', 'interfaces = ["bank/ledger", "bank/mail"]'),
        ('interfaces = ["bank/mail", "bank/ledger"]', ""),
        ('resources = ["ledger-disk", "manual"]', ""),
        ('peers = ["reviewer"]', 'peers = ["reviewer", "reader"]'),
        ('peers = ["reviewer"]', ""),
        ('ports = ["tcp/443", "udp/53"]', 'ports = ["tcp/443", "tcp/53"]'),
        ('times = ["mon-fri 08:00-18:00", "sat 09:00-12:00"]', 'times = ["mon-fri 08:00-18:00"]'),
        ("rate_bytes_s = 1250000", ""),
        ('[overlays.quiet]\nlabel = "trader"', ""),
        ('"bank/post" = "bank/mail"', '"bank/posts" = "bank/mail"'),
        ('dealer = "trader"', 'dealer = "review"'),
        ("period_s = 20", "period_s = 21"),
        ("margin_s = 1", "margin_s = 2"),
        ("timeout_s = 10", "timeout_s = 11"),
        ("action_delay_s = 5", "action_delay_s = 6"),
        ("rekey_bytes = 1073741824", "rekey_bytes = 1073741823"),
        ("rekey_packets = 1_048_576", "rekey_packets = 1_048_577"),
        ("rekey_packets = 1_048_576", ""),
        ('sha256 = "5f70bf', 'sha256 = "6f70bf'),
        ("period_s = 15", "period_s = 16"),
        ("lease_s = 45.5", "lease_s = 45"),
        ("on_failure = 'replace'", "on_failure = 'keep'"),
        ('attest = "app"\n', ""),
        ("allow_software_tpm = true", "allow_software_tpm = false"),
    ],
)
def test_whatever_is_decided_by_it_changes_the_digest(old: str, new: str) -> None:
    assert parse(changed_finance(old, new)).digest != POLICY.digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('walls = ["board", "lobby"]', 'walls = ["lobby", "board"] # both'),
        ("expires = 2027-06-30T02:00:00+02:00", "expires = 1814313600"),
        ('keys = ["ops-3", "ops-1", "ops-2"]', 'keys = ["ops-1", "ops-2", "ops-3"]'),
        ('[types."bank/mail"]', '[types."bank/mail"]\nowner = "bank"\ntpm = "any"\nconfidentiality = 0'),
        ('apart = ["rival", "lobby"]', 'apart = ["lobby", "rival"]'),
        ("[labels.auditor]\n", "[labels.auditor]\nreads = []\nwrites = []\nwalls = []\n"),
        ('kind = "network"\ntypes', 'inaccessible = false\nkind = "network"\ntypes'),
        ('kind = "disk"\n', ""),
        ('address = "192.0.2.1"', 'address = "192.0.2.1"\nport = 7443'),
        ('ports = ["tcp/443", "udp/53"]', 'ports = ["udp/53", "tcp/443"]'),
        ('"mon-fri 08:00-18:00"', '"mon,tue,wed-fri 08:00-18:00"'),
        ("period_s = 20", "period_s = 20.0"),
    ],
)
def test_how_it_is_said_does_not_change_the_digest(old: str, new: str) -> None:
    assert parse(changed_finance(old, new)) == POLICY
