"""What a host in the profile `vm` has beside the other backends: its MAC VM's kernel, and the wire to it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from shamon_host.daemon.config import MacVmConfig
from shamon_host.link_agent.divided_kernel import DividedKernel
from shamon_host.link_agent.ports import MacVmKernel

CONTROL_BRIDGE = "shcontrol"
"""On the host: the control wire, with nobody else on it."""


@dataclass(frozen=True, kw_only=True)
class MacVmBackends:
    """`kernel`: the daemon's link kernel; `remote`: the MAC VM's half of it."""

    config: MacVmConfig
    kernel: DividedKernel
    remote: MacVmKernel
    make_control_wire: Callable[[int], None]
    """Make the bridge of the control wire, with the host's address on it, or make it right; this is the TCP port at
    which the daemon answers there. Raises BackendFailed."""
    pause: Callable[[float], None] = time.sleep
    """For so many seconds, in a worker thread, while the MAC VM boots."""
    now_s: Callable[[], float] = time.monotonic
