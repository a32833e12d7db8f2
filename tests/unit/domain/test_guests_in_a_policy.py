"""What a policy says of VMs that are attested: which, by which Reference Values, and where that cannot be."""

import hashlib

import pytest

from shamon_host.domain.guest_demand import AfterFailure, GuestDemand
from shamon_host.domain.labels import VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import PolicyErrors, parse_canonical, parse_policy
from shamon_host.domain.policy_form import policy_bytes
from shamon_host.interchange.policy_toml import policy_toml

_DIGEST = hashlib.sha256(b"").hexdigest()
_TEXT = f"""
types = ["acme/red"]
coalition = {{name = "unit", version = 1}}
labels.red = {{types = ["acme/red"]}}
hosts.alpha = {{address = "192.0.2.1", types = ["acme/red"]}}
hosts.beta = {{address = "192.0.2.2", types = ["acme/red"]}}
images.app.sha256 = "{_DIGEST}"
guests.app.sha256 = "{_DIGEST}"
vms.web = {{label = "red", image = "app", host = "alpha", attest = "app"}}
vms.db = {{label = "red", image = "app", host = "alpha"}}
"""
WEB, DB = VmName("web"), VmName("db")


def policy(*changes: tuple[str, str]) -> Policy:
    text = _TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_policy(text.encode(), source="policy.toml")


def test_a_vm_names_its_demand() -> None:
    read = policy(
        ("guests.app.sha256", "guests.app.period_s = 5\nguests.app.on_failure = 'replace'\nguests.app.sha256")
    )
    demand = GuestDemand(name="app", sha256=_DIGEST, period_s=5.0, lease_s=90.0, on_failure=AfterFailure.REPLACE)
    assert (read.attested(WEB), read.attested(DB)) == (demand, None)
    assert parse_canonical(policy_bytes(read), source="envelope") == read
    assert parse_policy(policy_toml(read).encode(), source="written") == read


def test_a_policy_without_guests_has_the_form_that_it_had() -> None:
    """Digests and signatures from before there was this section hold."""
    plain = policy((f'guests.app.sha256 = "{_DIGEST}"\n', ""), (', attest = "app"', ""))
    assert b"guests" not in policy_bytes(plain)
    assert b"attest" not in policy_bytes(plain)
    assert plain.digest != policy().digest != policy((', attest = "app"', "")).digest


@pytest.mark.parametrize(
    ("old", "new", "key", "what"),
    [
        ('attest = "app"', 'attest = "apq"', "vms.web.attest", "unknown demand on guests"),
        ('"192.0.2.1", ', '"192.0.2.1", hypervisor = "xen", ', "vms.web.attest", "on Xen has no TPM"),
        ('attest = "app"', 'attest = "app", may_move_to = ["beta"]', "vms.web.attest", "does not move"),
        ('types = ["acme/red"]}\nhosts.alpha', 'types = ["acme/red"], quarantine = "note"}\nhosts.alpha',
         "vms.web.attest", "would go on as it is"),
        ("guests.app.sha256", "guests.app.period_s = 90\nguests.app.sha256", "guests.app.period_s", "shorter than"),
        ("guests.app.sha256", "guests.app.period_s = 0\nguests.app.sha256", "guests.app.period_s", "bad duration"),
        ("guests.app.sha256", "guests.app.lease_s = 1e8\nguests.app.sha256", "guests.app.lease_s", "bad lease"),
    ],
)  # fmt: skip
def test_mistakes(old: str, new: str, key: str, what: str) -> None:
    with pytest.raises(PolicyErrors, match=what) as raised:
        policy((old, new))
    assert [finding.key for finding in raised.value.findings] == [key]


def test_a_vm_may_be_held_to_more_than_its_label() -> None:
    note = 'types = ["acme/red"], quarantine = "note"}\nhosts.alpha'
    read = policy(('types = ["acme/red"]}\nhosts.alpha', note), ("attest =", 'quarantine = "ports-down", attest ='))
    assert read.attested(WEB) is not None
