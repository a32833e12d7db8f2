"""A host whose links are held by a VM of its own, in a policy: what is pinned, and which VM it can be."""

import pytest

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import PinnedBoot, Policy
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.policy_form import policy_document
from shamon_host.domain.replay import Running, violations
from shamon_host.domain.results import TpmKind

ALPHA, MAC = HostName("alpha"), VmName("alpha-mac")
BOOT = f'kernel_sha256 = "{"1" * 64}", initrd_sha256 = "{"2" * 64}", cmdline = "quiet panic=1"'
TEXT = f"""
types = ["acme/red"]
coalition = {{name = "unit", version = 1}}
labels.red.types = ["acme/red"]
resources.cache.types = ["acme/red"]
hosts.alpha = {{address = "192.0.2.1", types = ["acme/red"], mac_vm = "alpha-mac"}}
hosts.beta = {{address = "192.0.2.2", types = ["acme/red"]}}
images.app.sha256 = "{"0" * 64}"
images.mac-vm = {{sha256 = "{"3" * 64}", {BOOT}}}
vms.alpha-mac = {{label = "unlabelled", image = "mac-vm", host = "alpha"}}
vms.web = {{label = "red", image = "app", host = "alpha"}}
"""


def parsed(*changes: tuple[str, str]) -> Policy:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return parse_policy(text.encode(), source="policy.toml")


def test_what_it_says() -> None:
    policy = parsed()
    assert policy.hosts[ALPHA].mac_vm == MAC
    assert policy.images["mac-vm"].boot == PinnedBoot(
        kernel_sha256="1" * 64, initrd_sha256="2" * 64, cmdline="quiet panic=1"
    )
    assert policy.images["app"].boot is None
    assert [vm for vm in policy.vms if policy.is_mac_vm(vm)] == [MAC]
    assert policy.interfaces_of(MAC) == ()


def test_it_is_in_the_canonical_form_and_a_policy_without_is_as_before() -> None:
    document = policy_document(parsed())
    assert document["hosts"]["alpha"]["mac_vm"] == MAC
    assert "mac_vm" not in document["hosts"]["beta"]
    assert document["images"]["app"] == {"sha256": "0" * 64}
    assert document["images"]["mac-vm"]["cmdline"] == "quiet panic=1"
    assert parsed((BOOT, BOOT.replace("panic=1", "panic=2"))).digest != parsed().digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('mac_vm = "alpha-mac"', 'mac_vm = "beta-mac"'), "VM"),
        (('label = "unlabelled"', 'label = "red"'), "unlabelled"),
        (('"mac-vm", host = "alpha"', '"mac-vm", host = "beta"'), "a VM of this host"),
        (('"mac-vm", host = "alpha"', '"mac-vm", host = "alpha", may_move_to = ["beta"]'), "moves nowhere"),
        (('image = "mac-vm"', 'image = "app"'), "kernel_sha256"),
        ((f", {BOOT}", ""), "kernel_sha256"),
        ((', cmdline = "quiet panic=1"', ""), "cmdline"),
        (('cmdline = "quiet panic=1"', 'cmdline = ""'), "command line"),
    ],
)
def test_mistakes(change: tuple[str, str], words: str) -> None:
    with pytest.raises(BadInput) as raised:
        parsed(change)
    assert words in str(raised.value)


def test_who_holds_the_links_changes_by_hand_alone() -> None:
    other = parsed((', mac_vm = "alpha-mac"', ""))
    running = Running(host=ALPHA, vms={}, tpm=TpmKind.SOFTWARE)
    assert any("mac_vm of alpha changes" in each for each in violations(other, parsed(), running))


ATTESTED = ('host = "alpha"}\nvms.web', 'host = "alpha", attest = "mac"}\nvms.web')
DEMAND = ("vms.alpha-mac", f'guests.mac.sha256 = "{"4" * 64}"\nvms.alpha-mac')


def test_one_on_qemu_may_be_attested() -> None:
    demand = parsed(ATTESTED, DEMAND).attested(MAC)
    assert demand is not None
    assert (demand.name, demand.sha256) == ("mac", "4" * 64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((ATTESTED,), "demand on guests"),
        ((ATTESTED, DEMAND, ('mac_vm = "alpha-mac"', 'mac_vm = "alpha-mac", hypervisor = "xen"')), "no TPM"),
    ],
)
def test_one_that_cannot_be_attested(changes: tuple[tuple[str, str], ...], words: str) -> None:
    with pytest.raises(BadInput) as raised:
        parsed(*changes)
    assert words in str(raised.value)
    assert "vms.alpha-mac.attest" in str(raised.value)


@pytest.mark.parametrize(("grade", "allowed"), [("note", False), ("ports-down", True), ("suspend", True)])
def test_its_quarantine_may_leave_it_on_the_network_but_not_on_the_bridges_of_vms(grade: str, *, allowed: bool) -> None:
    change = ('host = "alpha"}\nvms.web', f'host = "alpha", quarantine = "{grade}"}}\nvms.web')
    if allowed:
        assert parsed(change).quarantine_of(MAC) == grade
    else:
        with pytest.raises(BadInput, match="weaker than its label says"):
            parsed(change)


def test_another_vm_without_a_label_may_not_stay_on_its_bridges() -> None:
    other = (
        "vms.web",
        'vms.lone = {label = "unlabelled", image = "app", host = "alpha", quarantine = "ports-down"}\nvms.web',
    )
    with pytest.raises(BadInput, match="weaker than its label says"):
        parsed(other)
