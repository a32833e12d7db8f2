"""The files of a Debian host's packages, as they are on disk, if they are as their packages brought them.

Reads dpkg's own records below a root directory: `status` for what is installed, `info/*.list` for the paths,
`info/*.md5sums` and the status' conffiles for what each file should be, and `diversions`. MD5 here only finds files
that were changed by accident or by hand: whoever can write dpkg's records can write these too, so run it on a root that
is trusted. What comes out is SHA-256 of what is on disk.

Source: dpkg's deb-md5sums(5), deb-conffiles(5), dpkg-divert(1), and lib/dpkg/db-ctrl-format.c for the names in `info`.
"""

import hashlib
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shamon_host.attestation.reference_part import ReferencePart
from shamon_host.attestation.reference_record import BOOTED_ALONE
from shamon_host.cli.rooted import real_path
from shamon_host.daemon.files import read_limited
from shamon_host.domain.errors import BadInput

_MAX_RECORD_BYTES = 64 * 1024 * 1024
_CHUNK = 1 << 20
_MD5 = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_VERSION = re.compile(r"[A-Za-z0-9.+~:-]+")
_DATABASE = "var/lib/dpkg"
_NEVER_MEASURED = (BOOTED_ALONE, "/usr/share/doc/", "/usr/share/info/", "/usr/share/locale/", "/usr/share/man/")
"""Kernels, which the firmware alone may start, and what nobody runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Package:
    name: str
    version: str
    architecture: str
    conffiles: Mapping[str, str]
    """Path → MD5."""


@dataclass(slots=True, kw_only=True)
class PackageFiles:
    """What was found; paths are those that the kernel would name."""

    packages: dict[str, dict[str, frozenset[str]]] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    """Files that differ from what their package brought: not among `packages`."""
    configured: list[str] = field(default_factory=list)
    """Configuration that was changed, as it may be: not among `packages` either."""
    unchecked: list[str] = field(default_factory=list)
    """Files of which the package gives no checksum: not among `packages` either."""
    missing: int = 0
    """How many files of packages are not there."""

    @property
    def part(self) -> ReferencePart:
        """What is as its package brought it, as a part."""
        return ReferencePart(packages=self.packages)


def package_files(root: Path) -> PackageFiles:
    """Every file of every installed package. Raises BadInput where dpkg's records are absent or malformed."""
    database = root / _DATABASE
    installed = list(_installed(database / "status"))
    names = Counter(package.name for package in installed)
    diversions = _diversions(database / "diversions")
    found = PackageFiles()
    for package in installed:
        shown = package.name if names[package.name] == 1 else f"{package.name}:{package.architecture}"
        files = _files_of(root, package, diversions, found)
        if files:
            found.packages[f"{shown} {package.version}"] = files
    return found


def _files_of(
    root: Path, package: _Package, diversions: Mapping[str, tuple[str, str]], found: PackageFiles
) -> dict[str, frozenset[str]]:
    info = root / _DATABASE / "info"
    sums = _sums(_info(info, package, "md5sums"))
    files: dict[str, frozenset[str]] = {}
    for path in _text(_info(info, package, "list")).splitlines():
        if not path.startswith("/") or path.startswith(_NEVER_MEASURED):
            continue
        diverted = diversions.get(path)
        place = diverted[0] if diverted and diverted[1] != package.name else path
        real = real_path(root, place)
        if real is None:
            found.missing += 1
            continue
        on_disk = root / real.lstrip("/")
        if not stat.S_ISREG(on_disk.lstat().st_mode):
            continue
        sha256, md5 = _digests(on_disk)
        if path in package.conffiles:
            if package.conffiles[path] != md5:
                found.configured.append(real)
                continue
        elif path not in sums:
            found.unchecked.append(real)
            continue
        elif sums[path] != md5:
            found.changed.append(real)
            continue
        files[real] = frozenset({sha256})
    return files


def _installed(status: Path) -> Iterator[_Package]:
    """The packages that are installed, from dpkg's status."""
    for number, stanza in enumerate(_text(status).split("\n\n"), start=1):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1] in {" ", "\t"}:
                fields[key] = f"{fields.get(key, '')}\n{line.strip()}"
            else:
                key, _, value = line.partition(":")
                key = key.lower()
                fields[key] = value.strip()
        if not fields or fields.get("status", "").split()[-1:] != ["installed"]:
            continue
        name, version = fields.get("package", ""), fields.get("version", "")
        if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
            raise BadInput(
                "not a record of an installed package",
                where=f"{status}, record {number}",
                expected="Package and Version",
                found=f"{name} {version}"[:120],
            )
        conffiles = {}
        for line in fields.get("conffiles", "").splitlines():
            path, _, rest = line.partition(" ")
            if _MD5.fullmatch(rest.partition(" ")[0]):
                conffiles[path] = rest.partition(" ")[0]
        architecture = fields.get("architecture", "")
        yield _Package(name=name, version=version, architecture=architecture, conffiles=conffiles)


def _diversions(path: Path) -> dict[str, tuple[str, str]]:
    """Path → where the file is in its place, and the package that put it there (`:` for the administrator)."""
    if not path.exists():
        return {}
    lines = _text(path).splitlines()
    if len(lines) % 3:
        raise BadInput("not dpkg's diversions", where=str(path), expected="three lines for each")
    return {lines[at]: (lines[at + 1], lines[at + 2]) for at in range(0, len(lines), 3)}


def _info(info: Path, package: _Package, kind: str) -> Path | None:
    for name in (package.name, f"{package.name}:{package.architecture}"):
        path = info / f"{name}.{kind}"
        if path.is_file():
            return path
    return None


def _sums(path: Path | None) -> dict[str, str]:
    sums = {}
    for line in _text(path).splitlines():
        md5, _, name = line.partition("  ")
        if _MD5.fullmatch(md5):
            sums[f"/{name.removeprefix('./')}"] = md5
    return sums


def _text(path: Path | None) -> str:
    """The text of one of dpkg's records, empty where a package has none of the kind."""
    if path is None:
        return ""
    data = read_limited(path, _MAX_RECORD_BYTES, "record of dpkg")
    return data.decode("utf-8", "backslashreplace")


def _digests(path: Path) -> tuple[str, str]:
    """SHA-256 and MD5 of a file, in hexadecimal, read once."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                sha256.update(chunk)
                md5.update(chunk)
    except OSError as error:
        raise BadInput("cannot read a file", where=str(path), found=error.strerror or "") from error
    return sha256.hexdigest(), md5.hexdigest()
