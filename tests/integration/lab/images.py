"""Finding the images, and building them when they are missing or older than the code."""

import os
import subprocess
import sys
from pathlib import Path

from tests.integration.lab.errors import LabError
from tests.integration.lab.host import Platform

_REPOSITORY = Path(__file__).parents[3]
_IMAGES = {Platform.QEMU: ("SHAMON_LAB_IMAGES", "host"), Platform.XEN: ("SHAMON_LAB_XEN_IMAGES", "xen")}
"""Platform → the variable that names the directory of its images, and the recipe that builds them."""


def host_images(platform: Platform = Platform.QEMU) -> Path:
    """The directory of a platform's host images for the code as it is now; `SHAMON_LAB_IMAGES`, or for Xen
    `SHAMON_LAB_XEN_IMAGES`, names another one and builds nothing.

    Raises:
        LabError: they could not be built; the builder's own words are on standard error.
    """
    variable, recipe = _IMAGES[platform]
    chosen = os.environ.get(variable)
    if chosen:
        return Path(chosen).absolute()
    command = [sys.executable, "-m", "vm_images.build", recipe]
    if os.geteuid() != 0:
        command = ["sudo", "--preserve-env", *command]
    built = subprocess.run(command, cwd=_REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode != 0:
        raise LabError("the host images could not be built: see the lines above")
    return Path(built.stdout.strip().splitlines()[-1])
