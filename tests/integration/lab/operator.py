"""The operator of a coalition whose hosts join by their TPMs: a lab host is its machine, as hosts can call no other."""

import json
from pathlib import Path

from tests.integration.lab.host import LabHost
from tests.integration.lab.ssh import Result
from tests.integration.lab.waiting import wait_until

_SHAMON = "/opt/shamon/bin/shamon"
_PYTHON = "/opt/shamon/bin/python"
PLACE = "/run/operator"
_PORT = 7444
_COMMAND_S = 120
"""Python starts slowly where nothing accelerates, and a TPM takes its time for keys."""


class Operator:
    """The operator's machine: its CA, its registry, and one invitation at a time."""

    def __init__(self, host: LabHost, policy: str) -> None:
        self._host = host
        host.put(f"{PLACE}/policy.toml", policy)
        host.run(f"{_SHAMON} coalition init lab --ca {PLACE}/ca", timeout_s=_COMMAND_S)

    def invite(self, name: str, ek: str) -> bytes:
        """Begin to wait for a host with this EK; return the invitation."""
        command = (
            f"{_SHAMON} coalition invite {name} --ca {PLACE}/ca --policy {PLACE}/policy.toml "
            f"--registry {PLACE}/peers --tpm software --ek {ek} --listen {self._host.ipv4}:{_PORT} "
            f"--out {PLACE}/{name}.invitation"
        )
        self._host.run(f"rm -f {PLACE}/code {PLACE}/said")
        self._host.run(
            f"nohup sh -c '{command} >{PLACE}/said 2>&1; echo $? >{PLACE}/code' </dev/null >/dev/null 2>&1 &"
        )
        wait_until(
            lambda: self._host.run(f"test -s {PLACE}/{name}.invitation", check=False).status == 0,
            timeout_s=_COMMAND_S,
            what=f"an invitation of {name}",
        )
        return self._host.get(f"{PLACE}/{name}.invitation")

    def outcome(self) -> tuple[int, str]:
        """The exit code of the invitation, and what it said."""
        wait_until(
            lambda: self._host.run(f"test -s {PLACE}/code", check=False).status == 0,
            timeout_s=_COMMAND_S,
            what="the end of the invitation",
        )
        return int(self._host.get(f"{PLACE}/code")), self._host.get(f"{PLACE}/said").decode()

    def hosts(self) -> dict[str, str]:
        """Host → its state, by the registry."""
        listed = self._host.run(
            f"{_SHAMON} coalition hosts --ca {PLACE}/ca --registry {PLACE}/peers --json", timeout_s=_COMMAND_S
        )
        return {row["host"]: row["state"] for row in json.loads(listed.stdout)}


def ek_of(host: LabHost) -> str:
    """SHA-256 of the EK of the host's TPM, hexadecimal."""
    return str(json.loads(host.run(f"{_SHAMON} host ek --json", timeout_s=_COMMAND_S).stdout)["ek"])


def join(host: LabHost, invitation: bytes, directory: str = "/run/joining/shamon") -> str:
    """Let the host join; return what it printed. Raises LabError where it is refused."""
    host.put("/run/joining/invitation", invitation, mode="0600")
    command = f"{_SHAMON} host join /run/joining/invitation --dir {directory} --json"
    return host.run(command, timeout_s=_COMMAND_S).stdout


def ek_public_of(host: LabHost) -> bytes:
    """TPMT_PUBLIC of the EK of the host's TPM."""
    read = (
        "from shamon_host.attestation.tpm_device import DeviceTpm; "
        "print(DeviceTpm('device:/dev/tpmrm0').ek_public().hex())"
    )
    return bytes.fromhex(host.run(f'{_PYTHON} -c "{read}"', timeout_s=_COMMAND_S).stdout)


def join_with_ek(host: LabHost, ek_public: bytes, invitation: bytes) -> Result:
    """Let the host join with the EK of another TPM, see `rogue_join`."""
    host.put("/run/joining/invitation", invitation, mode="0600")
    host.put("/run/joining/rogue.py", Path(__file__).with_name("rogue_join.py"))
    command = f"{_PYTHON} /run/joining/rogue.py {ek_public.hex()} /run/joining/invitation"
    return host.run(command, check=False, timeout_s=_COMMAND_S)
