"""The composition root: the only place that knows the real backends, and puts them behind the ports.

libvirt, the TPM stack and netlink are imported here and nowhere else in the program, so that everything else runs
without them.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shamon_host.attestation.linux_logs import LinuxMeasurementLogs
from shamon_host.attestation.ports import MeasurementLogs
from shamon_host.attestation.tpm_device import DeviceTpm
from shamon_host.daemon.api import Api
from shamon_host.daemon.api_server import serve_api
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.config import HostConfig, load_config
from shamon_host.daemon.database import Database
from shamon_host.daemon.guest_channel import VsockGuests
from shamon_host.daemon.guest_references import GuestReferences
from shamon_host.daemon.host_daemon import HostDaemon
from shamon_host.daemon.mac_vm_backends import CONTROL_BRIDGE, CONTROL_TAP, MacVmBackends
from shamon_host.daemon.policy_source import read_policy_or_envelope
from shamon_host.daemon.ports import Backends
from shamon_host.daemon.references import References
from shamon_host.daemon.result_history import ResultHistory
from shamon_host.daemon.service import live, only_one
from shamon_host.daemon.store import Store
from shamon_host.daemon.system_clock import SystemClock
from shamon_host.daemon.systemd import Systemd
from shamon_host.daemon.threads import in_thread
from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.policy import HypervisorKind
from shamon_host.hypervisor.disk_files import DiskFiles
from shamon_host.hypervisor.libvirt_live import LibvirtLive
from shamon_host.hypervisor.libvirt_qemu import LibvirtQemu
from shamon_host.hypervisor.overlay_images import LoopbackImages, OverlayImages
from shamon_host.hypervisor.ports import FlaskPolicy, Hypervisor, Images, LiveMigration
from shamon_host.link_agent.divided_kernel import DividedKernel
from shamon_host.link_agent.remote_kernel import RemoteLinkKernel, connect_to_mac_vm
from shamon_host.link_agent.setup import CONTROL_PREFIX, HOST_ADDRESS, MAC_VM_ADDRESS, PROXY_PORT
from shamon_host.links.linux_control_wire import ControlWire
from shamon_host.links.linux_kernel import LinuxLinkKernel
from shamon_host.links.linux_labelled_objects import labelled_objects
from shamon_host.links.linux_passage_streams import LinuxPassageStreams
from shamon_host.links.ports import LinkKernel
from shamon_host.peer.coalition_ca import read_ca_certificates
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.host_record import authorities_of
from shamon_host.peer.http_transport import HttpTransport, serve_peers
from shamon_host.peer.tls import TlsFiles

__all__ = ["labelled_objects", "open_logs", "open_tpm", "run_daemon"]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
OVERLAYS = Path("/var/lib/libvirt/images/shamon")


def open_tpm(tcti: str) -> DeviceTpm:
    """The TPM of this host, a context manager: what is left loaded in a TPM takes the room of others."""
    return DeviceTpm(tcti)


def open_logs() -> MeasurementLogs:
    """The measurement logs of this host."""
    return LinuxMeasurementLogs()


class ClosableHypervisor(Hypervisor, Protocol):
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What runs this host's VMs. `flask`: None on QEMU."""

    hypervisor: ClosableHypervisor
    flask: FlaskPolicy | None
    images: Images
    live: LiveMigration | None = None
    """None on Xen."""


def open_hypervisor(config: HostConfig) -> Platform:
    """The hypervisor that this host is configured to have. Xen's adapters are imported on hosts with Xen alone: they
    need its libraries."""
    if config.hypervisor is HypervisorKind.XEN:
        from shamon_host.hypervisor.libvirt_xen import LibvirtXen
        from shamon_host.hypervisor.xen_control import XenControl
        from shamon_host.hypervisor.xen_flask import XenFlask

        control = XenControl()
        return Platform(
            hypervisor=LibvirtXen(config.libvirt_uri, control),
            flask=XenFlask(control=control, work=config.runtime_dir),
            images=LoopbackImages(images=config.images, directory=OVERLAYS, kept=config.kept),
        )
    qemu = LibvirtQemu(config.libvirt_uri, virt_type=config.virt_type)
    return Platform(
        hypervisor=qemu,
        live=LibvirtLive(qemu=qemu, directory=config.runtime_dir),
        flask=None,
        images=OverlayImages(images=config.images, directory=OVERLAYS, kept=config.kept),
    )


def open_kernel(config: HostConfig) -> tuple[LinkKernel, MacVmBackends | None]:
    """The kernel that holds this host's links; where it is divided, what the daemon needs to know of its MAC VM."""
    host = LinuxLinkKernel()
    if config.mac_vm is None:
        return host, None
    remote = RemoteLinkKernel(connect_to_mac_vm)
    kernel = DividedKernel(host=host, mac_vm=remote)
    return kernel, MacVmBackends(
        config=config.mac_vm,
        kernel=kernel,
        remote=remote,
        make_control_wire=ControlWire(
            bridge=CONTROL_BRIDGE,
            address=f"{HOST_ADDRESS}/{CONTROL_PREFIX}",
            port=CONTROL_TAP,
            network=config.mac_vm.bridge,
        ).make,
    )


def run_daemon(config_path: Path) -> int:
    """Run until a signal asks for the end; return the exit code. Raises ShamonError for what ended it before."""
    return asyncio.run(_run(load_config(config_path)))


async def _run(config: HostConfig) -> int:
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    async with AsyncExitStack() as stack:
        _make_directory(config.state_dir)
        stack.enter_context(only_one(config.state_dir / "daemon.lock"))
        policy, envelope = read_policy_or_envelope(config.policy)
        authorities = authorities_of(read_ca_certificates(config.tls_ca))
        registry = PeerRegistry.load(config.peers, authorities)
        clock = SystemClock()
        database = stack.enter_context(closing(Database(config.database)))
        kernel, mac_vm = open_kernel(config)
        stack.enter_context(closing(kernel))
        platform = open_hypervisor(config)
        guests = None if config.hypervisor is HypervisorKind.XEN else VsockGuests()
        stack.enter_context(closing(platform.hypervisor))
        tpm = stack.enter_context(closing(DeviceTpm(config.tcti)))
        files = TlsFiles(ca=config.tls_ca, certificate=config.tls_certificate, key=config.tls_key)
        tls = files.opened(tpm.unseal, config.runtime_dir)
        proxy = f"http://{MAC_VM_ADDRESS}:{PROXY_PORT}" if mac_vm is not None else None
        transport = HttpTransport(tls=tls, directory=registry, proxy=proxy)
        stack.push_async_callback(transport.close)
        daemon = HostDaemon(
            name=config.name,
            policy_file=policy,
            policy_envelope=envelope,
            registry=registry,
            authorities=authorities,
            cas=tls.cas(),
            references=References(config.reference, config.reference_signers),
            guest_references=GuestReferences(config.guest_reference),
            store=Store(database),
            audit=AuditLog(database, wall_s=clock.wall_s, boottime_s=clock.boottime_s),
            history=ResultHistory(database, config.results),
            vm_settings=config.vms,
            backends=Backends(
                clock=clock,
                tpm=tpm,
                logs=open_logs(),
                kernel=kernel,
                hypervisor=platform.hypervisor,
                flask=platform.flask,
                mac_vm=mac_vm,
                # A passage is beside a link, in the kernel that holds it: nothing of this host reaches it in a MAC VM.
                live=platform.live if mac_vm is None else None,
                passages=LinuxPassageStreams() if platform.live and mac_vm is None else None,
                images=platform.images,
                disks=DiskFiles(paths=config.resources),
                transport=transport,
                guests=guests,
                service_manager=Systemd(),
                blocking=in_thread,
                boot_id=BOOT_ID.read_text(encoding="ascii").strip(),
                record_key=tls.private_key(),
            ),
        )

        @asynccontextmanager
        async def listeners() -> AsyncIterator[None]:
            own = daemon.policy.hosts[config.name]
            server = await serve_peers(
                daemon.service,
                name=config.name,
                tls=tls,
                directory=registry,
                address=own.address if mac_vm is None else HOST_ADDRESS,
                port=own.port,
            )
            try:
                api = await serve_api(Api(daemon=daemon), config.socket)
                try:
                    async with guests_served(daemon):
                        yield
                finally:
                    await api.cleanup()
            finally:
                await server.close()

        await live(daemon, listeners, asked)
    return 0


@asynccontextmanager
async def guests_served(daemon: HostDaemon) -> AsyncIterator[None]:
    """VMs may ask this host, where any may be attested; a host without vsock goes on without, and says so."""
    guests = daemon.backends.guests
    if guests is None:
        yield
        return
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(guests.served(daemon.guest_answers))
        except BackendFailed as error:
            daemon.audit.append("guests.not-served", daemon.name, {"reason": str(error)})
        yield


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BackendFailed("cannot make the state directory", where=str(path), found=error.strerror or "") from error
