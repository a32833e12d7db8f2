"""Finding the images, and building them when they are missing or older than the code."""

import os
import subprocess
import sys
from pathlib import Path

from shamon_host.domain.policy import HypervisorKind
from tests.integration.lab.errors import LabError

_REPOSITORY = Path(__file__).parents[3]
_IMAGES = {HypervisorKind.QEMU: ("SHAMON_LAB_IMAGES", "host"), HypervisorKind.XEN: ("SHAMON_LAB_XEN_IMAGES", "xen")}
"""HypervisorKind → the variable that names the directory of its images, and the recipe that builds them."""


def host_images(platform: HypervisorKind = HypervisorKind.QEMU) -> Path:
    """The directory of a platform's host images for the code as it is now; `SHAMON_LAB_IMAGES`, or for Xen
    `SHAMON_LAB_XEN_IMAGES`, names another one and builds nothing.

    Raises:
        LabError: they could not be built; the builder's own words are on standard error.
    """
    return _built(*_IMAGES[platform])


def attesting_host_images() -> Path:
    """The same of hosts whose VMs are attested; `SHAMON_LAB_ATTESTING_IMAGES` names another directory.

    Raises:
        LabError: as `host_images`.
    """
    return _built("SHAMON_LAB_ATTESTING_IMAGES", "attesting")


def _built(variable: str, recipe: str) -> Path:
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
