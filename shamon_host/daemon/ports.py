"""What the daemon needs beside the ports of the layers below it: time, threads, and who watches it."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

from shamon_host.attestation.ports import MeasurementLogs, Tpm
from shamon_host.daemon.mac_vm_backends import MacVmBackends
from shamon_host.domain.labels import HostName
from shamon_host.hypervisor.ports import Disks, FlaskPolicy, Hypervisor, Images, LiveMigration
from shamon_host.links.ports import LinkKernel, PassageStreams
from shamon_host.peer.ports import PeerTransport
from shamon_host.peer.signed_record import PrivateKey

T = TypeVar("T")


class Clock(Protocol):
    """Real: `system_clock`. In memory: `shamon_host.testing.clock`, where nobody waits."""

    def boottime_s(self) -> float:
        """CLOCK_BOOTTIME: leases run on it. Never stepped."""
        ...

    def wall_s(self) -> float:
        """Seconds since the epoch, for people and certificates only; may be stepped."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class Blocking(Protocol):
    """Run a synchronous call without holding up the event loop (in memory: run it directly).

    A call that has begun is waited for even when whoever asked is cancelled."""

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]: ...


class GuestQuestions(Protocol):
    """Who answers what VMs ask this host."""

    async def answer(self, cid: int, request: bytes) -> bytes:
        """The answer to a VM at this address on vsock. Never raises ShamonError."""
        ...


class Guests(Protocol):
    """The agents in this host's VMs, each over a channel that only that VM has. Real: `guest_channel`. In memory:
    `shamon_host.testing.guests`. Contract suite: `shamon_host.testing.contracts.guests`."""

    async def ask(self, cid: int, request: bytes, *, timeout_s: float) -> bytes:
        """What the agent of the VM at this address answers, at most MAX_ANSWER_BYTES. Raises Unreachable where it does
        not come whole in time, BadInput for a longer one."""
        ...

    def served(self, questions: GuestQuestions) -> AbstractAsyncContextManager[None]:
        """VMs may ask until this is left: each one question at a time, of at most MAX_REQUEST_BYTES. Raises
        BackendFailed."""
        ...


class StopReason(StrEnum):
    STOP = "stop"
    """The unit is stopped: links are closed, and what happens on the host from now on is unseen."""
    RESTART = "restart"
    """Half of a restart: links stay while their leases last."""
    SHUTDOWN = "shutdown"
    """The host goes down with it: links are closed."""


class ServiceManager(Protocol):
    """Who started this daemon. Real: systemd, over `$NOTIFY_SOCKET`. In memory: `shamon_host.testing.severable`.

    Contract suite: `shamon_host.testing.contracts.service_manager`.
    """

    def ready(self) -> None:
        """The daemon is up: who waits for it goes on. Raises BackendFailed."""
        ...

    def status(self, text: str) -> None:
        """Show people this line in place of the one before. What is not printable is left out, and a long one cut.
        Raises BackendFailed."""
        ...

    def stop_reason(self) -> StopReason:
        """Why the daemon was asked to stop. Whatever cannot be told is STOP."""
        ...


@dataclass(frozen=True, kw_only=True)
class Backends:
    """Everything outside the program, behind ports. `boot_id` tells one boot of this host from another."""

    clock: Clock
    tpm: Tpm
    logs: MeasurementLogs
    kernel: LinkKernel
    hypervisor: Hypervisor
    flask: FlaskPolicy | None = None
    """Of Xen; None: the hypervisor is QEMU."""
    mac_vm: MacVmBackends | None = None
    """None: the host itself holds its links."""
    live: LiveMigration | None = None
    passages: PassageStreams | None = None
    """Of QEMU; None: VMs of this host do not move while they run."""
    images: Images
    disks: Disks
    transport: PeerTransport
    guests: Guests | None = None
    """None where VMs have no TPM: on Xen."""
    service_manager: ServiceManager
    blocking: Blocking
    boot_id: str
    record_key: PrivateKey = field(repr=False)
    """Of this host's certificate: signs its votes on policies."""


class Waker(Protocol):
    """Attest with this peer as soon as possible."""

    def __call__(self, peer: HostName) -> None: ...
