"""The files of a root file system, from a directory or a tar archive: what a host made of it may run or read.

Disk images need somebody to understand their file system. To mount one takes root, and a kernel that trusts it, so none
is mounted here: the error says how to get an archive out of one without either.
"""

import hashlib
import os
import stat
import tarfile
from pathlib import Path
from typing import IO

from shamon_host.attestation.reference_part import ReferencePart
from shamon_host.attestation.reference_record import BOOTED_ALONE
from shamon_host.domain.errors import BadInput

_CHUNK = 1 << 20
_MAX_FILES = 4_000_000
_MAX_FILE_BYTES = 4 << 30
"""Larger files are left out: they are logs and disks, with holes that take hours to read, and nobody runs them."""
_MAX_BYTES = 256 << 30
"""Of all files of an archive. It takes an hour to read so much, and a damaged or hostile one may say anything."""
_QCOW2 = b"QFI\xfb"
_EXT4_AT, _EXT4 = 0x438, b"\x53\xef"
_PARTITIONS_AT, _PARTITIONS = 0x1FE, b"\x55\xaa"
_HEAD = 4096
_REMEDY = "Unpack it without mounting it, e.g. `virt-tar-out -a IMAGE / root.tar`, and give the archive."


def image_files(image: Path) -> ReferencePart:
    """A part with the digest of each regular file. Raises BadInput for what is neither directory nor archive."""
    files = _of_directory(image) if image.is_dir() else _of_archive(image)
    if not files:
        raise BadInput("there are no files in it", where=str(image), expected="a root file system")
    return ReferencePart(files={path: frozenset({digest}) for path, digest in sorted(files.items())})


def _of_directory(root: Path) -> dict[str, str]:
    files: dict[str, str] = {}

    def unreadable(error: OSError) -> None:
        raise BadInput("cannot read a directory", where=str(error.filename), found=error.strerror or "")

    for directory, _, names in os.walk(root, onerror=unreadable):
        for name in names:
            path = Path(directory, name)
            inside = f"/{path.relative_to(root)}"
            if inside.startswith(BOOTED_ALONE) or not _printable(inside):
                continue
            try:
                found = path.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_size <= _MAX_FILE_BYTES:
                    with path.open("rb") as file:
                        files[inside] = _sha256(file)
            except OSError as error:
                raise BadInput("cannot read a file", where=str(path), found=error.strerror or "") from error
    return files


def _of_archive(path: Path) -> dict[str, str]:
    """A later member of a name takes the place of an earlier one, as when it is unpacked."""
    _refuse_disk(path)
    files: dict[str, str] = {}
    try:
        with tarfile.open(path, "r|*") as archive:
            total = 0
            for count, member in enumerate(archive):
                total += member.size if member.isreg() else 0
                if count >= _MAX_FILES or total > _MAX_BYTES:
                    raise ValueError(f"more than {_MAX_FILES} files, or {_MAX_BYTES} bytes")
                if member.issparse():
                    raise ValueError(f"a sparse file, {member.name[:80]}: pack it without --sparse")
                name = _inside(member.name)
                if member.isreg() and member.size <= _MAX_FILE_BYTES:
                    content = archive.extractfile(member)
                    digest = _sha256(content) if content is not None else ""
                elif member.islnk():
                    digest = files.get(_inside(member.linkname), "")
                else:
                    digest = ""
                files.pop(name, None)
                if digest and _printable(name):
                    files[name] = digest
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise BadInput(
            "neither a directory nor an archive that can be read",
            where=str(path),
            expected="tar, plain or compressed by gzip, bzip2 or xz",
            found=str(error)[:120],
        ) from error
    return {name: digest for name, digest in files.items() if not name.startswith(BOOTED_ALONE)}


def _refuse_disk(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise BadInput("cannot read the image", where=str(path), found=error.strerror or "") from error
    kind = ""
    if head.startswith(_QCOW2):
        kind = "a qcow2 disk image"
    elif head[_EXT4_AT : _EXT4_AT + 2] == _EXT4:
        kind = "a raw image of an ext file system"
    elif head[_PARTITIONS_AT : _PARTITIONS_AT + 2] == _PARTITIONS:
        kind = "a raw disk image"
    if kind:
        raise BadInput(
            "a disk image is not mounted here",
            where=str(path),
            expected="a directory or a tar archive of the root file system",
            found=kind,
            remedy=_REMEDY,
        )


def _inside(name: str) -> str:
    """The path on the host. Raises ValueError for one that would leave its root."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise ValueError(f"a member leaves the root: {name[:80]}")
    return "/" + "/".join(parts)


def _printable(path: str) -> bool:
    """Whether a path has a form in JSON: names that are not UTF-8 are left out, and so are refused when measured."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
