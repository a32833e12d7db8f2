"""Finding the images, and building them when they are missing or older than the code."""

import os
import subprocess
import sys
from pathlib import Path

from tests.integration.lab.errors import LabError

_REPOSITORY = Path(__file__).parents[3]


def host_images() -> Path:
    """The directory of the host images for the code as it is now; `SHAMON_LAB_IMAGES` names another one and builds
    nothing.

    Raises:
        LabError: they could not be built; the builder's own words are on standard error.
    """
    chosen = os.environ.get("SHAMON_LAB_IMAGES")
    if chosen:
        return Path(chosen).absolute()
    command = [sys.executable, "-m", "vm_images.build", "host"]
    if os.geteuid() != 0:
        command = ["sudo", "--preserve-env", *command]
    built = subprocess.run(command, cwd=_REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode != 0:
        raise LabError("the host images could not be built: see the lines above")
    return Path(built.stdout.strip().splitlines()[-1])
