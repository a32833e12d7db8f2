"""What the daemon needs of a MAC VM. Real: `remote_kernel`. In memory: `shamon_host.testing.mac_vm`."""

from collections.abc import Callable
from typing import Protocol

from shamon_host.link_agent.setup import MacVmSetup
from shamon_host.links.ports import LinkKernel


class MacVmKernel(LinkKernel, Protocol):
    """The kernel of this host's MAC VM. Every call raises BackendFailed while the VM does not answer."""

    setup: Callable[[], MacVmSetup]
    """What the MAC VM is told; given before the first call."""

    def boot_id(self) -> str:
        """Of its kernel, which tells one start of the VM from another."""
        ...

    def forget(self) -> None:
        """The VM is another one from now on: connections to the one before are worth nothing."""
        ...

    def denials(self) -> tuple[str, ...]:
        """What its SELinux denied, as its kernel's log says; the newest last."""
        ...
