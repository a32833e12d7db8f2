"""The story on hosts whose links are held by VMs of their own, on QEMU, on Xen and on both; then what becomes of a MAC
VM that is not what the policy pins, and of one that ends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from shamon_host.domain.policy import HypervisorKind
from shamon_host.testing.story_report import StoryReport
from tests.integration.lab.host import LabHost
from tests.integration.lab.lab import Lab
from tests.integration.lab.link_pair import RED, LinkPair
from tests.integration.lab.story import told_on
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.full
XEN, QEMU = HypervisorKind.XEN, HypervisorKind.QEMU
_MAC = "/var/lib/libvirt/images/mac"
_FLIP = """
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(int(sys.argv[2]))
    byte = file.read(1)
    file.seek(int(sys.argv[2]))
    file.write(bytes([byte[0] ^ 1]))
"""


def _check(report: StoryReport) -> None:
    assert report.ok, [step for step in report.steps if not step.ok]


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[Lab, StoryReport]]:
    yield from told_on([QEMU], mac_vms=True)


def test_the_story_with_mac_vms(told: tuple[Lab, StoryReport]) -> None:
    _check(told[1])


@dataclass(frozen=True)
class Attacked:
    """alpha and beta, whose daemons run, and whose VMs talk; alpha's MAC VM is the one that something happens to."""

    pair: LinkPair

    @property
    def host(self) -> LabHost:
        return self.pair.alpha

    def mac_vm(self) -> dict[str, Any]:
        told: dict[str, Any] = self.pair.ask(self.host, "mac-vm", check=False)
        return told

    def flip(self, file: str, place: int) -> None:
        """Change one byte of what the MAC VM is started from, or back."""
        self.host.put("/root/flip.py", _FLIP)
        self.host.run(f"/usr/bin/python3 /root/flip.py {_MAC}/{file} {place}")


@pytest.fixture(scope="module")
def attacked(told: tuple[Lab, StoryReport]) -> Attacked:
    lab, report = told
    if not report.ok:
        pytest.skip("the story did not come to its end")
    pair = LinkPair(lab)
    pair.start([RED])
    return Attacked(pair)


def test_nothing_was_denied_in_a_mac_vm_but_what_the_story_tried(attacked: Attacked) -> None:
    """The denial of polmatch is of the SA with the wrong category, if this is the MAC VM that it came to."""
    assert [line for line in attacked.mac_vm()["denials"] if "polmatch" not in line] == []


def test_a_mac_vm_that_ends_is_started_again(attacked: Attacked) -> None:
    before = attacked.mac_vm()["boot_id"]
    attacked.host.run("virsh -q destroy alpha-mac", timeout_s=60)

    def is_another() -> bool:
        return attacked.mac_vm()["boot_id"] not in ("", before)

    wait_until(is_another, timeout_s=240, what="another MAC VM answers", every_s=2)
    attacked.pair.until_carried([RED])


@pytest.mark.parametrize(("file", "place"), [("root.img", 1 << 20), ("initrd", 1 << 20), ("vmlinuz", 1 << 20)])
def test_a_mac_vm_of_which_one_byte_was_changed(attacked: Attacked, file: str, place: int) -> None:
    """It is not started, the host says why, its peer cuts it off; with the byte as it was everything is back."""
    host, pair = attacked.host, attacked.pair
    attacked.flip(file, place)
    since = pair.audit_end(host)
    host.run("virsh -q destroy alpha-mac", timeout_s=60)

    def refused() -> bool:
        entries = pair.audit_since(host, since)
        return any("pinned one" in str(entry["detail"]) and file in str(entry["detail"]) for entry in entries)

    def cut_off() -> bool:
        (peer,) = (row for row in pair.ask(pair.beta, "peers") if row["host"] == "alpha")
        return bool(peer["state"] != "admitted")

    wait_until(refused, timeout_s=120, what="the digest is not the pinned one", every_s=2)
    assert attacked.mac_vm()["boot_id"] == ""
    wait_until(cut_off, timeout_s=180, what="beta cuts alpha off", every_s=2)
    attacked.flip(file, place)
    wait_until(lambda: attacked.mac_vm()["boot_id"] != "", timeout_s=240, what="the MAC VM answers", every_s=2)
    pair.until_carried([RED])


@pytest.mark.parametrize("kinds", [(XEN, XEN), (XEN, QEMU)], ids=["xen,xen", "xen,kvm"])
def test_the_story_with_mac_vms_on_xen(kinds: Sequence[HypervisorKind]) -> None:
    for _, report in told_on(kinds, mac_vms=True):
        _check(report)
