"""VMs' taps on their bridges: one that is to come off does so at once, whoever waits for whatever else of the kernel.

Where a MAC VM holds a host's links, `LinkManager.lock` may be held for as long as that VM takes to answer. A VM that is
cut off does not wait for it: its tap is in the host's own kernel.
"""

import threading
from dataclasses import dataclass, field

from shamon_host.links.model import AttachPort, DetachPort
from shamon_host.links.ports import LinkKernel


@dataclass(kw_only=True)
class TapPorts:
    """From any thread. Raises BackendFailed."""

    kernel: LinkKernel
    _off: set[str] = field(default_factory=set, repr=False)
    """Taken off since somebody began to look which belong on a bridge: that look may have been before."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def attach(self, operation: AttachPort) -> None:
        """Unless it was taken off meanwhile."""
        with self._lock:
            if operation.interface not in self._off:
                self.kernel.apply([operation])

    def detach(self, interface: str) -> None:
        """Of every look that has begun it stays off."""
        with self._lock:
            self._off.add(interface)
            self.kernel.apply([DetachPort(interface=interface)])

    def is_off(self, interface: str) -> bool:
        return interface in self._off

    def look_anew(self) -> None:
        """From now on it is looked at which taps belong on a bridge: whoever was cut off before does not."""
        with self._lock:
            self._off.clear()
