"""The image's manifest: a digest for every file that a host made of it may run or read, which is what a runtime
policy is made of.

The kernel's measurement log names a file of the initramfs by its path there, so those are listed beside the files of
the root.
"""

import hashlib
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vm_images.commands import run

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
# The initramfs looks at the root file system below this directory before it hands over.
_ROOT_IN_INITRAMFS = "/root"
_READ_FROM_INITRAMFS = ("/etc/fstab",)


def file_digests(root: Path, initrd: Path) -> dict[str, list[str]]:
    """Path → SHA-256 digests (lower-case hexadecimal, sorted) of the regular files of the root tree and of the
    initramfs.
    """
    found = {name: set(digests) for name, digests in root_digests(root).items()}
    for name in _READ_FROM_INITRAMFS:
        if name in found:
            found[_ROOT_IN_INITRAMFS + name] = set(found[name])
    for name, content in _initramfs_files(initrd):
        found.setdefault(name, set()).add(hashlib.sha256(content).hexdigest())
    return {name: sorted(digests) for name, digests in sorted(found.items())}


def root_digests(root: Path) -> dict[str, list[str]]:
    """Path → the SHA-256 digest, of the regular files of a root tree alone."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    return {f"/{path.relative_to(root)}": [sha256(path)] for path in files}


def sha256(path: Path) -> str:
    """The SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _initramfs_files(initrd: Path) -> Iterator[tuple[str, bytes]]:
    """The regular files of an initramfs of one zstd-compressed "newc" archive, hard links resolved, paths without
    symbolic links.

    Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
    """
    plain = initrd.with_suffix(".cpio")
    run(["zstd", "-d", "-q", "-f", initrd, "-o", plain])
    archive = plain.read_bytes()
    plain.unlink()
    entries = list(_entries(archive))
    links = {name: content.decode() for name, mode, _, content in entries if stat.S_ISLNK(mode)}
    by_inode = {inode: content for _, mode, inode, content in entries if stat.S_ISREG(mode) and content}
    for name, mode, inode, _ in entries:
        if stat.S_ISREG(mode):
            yield _resolved(f"/{name}", links), by_inode.get(inode, b"")


def _entries(archive: bytes) -> Iterator[tuple[str, int, int, bytes]]:
    at = 0
    while archive[at : at + 6] == _MAGIC:
        fields: Sequence[int] = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        inode, mode, size, name_size = fields[0], fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        start = at + 110 + name_size
        start += -start % 4
        if name == _TRAILER:
            return
        yield name.removeprefix("./"), mode, inode, archive[start : start + size]
        at = start + size + -(start + size) % 4


def _resolved(name: str, links: Mapping[str, str]) -> str:
    """The path with top-level symbolic links followed (``/bin`` → ``/usr/bin``), as the kernel reports it."""
    first, _, rest = name.lstrip("/").partition("/")
    target = links.get(first)
    return f"/{target.lstrip('/')}/{rest}" if target is not None and rest else name
