"""What the kernel should hold of links and of taps of this host's VMs: put together from policy, VMs and time here, and
brought about by `links.manager`."""

from collections.abc import Callable
from dataclasses import dataclass

from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.ports import Clock
from shamon_host.daemon.tap_filters import tap_filters
from shamon_host.hypervisor.vm_states import VmStates
from shamon_host.links.manager import LinkManager
from shamon_host.links.model import KernelState
from shamon_host.links.pending import Pending
from shamon_host.links.tap_filter import TapFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkReconciler:
    """Synchronous. Raises BackendFailed."""

    enforced: EnforcedPolicy
    clock: Clock
    links: LinkManager
    vms: VmStates
    read_host: Callable[[], KernelState] | None = None
    """This host's own half of the kernel, where a MAC VM has the other one."""

    def reconcile(self) -> KernelState:
        """Bring the kernel's link objects, and the taps of our VMs, to what is wanted; they are returned as last
        read."""
        with self.links.held():
            return self.links.reconcile(self.vms.taps(), self._filters())

    def pending(self) -> Pending:
        """What `reconcile` would do now."""
        with self.links.held():
            return self.links.pending(self.vms.taps(), self._filters())

    def narrow(self) -> None:
        """Of what `reconcile` does, what only narrows and is this host's own. It waits for no MAC VM, which may be away
        or long in answering."""
        if self.read_host is not None:
            self.links.narrow(self.read_host(), self.vms.taps(), self._filters())

    def _filters(self) -> dict[str, TapFilter]:
        return tap_filters(self.enforced.policy, self.vms.devices(), self.clock.wall_s())
