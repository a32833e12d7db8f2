"""What is special about the start of a VM that is attested: its TPM, what it boots from, and its ports, which are down.

Part of `vms.VmManager`, whose lock it is under. Nothing is done for any other VM.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shamon_host.attestation.guest_reference import GuestBoot
from shamon_host.domain.errors import BackendFailed, NotTrusted, Refused
from shamon_host.domain.labels import VmName
from shamon_host.hypervisor.guest_tpms import GuestTpm
from shamon_host.hypervisor.overlay_images import file_sha256
from shamon_host.hypervisor.ports import Audit, DomainReport
from shamon_host.hypervisor.vm_spec import VmSettings, vm_uuid
from shamon_host.hypervisor.vm_states import VmStates


def file_digest(path: str) -> str:
    """SHA-256 of a whole file, hexadecimal. Raises BackendFailed."""
    try:
        return file_sha256(Path(path))
    except OSError as error:
        raise BackendFailed("cannot be read", where=path, found=error.strerror or type(error).__name__) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedStarts:
    """Of this host's VMs."""

    states: VmStates
    audit: Audit
    detach_port: Callable[[str], None]
    """Take a tap off its bridge. Raises BackendFailed."""
    digest: Callable[[str], str] = file_digest

    def is_for(self, name: VmName) -> bool:
        """Whether the VM is attested."""
        return self.states.policy().attested(name) is not None

    def require_known_tpm(self, name: VmName) -> None:
        """Of a VM that starts on the disk that it has. Raises Refused where its TPM is not as old as that disk: whoever
        wrote the disk could show an AK that is no TPM's."""
        if self.is_for(name) and self.states.tpm(name) is None:
            raise Refused(
                "the VM has a disk from before it was to be attested",
                where=name,
                expected="a disk and a TPM that were new at the same time",
                remedy=f"Start it clean, with `shamon vm replace {name}`.",
            )

    def new_tpm(self, name: VmName) -> GuestTpm | None:
        """Remove the state of the VM's TPM: its disk is new, and so its TPM is to be."""
        if not self.is_for(name):
            return None
        self.audit("vm.new-tpm", name, {})
        self.states.hypervisor.forget_tpm(name, vm_uuid(self.states.policy(), name))
        return GuestTpm(mark=secrets.token_hex(8))

    def boot(self, name: VmName, settings: VmSettings) -> GuestBoot | None:
        """What the VM is about to be started from. Raises BackendFailed."""
        if not self.is_for(name):
            return None
        digests = {
            what: self.digest(path) if path else ""
            for what, path in (("kernel", settings.kernel), ("initrd", settings.initrd))
        }
        return GuestBoot(**digests, cmdline=settings.cmdline)

    def begin(self, name: VmName, *, fresh: bool) -> None:
        """The VM is about to start: no result about it counts any more."""
        if self.is_for(name):
            self.states.leases.begin(name, fresh=fresh)

    def begin_unless_holds(self, name: VmName, *, anew: bool) -> None:
        """The VM is about to be resumed; with `anew`, whatever is known of it counts no more."""
        if anew or not self.states.leases.holds(name):
            self.begin(name, fresh=False)

    def ports_down(self, report: DomainReport) -> None:
        """Before the VM runs: off their bridges, unless it is attested. Not those of a MAC VM: nobody counts on what it
        holds before it is attested, and its peers hear that through it. Raises BackendFailed."""
        name = report.name
        if self.is_for(name) and not self.states.policy().is_mac_vm(name) and not self.states.leases.holds(name):
            for interface in report.interfaces:
                self.detach_port(interface.device)

    def require_tpm(self, report: DomainReport) -> None:
        """Destroy a domain that lacks the TPM, or the address on vsock, that it was given. Raises NotTrusted."""
        if self.states.has_its_tpm(report):
            return
        detail = self.tpm_detail(report)
        self.audit("vm.other-devices", report.name, detail)
        self.states.hypervisor.destroy(report.name)
        raise NotTrusted(
            "the VM has not the TPM that it was given, and was destroyed before it ran", where=report.name, **detail
        )

    def tpm_detail(self, report: DomainReport) -> dict[str, str]:
        """What it is to have, and what it has."""
        return {
            "expected": f"a TPM, and {self.states.cid(report.name)} as its address on vsock",
            "found": f"{'a' if report.tpm else 'no'} TPM, and {report.cid or 'no address'}",
        }
