"""The Reference Values of every host of the coalition, from a directory of NAME.json files, signed where this host's
configuration says who must sign them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shamon_host.attestation.reference_model import ReferenceValues
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.files import ReadAnew, read_limited
from shamon_host.daemon.store import Store
from shamon_host.domain import monitor
from shamon_host.domain.errors import NotTrusted
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.domain.policy import Policy
from shamon_host.peer.reference_envelope import MAX_ENVELOPE_BYTES, ReferenceSigners, opened


class ReferenceSource(Protocol):
    """Where Reference Values come from."""

    @property
    def signed(self) -> bool:
        """Whether signatures are demanded of them."""
        ...

    def load(self, host: HostName) -> ReferenceValues:
        """Raises NotTrusted when there are none for this host."""
        ...


@dataclass(slots=True)
class References:
    """Reads a host's file when it is first asked for, and again whenever the file was replaced."""

    directory: Path
    signers: ReferenceSigners | None = None
    """None: files without a signature will do, and those of others are not looked at."""
    _files: ReadAnew[ReferenceValues] = field(default_factory=ReadAnew)

    @property
    def signed(self) -> bool:
        """Whether signatures are demanded."""
        return self.signers is not None

    def load(self, host: HostName) -> ReferenceValues:
        """Raises NotTrusted when there are none for this host, or they are not signed as demanded, BadInput when the
        file is malformed."""
        path = self.directory / f"{plain_name(host, 'host name')}.json"

        def read() -> ReferenceValues:
            data = read_limited(path, MAX_ENVELOPE_BYTES, "file of Reference Values")
            return self._shared(opened(data, self.signers, source=str(path)))

        try:
            return self._files.get(path, read)
        except OSError as error:
            raise NotTrusted(
                "no Reference Values for this host",
                where=str(path),
                found=error.strerror or "",
                remedy="Record them from a known-good boot with `shamon reference record`.",
            ) from error

    def _shared(self, new: ReferenceValues) -> ReferenceValues:
        """The very same object for hosts of one image: each takes a lot of memory."""
        return next((known for known in self._files.known() if known.digest == new.digest), new)


def note_reference(
    new: ReferenceValues, host: HostName, *, policy: Policy, signed: bool, store: Store, audit: AuditLog
) -> None:
    """Decide on Reference Values that are new or changed since the last appraisal of this host. Raises Refused."""
    seen = store.get("reference", host) or {}
    known = seen.get("digest")
    if known == new.digest:
        return
    decision = monitor.reference_update(
        policy,
        host,
        made_for=host,
        current=known,
        replaces=known,
        new=new.digest,
        version=new.version,
        newest_seen=int(seen.get("version", 0)),
        signed=signed,
    )
    audit.append(decision.check, host, decision.as_detail())
    decision.enforce()
    store.put("reference", host, {"digest": new.digest, "version": new.version})
