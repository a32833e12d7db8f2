"""Two hosts join from nothing, each by its own TPM; the operator's machine is one of them, as the lab has no other that
hosts can call. Everything of the first test lies in /run, so its hosts stay as they were; the second one has its own.
"""

import json
from pathlib import Path

import pytest

from shamon_host.testing.story_policy import story_policy
from tests.integration.lab import Lab, LabHost
from tests.integration.lab.coalition import SHAMON, JoinedCoalition
from tests.integration.lab.errors import LabError
from tests.integration.lab.operator import PLACE, Operator, ek_of, ek_public_of, join, join_with_ek
from tests.integration.lab.story_world import LAB_TIMING
from tests.integration.lab.waiting import wait_until
from vm_images.manifest import sha256


@pytest.mark.full
def test_two_hosts_join_by_their_tpms_and_none_by_anothers(lab: Lab, alpha: LabHost, beta: LabHost) -> None:
    policy = story_policy(image_sha256=sha256(lab.images / "app" / "disk.raw"), timing=LAB_TIMING)
    operator = Operator(alpha, policy)
    pins = {host.name: ek_of(host) for host in (alpha, beta)}
    assert pins["alpha"] != pins["beta"]
    try:
        # beta with alpha's invitation: the right token, and another TPM.
        with pytest.raises(LabError, match="another TPM than the one that was pinned"):
            join(beta, operator.invite("alpha", pins["alpha"]))
        assert operator.outcome()[0] == 3
        # beta with alpha's EK, which is the pinned one: its own TPM does not answer for it.
        forged = join_with_ek(beta, ek_public_of(alpha), operator.invite("alpha", pins["alpha"]))
        assert forged.status != 0
        assert "this TPM does not open it" in forged.stderr
        assert "not in one TPM that this host has" in forged.stdout + forged.stderr
        assert operator.outcome()[0] != 0
        assert operator.hosts() == {}
        for host in (alpha, beta):
            joined = json.loads(join(host, operator.invite(host.name, pins[host.name])))
            assert (joined["host"], joined["tpm"]) == (host.name, "software")
            code, said = operator.outcome()
            assert code == 0, said
            assert b"PRIVATE KEY" not in host.get("/run/joining/shamon/host.key")
            assert sorted(joined["hosts"]) == sorted(operator.hosts())
        # beta's TPM under a second name.
        with pytest.raises(LabError, match="beta is enrolled with the same AK"):
            join(beta, operator.invite("gamma", pins["beta"]))
        assert operator.outcome()[0] == 1
        assert operator.hosts() == {"alpha": "enrolled", "beta": "enrolled"}
    finally:
        for host in (alpha, beta):
            host.run(f"rm -rf {PLACE} /run/joining")


@pytest.mark.full
def test_hosts_that_joined_admit_each_other_and_again_after_a_boot(images: Path) -> None:
    """With daemons whose keys their TPMs have sealed, under SELinux; what was made survives a boot."""
    with Lab(images) as own:
        JoinedCoalition(own, timing=LAB_TIMING, hosts=("alpha", "beta")).found()
        alpha, beta = own.host("alpha"), own.host("beta")
        for host in (alpha, beta):
            host.run("systemctl enable --now shamon.service", timeout_s=240)
        _until_admitted(alpha, beta)
        key = beta.get("/etc/shamon/host.key")
        assert b"PRIVATE KEY" not in key
        assert beta.run("grep -rl 'PRIVATE KEY' /run /etc/shamon /var/lib/shamon", check=False).stdout == ""
        beta.reboot()
        _until_admitted(alpha, beta)
        assert beta.get("/etc/shamon/host.key") == key
        denied = [line for host in (alpha, beta) for line in host.denials() if "shamon" in line]
        assert denied == []


def _until_admitted(*hosts: LabHost) -> None:
    """Until the first host admits the others, and they admit it."""

    def state(host: LabHost, peer: str) -> str:
        listed = host.run(f"{SHAMON} peers --json", check=False, timeout_s=120)
        return str(next((row["state"] for row in json.loads(listed.stdout or "[]") if row["host"] == peer), ""))

    def admitted() -> bool:
        first, *others = hosts
        try:
            return all(state(first, host.name) == state(host, first.name) == "admitted" for host in others)
        except (ValueError, TypeError):
            return False  # a daemon that does not answer yet prints an error

    wait_until(admitted, timeout_s=300, what="hosts that admit each other")
