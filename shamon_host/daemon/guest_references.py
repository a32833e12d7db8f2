"""The Reference Values of guests: a directory of NAME.json files, each as the policy in force pins it by its digest."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shamon_host.attestation.guest_reference import GuestReference, read_guest_reference
from shamon_host.attestation.reference_values import MAX_FILE_BYTES
from shamon_host.daemon.files import ReadAnew, read_limited
from shamon_host.domain.errors import NotTrusted
from shamon_host.domain.guest_demand import GuestDemand
from shamon_host.domain.labels import plain_name


class GuestReferenceSource(Protocol):
    """Where they come from."""

    def load(self, demand: GuestDemand) -> GuestReference:
        """Those that the demand names. Raises NotTrusted where there are none, or others; BadInput."""
        ...


@dataclass(slots=True)
class GuestReferences:
    """Reads a file when it is first asked for, and again whenever it was replaced."""

    directory: Path
    _files: ReadAnew[GuestReference] = field(default_factory=ReadAnew)

    def load(self, demand: GuestDemand) -> GuestReference:
        path = self.directory / f"{plain_name(demand.name, 'name of a demand')}.json"

        def read() -> GuestReference:
            return read_guest_reference(read_limited(path, MAX_FILE_BYTES, "file of Reference Values"), where=str(path))

        try:
            reference = self._files.get(path, read)
        except OSError as error:
            raise NotTrusted(
                "no Reference Values for the guests of this demand",
                where=str(path),
                found=error.strerror or "",
                remedy="Record them from a known-good start with `shamon reference record-vm`.",
            ) from error
        return require_pinned(reference, demand, where=str(path))


def require_pinned(reference: GuestReference, demand: GuestDemand, *, where: str) -> GuestReference:
    """Raises NotTrusted where they are not those that the policy names."""
    if reference.digest != demand.sha256:
        raise NotTrusted(
            "the Reference Values are not those that the policy names",
            where=where,
            expected=f"digest {demand.sha256}, as guests.{demand.name}.sha256 has it",
            found=reference.digest,
            remedy="Put the right file there, or name this one in the next version of the policy.",
        )
    return reference
