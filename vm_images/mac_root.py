"""What lies in the root of the MAC VM: Python with what the link agent uses of its library, the links' part of this
project and what answers the host of an attested VM, nft, and the shared libraries of both, all taken from the host
image's base root.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from vm_images import debian
from vm_images.cache import source_files
from vm_images.commands import run, run_in_root

HERE = Path(__file__).parent
PRODUCT = HERE.parent / "shamon_host"
RECIPE = HERE / "mac"
PACKAGES = ("domain", "links", "pyxfrm", "selinux")
"""Of this project, beside the link agent."""
MODULES = {
    "attestation": (
        "__init__", "byte_reader", "evidence", "guest_messages", "linux_logs", "merkle", "pcr", "ports", "quoting",
        "tpm_bare", "tpm_objects", "tpm_structures",
    ),
    "guest_agent": ("__init__", "answering", "vsock"),
}  # fmt: skip
"""And of these packages no more than answers the host: nothing that verifies, hence no library for that."""
_PYTHON = "usr/lib/python3.11"
_VENV = "opt/shamon"
_SITE = f"{_VENV}/lib/python3.11/site-packages"
_PROGRAMS = ("usr/bin/python3.11", "usr/sbin/nft")
_FILES = ("etc/protocols",)
"""What else is taken from the host: without names of protocols nft lists numbers."""
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"
_DIRECTORIES = ("dev", "proc", "sys", "run", "tmp", "etc", "usr/bin", "usr/sbin", "usr/lib64", "var/lib/shamon")
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "../run"}
_CHECK = "import shamon_host." + ", shamon_host.".join(
    (
        "links.linux_kernel", "links.manager", "link_agent.__main__",
        *(f"{package}.{name}" for package, names in MODULES.items() for name in names),
    )
)  # fmt: skip
_NO_BYTE_CODE = shutil.ignore_patterns("__pycache__")


def fill_root(root: Path, base_root: Path, agent: Path) -> None:
    """Make everything but init and the SELinux policy; `agent` becomes the package ``shamon_host.link_agent``."""
    for directory in _DIRECTORIES:
        (root / directory).mkdir(parents=True)
    for name, target in _LINKS.items():
        (root / name).symlink_to(target)
    shutil.copytree(base_root / _PYTHON, root / _PYTHON, ignore=_NO_BYTE_CODE)
    for pattern in debian.read_list(RECIPE / "left-out.txt"):
        for path in (root / _PYTHON).glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in (*_PROGRAMS, *_FILES):
        shutil.copy(base_root / name, root / name)
    _copy_libraries(root, base_root)
    _install_product(root, base_root, agent)
    run(["cp", "-r", "--preserve=mode", f"{RECIPE / 'root'}/.", root])
    _compile(root)


def _copy_libraries(root: Path, base_root: Path) -> None:
    """What the programs and Python's own extensions are linked with, and the loader."""
    extensions = sorted((root / _PYTHON / "lib-dynload").glob("*.so"))
    objects = [*_PROGRAMS, *(str(path.relative_to(root)) for path in extensions)]
    (root / _LIBRARIES).mkdir()
    for path in shared_libraries(run_in_root(base_root, ["ldd", *(f"/{name}" for name in objects)])):
        shutil.copy(inside(base_root, path), root / _LIBRARIES / Path(path).name)
    shutil.copy(inside(base_root, f"/{_LOADER}"), root / _LOADER)


def shared_libraries(said: str) -> Iterator[str]:
    """The paths in what ldd says, each once."""
    yield from dict.fromkeys(re.findall(r"^\s+\S+ => (/\S+) \(0x[0-9a-f]+\)$", said, re.MULTILINE))


def inside(root: Path, path: str) -> Path:
    """The file that `path` names inside `root`: symbolic links are followed there, and never lead out of it."""
    at, rest = root, list(Path(path).parts[1:])
    while rest:
        name = rest.pop(0)
        if name == "..":
            at = root if at == root else at.parent
        elif (at / name).is_symlink():
            target = (at / name).readlink()
            at = root if target.is_absolute() else at
            rest = [*(part for part in target.parts if part != target.anchor), *rest]
        else:
            at /= name
    return at


def _install_product(root: Path, base_root: Path, agent: Path) -> None:
    """The directories that a host has, with the packages that links need."""
    site = root / _SITE
    shutil.copytree(base_root / _SITE / "pyroute2", site / "pyroute2", ignore=_NO_BYTE_CODE)
    (root / _VENV / "bin").mkdir()
    (root / _VENV / "bin/python").symlink_to("/usr/bin/python3.11")
    (root / _VENV / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    parts = {"link_agent": agent, **{name: PRODUCT / name for name in PACKAGES}}
    for name, source in parts.items():
        for file in source_files(source):
            target = site / "shamon_host" / name / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    shutil.copyfile(PRODUCT / "__init__.py", site / "shamon_host/__init__.py")
    for file in module_files():
        target = site / "shamon_host" / file.relative_to(PRODUCT)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)


def module_files() -> list[Path]:
    """Those of `MODULES`."""
    return [PRODUCT / package / f"{name}.py" for package, names in MODULES.items() for name in names]


def _compile(root: Path) -> None:
    """Byte-code that is taken as it is: dm-verity has looked at it already, and its time is that of no source."""
    python = f"/{_VENV}/bin/python"
    compiler = [python, "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    run_in_root(root, [*compiler, f"/{_PYTHON}", f"/{_SITE}"], env={"PYTHONHASHSEED": "0"})
    run_in_root(root, [python, "-IB", "-c", _CHECK])
