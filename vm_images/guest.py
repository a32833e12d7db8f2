"""The image of VMs that are attested: a small Debian with this project's agent, a kernel that needs no decompression,
and the manifest of all its files, from which Reference Values are made.
"""

import json
import lzma
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from vm_images import base, debian, wheels
from vm_images.cache import cached, digest_of
from vm_images.commands import run, run_in_root
from vm_images.host import PRODUCT, REPOSITORY, install_product
from vm_images.manifest import file_digests, sha256

HERE = Path(__file__).parent
RECIPE = HERE / "guest"
_CODE = [HERE / name for name in ("guest.py", "debian.py", "wheels.py")]
_SIZE = "512M"
_DRIVERS = (
    "virtio_net",
    "net_failover",
    "failover",
    "vsock",
    "vmw_vsock_virtio_transport",
    "vmw_vsock_virtio_transport_common",
)


def build_guest(say: Callable[[str], None]) -> Path:
    """The directory with ``vmlinux``, ``initrd``, ``disk.raw`` (a raw ext4 root), ``manifest.json`` (``files``: path →
    SHA-256 digests) and ``guest.json`` (the digests of the first three).
    """
    tools = base.build_root(say)
    root = _base(tools, say)
    product = [REPOSITORY / name for name in PRODUCT]
    key = digest_of(root.parent.name, RECIPE, *_CODE, *product)
    return cached("guest", key, lambda out: _build(out, root, tools), say)


def _base(tools: Path, say: Callable[[str], None]) -> Path:
    """The root without anything of this project."""
    lists = [RECIPE / "packages.txt", base.RECIPE / "path-excludes.txt"]
    key = digest_of(tools.parent.name, *lists, *wheels.LOCK_FILES, *_CODE)
    return cached("guest-root", key, lambda out: _make_base(out / "root", tools), say) / "root"


def _make_base(root: Path, tools: Path) -> None:
    excludes = debian.read_list(base.RECIPE / "path-excludes.txt")
    debian.make_root(root, debian.read_list(RECIPE / "packages.txt"), excludes=excludes)
    _make_initramfs(root)
    wheels.install_requirements(tools, root)
    _keep_drivers(root)


def _keep_drivers(root: Path) -> None:
    """Of the kernel's modules those that a VM has devices for; the disk's are in the initramfs."""
    (modules,) = (root / "lib/modules").iterdir()
    for path in modules.rglob("*.ko"):
        if path.stem not in _DRIVERS:
            path.unlink()
    run_in_root(root, ["depmod", modules.name])


def _make_initramfs(root: Path) -> None:
    """With the drivers of the root disk only."""
    settings = root / "etc/initramfs-tools/initramfs.conf"
    settings.write_text(settings.read_text().replace("MODULES=most", "MODULES=list"))
    with (root / "etc/initramfs-tools/modules").open("a") as modules:
        modules.write("virtio_pci\nvirtio_blk\next4\n")
    run_in_root(root, ["update-initramfs", "-u"])


def _uncompressed(kernel: Path) -> bytes:
    """The ELF kernel inside an XZ-compressed bzImage (boot protocol 2.08: payload_offset at 0x248, payload_length at
    0x24C): a machine in an emulated machine would take long to unpack it.
    """
    image = kernel.read_bytes()
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    return lzma.decompress(image[start : start + length - 4])  # the last four bytes are the unpacked size


def _build(out: Path, base_root: Path, tools: Path) -> None:
    root = out / "root"
    run(["cp", "-a", base_root, root])
    run(["cp", "-r", "--preserve=mode", f"{RECIPE / 'root'}/.", root])
    install_product(root, tools, out)
    for unit in debian.read_list(RECIPE / "masked-units.txt"):
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    run_in_root(root, ["systemctl", "-q", "enable", "shamon-guest-agent.service", "lab-console.service"])
    (root / "etc/machine-id").write_text("5ba3000000004000800000000000000b\n")
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (initrd,) = (root / "boot").glob("initrd.img-*")
    (out / "vmlinux").write_bytes(_uncompressed(kernel))
    shutil.copy(initrd, out / "initrd")
    shutil.rmtree(root / "boot")
    (root / "boot").mkdir()
    (out / "manifest.json").write_text(json.dumps({"files": file_digests(root, out / "initrd")}, indent=1) + "\n")
    run(["truncate", "-s", _SIZE, out / "disk.raw"])
    run(["mke2fs", "-q", "-t", "ext4", "-L", "guest", "-E", "lazy_itable_init=1", "-d", root, out / "disk.raw"])
    digests = {name: sha256(out / name) for name in ("vmlinux", "initrd", "disk.raw")}
    (out / "guest.json").write_text(json.dumps(digests, indent=2) + "\n")
    shutil.rmtree(root)
