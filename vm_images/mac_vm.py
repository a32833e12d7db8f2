"""The MAC VM: a kernel, an initrd of one program and the modules, and a read-only root behind dm-verity that holds
Python, the links' part of this project and nft. No shell, no service manager, no login.

The root is squashfs with the hash tree of dm-verity behind it; its digest stands on the kernel's command line, so who
digests kernel, initrd and command line has digested everything. The kernel is the application VM's, for QEMU and as a
paravirtualised guest of Xen alike.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from shamon_host.selinux import LINK_MODULE, MAC_VM_MODULE
from vm_images import base, debian
from vm_images.app import archive, uncompressed
from vm_images.cache import cached, digest_of, source_files
from vm_images.commands import CommandError, run, run_in_root
from vm_images.kernel_modules import depends_on, found_modules, in_load_order
from vm_images.manifest import sha256

HERE = Path(__file__).parent
PRODUCT = HERE.parent / "shamon_host"
RECIPE = HERE / "mac"
_CODE = [HERE / name for name in ("mac_vm.py", "kernel_modules.py", "app.py", "commands.py")]
_KERNEL_PACKAGES = ("linux-image-cloud-amd64",)
_MODULES = {
    "common": (
        # the root
        "dm_verity", "squashfs",
        # links: ESP with AES-GCM and what it is made of, L2TP, bridges
        "aesni_intel", "ghash_clmulni_intel", "ghash_generic", "gcm", "ctr", "seqiv", "echainiv",
        "sha512_generic", "drbg",
        "xfrm_user", "esp4", "esp6", "l2tp_netlink", "l2tp_eth", "bridge",
        # guard, gate and filters
        "nf_tables", "nfnetlink", "nft_objref", "nft_meta_bridge", "nft_xfrm", "nft_limit",
    ),
    "virtio": ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng"),
    "xen": ("xen_blkfront", "xen_netfront"),
}  # fmt: skip
"""Directory in the initrd → what is loaded from it: common, and that of the bus. After that no module is loaded."""
PACKAGES = ("domain", "links", "pyxfrm", "selinux")
"""Of this project, beside the link agent."""
_PYTHON = "usr/lib/python3.11"
_SITE = f"opt/shamon/lib/{Path(_PYTHON).name}/site-packages"
_PROGRAMS = ("usr/bin/python3.11", "usr/sbin/nft")
_FILES = ("etc/protocols", "etc/selinux/config")
"""What else is taken from the host: without names of protocols nft lists numbers."""
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"
_DIRECTORIES = ("dev", "proc", "sys", "run", "tmp", "etc/selinux", "usr/bin", "usr/sbin", "usr/lib64", "var/lib/shamon")
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "../run"}
_POLICY = "etc/selinux/default/policy/policy.33"
_CONTEXTS = "etc/selinux/default/contexts/files"
_BLOCK = 4096
# Fixed, so that an image is a function of what goes into it. A salt keeps tables of digests useless; this one hides
# nothing.
_SALT = "5ba3000000004000800000000000000b5ba3000000004000800000000000000b"
_CHECK = "import shamon_host.links.linux_kernel, shamon_host.links.manager, shamon_host.link_agent.__main__"


def build_mac_vm(say: Callable[[str], None], agent: Path = PRODUCT / "link_agent") -> Path:
    """The directory with ``vmlinuz`` (an ELF kernel), ``initrd``, ``root.img`` and ``mac-vm.json``: the SHA-256
    digests of the three by name, and ``cmdline``, the command line that they are started with.

    `agent`: a Python package that becomes ``shamon_host.link_agent`` in the image; tests have one of their own.

    Raises:
        CommandError: there is no such package, or a program of the recipe failed.
    """
    if not (agent / "__main__.py").exists():
        raise CommandError(f"{agent}: no package with a __main__.py, so there is no link agent for the MAC VM")
    base_root, tools = base.base_root(say), base.build_root(say)
    packages = RECIPE / "build-packages.txt"
    packer = cached(
        "mac-tools",
        digest_of(packages, HERE / "debian.py"),
        lambda out: debian.make_root(out / "root", debian.read_list(packages)),
        say,
    )
    kernel = cached("mac-kernel", digest_of(" ".join(_KERNEL_PACKAGES), HERE / "debian.py"), _fetch_kernel, say)
    product = [PRODUCT / "__init__.py", *(PRODUCT / name for name in PACKAGES)]
    made_of = [base_root.parent.name, tools.parent.name, packer.name, kernel.name]
    key = digest_of(*made_of, RECIPE, *_CODE, *product, agent)

    def build(out: Path) -> None:
        shutil.copy(kernel / "vmlinuz", out / "vmlinuz")
        programs = _compile(tools, out)
        _make_initrd(kernel, programs / "initrd", out / "initrd")
        root = out / "root"
        _fill_root(root, base_root, agent)
        shutil.copy(programs / "init", root / "usr/sbin/init")
        shutil.rmtree(programs)
        contexts = _make_policy(root, base_root, out)
        _make_root_image(root, contexts, packer / "root", out)
        _describe(out)

    return cached("mac-vm", key, build, say)


def _fetch_kernel(out: Path) -> None:
    root = out / "root"
    debian.make_root(root, _KERNEL_PACKAGES, variant="extract")
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (out / "vmlinuz").write_bytes(uncompressed(kernel))
    (modules,) = (root / "lib/modules").iterdir()
    shutil.copytree(modules, out / "modules")
    shutil.rmtree(root)


def _compile(tools: Path, out: Path) -> Path:
    """Without shared libraries: nothing else runs before the root is open."""
    programs = out / "programs"
    programs.mkdir()
    for name in ("initrd", "init"):
        compiler = ["gcc", "-static", "-Os", "-Wall", "-Wextra", "-Werror", "-s", "-Wl,--build-id=none"]
        binds = {RECIPE: "/mnt", programs: "/media"}
        run_in_root(tools, [*compiler, "-o", f"/media/{name}", f"/mnt/{name}.c"], binds=binds)
    return programs


def _make_initrd(kernel: Path, program: Path, out: Path) -> None:
    found = found_modules(kernel / "modules")
    needs = {name: depends_on(path.read_bytes()) for name, path in found.items()}
    names = ("dev", "proc", "sys", "root", "modules", *(f"modules/{group}" for group in _MODULES))
    files = [(name, 0o040755, b"") for name in names]
    files.append(("init", 0o100755, program.read_bytes()))
    builtin = {Path(line).stem.replace("-", "_") for line in _lines(kernel / "modules/modules.builtin")}
    before: set[str] = set()
    for group, wanted in _MODULES.items():
        absent = [name for name in wanted if name not in needs and name not in builtin]
        if absent:
            raise CommandError(f"the kernel has no such modules: {' '.join(absent)}")
        order = in_load_order([name for name in wanted if name in needs], needs, loaded=before)
        before |= set(order) if group == "common" else set()
        files += [
            (f"modules/{group}/{index:02}-{name}.ko", 0o100644, found[name].read_bytes())
            for index, name in enumerate(order)
        ]
    out.write_bytes(archive(files))


def _lines(path: Path) -> list[str]:
    return path.read_text().split()


def _fill_root(root: Path, base_root: Path, agent: Path) -> None:
    for directory in _DIRECTORIES:
        (root / directory).mkdir(parents=True)
    for name, target in _LINKS.items():
        (root / name).symlink_to(target)
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(base_root / _PYTHON, root / _PYTHON, ignore=left_out)
    for pattern in debian.read_list(RECIPE / "left-out.txt"):
        for path in (root / _PYTHON).glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in (*_PROGRAMS, *_FILES):
        shutil.copy(base_root / name, root / name)
    _copy_libraries(root, base_root)
    _install_product(root, base_root, agent)
    run(["cp", "-r", "--preserve=mode", f"{RECIPE / 'root'}/.", root])
    trees = [f"/{_PYTHON}", f"/{_SITE}"]
    compiler = ["/opt/shamon/bin/python", "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    run_in_root(root, [*compiler, *trees], env={"PYTHONHASHSEED": "0"})
    run_in_root(root, ["/opt/shamon/bin/python", "-IB", "-c", _CHECK])


def _copy_libraries(root: Path, base_root: Path) -> None:
    """What the programs and Python's own extensions are linked with, and the loader."""
    objects = [*_PROGRAMS, *(str(path.relative_to(root)) for path in (root / _PYTHON / "lib-dynload").glob("*.so"))]
    (root / _LIBRARIES).mkdir()
    for path in shared_libraries(run_in_root(base_root, ["ldd", *(f"/{name}" for name in objects)])):
        target = root / _LIBRARIES / Path(path).name
        if not target.exists():
            shutil.copy(inside(base_root, path), target)
    shutil.copy(inside(base_root, f"/{_LOADER}"), root / _LOADER)


def shared_libraries(said: str) -> Iterator[str]:
    """The paths in what ldd says."""
    for line in said.splitlines():
        if found := re.fullmatch(r"\s+\S+ => (/\S+) \(0x[0-9a-f]+\)", line):
            yield found[1]


def inside(root: Path, path: str) -> Path:
    """The file that `path` is inside `root`, its symbolic links followed there."""
    at, rest = root, list(Path(path).parts[1:])
    while rest:
        step = at / rest.pop(0)
        if step.is_symlink():
            target = Path(step.readlink())
            rest = [*(target.parts[1:] if target.is_absolute() else target.parts), *rest]
            at = root if target.is_absolute() else at
        else:
            at = at.parent if step.name == ".." else step
    return at


def _install_product(root: Path, base_root: Path, agent: Path) -> None:
    """The directories that a host has, with the packages that links need."""
    site = root / _SITE
    site.mkdir(parents=True)
    for package in ("pyroute2",):
        shutil.copytree(base_root / _SITE / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "opt/shamon/bin").mkdir()
    (root / "opt/shamon/bin/python").symlink_to("/usr/bin/python3.11")
    (root / "opt/shamon/pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    trees = {PRODUCT / name: site / "shamon_host" / name for name in PACKAGES}
    for source, target in {**trees, agent: site / "shamon_host/link_agent"}.items():
        for file in source_files(source):
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    shutil.copyfile(PRODUCT / "__init__.py", site / "shamon_host/__init__.py")


def _make_policy(root: Path, base_root: Path, out: Path) -> Path:
    """The host's policy with this project's modules, made beside the base root, which is left as it was; returns the
    file contexts.
    """
    store, modules = out / "store", out / "modules"
    for name in ("etc/selinux", "var/lib/selinux"):
        shutil.copytree(base_root / name, store / name, symlinks=True)
    modules.mkdir()
    names = [f"{module}.cil" for module in (LINK_MODULE, MAC_VM_MODULE)]
    for name in names:
        shutil.copy(PRODUCT / "selinux" / name, modules)
    binds = {store / name: f"/{name}" for name in ("etc/selinux", "var/lib/selinux")}
    command = ["semodule", "-n", "-i", *(f"/mnt/{name}" for name in names)]
    run_in_root(base_root, command, binds={**binds, modules: "/mnt"})
    (root / _POLICY).parent.mkdir(parents=True)
    shutil.copyfile(store / _POLICY, root / _POLICY)
    contexts = out / "contexts"  # all of them: some say which directories are as good as others
    shutil.copytree(store / _CONTEXTS, contexts)
    shutil.rmtree(store)
    shutil.rmtree(modules)
    return contexts / "file_contexts"


def _make_root_image(root: Path, contexts: Path, packer: Path, out: Path) -> None:
    """``root.img``, and ``verity.txt`` with what veritysetup said."""
    run(["setfiles", "-F", "-r", root, contexts, root])
    packed = ["-noappend", "-no-progress", "-quiet", "-comp", "zstd", "-mkfs-time", "0", "-all-time", "0"]
    binds = {root: "/mnt", out: "/media"}
    run_in_root(packer, ["mksquashfs", "/mnt", "/media/root.img", *packed], binds=binds)
    image = out / "root.img"
    size = -(-image.stat().st_size // _BLOCK) * _BLOCK
    run(["truncate", "-s", str(size), image])
    verity = ["--no-superblock", "--salt", _SALT, "--data-block-size", str(_BLOCK), "--hash-block-size", str(_BLOCK)]
    verity += ["--data-blocks", str(size // _BLOCK), "--hash-offset", str(size), "--hash", "sha256"]
    said = run_in_root(packer, ["veritysetup", "format", *verity, "/media/root.img", "/media/root.img"], binds=binds)
    (found,) = re.findall(r"^Root hash:\s+([0-9a-f]{64})$", said, re.MULTILINE)
    words = (f"shamon.root.blocks={size // _BLOCK}", f"shamon.root.salt={_SALT}", f"shamon.root.hash={found}")
    (out / "root.words").write_text(" ".join(words))
    shutil.rmtree(root)
    shutil.rmtree(contexts.parent)


def _describe(out: Path) -> None:
    words = out / "root.words"
    cmdline = f"{(RECIPE / 'cmdline').read_text().strip()} {words.read_text()}"
    words.unlink()
    digests = {name: sha256(out / name) for name in ("vmlinuz", "initrd", "root.img")}
    described = {
        key: digests[name] for key, name in {"vmlinuz": "vmlinuz", "initrd": "initrd", "root": "root.img"}.items()
    }
    (out / "mac-vm.json").write_text(json.dumps({**described, "cmdline": cmdline}, indent=1) + "\n")
