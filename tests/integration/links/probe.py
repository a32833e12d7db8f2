"""The test's end of `link_probe`: starts it in a host, asks it, restarts and kills it."""

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.lab.host import LabHost
from tests.integration.lab.waiting import wait_until

_PROGRAM = Path(__file__).with_name("link_probe.py")
_HOME = "/run/link-probe"
_UNIT = "link-probe"
_ASK = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.settimeout(60); s.connect(sys.argv[1]);"
    "s.sendall(sys.stdin.buffer.read()); s.shutdown(1); print(b''.join(iter(lambda: s.recv(65536), b'')).decode())"
)


class ProbeError(AssertionError):
    """The source that was sent raised; the message is the error's, with its trace."""


@dataclass(kw_only=True)
class Probe:
    """One host's. `fd_store`: whether its service has a descriptor store."""

    host: LabHost
    fd_store: bool = True

    def start(self) -> None:
        """Start the service; Restart=always, so that a kill is followed by a new run."""
        self.stop()
        self.host.run(f"mkdir -p {_HOME} && chcon -t shamon_var_run_t {_HOME}")
        self.host.put(f"{_HOME}/link_probe.py", _PROGRAM)
        properties = ["Type=notify", "NotifyAccess=main", "Restart=always", "RestartSec=0.1"]
        properties.append(f"FileDescriptorStoreMax={64 if self.fd_store else 0}")
        options = " ".join(f"--property={item}" for item in properties)
        program = f"/usr/local/sbin/lab-in-domain /opt/shamon/bin/python {_HOME}/link_probe.py {_HOME}/socket"
        self.host.run(f"systemd-run -q --collect --unit={_UNIT} {options} {program}", timeout_s=120)

    def stop(self) -> None:
        self.host.run(f"systemctl stop {_UNIT} 2>/dev/null; systemctl reset-failed {_UNIT} 2>/dev/null", check=False)

    def kill(self, *, meanwhile: str = "true") -> None:
        """SIGKILL, and wait for the next run. The command `meanwhile` is over long before that."""
        before = self._pid()
        self.host.run(f"systemctl kill -s KILL {_UNIT}; {meanwhile}")
        wait_until(
            lambda: self._pid() not in ("0", before) and self._active(), timeout_s=60, what="the probe runs again"
        )

    def ask(self, source: str) -> Any:
        """Run `source` there. Raises ProbeError."""
        command = f'/opt/shamon/bin/python -I -c "{_ASK}" {_HOME}/socket'
        told = json.loads(self.host.run(command, stdin=textwrap.dedent(source).encode()).stdout)
        if "error" in told:
            raise ProbeError(f"{told['error']}\n{told['trace']}")
        return told["answer"]

    def _pid(self) -> str:
        return self.host.run(f"systemctl show -p MainPID --value {_UNIT}").stdout.strip()

    def _active(self) -> bool:
        return self.host.run(f"systemctl is-active {_UNIT}", check=False).stdout.strip() == "active"
