"""Reading the files that an operator writes, with a limit on their size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from shamon_host.domain.errors import BadInput

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReadAnew(Generic[T]):
    """What files say, read when it is first asked for, and again whenever a file was replaced or written."""

    _read: dict[Path, tuple[tuple[int, int, int], T]] = field(default_factory=dict)

    def get(self, path: Path, read: Callable[[], T]) -> T:
        """Raises OSError where there is no such file, and what `read` raises, which is then asked again."""
        found = path.stat()
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        known = self._read.get(path)
        if known is None or known[0] != version:
            known = self._read[path] = (version, read())
        return known[1]

    def known(self) -> Iterator[T]:
        """What was read of each file last."""
        return (value for _, value in self._read.values())


def read_limited(path: Path, limit: int, kind: str) -> bytes:
    """The bytes of a file of at most `limit` bytes. Raises BadInput."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BadInput(f"cannot read the {kind}", where=str(path), found=error.strerror or "") from error
    if len(data) > limit:
        raise BadInput(f"the {kind} is too large", where=str(path), expected=f"at most {limit} bytes")
    return data
