"""The root of the bench's hosts: the host's, with the programs that links are measured against.

The packages are only unpacked: what their installation would set up (services, accounts) nobody needs there.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from vm_images import base, debian
from vm_images.cache import cached, digest_of
from vm_images.commands import run, run_in_root

HERE = Path(__file__).parent
_PACKAGES = HERE / "bench" / "packages.txt"


def bench_root(say: Callable[[str], None]) -> Path:
    """The base root with them, still without anything of this project."""
    root = base.base_root(say)
    key = digest_of(root.parent.name, _PACKAGES, HERE / "bench.py", HERE / "debian.py")
    return cached("bench-root", key, lambda out: _make_root(out, root), say) / "root"


def _make_root(out: Path, base_root: Path) -> None:
    added, archive = out / "added", out / "added.tar"
    debian.make_root(added, debian.read_list(_PACKAGES), variant="extract")
    run(["cp", "-a", base_root, out / "root"])
    run(["tar", "-C", added, "-cf", archive, "."])
    # What the base root has stays as it is there, and /lib a link into /usr.
    run(["tar", "-C", out / "root", "-xf", archive, "--skip-old-files", "--keep-directory-symlink"])
    run_in_root(out / "root", ["ldconfig"])
    shutil.rmtree(added)
    archive.unlink()
