"""``python3 -m vm_images.build [host|xen|mac|app|bench|guest|attesting]``: build what is missing of the lab's images
and print the directory that holds them.

Progress goes to standard error, the directory to standard output. Root is needed while something is missing: the
recipes make device nodes, owners and SELinux labels.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from vm_images.app import build_app
from vm_images.attesting import build_attesting_host
from vm_images.commands import CommandError
from vm_images.guest import build_guest
from vm_images.host import build_bench, build_host
from vm_images.mac_vm import build_mac_vm
from vm_images.xen_host import build_xen_host

_RECIPES = {
    "host": build_host,
    "xen": build_xen_host,
    "mac": build_mac_vm,
    "app": build_app,
    "bench": build_bench,
    "guest": build_guest,
    "attesting": build_attesting_host,
}


def _say(line: str) -> None:
    print(f"vm_images: {line}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit status: 0 built or there already, 1 a recipe failed, 2 not root."""
    parser = argparse.ArgumentParser(prog="python3 -m vm_images.build", description=__doc__)
    parser.add_argument("image", choices=sorted(_RECIPES), nargs="?", default="host")
    parser.add_argument("--out", type=Path, help="also put the image's files into this directory")
    chosen = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print(
            "vm_images: building images needs root (device nodes, owners and labels): run it with sudo", file=sys.stderr
        )
        return 2
    os.umask(0o022)  # modes inside the images do not depend on who builds them
    try:
        made: Path = _RECIPES[chosen.image](_say)
    except CommandError as error:
        print(f"vm_images: {error}", file=sys.stderr)
        return 1
    if chosen.out:
        shutil.copytree(made, chosen.out, dirs_exist_ok=True)
    print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
