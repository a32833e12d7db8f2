"""The story on hosts whose links are held by VMs of their own, on QEMU, on Xen and on both; then what becomes of a MAC
VM that is not what the policy pins, and of one that ends.
"""

from collections.abc import Iterator, Sequence

import pytest

from shamon_host.domain.policy import HypervisorKind
from shamon_host.testing.story_report import StoryReport
from tests.integration.daemon.mac_vm_attestation_proofs import MacVmAttestationProofs
from tests.integration.daemon.mac_vm_proofs import MacVmProofs
from tests.integration.lab.lab import Lab
from tests.integration.lab.link_pair import RED, LinkPair
from tests.integration.lab.story import told_on

pytestmark = pytest.mark.full
XEN, QEMU = HypervisorKind.XEN, HypervisorKind.QEMU


def _check(report: StoryReport) -> None:
    assert report.ok, [step for step in report.steps if not step.ok]


@pytest.mark.parametrize("kinds", [(XEN, XEN), (XEN, QEMU)], ids=["xen,xen", "xen,kvm"])
def test_the_story_with_mac_vms_on_xen(kinds: Sequence[HypervisorKind]) -> None:
    for _, report in told_on(kinds, mac_vms=True):
        _check(report)


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[Lab, StoryReport]]:
    yield from told_on([QEMU], mac_vms=True, attesting=True)


@pytest.fixture(scope="module")
def pair(told: tuple[Lab, StoryReport]) -> LinkPair:
    lab, report = told
    if not report.ok:
        pytest.skip("the story did not come to its end")
    pair = LinkPair(lab)
    pair.start([RED])
    return pair


def test_the_story_with_mac_vms(told: tuple[Lab, StoryReport]) -> None:
    _check(told[1])


class TestTheMacVm(MacVmProofs):
    """On QEMU."""


class TestMacVmsThatAreAttested(MacVmAttestationProofs):
    """On QEMU."""
