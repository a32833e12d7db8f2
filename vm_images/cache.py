"""Where finished layers and images lie, and how they get there: keyed by a digest of their recipe, built once,
published by one rename.

Two builders of the same thing meet at a lock; a build that is interrupted leaves only a directory that the next one
removes.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_KEPT_PER_KIND = 2


def cache_root() -> Path:
    """``$SHAMON_CACHE``, else ``shamon`` in the user's cache directory."""
    chosen = os.environ.get("SHAMON_CACHE")
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "shamon"


def digest_of(*parts: str | Path) -> str:
    """SHA-256 over strings and over files and trees (names, modes, contents), cut to 16 hexadecimal digits.

    Byte-code and editors' leftovers do not count.
    """
    total = hashlib.sha256()
    for part in parts:
        for name, content in _entries(part):
            total.update(f"{name}\0{len(content)}\0".encode())
            total.update(content)
    return total.hexdigest()[:16]


def _entries(part: str | Path) -> Iterator[tuple[str, bytes]]:
    if isinstance(part, str):
        yield "", part.encode()
    elif part.is_dir():
        for path in source_files(part):
            yield f"{path.relative_to(part)} {path.stat().st_mode & 0o111:o}", path.read_bytes()
    else:
        yield part.name, part.read_bytes()


def source_files(tree: Path) -> Iterable[Path]:
    """The regular files of a source tree in a fixed order, byte-code and hidden files left out."""
    for path in sorted(tree.rglob("*")):
        relative = path.relative_to(tree)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
        if path.is_file() and not hidden and path.suffix != ".pyc":
            yield path


def cached(kind: str, key: str, build: Callable[[Path], None], say: Callable[[str], None]) -> Path:
    """The directory ``kind/key`` of the cache, made by `build` (which fills an empty directory) if it is not there.

    Older directories of the same kind are removed once more than two exist, unless a lab uses them.
    """
    home = cache_root() / kind
    home.mkdir(parents=True, exist_ok=True)
    final = home / key
    with _locked(home / ".lock"):
        if not final.is_dir():
            for stale in home.glob(".making-*"):
                remove_tree(stale)
            making = home / f".making-{key}"
            making.mkdir()
            started = time.monotonic()
            say(f"{kind}: building {key}")
            build(making)
            making.rename(final)
            say(f"{kind}: built in {time.monotonic() - started:.0f} s")
        os.utime(final)
        others = sorted((p for p in home.iterdir() if p.is_dir() and p != final), key=lambda p: p.stat().st_mtime)
        for old in others[: -(_KEPT_PER_KIND - 1)]:
            with in_use(old, exclusive=True) as free:
                if free:
                    remove_tree(old)
    return final


@contextmanager
def in_use(directory: Path, *, exclusive: bool = False) -> Iterator[bool]:
    """Hold a directory of the cache so that it is not removed; yields whether that could be had (`exclusive`: nobody
    else holds it).
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def remove_tree(tree: Path) -> None:
    """Remove a tree; refuses to walk into anything that is still mounted below it."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    if any(Path(point).is_relative_to(tree) for point in mounted):
        raise RuntimeError(f"{tree}: something is mounted below it; unmount it first")
    shutil.rmtree(tree)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
