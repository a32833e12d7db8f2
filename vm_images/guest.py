"""The image of VMs that are attested: a small Debian with this project's agent, a kernel that needs no decompression,
and the manifest of all its files, from which Reference Values are made.
"""

import json
import lzma
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from vm_images import base, debian
from vm_images.cache import cached, digest_of
from vm_images.commands import run, run_in_root
from vm_images.guest_root import RECIPE, guest_root
from vm_images.host import PRODUCT, REPOSITORY, install_product
from vm_images.manifest import file_digests, sha256

HERE = Path(__file__).parent
_SIZE = "512M"
_AGENT_GROUP = "990"
"""By which the guest's IMA policy knows what the agent reads."""


def build_guest(say: Callable[[str], None]) -> Path:
    """The directory with ``vmlinux``, ``initrd``, ``disk.raw`` (a raw ext4 root), ``manifest.json`` (``files``: path →
    SHA-256 digests) and ``guest.json`` (the digests of the first three).
    """
    tools = base.build_root(say)
    root = guest_root(tools, say)
    product = [REPOSITORY / name for name in PRODUCT]
    key = digest_of(root.parent.name, RECIPE, HERE / "guest.py", HERE / "host.py", *product)
    return cached("guest", key, lambda out: _build(out, root, tools), say)


def _build(out: Path, base_root: Path, tools: Path) -> None:
    root = out / "root"
    run(["cp", "-a", base_root, root])
    run(["cp", "-r", "--preserve=mode", f"{RECIPE / 'root'}/.", root])
    run_in_root(root, ["groupadd", "--system", "--gid", _AGENT_GROUP, "shamon-agent"])
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


def _uncompressed(kernel: Path) -> bytes:
    """The ELF kernel inside an XZ-compressed bzImage (boot protocol 2.08: payload_offset at 0x248, payload_length at
    0x24C): a machine in an emulated machine would take long to unpack it.
    """
    image = kernel.read_bytes()
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    return lzma.decompress(image[start : start + length - 4])  # the last four bytes are the unpacked size
