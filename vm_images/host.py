"""The host image: base root plus this project, its SELinux modules, the lab's configuration and the application VM,
as one ext4 file.

The last layer is made anew whenever the project's code changes, so it is kept under a minute: copy, install, label,
write.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shamon_host.selinux import KVM_MODULE, LINK_MODULE
from vm_images import base, debian, wheels
from vm_images.added_root import added_root
from vm_images.app import build_app
from vm_images.cache import cache_root, cached, digest_of, source_files
from vm_images.commands import run, run_in_root
from vm_images.mac_vm import build_mac_vm
from vm_images.manifest import file_digests, sha256
from vm_images.uki import make_uki

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
RECIPE = HERE / "host"
PRODUCT = ("pyproject.toml", "README.md", "LICENSE", "shamon_host")
_APP_HOME, _MAC_HOME = "var/lib/libvirt/images/app", "var/lib/libvirt/images/mac"
_GUEST_FILES = {_APP_HOME: ("vmlinux", "initrd", "disk.raw"), _MAC_HOME: ("vmlinuz", "initrd", "root.img")}
_DIRECTORIES = ("etc/shamon/peers", "etc/shamon/reference", "var/lib/libvirt/images/shamon")
_IMAGE_SIZE = "3G"
_STRANGE_MODULE = "kernel/drivers/net/dummy.ko"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of host: what it has beside the host that QEMU runs on.

    `recipes`: directories, each with what may be in one (``root/``, ``masked-units.txt``, SELinux modules);
    `parts`: what the cache's key depends on beside them; `boot`: write the EFI file that boots it, from its command
    line, root, and the directory with ``vmlinuz`` and ``initrd``.
    """

    name: str
    recipes: Sequence[Path]
    modules: Sequence[str] = (LINK_MODULE, KVM_MODULE)
    """Of this project's SELinux modules."""
    boot: Callable[[Path, str, Path, Path], None]
    parts: Sequence[str | Path] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    """Directory in the root → what is copied there."""
    directories: Sequence[str] = ()
    """Empty ones in the root."""
    owned: Mapping[str, str] = field(default_factory=dict)
    """Empty ones, for their owner alone: directory in the root → account."""
    beside: Sequence[Path] = ()
    """Files that lie beside the images, for tests."""

    @property
    def command_lines(self) -> Mapping[str, str]:
        """EFI file → the kernel's command line in it, the last recipe's."""
        recipe = self.recipes[-1]
        files = {"host.efi": recipe / "cmdline", "other.efi": recipe / "cmdline-other"}
        return {name: path.read_text().strip() for name, path in files.items()}


def build_host(say: Callable[[str], None]) -> Path:
    """The directory with the host's images.

    ``host.img`` (raw ext4), ``host.efi`` and ``other.efi`` (unified kernel images; the second has another command
    line), ``vmlinuz``, ``initrd``, ``manifest.json`` (see :func:`_write_manifest`), ``app/`` (the application VM),
    ``mac/`` (the MAC VM), ``stranger.ko`` (a kernel module that is not in the image) and ``ssh_key`` (the private key
    that root's ssh takes).
    """
    return build_kind(Kind(name="host", recipes=[RECIPE], boot=make_host_uki), base.base_root(say), say)


def build_bench(say: Callable[[str], None]) -> Path:
    """The same files as `build_host`, of a host that also has the programs that links are compared with: for the bench
    alone, which attests nothing.
    """
    root = added_root("bench", base.base_root(say), HERE / "bench" / "packages.txt", say)
    return build_kind(Kind(name="bench", recipes=[RECIPE], boot=make_host_uki), root, say)


def build_kind(kind: Kind, root: Path, say: Callable[[str], None]) -> Path:
    """The directory with the files that `build_host` names, of hosts of this kind."""
    key_pair = _lab_key()
    app, mac = build_app(say), build_mac_vm(say)
    product = [REPOSITORY / name for name in PRODUCT if (REPOSITORY / name).exists()]
    code = [HERE / name for name in ("host.py", "manifest.py", "uki.py", "wheels.py", "commands.py")]
    parts = [*kind.recipes, *kind.parts]
    key = digest_of(root.parent.name, app.name, mac.name, key_pair.with_suffix(".pub"), *parts, *code, *product)
    tools = base.build_root(say)

    def build(out: Path) -> None:
        run(["cp", "-a", root, out / "root"])
        _build(kind, out, tools, {_APP_HOME: app, _MAC_HOME: mac}, key_pair)

    return cached(kind.name, key, build, say)


def _build(kind: Kind, out: Path, tools: Path, guests: Mapping[str, Path], key_pair: Path) -> None:
    """Make what goes out of the base root that was copied to ``out/root``. `guests`: directory in the root → what VMs
    of the host are started from."""
    root = out / "root"
    _take_out_stranger(root, out / "stranger.ko")
    _configure(root, kind.recipes, key_pair)
    for directory in kind.directories:
        (root / directory).mkdir(parents=True)
    for directory, account in kind.owned.items():
        run_in_root(root, ["install", "-d", "-m", "0750", "-o", account, f"/{directory}"])
    for place, files in kind.files.items():
        shutil.copytree(files, root / place)
    install_product(root, tools, out)
    for home, guest in guests.items():
        (root / home).mkdir()
        for name in _GUEST_FILES[home]:
            shutil.copy(guest / name, root / home / name)
        shutil.copytree(guest, out / Path(home).name)
    contexts = _install_selinux(root, kind)
    run(["setfiles", "-F", "-r", root, contexts, root])
    for file in kind.beside:
        shutil.copy(file, out / file.name)
    _write_boot_files(kind, root, out)
    _write_manifest(kind, root, out)
    run(["truncate", "-s", _IMAGE_SIZE, out / "host.img"])
    run(["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1", "-d", root, out / "host.img"])
    shutil.copy(key_pair, out / "ssh_key")
    shutil.rmtree(root)


def _lab_key() -> Path:
    """The key pair of the lab's root logins, made once for this cache."""
    path = cache_root() / "lab_key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "shamon-lab", "-f", path])
    return path


def _take_out_stranger(root: Path, out: Path) -> None:
    """Keep one signed module of this kernel out of the image: loading it later is a program that the manifest does
    not know.
    """
    (modules,) = (root / "lib/modules").iterdir()
    shutil.move(modules / _STRANGE_MODULE, out)


def _configure(root: Path, recipes: Sequence[Path], key_pair: Path) -> None:
    for recipe in recipes:
        run(["cp", "-r", "--preserve=mode", f"{recipe / 'root'}/.", root])
    authorized = root / "root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, exist_ok=True)
    authorized.write_text(key_pair.with_suffix(".pub").read_text())
    for directory in _DIRECTORIES:
        (root / directory).mkdir(parents=True)
    for unit in [unit for recipe in recipes for unit in debian.read_list(recipe / "masked-units.txt")]:
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    run_in_root(root, ["systemctl", "-q", "disable", "libvirtd.service"])
    run_in_root(root, ["systemctl", "-q", "enable", "ssh.service", "lab-identity.service"])
    (root / "etc/machine-id").write_text("5ba3000000004000800000000000000a\n")


def install_product(root: Path, tools: Path, out: Path) -> None:
    """Install the project from a copy, so that nothing is written into the checkout; its unit goes where systemd
    looks.
    """
    if (REPOSITORY / "pyproject.toml").exists():
        source = out / "source"
        source.mkdir()
        for name in PRODUCT:
            path = REPOSITORY / name
            for file in source_files(path) if path.is_dir() else [path]:
                target = source / file.relative_to(REPOSITORY)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, target)
        wheels.install_project(tools, source, root)
        shutil.rmtree(source)
    run_in_root(root, ["python3", "-m", "compileall", "-q", "-j", "2", wheels.VENV])
    for unit in (REPOSITORY / "shamon_host/systemd").glob("*.service"):
        shutil.copy(unit, root / "etc/systemd/system" / unit.name)


def _install_selinux(root: Path, kind: Kind) -> Path:
    """Load the SELinux modules into the image's policy; returns the file contexts."""
    modules = [REPOSITORY / f"shamon_host/selinux/{name}.cil" for name in kind.modules]
    modules += sorted(module for recipe in kind.recipes for module in recipe.glob("*.cil"))
    staged = root / "root/selinux"
    staged.mkdir()
    for module in modules:
        shutil.copy(module, staged)
    run_in_root(root, ["semodule", "-n", "-i", *[f"/root/selinux/{module.name}" for module in modules]])
    shutil.rmtree(staged)
    return root / "etc/selinux/default/contexts/files/file_contexts"


def _write_boot_files(kind: Kind, root: Path, out: Path) -> None:
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (initrd,) = (root / "boot").glob("initrd.img-*")
    shutil.copy(kernel, out / "vmlinuz")
    shutil.copy(initrd, out / "initrd")
    for name, cmdline in kind.command_lines.items():
        kind.boot(out / name, cmdline, root, out)


def make_host_uki(image: Path, cmdline: str, root: Path, out: Path) -> None:
    release = root / "etc/os-release"
    if release.is_symlink():
        release = root / "usr/lib/os-release"
    words = out / "cmdline.txt"
    words.write_text(cmdline)
    make_uki(image, os_release=release.resolve(), cmdline=words, kernel=out / "vmlinuz", initrd=out / "initrd")
    words.unlink()


def _write_manifest(kind: Kind, root: Path, out: Path) -> None:
    """``manifest.json``: ``{"files": {path: [sha256, ...]}, "uki": {name: {"sha256", "cmdline"}}, "kernel", "initrd",
    "app": {name: sha256}}``.

    Paths are as the kernel names them in the running host (or in its initramfs), digests lower-case hexadecimal.
    """
    ukis = {name: {"sha256": sha256(out / name), "cmdline": cmdline} for name, cmdline in kind.command_lines.items()}
    manifest = {
        "files": file_digests(root, out / "initrd"),
        "uki": ukis,
        "kernel": sha256(out / "vmlinuz"),
        "initrd": sha256(out / "initrd"),
        "app": json.loads((out / "app/app.json").read_text()),
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
