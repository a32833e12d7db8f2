"""A software TPM for one host, outside it, with state that lasts as long as the lab."""

import shutil
import subprocess
import time
from pathlib import Path

from tests.integration.lab.errors import LabError


class SoftwareTpm:
    """swtpm for one host. It ends by itself when QEMU lets go of it, and is started again before each boot; the state
    stays.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = self._directory / "ctrl"

    def start(self) -> None:
        """Start swtpm on the kept state; the first time, make that state with a SHA-256 PCR bank alone."""
        if not self._directory.exists():
            self._directory.mkdir(parents=True)
            setup = ["swtpm_setup", "--tpm2", "--tpmstate", str(self._directory), "--pcr-banks", "sha256"]
            made = subprocess.run(setup, capture_output=True, text=True, check=False)
            if made.returncode != 0:
                raise LabError(f"swtpm_setup: {made.stdout}{made.stderr}")
        self.stop()
        self.socket.unlink(missing_ok=True)
        # swtpm changes directory: a relative path fails with CMD_INIT 0x9.
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._directory}", "--terminate"]
        command += ["--ctrl", f"type=unixio,path={self.socket}"]
        log = (self._directory / "swtpm.log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"swtpm did not start; see {self._directory}/swtpm.log")
            time.sleep(0.05)

    def take_out(self) -> Path:
        """Put the state aside: the next start makes another TPM. Returns where it lies."""
        self.stop()
        return self._directory.rename(self._directory.with_name("tpm-taken-out"))

    def put_in(self, taken: Path) -> None:
        """Put the state that was put aside in the place of this one."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)
        taken.rename(self._directory)

    def stop(self) -> None:
        """End swtpm if it still runs."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None
