"""The application VM: a cloud kernel that needs no decompression, a busybox initramfs of a few files, and a small
clean disk.

It is made for a machine emulated inside an emulated machine, where every instruction of the boot counts; the same files
boot as a paravirtualised guest of Xen.
"""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from vm_images import debian
from vm_images.cache import cached, digest_of
from vm_images.commands import run

HERE = Path(__file__).parent
_PACKAGES = ("linux-image-cloud-amd64", "busybox-static")
_MODULES = {
    "virtio": (
        "virtio_ring",
        "virtio",
        "virtio_pci_legacy_dev",
        "virtio_pci_modern_dev",
        "virtio_pci",
        "virtio_blk",
        "failover",
        "net_failover",
        "virtio_net",
    ),
    "xen": ("xen_blkfront", "xen_netfront", "xen_evtchn", "xen_gntdev", "xen_gntalloc"),
}
"""Directory below /lib → what is loaded where that is the bus, in this order."""
_DISK_BYTES = 8 << 20


def build_app(say: Callable[[str], None]) -> Path:
    """The directory with ``vmlinux``, ``initrd``, ``disk.raw`` and ``app.json`` (their SHA-256 digests)."""
    key = digest_of(" ".join(_PACKAGES), HERE / "app", HERE / "app.py")
    return cached("app", key, _build, say)


def _build(out: Path) -> None:
    root = out / "root"
    debian.make_root(root, _PACKAGES, variant="extract")
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (out / "vmlinux").write_bytes(uncompressed(kernel))
    _make_initrd(root, out / "initrd")
    disk = out / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(_DISK_BYTES)
    fixed = ["-U", "5ba30000-0000-4000-8000-000000000001", "-E", "hash_seed=5ba30000-0000-4000-8000-000000000002"]
    run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-L", "app", *fixed, disk])
    shutil.rmtree(root)
    digests = {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in ("vmlinux", "initrd", "disk.raw")
    }
    (out / "app.json").write_text(json.dumps(digests, indent=2) + "\n")


def uncompressed(kernel: Path) -> bytes:
    """The ELF kernel inside an LZ4-compressed bzImage (boot protocol 2.08: payload_offset at 0x248, payload_length at
    0x24C).
    """
    image = kernel.read_bytes()
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    packed = kernel.with_suffix(".lz4")
    packed.write_bytes(image[start : start + length - 4])  # the last four bytes are the unpacked size
    plain = kernel.with_suffix(".elf")
    run(["lz4", "-d", "-f", "-q", packed, plain])
    return plain.read_bytes()


def _make_initrd(root: Path, out: Path) -> None:
    (modules,) = (root / "lib/modules").iterdir()
    found = {path.stem.replace("-", "_"): path for path in modules.rglob("*.ko")}
    files: list[tuple[str, int, bytes]] = [
        (name, 0o040755, b"")
        for name in ("bin", "dev", "proc", "sys", "mnt", "lib", *(f"lib/{bus}" for bus in _MODULES), "www", "run")
    ]
    files.append(("bin/busybox", 0o100755, (root / "bin/busybox").read_bytes()))
    files.append(("init", 0o100755, (HERE / "app/init").read_bytes()))
    files += [
        (f"lib/{bus}/{index}-{name}.ko", 0o100644, found[name].read_bytes())
        for bus, names in _MODULES.items()
        for index, name in enumerate(names)
        if name in found
    ]
    out.write_bytes(archive(files))


def archive(files: Sequence[tuple[str, int, bytes]]) -> bytes:
    """A "newc" archive of (name, mode, content); a kernel unpacks one behind another."""
    return b"".join(_cpio_entry(number, *entry) for number, entry in enumerate([*files, ("TRAILER!!!", 0, b"")], 1))


def _cpio_entry(inode: int, name: str, mode: int, content: bytes) -> bytes:
    """One entry of a "newc" archive (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel)."""
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    header += b"\0" * (-len(header) % 4)
    return header + content + b"\0" * (-len(content) % 4)
