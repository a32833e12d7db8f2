"""The slow, rarely changing layer of the image of VMs that are attested: a small Debian with its initramfs and the
Python packages of this project, without the project.
"""

from collections.abc import Callable
from pathlib import Path

from vm_images import base, debian, wheels
from vm_images.cache import cached, digest_of
from vm_images.commands import run_in_root

HERE = Path(__file__).parent
RECIPE = HERE / "guest"
_CODE = [HERE / name for name in ("guest_root.py", "debian.py", "wheels.py")]
_DRIVERS = (
    "virtio_net",
    "net_failover",
    "failover",
    "vsock",
    "vmw_vsock_virtio_transport",
    "vmw_vsock_virtio_transport_common",
)


def guest_root(tools: Path, say: Callable[[str], None]) -> Path:
    """The root. `tools`: the root with compilers and pip."""
    lists = [RECIPE / "packages.txt", base.RECIPE / "path-excludes.txt"]
    key = digest_of(tools.parent.name, *lists, *wheels.LOCK_FILES, *_CODE)
    return cached("guest-root", key, lambda out: _make(out / "root", tools), say) / "root"


def _make(root: Path, tools: Path) -> None:
    excludes = debian.read_list(base.RECIPE / "path-excludes.txt")
    debian.make_root(root, debian.read_list(RECIPE / "packages.txt"), excludes=excludes)
    _make_initramfs(root)
    wheels.install_requirements(tools, root)
    _keep_drivers(root)


def _make_initramfs(root: Path) -> None:
    """With the drivers of the root disk only."""
    settings = root / "etc/initramfs-tools/initramfs.conf"
    settings.write_text(settings.read_text().replace("MODULES=most", "MODULES=list"))
    with (root / "etc/initramfs-tools/modules").open("a") as modules:
        modules.write("virtio_pci\nvirtio_blk\next4\n")
    run_in_root(root, ["update-initramfs", "-u"])


def _keep_drivers(root: Path) -> None:
    """Of the kernel's modules those that a VM has devices for; the disk's are in the initramfs."""
    (modules,) = (root / "lib/modules").iterdir()
    for path in modules.rglob("*.ko"):
        if path.stem not in _DRIVERS:
            path.unlink()
    run_in_root(root, ["depmod", modules.name])
