"""Running outside programs for the recipes, on this machine and inside a root that is being made.

Everything mounted for a program inside a root lives in a mount namespace of its own, so nothing is left mounted when
a build is interrupted.
"""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class CommandError(RuntimeError):
    """A program of a recipe failed; the message carries the end of what it said."""


def run(arguments: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a program to its end and return its standard output.

    Raises:
        CommandError: it is not installed, or exited with another status than 0.
    """
    words = [str(argument) for argument in arguments]
    try:
        done = subprocess.run(
            words,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise CommandError(f"{words[0]}: not installed (see vm_images/debian-packages.txt)") from error
    if done.returncode != 0:
        tail = (done.stdout + done.stderr).strip().splitlines()[-25:]
        raise CommandError(f"{shlex.join(words[:12])}: exit status {done.returncode}\n" + "\n".join(tail))
    return done.stdout


def run_in_root(
    root: Path,
    arguments: Sequence[str | Path],
    *,
    binds: Mapping[Path, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program inside `root`, with /proc, /dev and what `binds` names (path here → path inside) mounted for it
    alone.
    """
    script = ["set -e", "mount --make-rprivate /", f"mkdir -p {_inside(root, '/proc')} {_inside(root, '/dev')}"]
    script += [f"mount -t proc proc {_inside(root, '/proc')}", f"mount --rbind /dev {_inside(root, '/dev')}"]
    for source, target in (binds or {}).items():
        make = "mkdir -p" if source.is_dir() else f"mkdir -p {_inside(root, os.path.dirname(target))} && touch"
        script += [
            f"{make} {_inside(root, target)}",
            f"mount --rbind {shlex.quote(str(source))} {_inside(root, target)}",
        ]
    script.append(f"exec chroot {shlex.quote(str(root))} {shlex.join(str(argument) for argument in arguments)}")
    inner = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": "/root",
    }
    return run(["unshare", "--mount", "sh", "-c", "\n".join(script)], env={**inner, **(env or {})})


def _inside(root: Path, path: str) -> str:
    return shlex.quote(f"{root}{path}")
