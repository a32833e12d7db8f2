"""Reading the files that an operator writes, with a limit on their size."""

from pathlib import Path

from shamon_host.domain.errors import BadInput


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
