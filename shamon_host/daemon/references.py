"""The Reference Values of every host of the coalition, from a directory of NAME.json files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shamon_host.attestation.reference_values import ReferenceValues, load_reference_values
from shamon_host.domain.errors import NotTrusted
from shamon_host.domain.labels import HostName, plain_name


class ReferenceSource(Protocol):
    """Where Reference Values come from."""

    def load(self, host: HostName) -> ReferenceValues:
        """Raises NotTrusted when there are none for this host."""
        ...


@dataclass(slots=True)
class References:
    """Reads a host's file when it is first asked for, and again whenever the file was replaced."""

    directory: Path
    _cache: dict[HostName, tuple[tuple[int, int, int], ReferenceValues]] = field(default_factory=dict)

    def load(self, host: HostName) -> ReferenceValues:
        """Raises NotTrusted when there are none for this host, BadInput when the file is malformed."""
        path = self.directory / f"{plain_name(host, 'host name')}.json"
        try:
            found = path.stat()
        except OSError as error:
            raise NotTrusted(
                "no Reference Values for this host",
                where=str(path),
                found=error.strerror or "",
                remedy="Record them from a known-good boot with `shamon reference record`.",
            ) from error
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        cached = self._cache.get(host)
        if cached is None or cached[0] != version:
            cached = (version, load_reference_values(path))
            self._cache[host] = cached
        return cached[1]
