"""The host image: base root plus this project, its SELinux modules, the lab's configuration and the application VM,
as one ext4 file.

The last layer is made anew whenever the project's code changes, so it is kept under a minute: copy, install, label,
write.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from vm_images import base, debian, wheels
from vm_images.app import build_app
from vm_images.bench import bench_root
from vm_images.cache import cache_root, cached, digest_of, source_files
from vm_images.commands import run, run_in_root
from vm_images.manifest import file_digests, sha256
from vm_images.uki import make_uki

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
RECIPE = HERE / "host"
_PRODUCT = ("pyproject.toml", "README.md", "LICENSE", "shamon_host")
_APP_HOME = "var/lib/libvirt/images/app"
_DIRECTORIES = ("etc/shamon/peers", "etc/shamon/reference", "var/lib/libvirt/images/shamon")
_IMAGE_SIZE = "3G"
_STRANGE_MODULE = "kernel/drivers/net/dummy.ko"


def build_host(say: Callable[[str], None]) -> Path:
    """The directory with the host's images.

    ``host.img`` (raw ext4), ``host.efi`` and ``other.efi`` (unified kernel images; the second has another command
    line), ``vmlinuz``, ``initrd``, ``manifest.json`` (see :func:`_write_manifest`), ``app/`` (the application VM),
    ``stranger.ko`` (a kernel module that is not in the image) and ``ssh_key`` (the private key that root's ssh
    takes).
    """
    return _build_with("host", base.base_root(say), say)


def build_bench(say: Callable[[str], None]) -> Path:
    """The same files as `build_host`, of a host that also has the programs that links are compared with: for the bench
    alone, which attests nothing.
    """
    return _build_with("bench", bench_root(say), say)


def _build_with(kind: str, root: Path, say: Callable[[str], None]) -> Path:
    key_pair = _lab_key()
    app = build_app(say)
    product = [REPOSITORY / name for name in _PRODUCT if (REPOSITORY / name).exists()]
    code = [HERE / name for name in ("host.py", "manifest.py", "uki.py", "wheels.py", "commands.py")]
    key = digest_of(root.parent.name, app.name, RECIPE, key_pair.with_suffix(".pub"), *code, *product)
    tools = base.build_root(say)
    return cached(kind, key, lambda out: _build(out, root, tools, app, key_pair), say)


def _build(out: Path, base_root: Path, tools: Path, app: Path, key_pair: Path) -> None:
    root = out / "root"
    run(["cp", "-a", base_root, root])
    _take_out_stranger(root, out / "stranger.ko")
    _configure(root, key_pair)
    _install_product(root, tools, out)
    (root / _APP_HOME).mkdir()
    for name in ("vmlinux", "initrd", "disk.raw"):
        shutil.copy(app / name, root / _APP_HOME / name)
    shutil.copytree(app, out / "app")
    contexts = _install_selinux(root)
    run(["setfiles", "-F", "-r", root, contexts, root])
    _write_boot_files(root, out)
    _write_manifest(root, out)
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


def _configure(root: Path, key_pair: Path) -> None:
    run(["cp", "-r", "--preserve=mode", f"{RECIPE / 'root'}/.", root])
    authorized = root / "root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, exist_ok=True)
    authorized.write_text(key_pair.with_suffix(".pub").read_text())
    for directory in _DIRECTORIES:
        (root / directory).mkdir(parents=True)
    for unit in debian.read_list(RECIPE / "masked-units.txt"):
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    run_in_root(root, ["systemctl", "-q", "disable", "libvirtd.service"])
    run_in_root(root, ["systemctl", "-q", "enable", "ssh.service", "lab-identity.service"])
    (root / "etc/machine-id").write_text("5ba3000000004000800000000000000a\n")


def _install_product(root: Path, tools: Path, out: Path) -> None:
    """Install the project from a copy, so that nothing is written into the checkout; its unit goes where systemd
    looks.
    """
    if (REPOSITORY / "pyproject.toml").exists():
        source = out / "source"
        source.mkdir()
        for name in _PRODUCT:
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


def _install_selinux(root: Path) -> Path:
    """Load the SELinux modules into the image's policy; returns the file contexts."""
    modules = sorted([*(REPOSITORY / "shamon_host/selinux").glob("*.cil"), *RECIPE.glob("*.cil")])
    staged = root / "root/selinux"
    staged.mkdir()
    for module in modules:
        shutil.copy(module, staged)
    run_in_root(root, ["semodule", "-n", "-i", *[f"/root/selinux/{module.name}" for module in modules]])
    shutil.rmtree(staged)
    return root / "etc/selinux/default/contexts/files/file_contexts"


def _write_boot_files(root: Path, out: Path) -> None:
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (initrd,) = (root / "boot").glob("initrd.img-*")
    shutil.copy(kernel, out / "vmlinuz")
    shutil.copy(initrd, out / "initrd")
    release = (
        (root / "etc/os-release").resolve()
        if not (root / "etc/os-release").is_symlink()
        else root / "usr/lib/os-release"
    )
    for name, words in (("host.efi", "cmdline"), ("other.efi", "cmdline-other")):
        cmdline = out / "cmdline.txt"
        cmdline.write_text((RECIPE / words).read_text().strip())
        make_uki(out / name, os_release=release, cmdline=cmdline, kernel=kernel, initrd=initrd)
        cmdline.unlink()


def _write_manifest(root: Path, out: Path) -> None:
    """``manifest.json``: ``{"files": {path: [sha256, ...]}, "uki": {name: {"sha256", "cmdline"}}, "kernel", "initrd",
    "app": {name: sha256}}``.

    Paths are as the kernel names them in the running host (or in its initramfs), digests lower-case hexadecimal.
    """
    ukis = {
        name: {"sha256": sha256(out / name), "cmdline": (RECIPE / words).read_text().strip()}
        for name, words in (("host.efi", "cmdline"), ("other.efi", "cmdline-other"))
    }
    manifest = {
        "files": file_digests(root, out / "initrd"),
        "uki": ukis,
        "kernel": sha256(out / "vmlinuz"),
        "initrd": sha256(out / "initrd"),
        "app": json.loads((out / "app/app.json").read_text()),
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
