"""Whether QEMU can use KVM here, found out by booting a tiny kernel: on some machines the device is there, answers,
and guests hang.
"""

import os
import subprocess
from pathlib import Path

from vm_images.cache import cache_root

_PROBE_LIMIT_S = 20
_TCG = "tcg,thread=multi"


def accelerator(app: Path) -> str:
    """The value of QEMU's ``-accel``: "kvm" if the application VM of `app` boots under it, else the emulator. The
    answer is kept in the cache.
    """
    answer = cache_root() / f"accelerator-{os.uname().release}"
    if not answer.exists():
        answer.parent.mkdir(parents=True, exist_ok=True)
        answer.write_text("kvm" if _boots_under_kvm(app) else _TCG)
    return answer.read_text()


def _boots_under_kvm(app: Path) -> bool:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    command = [
        "qemu-system-x86_64",
        "-machine",
        "q35",
        "-accel",
        "kvm",
        "-m",
        "256",
        "-display",
        "none",
        "-nodefaults",
        "-no-reboot",
    ]
    command += [
        "-serial",
        "stdio",
        "-kernel",
        str(app / "vmlinux"),
        "-initrd",
        str(app / "initrd"),
        "-append",
        "console=ttyS0 quiet",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as guest:
        try:
            output, _ = guest.communicate(timeout=_PROBE_LIMIT_S)
        except subprocess.TimeoutExpired:
            guest.kill()
            output, _ = guest.communicate()
    return b"<<<READY" in output
