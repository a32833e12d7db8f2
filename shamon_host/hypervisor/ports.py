"""What this program needs of a hypervisor and of the place where disk images live.

Real: `libvirt_qemu`, `overlay_images`. In memory: `shamon_host.testing.hypervisor`, `shamon_host.testing.images`.
All calls are synchronous; the daemon runs them in a worker thread. They raise BackendFailed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from shamon_host.domain.labels import SelinuxContext, VmName


class DomainState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    SHUT_OFF = "shut-off"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmInterface:
    """A network interface of a VM: `device` is the tap on the host, at most 15 characters."""

    device: str
    bridge: str
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """What to start. `disk` is the path of the overlay; kernel, initrd and cmdline are for direct kernel boot."""

    name: VmName
    uuid: str
    context: SelinuxContext
    disk: str
    interfaces: tuple[VmInterface, ...]
    memory_mib: int = 128
    vcpus: int = 1
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainReport:
    """What the hypervisor says of one domain. `context` is the running process's own label, as the kernel has it,
    None when it has none or is not running; `enforced` is False where the label binds nobody (permissive SELinux)."""

    name: VmName
    uuid: str
    state: DomainState
    context: SelinuxContext | None
    interfaces: tuple[VmInterface, ...]
    disk: str
    enforced: bool = True


class Hypervisor(Protocol):
    """The domains of this host."""

    def start_paused(self, spec: VmSpec) -> DomainReport:
        """Start a domain, paused, under the static label of `spec`; report what runs. Nothing is left of a failed one.

        The caller compares the label that is reported with the one that it asked for, and resumes or destroys.
        """
        ...

    def resume(self, name: VmName) -> None:
        """Let a paused domain run; a running one is left alone."""
        ...

    def suspend(self, name: VmName) -> None:
        """Pause a running domain; a paused one is left alone."""
        ...

    def destroy(self, name: VmName) -> None:
        """Stop the domain at once; no definition of it remains. No error if there is none."""
        ...

    def domains(self) -> Sequence[DomainReport]:
        """Every domain of the hypervisor, ours or not, running or not."""
        ...

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` (from any thread) whenever a domain starts, stops, pauses, resumes or crashes."""
        ...


class Images(Protocol):
    """Pinned clean images and the overlays above them."""

    def verify(self, image: str, sha256: str) -> None:
        """Read the clean image whole and compare its digest. Raises NotTrusted when it differs."""
        ...

    def fresh_overlay(self, vm: VmName, image: str) -> str:
        """Discard the VM's overlay, make a new one above the clean image, return its path."""
        ...

    def overlay(self, vm: VmName) -> str | None:
        """Path of the VM's present overlay, None if there is none."""
        ...

    def discard(self, vm: VmName) -> None: ...
