"""What this program needs of a hypervisor and of the place where disk images live.

Real: `libvirt_qemu` with `libvirt_live`, on Xen `libvirt_xen` and `xen_flask`; `overlay_images`, `disk_files`. In
memory: `shamon_host.testing.hypervisor`, `shamon_host.testing.live`, `shamon_host.testing.flask`,
`shamon_host.testing.images`, `shamon_host.testing.disks`.
All calls are synchronous; the daemon runs them in a worker thread. They raise BackendFailed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from shamon_host.domain.flask_rules import Access, Question
from shamon_host.domain.labels import SelinuxContext, VmContext, VmName
from shamon_host.domain.streams import Stream


class DomainState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    SHUT_OFF = "shut-off"
    CRASHED = "crashed"


RUNNING_STATES = (DomainState.RUNNING, DomainState.PAUSED)
"""Those in which a domain has a process, memory and a label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmInterface:
    """A network interface of a VM: `device` is the tap on the host, at most 15 characters."""

    device: str
    bridge: str
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDisk:
    """A disk beside a VM's own: the path of a raw image, whose label and owner the hypervisor leaves as they are.

    `format` differs from `raw` in reports alone, of what somebody else attached.
    """

    path: str
    read_only: bool
    format: str = "raw"


def disks_listed(own: str, further: Sequence[VmDisk]) -> str:
    """Disks of a VM as people read them."""
    words = [own or "no disk of its own"]
    for disk in further:
        kinds = [*(["read-only"] if disk.read_only else []), *([disk.format] if disk.format != "raw" else [])]
        words.append((disk.path or "one without a file") + (f" ({', '.join(kinds)})" if kinds else ""))
    return ", ".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """What to start. `disk` is the path of the overlay, `disks` what it has beside it; kernel, initrd and cmdline are
    for direct kernel boot."""

    name: VmName
    uuid: str
    context: VmContext
    disk: str
    interfaces: tuple[VmInterface, ...]
    disks: tuple[VmDisk, ...] = ()
    memory_mib: int = 128
    vcpus: int = 1
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    cid: int | None = None
    """Its address on vsock, beside a TPM, where it is attested; None: it has neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainBoot:
    """Paths of a domain's kernel and initial RAM disk, and the kernel's command line; empty where it has none."""

    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainReport:
    """What the hypervisor says of one domain. `context` is the running process's own label, as the kernel has it, or
    on Xen the domain's, as the hypervisor has it; None when it has none or is not running. `enforced` is False where
    the label binds nobody (permissive SELinux or FLASK)."""

    name: VmName
    uuid: str
    state: DomainState
    context: VmContext | None
    interfaces: tuple[VmInterface, ...]
    disk: str
    disks: tuple[VmDisk, ...] = ()
    enforced: bool = True
    cid: int | None = None
    """Its address on vsock; None: it has none."""
    tpm: bool = False
    """It has a TPM of its own, whose state is kept from start to start."""
    boot: DomainBoot = field(default_factory=DomainBoot)
    """What it was booted from beside its disk."""


class Hypervisor(Protocol):
    """The domains of this host."""

    def start_paused(self, spec: VmSpec) -> DomainReport:
        """Start a domain, paused, under the static label of `spec`; report what runs. Nothing is left of a failed one,
        and none starts under a name of which somebody made a definition.

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
        """Stop the domain at once. No error if there is none. A definition that somebody else made of it stays."""
        ...

    def forget_tpm(self, name: VmName, uuid: str) -> None:
        """Remove the state of the TPM of a domain that is not there: its next start makes a new TPM. No error if there
        is none."""
        ...

    def dump_memory(self, name: VmName, path: str) -> None:
        """Write the memory of a domain that is suspended to a file, mode 0600, that no domain may read or write.

        It is at `path` when it is whole, and not before; a file that is there already is whole, and stays. What an
        attempt that was cut short left makes no difference. The domain stays suspended.
        """
        ...

    def domains(self) -> Sequence[DomainReport]:
        """Every domain of the hypervisor, ours or not, running or not."""
        ...

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` (from any thread) whenever a domain starts, stops, pauses, resumes or crashes, and when
        somebody gives it a device or takes one away."""
        ...


class SendingState(StrEnum):
    COPYING = "copying"
    """The VM runs, its disk and memory are on their way."""
    STOPPED = "stopped"
    """Little is left: the VM stands still for it."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingProgress:
    """`found`: why it failed, in words."""

    state: SendingState
    disk_bytes: int = 0
    """Of the disk, sent so far."""
    memory_bytes: int = 0
    found: str = ""


class Sending(Protocol):
    """A VM that is sent while it runs. All raise BackendFailed."""

    def progress(self) -> SendingProgress:
        """Asked again and again: what is to be done next is done here."""
        ...

    def end_disk(self) -> None:
        """The VM is stopped: send what is left of its disk, and end that stream."""
        ...

    def end_memory(self) -> None:
        """After that: send what is left of its memory. The domain stands still from then on, until it is destroyed, or
        resumed because nobody took it."""
        ...

    def cancel(self) -> None:
        """It stays: what is under way ends, and the streams are closed. A domain that was stopped for this may run
        again by itself, or stand still, and can be resumed from now on; one that stood still before still does. Again
        changes nothing."""
        ...

    def close(self) -> None:
        """End the streams, and leave the domain as it is. Again changes nothing."""
        ...


class Receiving(Protocol):
    """A VM that comes while it runs elsewhere. All raise BackendFailed."""

    def failed(self) -> str:
        """Why it cannot come to its end any more, in words; empty while it can."""
        ...

    def finish(self, timeout_s: float) -> None:
        """All of its disk and memory is there, the disk durably, and nothing more comes in. It stands still."""
        ...

    def close(self) -> None:
        """End the streams. Again changes nothing."""
        ...


class LiveMigration(Protocol):
    """What a hypervisor that is QEMU does beside `Hypervisor`: send the VMs of this host, and take others'.

    The disk is sent as what the guest sees of it, beyond the clean image below; so both hosts have the same one.
    """

    def start_incoming(self, spec: VmSpec) -> DomainReport:
        """As `Hypervisor.start_paused`, of a domain that waits for its memory. The caller does not resume it before
        `Receiving.finish` has returned."""
        ...

    def receive(self, spec: VmSpec, *, disk: Stream, memory: Stream) -> Receiving:
        """Of a domain that was started to wait."""
        ...

    def send(self, domain: DomainReport, *, disk: Stream, memory: Stream) -> Sending:
        """Of a domain that runs. What an earlier attempt left is removed first."""
        ...

    def abandon(self, name: VmName) -> None:
        """What an attempt left of which nobody has the `Sending` any more ends, as by `Sending.cancel`. Changes nothing
        where nothing is left, or there is no such domain. Raises Unanswered too (`answers`)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFile:
    """The file at a disk's path now. `label`: None when it has none that can be read as one."""

    identity: str
    """Which file it is, in words: the same wherever it is moved to on its file system, another one for a copy."""
    label: SelinuxContext | None


class Disks(Protocol):
    """The files of the disks that VMs have beside their own, by the names of the policy's resources.

    A label belongs to the file, wherever it lies. All raise BadInput for a disk that has no path here.
    """

    def path(self, disk: str) -> str: ...

    def inspect(self, disk: str) -> DiskFile: ...

    def relabel(self, disk: str, seen: DiskFile, context: SelinuxContext) -> None:
        """Give the file another label. Raises NotTrusted when it is not the one that was `seen`, as it was seen."""
        ...

    def verify(self, disk: str, sha256: str) -> None:
        """Compare the digest of the whole content. Raises NotTrusted when it differs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FlaskState:
    """What Xen says of its FLASK policy now. `booleans`: name → whether it is on.

    `access`: question (source type, target type, class) → names of the permissions that are allowed; a question about a
    type that the hypervisor's policy does not know has no entry.

    `foreign`: in a report, what was found a short while ago in place of the policy that the host had loaded.
    """

    enforcing: bool
    booleans: Mapping[str, bool]
    access: Access
    foreign: str = ""


class FlaskPolicy(Protocol):
    """The MAC policy of a Xen hypervisor with XSM/FLASK (`xen/xsm/flask/flask_op.c`, `FLASK_*`).

    In questions, a type stands for `system_u:system_r:TYPE`, one of channels (`..._channel`) or of a device for
    `system_u:object_r:TYPE`.
    """

    def load(self, module: str) -> None:
        """Compile a module (`interchange.flask`) with the base policy, and replace the hypervisor's policy by the two.

        Raises BackendFailed, also where checkpolicy refuses them; then the old policy stays.
        """
        ...

    def state(self, questions: Iterable[Question]) -> FlaskState: ...


class MovingDisks(Protocol):
    """The own disks of VMs on their way from host to host.

    Of a VM that moves away, its overlay, whose domain is gone; of one that comes, a file that is not its overlay yet.
    """

    def size(self, vm: VmName) -> int:
        """Of the VM's overlay in bytes, whether it runs or not; 0 if there is none."""
        ...

    def outgoing(self, vm: VmName) -> int:
        """Make the VM's overlay fit to be read; its size in bytes, 0 if there is none."""
        ...

    def read(self, vm: VmName, offset: int, length: int) -> bytes:
        """So many bytes of what `outgoing` was called for, fewer where it ends."""
        ...

    def begin_incoming(self, vm: VmName, size: int) -> None:
        """Make room for a disk of so many bytes, all zero, in place of one that did not come to its end."""
        ...

    def write_incoming(self, vm: VmName, offset: int, data: bytes) -> None:
        """Raises BackendFailed beyond its size, and where none was begun."""
        ...

    def incoming_sha256(self, vm: VmName) -> str:
        """Digest of all that came in, which is on the disk durably from then on."""
        ...

    def make_way(self, vm: VmName) -> None:
        """Before what came in is placed: an overlay that is there goes, so that nobody takes it for that later. Raises
        BackendFailed where nothing came in."""
        ...

    def fit_incoming(self, vm: VmName, image: str) -> None:
        """What came in stands above this host's own clean image from now on, and could be placed; its digest may be
        another one then. Again changes nothing. Raises NotTrusted for what cannot be an overlay, BackendFailed."""
        ...

    def place_incoming(self, vm: VmName, image: str) -> None:
        """What came in becomes the VM's overlay, above this host's own clean image, in place of any that is there.
        Where nothing came in, what is there was placed before (`make_way`), and stays. Raises as `fit_incoming` does,
        also where there is neither."""
        ...

    def discard_incoming(self, vm: VmName) -> None: ...


class BootFile(StrEnum):
    """What a VM is booted from beside its disk."""

    KERNEL = "kernel"
    INITRD = "initrd"


class Images(MovingDisks, Protocol):
    """Pinned clean images and the overlays above them."""

    def verify(self, image: str, sha256: str) -> None:
        """Read the clean image whole and compare its digest. Raises NotTrusted when it differs."""
        ...

    def fresh_overlay(self, vm: VmName, image: str, sha256: str) -> str:
        """Discard the VM's overlay, make a new one above the clean image, return its path.

        What it stands on is compared with the digest first. Raises NotTrusted when that differs; then the old overlay
        is as it was."""
        ...

    def overlay(self, vm: VmName) -> str | None:
        """Path of the VM's present overlay, None if there is none."""
        ...

    def discard(self, vm: VmName) -> None: ...

    def boot_file(self, vm: VmName, kind: BootFile, source: str, sha256: str) -> str:
        """A copy of what a VM is booted from, which only this program writes; return its path. Raises NotTrusted when
        the copy has another digest: then there is none."""
        ...

    def boot_path(self, vm: VmName, kind: BootFile) -> str:
        """Where that copy is, or would be: nothing is looked at."""
        ...

    def set_aside(self, vm: VmName, file: str) -> str | None:
        """Move the VM's overlay, whose domain is gone, to where things are kept, under this name; return its path. None
        if there is no overlay to move, and none of this name there. Nothing that is kept is ever changed."""
        ...

    def kept_path(self, file: str) -> str:
        """Where what is kept under this name lies, or would: nothing is looked at, and nothing is made."""
        ...


class Audit(Protocol):
    """Append to the audit log, durably, before the effect."""

    def __call__(self, kind: str, subject: str, detail: Mapping[str, Any]) -> object: ...


class Documents(Protocol):
    """Small durable state of this host; `daemon.store` implements it."""

    def get(self, kind: str, key: str) -> dict[str, Any] | None: ...

    def put(self, kind: str, key: str, document: Mapping[str, Any]) -> None: ...

    def delete(self, kind: str, key: str) -> None: ...

    def items(self, kind: str) -> Sequence[tuple[str, dict[str, Any]]]: ...
