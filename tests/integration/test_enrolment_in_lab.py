"""Two hosts join from nothing, each by its own TPM; the operator's machine is one of them, as the lab has no other that
hosts can call. Everything lies in /run, so the hosts stay as they were.
"""

import json

import pytest

from shamon_host.testing.story_policy import story_policy
from tests.integration.lab import Lab, LabHost
from tests.integration.lab.coalition import SHAMON
from tests.integration.lab.errors import LabError
from tests.integration.lab.story_world import LAB_TIMING
from tests.integration.lab.waiting import wait_until
from vm_images.manifest import sha256

_PLACE = "/run/operator"
_PORT = 7444
_COMMAND_S = 120
"""Python starts slowly where nothing accelerates, and a TPM takes its time for keys."""


class Operator:
    """The operator's machine: its CA, its registry, and one invitation at a time."""

    def __init__(self, host: LabHost, policy: str) -> None:
        self._host = host
        host.put(f"{_PLACE}/policy.toml", policy)
        host.run(f"{SHAMON} coalition init lab --ca {_PLACE}/ca", timeout_s=_COMMAND_S)

    def invite(self, name: str, ek: str) -> bytes:
        """Begin to wait for a host with this EK; return the invitation."""
        command = (
            f"{SHAMON} coalition invite {name} --ca {_PLACE}/ca --policy {_PLACE}/policy.toml "
            f"--registry {_PLACE}/peers --tpm software --ek {ek} --listen {self._host.ipv4}:{_PORT} "
            f"--out {_PLACE}/{name}.invitation"
        )
        self._host.run(f"rm -f {_PLACE}/code {_PLACE}/said")
        self._host.run(
            f"nohup sh -c '{command} >{_PLACE}/said 2>&1; echo $? >{_PLACE}/code' </dev/null >/dev/null 2>&1 &"
        )
        wait_until(
            lambda: self._host.run(f"test -s {_PLACE}/{name}.invitation", check=False).status == 0,
            timeout_s=_COMMAND_S,
            what=f"an invitation of {name}",
        )
        return self._host.get(f"{_PLACE}/{name}.invitation")

    def outcome(self) -> tuple[int, str]:
        """The exit code of the invitation, and what it said."""
        wait_until(
            lambda: self._host.run(f"test -s {_PLACE}/code", check=False).status == 0,
            timeout_s=_COMMAND_S,
            what="the end of the invitation",
        )
        return int(self._host.get(f"{_PLACE}/code")), self._host.get(f"{_PLACE}/said").decode()

    def hosts(self) -> dict[str, str]:
        """Host → its state, by the registry."""
        listed = self._host.run(
            f"{SHAMON} coalition hosts --ca {_PLACE}/ca --registry {_PLACE}/peers --json", timeout_s=_COMMAND_S
        )
        return {row["host"]: row["state"] for row in json.loads(listed.stdout)}


def _ek(host: LabHost) -> str:
    return str(json.loads(host.run(f"{SHAMON} host ek --json", timeout_s=_COMMAND_S).stdout)["ek"])


def _join(host: LabHost, invitation: bytes) -> str:
    host.put("/run/joining/invitation", invitation, mode="0600")
    command = f"{SHAMON} host join /run/joining/invitation --dir /run/joining/shamon --json"
    return host.run(command, timeout_s=_COMMAND_S).stdout


@pytest.mark.full
def test_two_hosts_join_by_their_tpms_and_none_by_anothers(lab: Lab, alpha: LabHost, beta: LabHost) -> None:
    policy = story_policy(image_sha256=sha256(lab.images / "app" / "disk.raw"), timing=LAB_TIMING)
    operator = Operator(alpha, policy)
    pins = {host.name: _ek(host) for host in (alpha, beta)}
    assert pins["alpha"] != pins["beta"]
    try:
        # beta with alpha's invitation: the right token, and another TPM.
        with pytest.raises(LabError, match="another TPM than the one that was pinned"):
            _join(beta, operator.invite("alpha", pins["alpha"]))
        assert operator.outcome()[0] == 3
        assert operator.hosts() == {}
        for host in (alpha, beta):
            joined = json.loads(_join(host, operator.invite(host.name, pins[host.name])))
            assert (joined["host"], joined["tpm"]) == (host.name, "software")
            code, said = operator.outcome()
            assert code == 0, said
            assert b"PRIVATE KEY" not in host.get("/run/joining/shamon/host.key")
            assert sorted(joined["hosts"]) == sorted(operator.hosts())
        # beta's TPM under a second name.
        with pytest.raises(LabError, match="beta is enrolled with the same AK"):
            _join(beta, operator.invite("gamma", pins["beta"]))
        assert operator.outcome()[0] == 1
        assert operator.hosts() == {"alpha": "enrolled", "beta": "enrolled"}
    finally:
        for host in (alpha, beta):
            host.run(f"rm -rf {_PLACE} /run/joining")
