"""What a host in the profile `vm` has beside the other backends: its MAC VM's kernel, and the wire to it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shamon_host.daemon.config import MacVmConfig
from shamon_host.link_agent.divided_kernel import DividedKernel
from shamon_host.link_agent.ports import MacVmKernel

CONTROL_BRIDGE = "shcontrol"
"""On the host: the control wire, with nobody else on it."""
CONTROL_TAP = "shmc-control"
"""Its only port."""


@dataclass(frozen=True, kw_only=True)
class MacVmBackends:
    """`kernel`: the daemon's link kernel; `remote`: the MAC VM's half of it."""

    config: MacVmConfig
    kernel: DividedKernel
    remote: MacVmKernel
    make_control_wire: Callable[[int], Sequence[str]]
    """Look at the control wire, its bridge with the host's address on it and its rules, and make it right; this is the
    TCP port at which the daemon answers there. Returns what was wrong, in words. Raises BackendFailed where it stays
    so, or the host has an address on the MAC VM's network."""
    pause: Callable[[float], None] = time.sleep
    """For so many seconds, in a worker thread, while the MAC VM boots."""
    now_s: Callable[[], float] = time.monotonic
