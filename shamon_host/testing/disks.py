"""Files with SELinux labels in memory: the disks that VMs have beside their own."""

import hashlib
from dataclasses import dataclass, field
from itertools import count

from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted
from shamon_host.domain.labels import SelinuxContext
from shamon_host.hypervisor.ports import DiskFile

FRESH = SelinuxContext(user="system_u", role="object_r", type="virt_image_t")
"""What a file has that was put into libvirt's directory of images."""
_WRITABLE, _READABLE = ("svirt_image_t",), ("svirt_image_t", "virt_content_t")
"""Types of files that VMs write, and read."""
_OF_THE_DAEMON = ("virt_image_t", "virt_content_t")
"""Types of files whose content the daemon reads."""
_RELABELLED = ("virt_image_t", "virt_content_t", "svirt_image_t")
"""Types from which and to which the daemon relabels files."""


@dataclass(kw_only=True)
class MemoryFile:
    content: bytes
    inode: int
    label: SelinuxContext | None = FRESH


@dataclass(kw_only=True)
class MemoryDisks:
    """`hypervisor.ports.Disks`. `paths`: name → path; `files`: path → file."""

    paths: dict[str, str] = field(default_factory=dict)
    files: dict[str, MemoryFile] = field(default_factory=dict)
    denials: list[str] = field(default_factory=list)
    """Paths of what the daemon asked for and SELinux denied."""
    _inodes: "count[int]" = field(default_factory=lambda: count(1))

    def path(self, disk: str) -> str:
        if disk not in self.paths:
            raise BadInput(
                f"no path for the disk {disk!r}",
                expected=f"[resources.{disk}] in the host's configuration",
                found=", ".join(sorted(self.paths)) or "no resources",
            )
        return self.paths[disk]

    def inspect(self, disk: str) -> DiskFile:
        file = self._file(disk)
        return DiskFile(identity=f"inode {file.inode} of memory", label=file.label)

    def relabel(self, disk: str, seen: DiskFile, context: SelinuxContext) -> None:
        if self.inspect(disk) != seen:
            raise NotTrusted("the file of a disk was exchanged, or relabelled, a moment ago", where=self.path(disk))
        if context.type not in _RELABELLED or seen.label is None or seen.label.type not in _RELABELLED:
            self.denials.append(self.path(disk))
            raise BackendFailed("cannot use the file of a disk", where=self.path(disk), found="Permission denied")
        self._file(disk).label = context

    def verify(self, disk: str, sha256: str) -> None:
        file = self._file(disk)
        if file.label is None or file.label.type not in _OF_THE_DAEMON:
            self.denials.append(self.path(disk))
            raise BackendFailed("cannot use the file of a disk", where=self.path(disk), found="Permission denied")
        found = hashlib.sha256(file.content).hexdigest()
        if found != sha256:
            raise NotTrusted(
                "the disk is not the pinned one",
                where=self.path(disk),
                expected=f"sha256 {sha256}",
                found=f"sha256 {found}",
            )

    # What tests and worlds do to it

    def add(self, disk: str, content: bytes = b"") -> MemoryFile:
        """A new disk, as an operator puts it there."""
        path = self.paths.setdefault(disk, f"/disks/{disk}.raw")
        self.files[path] = MemoryFile(content=content, inode=next(self._inodes))
        return self.files[path]

    def may_open(self, path: str, context: SelinuxContext, *, write: bool) -> bool:
        """Whether SELinux lets a VM with this context open the file: its type, and its categories among the VM's."""
        label = self.files[path].label if path in self.files else None
        types = _WRITABLE if write else _READABLE
        return label is not None and label.type in types and label.categories <= context.categories

    def _file(self, disk: str) -> MemoryFile:
        path = self.path(disk)
        if path not in self.files:
            raise BackendFailed("cannot use the file of a disk", where=path, found="No such file or directory")
        return self.files[path]
