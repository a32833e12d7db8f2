"""The daemon asks before anything labelled is made, once for each policy that is loaded."""

import struct

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.linux_events import selinux_events
from shamon_host.links.linux_selinux import LinkConditions
from shamon_host.links.ports import ChangedEvent
from shamon_host.selinux import LINK_MODULE, shipped_module
from shamon_host.selinux.link_conditions import DAEMON
from shamon_host.selinux.ports import SelinuxStatus
from shamon_host.testing.selinux import MemorySelinuxHost, MemorySelinuxKernel

CIL = shipped_module(LINK_MODULE).text.decode()


@pytest.fixture
def kernel() -> MemorySelinuxKernel:
    return MemorySelinuxHost().with_module().kernel


def _conditions(kernel: MemorySelinuxKernel, own: str = DAEMON) -> LinkConditions:
    return LinkConditions(kernel, lambda: own)


def test_a_kernel_that_is_fit(kernel: MemorySelinuxKernel) -> None:
    conditions = _conditions(kernel)
    assert conditions.enforcing()
    assert conditions.missing() == ()
    conditions.demand("SA")


def test_the_policy_is_asked_once_for_each_load(kernel: MemorySelinuxKernel) -> None:
    conditions = _conditions(kernel)
    for _ in range(3):
        conditions.demand("SA")
    asked = kernel.questions
    conditions.demand("SA")
    assert kernel.questions == asked
    kernel.load([CIL])
    conditions.demand("SA")
    assert kernel.questions == 2 * asked


def test_a_module_that_is_removed_is_noticed_and_comes_back(kernel: MemorySelinuxKernel) -> None:
    conditions = _conditions(kernel)
    conditions.demand("SA")
    kernel.load([])
    with pytest.raises(BackendFailed, match="not fit for links") as failed:
        conditions.demand("SA")
    assert "shamon_link_t" in failed.value.found
    assert "shamon selinux install" in failed.value.remedy
    kernel.load([CIL])
    conditions.demand("SA")


def test_permissive_the_kernel_or_the_domain(kernel: MemorySelinuxKernel) -> None:
    conditions = _conditions(kernel)
    kernel.enforcing = False
    with pytest.raises(BackendFailed, match="not enforcing"):
        conditions.demand("SA")
    kernel.enforcing = True
    conditions.demand("SA")
    kernel.load([CIL, "(typepermissive shamon_t)"])
    with pytest.raises(BackendFailed, match="permissive"):
        conditions.demand("SA")


@pytest.mark.parametrize("own", ["unconfined_u:unconfined_r:unconfined_t:s0", "", "kernel"])
def test_a_daemon_in_another_domain_labels_nothing(kernel: MemorySelinuxKernel, own: str) -> None:
    with pytest.raises(BackendFailed, match="shamon_t"):
        _conditions(kernel, own).demand("SA")


def test_selinux_that_cannot_be_asked_is_not_enforcing(kernel: MemorySelinuxKernel) -> None:
    kernel.fails = "No such file or directory"
    conditions = _conditions(kernel)
    assert not conditions.enforcing()
    assert "cannot be asked" in conditions.missing()[0]
    with pytest.raises(BackendFailed, match="not enforcing"):
        conditions.demand("SA")
    kernel.fails = ""
    assert conditions.missing() == (), "what failed is not remembered"


class Restless(MemorySelinuxKernel):
    """A policy is loaded each time that somebody looks."""

    def status(self) -> SelinuxStatus:
        self.policy_loads += 1
        return super().status()


def test_a_policy_that_changes_while_it_is_asked_is_not_believed() -> None:
    kernel = Restless()
    kernel.load([CIL])
    with pytest.raises(BackendFailed, match="does not come to rest"):
        _conditions(kernel).demand("SA")


def test_loads_and_changes_of_the_mode_are_told() -> None:
    """struct selnl_msg_setenforce and selnl_msg_policyload: one number each."""

    def message(kind: int) -> bytes:
        return struct.pack("=IHHIIi", 20, kind, 0, 0, 0, 1)

    told = list(selinux_events(message(0x10) + message(0x11) + message(0x12)))
    assert [event.what for event in told if isinstance(event, ChangedEvent)] == [
        "SELinux's mode was set",
        "an SELinux policy was loaded",
    ]
