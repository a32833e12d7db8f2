"""The MAC VM: a kernel, an initrd of one program and kernel modules, and a read-only root behind dm-verity
(`mac_root`). No shell, no service manager, no login.

The root is squashfs with dm-verity's hash tree behind it; the tree's root hash stands on the kernel's command line, so
who digests kernel, initrd and command line has digested everything. One kernel boots under QEMU and as a
paravirtualised guest of Xen.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from shamon_host.selinux import LINK_MODULE, MAC_VM_MODULE
from vm_images import base, debian
from vm_images.app import archive, uncompressed
from vm_images.cache import cached, digest_of
from vm_images.commands import CommandError, run, run_in_root
from vm_images.kernel_modules import depends_on, found_modules, in_load_order
from vm_images.mac_root import PACKAGES, PRODUCT, RECIPE, fill_root, module_files
from vm_images.manifest import root_digests, sha256

HERE = Path(__file__).parent
_CODE = [
    HERE / name for name in ("mac_vm.py", "mac_root.py", "kernel_modules.py", "app.py", "manifest.py", "commands.py")
]
_BUILD_PACKAGES = RECIPE / "build-packages.txt"
_KERNEL_PACKAGE = "linux-image-cloud-amd64"
_MODULES = {
    "common": (
        # the root
        "dm_verity", "squashfs",
        # links: ESP with AES-GCM and all that the kernel would look for when it makes one, L2TP, bridges
        "aesni_intel", "ghash_clmulni_intel", "ghash_generic", "gcm", "ctr", "seqiv", "echainiv",
        "sha512_generic", "drbg",
        "xfrm_user", "esp4", "esp6", "l2tp_netlink", "l2tp_eth", "bridge",
        # guard, gate and filters
        "nf_tables", "nfnetlink", "nft_objref", "nft_meta_bridge", "nft_xfrm", "nft_limit",
    ),
    "virtio": ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "vmw_vsock_virtio_transport"),
    "xen": ("xen_blkfront", "xen_netfront"),
}  # fmt: skip
"""Directory in the initrd → what is loaded from it: common, then that of the bus. After that no module is loaded."""
_POLICY = "etc/selinux/default/policy/policy.33"
_CONTEXTS = "etc/selinux/default/contexts/files"
_BLOCK_BYTES = 4096
# Fixed, as an image is a function of what goes into it. It keeps nobody from anything: what is hashed is public.
_SALT = "5ba3000000004000800000000000000b5ba3000000004000800000000000000b"


def build_mac_vm(say: Callable[[str], None], agent: Path = PRODUCT / "link_agent") -> Path:
    """The directory with ``vmlinuz`` (an ELF kernel), ``initrd``, ``root.img`` and ``mac-vm.json``:
    ``{"vmlinuz", "initrd", "root", "cmdline"}``, the SHA-256 digests of the three files (lower-case hexadecimal) and
    the command line that they are started with. The root is the first disk, which may be read-only.
    ``mac-manifest.json``: ``files``, path → SHA-256 digests of what is in the root.

    `agent`: a Python package that becomes ``shamon_host.link_agent`` in the image; tests have one of their own.

    Raises:
        CommandError: there is no such package, or a program of the recipe failed.
    """
    if not (agent / "__main__.py").exists():
        raise CommandError(f"{agent}: no package that can be run, so there is no link agent for the MAC VM")
    base_root, tools, packer = base.base_root(say), base.build_root(say), _packer(say)
    kernel = cached("mac-kernel", digest_of(_KERNEL_PACKAGE, HERE / "mac_vm.py"), _fetch_kernel, say)
    product = [PRODUCT / "__init__.py", *(PRODUCT / name for name in PACKAGES), *module_files()]
    made_of = [path.name for path in (base_root.parent, tools.parent, packer.parent, kernel)]

    def build(out: Path) -> None:
        shutil.copy(kernel / "vmlinuz", out / "vmlinuz")
        programs, root = _compile(tools, out), out / "root"
        _make_initrd(kernel / "modules", programs / "initrd", out / "initrd")
        fill_root(root, base_root, agent)
        shutil.copy(programs / "init", root / "usr/sbin/init")
        contexts = _make_policy(root, base_root, out)
        run(["setfiles", "-F", "-r", root, contexts / "file_contexts", root])
        (out / "mac-manifest.json").write_text(json.dumps({"files": _manifest(root)}, indent=1) + "\n")
        words = _make_root_image(root, packer, out)
        for made in (programs, root, contexts):
            shutil.rmtree(made)
        _describe(words, out)

    return cached("mac-vm", digest_of(*made_of, RECIPE, *_CODE, *product, agent), build, say)


def _packer(say: Callable[[str], None]) -> Path:
    """The root with the programs that make the image's file system and hash tree."""
    key = digest_of(_BUILD_PACKAGES, HERE / "debian.py")
    packages = debian.read_list(_BUILD_PACKAGES)
    return cached("mac-tools", key, lambda out: debian.make_root(out / "root", packages), say) / "root"


def _fetch_kernel(out: Path) -> None:
    root = out / "root"
    debian.make_root(root, [_KERNEL_PACKAGE], variant="extract")
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (out / "vmlinuz").write_bytes(uncompressed(kernel))
    (modules,) = (root / "lib/modules").iterdir()
    shutil.copytree(modules, out / "modules")
    shutil.rmtree(root)


def _compile(tools: Path, out: Path) -> Path:
    """Both programs of the boot, without shared libraries: nothing else runs before the root is open."""
    programs = out / "programs"
    programs.mkdir()
    compiler = ["gcc", "-static", "-Os", "-Wall", "-Wextra", "-Werror", "-s", "-Wl,--build-id=none"]
    for name in ("initrd", "init"):
        command = [*compiler, "-o", f"/media/{name}", f"/mnt/{name}.c"]
        run_in_root(tools, command, binds={RECIPE: "/mnt", programs: "/media"})
    return programs


def _make_initrd(modules: Path, program: Path, out: Path) -> None:
    found = found_modules(modules)
    needs = {name: depends_on(path.read_bytes()) for name, path in found.items()}
    directories = ("dev", "proc", "sys", "root", "modules", *(f"modules/{group}" for group in _MODULES))
    files = [(name, 0o040755, b"") for name in directories]
    files.append(("init", 0o100755, program.read_bytes()))
    loaded: tuple[str, ...] = ()
    for group, wanted in _MODULES.items():
        if absent := [name for name in wanted if name not in needs]:
            raise CommandError(f"{_KERNEL_PACKAGE} has no such modules: {' '.join(absent)}")
        order = in_load_order(wanted, needs, loaded)
        loaded = loaded or order  # the first group's: of the others, one is loaded
        for number, name in enumerate(order):
            files.append((f"modules/{group}/{number:02}-{name}.ko", 0o100644, found[name].read_bytes()))
    out.write_bytes(archive(files))


def _make_policy(root: Path, base_root: Path, out: Path) -> Path:
    """Put the host's policy with this project's modules for a MAC VM into the root; returns the directory of the file
    contexts: beside the one file with all of them there are those that say which directories are as good as others.

    The policy's store is a copy that lies over the base root's own, which stays as it was.
    """
    store, modules, contexts = out / "store", out / "modules", out / "contexts"
    places = ("etc/selinux", "var/lib/selinux")
    for name in places:
        shutil.copytree(base_root / name, store / name, symlinks=True)
    modules.mkdir()
    names = [f"{module}.cil" for module in (LINK_MODULE, MAC_VM_MODULE)]
    for name in names:
        shutil.copy(PRODUCT / "selinux" / name, modules)
    binds = {modules: "/mnt", **{store / name: f"/{name}" for name in places}}
    run_in_root(base_root, ["semodule", "-n", "-i", *(f"/mnt/{name}" for name in names)], binds=binds)
    (root / _POLICY).parent.mkdir(parents=True)
    shutil.copyfile(store / _POLICY, root / _POLICY)
    shutil.copytree(store / _CONTEXTS, contexts)
    shutil.rmtree(store)
    shutil.rmtree(modules)
    return contexts


def _make_root_image(root: Path, packer: Path, out: Path) -> str:
    """Write ``root.img``; returns the words of the command line that name it."""
    image, binds = out / "root.img", {root: "/mnt", out: "/media"}
    fixed = ["-mkfs-time", "0", "-all-time", "0", "-noappend", "-no-progress", "-quiet", "-comp", "zstd"]
    run_in_root(packer, ["mksquashfs", "/mnt", "/media/root.img", *fixed], binds=binds)
    blocks = -(-image.stat().st_size // _BLOCK_BYTES)
    size = str(blocks * _BLOCK_BYTES)
    run(["truncate", "-s", size, image])
    options = ["--no-superblock", "--hash", "sha256", "--salt", _SALT, "--data-blocks", str(blocks)]
    options += ["--data-block-size", str(_BLOCK_BYTES), "--hash-block-size", str(_BLOCK_BYTES), "--hash-offset", size]
    command = ["veritysetup", "format", *options, "/media/root.img", "/media/root.img"]
    (found,) = re.findall(r"^Root hash:\s+([0-9a-f]{64})$", run_in_root(packer, command, binds=binds), re.MULTILINE)
    return f"shamon.root.blocks={blocks} shamon.root.salt={_SALT} shamon.root.hash={found}"


def _manifest(root: Path) -> dict[str, list[str]]:
    """Of what may be measured in the MAC VM. The program of the initrd looks at the root below ``/root``."""
    files = root_digests(root)
    return {**files, f"/root/{_POLICY}": files[f"/{_POLICY}"]}


def _describe(words: str, out: Path) -> None:
    files = {"vmlinuz": "vmlinuz", "initrd": "initrd", "root": "root.img"}
    described = {key: sha256(out / name) for key, name in files.items()}
    described["cmdline"] = f"{(RECIPE / 'cmdline').read_text().strip()} {words}"
    (out / "mac-vm.json").write_text(json.dumps(described, indent=1) + "\n")
