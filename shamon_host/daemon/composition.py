"""The composition root: the only place that knows the real backends, and puts them behind the ports.

libvirt, the TPM stack and netlink are imported here and nowhere else in the program, so that everything else runs
without them.
"""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from shamon_host.attestation.linux_logs import LinuxMeasurementLogs
from shamon_host.attestation.ports import MeasurementLogs, Tpm
from shamon_host.attestation.tpm_device import DeviceTpm
from shamon_host.daemon.api import Api
from shamon_host.daemon.api_server import serve_api
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.config import HostConfig, load_config
from shamon_host.daemon.database import Database
from shamon_host.daemon.files import read_policy_file
from shamon_host.daemon.host_daemon import HostDaemon
from shamon_host.daemon.ports import Backends, T
from shamon_host.daemon.references import References
from shamon_host.daemon.store import Store
from shamon_host.daemon.system_clock import SystemClock
from shamon_host.daemon.systemd import Systemd
from shamon_host.domain.errors import ShamonError
from shamon_host.hypervisor.libvirt_qemu import LibvirtQemu
from shamon_host.hypervisor.overlay_images import OverlayImages
from shamon_host.links.linux_kernel import LinuxLinkKernel
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.http_transport import HttpTransport, serve_peers

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
OVERLAYS = Path("/var/lib/libvirt/images/shamon")


def open_tpm(tcti: str) -> Tpm:
    """The TPM of this host. Raises BackendFailed."""
    return DeviceTpm(tcti)


def open_logs() -> MeasurementLogs:
    """The measurement logs of this host."""
    return LinuxMeasurementLogs()


def run_daemon(config_path: Path) -> int:
    """Run until a signal asks for the end; return the exit code."""
    return asyncio.run(_run(load_config(config_path)))


async def _in_thread(call: Callable[[], T], /) -> T:
    return await asyncio.to_thread(call)
