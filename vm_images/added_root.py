"""The base root with further packages, which are only unpacked: what their installation would set up (services,
accounts) nobody needs there.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from vm_images import debian
from vm_images.cache import cached, digest_of
from vm_images.commands import run, run_in_root

HERE = Path(__file__).parent


def added_root(kind: str, root: Path, package_list: Path, say: Callable[[str], None]) -> Path:
    """The root with the packages of the list and what they depend on, still without anything of this project."""
    key = digest_of(root.parent.name, package_list, HERE / "added_root.py", HERE / "debian.py")
    return cached(f"{kind}-root", key, lambda out: _make_root(out, root, package_list), say) / "root"


def _make_root(out: Path, base_root: Path, package_list: Path) -> None:
    added, archive = out / "added", out / "added.tar"
    debian.make_root(added, debian.read_list(package_list), variant="extract")
    run(["cp", "-a", base_root, out / "root"])
    run(["tar", "-C", added, "-cf", archive, "."])
    # What the base root has stays as it is there, and /lib a link into /usr.
    run(["tar", "-C", out / "root", "-xf", archive, "--skip-old-files", "--keep-directory-symlink"])
    run_in_root(out / "root", ["ldconfig"])
    shutil.rmtree(added)
    archive.unlink()
