"""The serial consoles of the application VMs, driven through a helper program on the host that runs them."""

import shlex

from tests.integration.lab.errors import LabError
from tests.integration.lab.host import LabHost
from tests.integration.lab.ssh import Result

_NO_ANSWER = 124


class VmConsole:
    """The console of one application VM: the VM's own shell, on a path that is not its network."""

    def __init__(self, host: LabHost, domain: str) -> None:
        self._host = host
        self._domain = domain

    def wait_ready(self, timeout_s: float = 180) -> None:
        """Wait until the VM's agent answers.

        Raises:
            LabError: it did not in time; the message has what the console said instead.
        """
        result = self._ask("", timeout_s)
        if result.status != 0:
            raise LabError(result.stderr)

    def run(self, command: str, *, check: bool = False, timeout_s: float = 60) -> Result:
        """Run one line in the VM's busybox shell.

        Raises:
            LabError: no answer in time; with `check`, also if the command's status is not 0.
        """
        result = self._ask(command, timeout_s)
        if result.status == _NO_ANSWER and "no answer within" in result.stderr:
            raise LabError(result.stderr)
        if check and result.status != 0:
            raise LabError(f"{self._domain}: {command!r} exited with {result.status}\n{result.stdout}")
        return result

    def reaches(self, address: str, *, timeout_s: int = 3) -> bool:
        """Whether `address` (IPv4 or IPv6) answers one of three pings."""
        family = "-6" if ":" in address else "-4"
        ping = f"ping {family} -c 3 -i 0.3 -W {timeout_s} {address} | grep -q ' 0% \\|bytes from'"
        return self.run(ping, timeout_s=15 + 3 * timeout_s).status == 0

    def sees_by_arp(self, address: str, *, timeout_s: int = 3) -> bool:
        """Whether `address` answers an ARP request from the VM's card."""
        return self.run(f"arping -c 2 -w {timeout_s} -I eth0 {address}").status == 0

    def fetches(self, address: str, *, port: int = 8080, timeout_s: int = 5) -> str | None:
        """The page that the VM at `address` serves, or None if it does not answer."""
        host = f"[{address}]" if ":" in address else address
        result = self.run(f"timeout {timeout_s} wget -q -O - http://{host}:{port}/")
        return result.stdout if result.status == 0 else None

    def write_marker(self, text: str) -> None:
        """Leave a mark on the VM's disk."""
        self.run(f"echo {shlex.quote(text)} > /mnt/marker && sync", check=True)

    def marker(self) -> str | None:
        """The mark on the VM's disk, None if there is none."""
        result = self.run("cat /mnt/marker")
        return result.stdout.strip() if result.status == 0 else None

    def _ask(self, command: str, timeout_s: float) -> Result:
        line = f"lab-console {shlex.quote(self._domain)} {timeout_s:.0f} {shlex.quote(command) if command else ''}"
        return self._host.run(line, check=False, timeout_s=timeout_s + 30)
