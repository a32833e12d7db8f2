"""A software TPM in a process of its own, on loopback ports, for tests and measurements on this machine."""

import shutil
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path


class Swtpm:
    """A swtpm process with its state in `directory`; `reset` is a reboot of the machine it would be in."""

    def __init__(self, directory: Path, *, banks: str = "sha256", certified: bool = False) -> None:
        """`certified`: a CA of its own in `directory` certifies its EK; `roots` has that CA's certificates."""
        self._state = directory.absolute() / "state"  # swtpm changes directory: relative paths fail
        self._state.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        self._port = two_free_ports()  # the stack expects the control channel at the second
        setup = ["swtpm_setup", "--tpm2", "--tpmstate", str(self._state), "--pcr-banks", banks]
        self.roots = directory.absolute() / "roots"
        if certified:
            setup += ["--create-ek-cert", "--config", str(self._make_ca(directory.absolute()))]
        subprocess.run(setup, check=True, capture_output=True)
        for root in (directory / "ca").glob("*-rootca-cert.pem"):
            shutil.copy(root, self.roots)
        self.start()

    def _make_ca(self, directory: Path) -> Path:
        """The configuration of a `swtpm_localca` that makes its keys and certificates on first use."""
        self.roots.mkdir()
        (directory / "ca").mkdir()
        localca, options, config = (directory / name for name in ("localca.conf", "localca.options", "setup.conf"))
        localca.write_text(
            f"statedir = {directory}/ca\nsigningkey = {directory}/ca/signkey.pem\n"
            f"issuercert = {self.roots}/issuercert.pem\ncertserial = {directory}/ca/certserial\n"
        )
        options.write_text("--platform-manufacturer shamon\n--platform-version 1\n--platform-model lab\n")
        config.write_text(
            f"create_certs_tool = {shutil.which('swtpm_localca')}\ncreate_certs_tool_config = {localca}\n"
            f"create_certs_tool_options = {options}\n"
        )
        return config

    @property
    def tcti(self) -> str:
        """How the adapter reaches it."""
        return f"swtpm:host=127.0.0.1,port={self._port}"

    def start(self) -> None:
        """Switch it on with the state it had."""
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._state}"]
        command += ["--server", f"type=tcp,port={self._port},bindaddr=127.0.0.1"]
        command += ["--ctrl", f"type=tcp,port={self._port + 1},bindaddr=127.0.0.1"]
        command += ["--flags", "not-need-init,startup-clear"]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + 10
        while True:
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", self._port + 1)) == 0:
                    return
            assert time.monotonic() < deadline, "swtpm does not listen"
            time.sleep(0.02)

    def stop(self) -> None:
        """Switch it off."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None

    def cut_power(self) -> None:
        """Switch it off without a moment's notice."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=10)
        self._process = None


def two_free_ports() -> int:
    """The first of two ports in a row that nobody uses."""
    while True:
        with closing(socket.socket()) as first, closing(socket.socket()) as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
