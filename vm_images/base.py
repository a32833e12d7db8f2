"""The slow, rarely changing layers of the host image: the Debian root with its initramfs and Python packages, and the
build root beside it.
"""

from collections.abc import Callable
from pathlib import Path

from vm_images import debian, wheels
from vm_images.cache import cached, digest_of
from vm_images.commands import run_in_root

HERE = Path(__file__).parent
RECIPE = HERE / "host"
_CODE = [HERE / name for name in ("base.py", "debian.py", "wheels.py")]


def build_root(say: Callable[[str], None]) -> Path:
    """The root with compilers and pip."""
    packages = RECIPE / "build-packages.txt"
    key = digest_of(packages, *wheels.LOCK_FILES[1:], *_CODE)
    return cached("build-root", key, lambda out: wheels.make_build_root(out / "root", packages), say) / "root"


def base_root(say: Callable[[str], None]) -> Path:
    """The host's root without anything of this project."""
    tools = build_root(say)
    lists = [RECIPE / "packages.txt", RECIPE / "path-excludes.txt", RECIPE / "build-packages.txt"]
    key = digest_of(*lists, *wheels.LOCK_FILES, *_CODE)
    return cached("base-root", key, lambda out: _make_base(out / "root", tools), say) / "root"


def _make_base(root: Path, tools: Path) -> None:
    debian.make_root(
        root, debian.read_list(RECIPE / "packages.txt"), excludes=debian.read_list(RECIPE / "path-excludes.txt")
    )
    _make_initramfs(root)
    wheels.install_requirements(tools, root)


def _make_initramfs(root: Path) -> None:
    """An initramfs with the drivers of the root disk only: 6 MB to load and measure instead of 36."""
    settings = root / "etc/initramfs-tools/initramfs.conf"
    settings.write_text(settings.read_text().replace("MODULES=most", "MODULES=list"))
    with (root / "etc/initramfs-tools/modules").open("a") as modules:
        modules.write("virtio_pci\nvirtio_blk\next4\n")
    run_in_root(root, ["update-initramfs", "-u"])
