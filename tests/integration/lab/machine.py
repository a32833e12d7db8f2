"""The QEMU process of one lab host.

Everything that the firmware measures is the same for all hosts: the cards sit in fixed slots without option ROMs, and
network boot is off.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.integration.lab.errors import LabError

_FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
FIRMWARE_VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
_QUIT_LIMIT_S = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSettings:
    """What differs between the lab's QEMU processes."""

    name: str
    number: int
    accelerator: str
    cpu: str
    memory_mib: int
    uki: Path
    disk: Path
    variables: Path
    tpm_socket: Path
    serial_log: Path
    ssh_port: int
    wire: str
    load_options: str = ""
    """Not empty: a command line that is given to the image instead of its own."""
    esp: Path | None = None
    """A directory to boot from as if it were an EFI system partition, in place of the image."""


class Machine:
    """One running QEMU."""

    def __init__(self, settings: MachineSettings) -> None:
        self._settings = settings
        self._output = settings.serial_log.with_suffix(".qemu")
        with self._output.open("ab") as log:
            self._process = subprocess.Popen(_command(settings), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether QEMU still runs; it ends when the host powers off or reboots."""
        return self._process.poll() is None

    def complaint(self) -> str:
        """The last lines that QEMU itself printed."""
        return self._output.read_text(errors="replace")[-2000:]

    def wait(self, timeout_s: float) -> None:
        """Wait for QEMU to end.

        Raises:
            LabError: it still runs after `timeout_s`.
        """
        try:
            self._process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise LabError(
                f"{self._settings.name}: still running {timeout_s:.0f} s after it was told to end"
            ) from error

    def kill(self) -> None:
        """End QEMU at once, as if the power failed."""
        if self.running:
            self._process.kill()
        self._process.wait(timeout=_QUIT_LIMIT_S)


def _command(settings: MachineSettings) -> list[str]:
    mac = f"{settings.number:02x}"
    command = [
        "qemu-system-x86_64",
        "-name",
        settings.name,
        "-machine",
        "q35",
        "-accel",
        settings.accelerator,
        "-cpu",
        settings.cpu,
    ]
    command += [
        "-m",
        str(settings.memory_mib),
        "-smp",
        "1",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]
    command += ["-serial", f"file:{settings.serial_log}"]
    command += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_FIRMWARE}"]
    command += ["-drive", f"if=pflash,format=raw,unit=1,file={settings.variables}"]
    command += [
        "-chardev",
        f"socket,id=tpmctl,path={settings.tpm_socket}",
        "-tpmdev",
        "emulator,id=tpm0,chardev=tpmctl",
    ]
    command += ["-device", "tpm-crb,tpmdev=tpm0"]
    command += ["-netdev", f"user,id=mgmt,restrict=on,hostfwd=tcp:127.0.0.1:{settings.ssh_port}-:22"]
    command += ["-device", f"virtio-net-pci,netdev=mgmt,mac=52:54:00:00:00:{mac},addr=2,romfile="]
    command += ["-netdev", f"{settings.wire},id=wire"]
    command += ["-device", f"virtio-net-pci,netdev=wire,mac=52:54:00:00:01:{mac},addr=3,romfile="]
    command += ["-device", "virtio-rng-pci,addr=4"]
    command += ["-drive", f"file={settings.disk},if=none,id=disk,format=qcow2,cache=unsafe"]
    command += ["-device", "virtio-blk-pci,drive=disk,addr=5"]
    for family in ("IPv4", "IPv6"):
        command += ["-fw_cfg", f"name=opt/org.tianocore/{family}PXESupport,string=n"]
    if settings.esp is not None:
        command += ["-drive", f"file=fat:{settings.esp},if=none,id=esp,format=raw,readonly=on"]
        return [*command, "-device", "virtio-blk-pci,drive=esp,addr=6,bootindex=0"]
    command += ["-kernel", str(settings.uki)]
    return [*command, "-append", settings.load_options] if settings.load_options else command


def make_disk(disk: Path, image: Path) -> None:
    """A fresh overlay on the image, which itself is never written."""
    disk.unlink(missing_ok=True)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", os.fspath(image), "-F", "raw", os.fspath(disk)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise LabError(f"qemu-img: {made.stderr}")
