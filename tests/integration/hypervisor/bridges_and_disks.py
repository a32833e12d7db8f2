"""What suites of libvirt's adapters have in common: bridges, files of disks, and looking at a network."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from shamon_host.domain.labels import SelinuxContext
from shamon_host.hypervisor.ports import VmDisk

APP = Path("/var/lib/libvirt/images/app")
DISKS = Path("/var/lib/libvirt/images/suite")
KEPT = DISKS / "kept"
BRIDGES = ("suite0", "suite1")


@contextlib.contextmanager
def bridges_and_disks() -> Iterator[None]:
    """The bridges, up, and an empty directory for disks; gone afterwards."""
    with contextlib.ExitStack() as made:
        DISKS.mkdir(exist_ok=True)
        made.callback(_remove_disks)
        run("restorecon", str(DISKS))
        for bridge in BRIDGES:
            run("ip", "link", "add", bridge, "type", "bridge")
            made.callback(run, "ip", "link", "del", bridge)
            run("ip", "link", "set", bridge, "up")
        yield


def _remove_disks() -> None:
    """The daemon's domain may remove what has no label of a VM, and give a file that label."""
    for path in DISKS.glob("*.raw"):
        os.setxattr(path, "security.selinux", b"system_u:object_r:virt_image_t:s0\0")
    shutil.rmtree(DISKS)


def labelled_disk(number: int, *, read_only: bool, categories: frozenset[int]) -> VmDisk:
    """A raw file of a megabyte with the label of a disk that only a VM with these categories reaches."""
    path = DISKS / f"{number}-{'read' if read_only else 'written'}.raw"
    if not path.exists():
        path.write_bytes(bytes(1 << 20))
    file_type = "virt_content_t" if read_only else "svirt_image_t"
    context = SelinuxContext(user="system_u", role="object_r", type=file_type, categories=categories)
    os.setxattr(path, "security.selinux", f"{context}\0".encode())
    return VmDisk(path=str(path), read_only=read_only)


def label_of(disk: VmDisk) -> SelinuxContext | None:
    """The label of a disk's file."""
    return SelinuxContext.parse(os.getxattr(disk.path, "security.selinux").decode().rstrip("\0"))


def is_sealed(path: str, *, at_least: int) -> bool:
    """Whether a dump of so many bytes is at the path, for root alone to read, and under no label of a VM."""
    if not Path(path).exists():
        return False
    status = os.stat(path)
    assert (status.st_uid, oct(status.st_mode & 0o777)) == (0, "0o600")
    assert status.st_size >= at_least
    with Path(path).open("rb") as file:
        assert file.read(4) == b"\x7fELF"
    assert os.getxattr(path, "security.selinux").decode().rstrip("\0") == "system_u:object_r:virt_image_t:s0"
    return oct(KEPT.stat().st_mode & 0o777) == "0o700"


def answers(address: str, *, patience_s: float) -> bool:
    """Whether a ping is answered within that time; an unreachable host ends `ping` at once, so it is asked again."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        asked = subprocess.run(["ping", "-q", "-c", "1", "-W", "1", address], check=False, stdout=subprocess.DEVNULL)
        if asked.returncode == 0:
            return True
    return False


def run(*command: str) -> str:
    """A command that must succeed; its standard output."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
