"""One host of the lab: its life (boot, reboot, power), its shell, and its state that outlives a boot (disk overlay,
TPM, firmware variables).
"""

import shutil
import time
from enum import StrEnum
from pathlib import Path

from shamon_host.domain.policy import HypervisorKind
from tests.integration.lab.errors import LabError
from tests.integration.lab.machine import FIRMWARE_VARIABLES, Machine, MachineSettings, make_disk
from tests.integration.lab.ssh import Result, Shell
from tests.integration.lab.tpm import SoftwareTpm
from tests.integration.lab.wire import Cable, Wire, free_tcp_port

_BOOT_LIMIT_S = 420


_MEMORY_MIB = {HypervisorKind.QEMU: 1536, HypervisorKind.XEN: 2304}
_EMULATED_CPU = {HypervisorKind.QEMU: "max", HypervisorKind.XEN: "Westmere"}
"""Under Xen, dom0 does not survive SMAP as QEMU emulates it, and libvirt knows no model of all that `max` has."""


class BootImage(StrEnum):
    """Which unified kernel image a host boots: the one it should, or one with another command line."""

    RIGHT = "host.efi"
    OTHER = "other.efi"


class LabHost:
    """A host that may be off or running; `number` gives its name inside, its addresses 192.0.2.N and 2001:db8::N, and
    its cards' MACs.
    """

    def __init__(
        self,
        *,
        name: str,
        number: int,
        images: Path,
        directory: Path,
        wire: Wire | Cable,
        accelerator: str,
        platform: HypervisorKind = HypervisorKind.QEMU,
    ) -> None:
        self.name = name
        self.number = number
        self.ipv4 = f"192.0.2.{number}"
        self.ipv6 = f"2001:db8::{number}"
        self.mac = f"52:54:00:00:01:{number:02x}"
        self.ssh_port = free_tcp_port()
        self.platform = platform
        self.mac_vm = False
        """What holds its links is a VM of its own: a coalition was founded so."""
        self.boots = 0
        self.images = images
        self._directory = directory / name
        self._directory.mkdir()
        self._tpm = SoftwareTpm(self._directory / "tpm")
        self._wire_option = wire.attach(name)
        self._accelerator = accelerator
        self._shell = Shell(name, self.ssh_port, images / "ssh_key")
        self._machine: Machine | None = None

    @property
    def serial_log(self) -> Path:
        """What the current boot has written to its serial console."""
        return self._directory / f"serial-{self.boots}.log"

    @property
    def pid(self) -> int | None:
        """QEMU's process id while the host runs."""
        return self._machine.pid if self._machine is not None and self._machine.running else None

    def start(
        self,
        image: BootImage = BootImage.RIGHT,
        *,
        fresh_disk: bool = False,
        load_options: str = "",
        credential: bytes | None = None,
    ) -> None:
        """Switch the host on and return at once. The disk overlay stays from the last boot unless `fresh_disk`.

        `load_options` replace the image's command line; with a `credential` the image is booted from an EFI system
        partition where the credential lies beside it. Xen, which cannot be handed over, always is.
        """
        if self.pid is not None:
            raise LabError(f"{self.name} is running already")
        self.boots += 1
        self._shell.close()
        disk, variables = self._directory / "disk.qcow2", self._directory / "variables.fd"
        if fresh_disk or not disk.exists():
            make_disk(disk, self.images / "host.img")
        if not variables.exists():
            shutil.copy(FIRMWARE_VARIABLES, variables)
        if credential is not None:
            # The firmware adds the partition to its boot options, which PCR 1 shows in every later boot.
            variables = Path(shutil.copy(variables, self._directory / "variables-esp.fd"))
        self._tpm.start()
        settings = MachineSettings(
            name=self.name,
            number=self.number,
            accelerator=self._accelerator,
            cpu="host" if self._accelerator == "kvm" else _EMULATED_CPU[self.platform],
            memory_mib=_MEMORY_MIB[self.platform],
            uki=self.images / image.value,
            disk=disk,
            variables=variables,
            tpm_socket=self._tpm.socket,
            serial_log=self.serial_log,
            ssh_port=self.ssh_port,
            wire=self._wire_option,
            load_options=load_options,
            esp=self._esp(image, credential) if credential is not None or self.platform is HypervisorKind.XEN else None,
        )
        self._machine = Machine(settings)

    def wait_ready(self, timeout_s: float = _BOOT_LIMIT_S) -> None:
        """Wait until root can log in.

        Raises:
            LabError: the host ended or did not get there in time; the message has the end of its console.
        """
        deadline = time.monotonic() + timeout_s
        while not self._shell.reachable():
            if self._machine is None or not self._machine.running:
                raise LabError(f"{self.name} ended while booting\n{self._last_words()}")
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: no ssh after {timeout_s:.0f} s\n{self._last_words()}")
            time.sleep(1)

    def take_tpm_out(self) -> Path:
        """Only while the host is off: the next boot finds another TPM. `put_tpm_in` brings this one back."""
        if self.pid is not None:
            raise LabError(f"{self.name} is running: its TPM cannot be taken out")
        return self._tpm.take_out()

    def put_tpm_in(self, taken: Path) -> None:
        """The TPM that was taken out, in place of the one that is there."""
        self._tpm.put_in(taken)

    def _esp(self, image: BootImage, credential: bytes | None) -> Path:
        """The removable-media path of the UEFI specification, and what systemd's stub looks for beside the image."""
        esp = self._directory / "esp"
        boot = esp / "EFI" / "BOOT"
        shutil.rmtree(esp, ignore_errors=True)
        boot.mkdir(parents=True)
        shutil.copy(self.images / image.value, boot / "BOOTX64.EFI")
        if credential is not None:
            extra = boot / "BOOTX64.EFI.extra.d"
            extra.mkdir()
            (extra / "given.cred").write_bytes(credential)
        return esp

    def boot(
        self, image: BootImage = BootImage.RIGHT, *, fresh_disk: bool = False, timeout_s: float = _BOOT_LIMIT_S
    ) -> None:
        """`start` and `wait_ready`."""
        self.start(image, fresh_disk=fresh_disk)
        self.wait_ready(timeout_s)

    def reboot(self, image: BootImage = BootImage.RIGHT, *, fresh_disk: bool = False, clean: bool = True) -> None:
        """Boot again with the same TPM: after an orderly shutdown, or (`clean` false) after a power failure."""
        if clean:
            self.power_off()
        else:
            self.kill()
        self.boot(image, fresh_disk=fresh_disk)

    def power_off(self, timeout_s: float = 120) -> None:
        """Shut down in order."""
        if self.pid is not None and self._machine is not None:
            self._shell.run(
                "systemctl poweroff --no-block </dev/null >/dev/null 2>&1", check=False, timeout_s=30, stdin=b""
            )
            self._machine.wait(timeout_s)
        self._off()

    def kill(self) -> None:
        """Cut the power. The disk overlay and the TPM's state stay."""
        self._off()

    def run(self, command: str, *, check: bool = True, timeout_s: float = 60, stdin: bytes = b"") -> Result:
        """Run a shell command as root; see :meth:`Shell.run`."""
        return self._shell.run(command, check=check, timeout_s=timeout_s, stdin=stdin)

    def put(self, path: str, content: bytes | str | Path, *, mode: str = "0644") -> None:
        """Write a file on the host under the label that its path should have; directories are made as needed."""
        data = (
            content.read_bytes()
            if isinstance(content, Path)
            else content.encode()
            if isinstance(content, str)
            else content
        )
        command = f'd=$(dirname \'{path}\'); [ -d "$d" ] || {{ mkdir -p "$d" && restorecon "$d"; }}; cat > \'{path}\''
        self.run(f"{command} && chmod {mode} '{path}' && restorecon '{path}'", stdin=data)

    def get(self, path: str) -> bytes:
        """The contents of a file on the host."""
        return self._shell.read(path)

    def denials(self) -> list[str]:
        """SELinux denials of this boot, from the kernel log."""
        lines = self.run("dmesg; journalctl -q -o cat _TRANSPORT=audit", check=False).stdout.splitlines()
        return list(dict.fromkeys(line[line.index("avc:") :] for line in lines if "avc:" in line and "denied" in line))

    def _off(self) -> None:
        self._shell.close()
        if self._machine is not None:
            self._machine.kill()
            self._machine = None
        self._tpm.stop()

    def _last_words(self) -> str:
        console = self.serial_log.read_text(errors="replace")[-3000:] if self.serial_log.exists() else ""
        complaint = self._machine.complaint() if self._machine is not None else ""
        return f"{complaint}\n--- {self.serial_log}\n{console}"
