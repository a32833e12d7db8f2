"""Policies on real hosts: two that differ and are compatible, an update that one host refuses, one whose coordinator
dies with each of its messages.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.policy_form import policy_bytes
from shamon_host.peer.policy_envelope import sign
from shamon_host.peer.signed_record import public_text
from shamon_host.testing.story_policy import VM_ADDRESSES, story_policy
from tests.integration.lab.coalition import SHAMON, Coalition
from tests.integration.lab.console import VmConsole
from tests.integration.lab.host import LabHost
from tests.integration.lab.lab import Lab
from tests.integration.lab.story_world import LAB_TIMING
from tests.integration.lab.waiting import wait_until
from vm_images.manifest import sha256

RED, BLUE = "acme/red", "rival/blue"
DB_MOVED = (
    '[vms.db]\nlabel = "red"\nimage = "app"\nhost = "beta"',
    '[vms.db]\nlabel = "red"\nimage = "app"\nhost = "gamma"',
)
BETAS_OWN = '[types."rival/own"]\n[labels.both]\ntypes = ["rival/blue", "rival/own"]\n'
"""One of beta's labels lets blue flow to a type that alpha's policy does not know."""
NEW_TYPE = '[types."acme/green"]\n'
_ADMITTED_S = 6 * LAB_TIMING.lease_s
_DYING, _DYING_COORDINATOR = "/root/dying.py", Path(__file__).parent / "lab" / "dying_coordinator.py"
_IN_DOMAIN = "-p Type=notify -p NotifyAccess=all -p FileDescriptorStoreMax=2048 /usr/local/sbin/lab-in-domain"


class Operators:
    """Who signs, and the versions that they make."""

    def __init__(self, image_sha256: str) -> None:
        self.key = Ed25519PrivateKey.generate()
        self._text = story_policy(image_sha256=image_sha256, timing=LAB_TIMING)
        self._text += f'[signing]\nthreshold = 1\nkeys = ["ops"]\n[keys.ops]\npublic = "{public_text(self.key)}"\n'

    def version(self, *changes: tuple[str, str], also: str = "", after: Policy | None = None) -> Policy:
        """The story's policy, changed; as the version that follows `after`."""
        text = self._text + also
        if after is not None:
            changes = (*changes, ("version = 1", f'version = {after.version + 1}\nparent = "{after.digest}"'))
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        return parse_policy(text.encode(), source="the lab's policy")

    def envelope(self, policy: Policy) -> bytes:
        return sign(policy_bytes(policy), self.key).encode()


class Pair:
    """alpha and beta, set up and running."""

    def __init__(self, lab: Lab) -> None:
        self.operators = Operators(sha256(lab.images / "app" / "disk.raw"))
        self.first = self.operators.version()
        self.betas_own = self.operators.version(also=BETAS_OWN)
        policies = {
            "alpha": self.operators.envelope(self.first),
            "beta": self.operators.envelope(self.betas_own),
        }
        coalition = Coalition(
            lab,
            timing=LAB_TIMING,
            hosts=("alpha", "beta"),
            policies=policies,
            programs={_DYING: _DYING_COORDINATOR.read_bytes()},
        )
        coalition.found()
        self.alpha, self.beta = lab.host("alpha"), lab.host("beta")
        for host in (self.alpha, self.beta):
            host.run("systemctl enable --now shamon.service", timeout_s=240)
        for host in (self.alpha, self.beta):
            until(host, "status", lambda _: True)

    def ask(self, host: LabHost, *arguments: str, timeout_s: float = 300) -> tuple[int, Any]:
        result = host.run(f"{SHAMON} {' '.join(arguments)} --json", check=False, timeout_s=timeout_s)
        return result.status, json.loads(result.stdout)

    def start(self, host: LabHost, vm: str) -> None:
        code, value = self.ask(host, "vm", "start", vm)
        assert code == 0, value

    def admitted(self) -> None:
        for host in (self.alpha, self.beta):
            until(host, "peers", lambda rows: any(row["state"] == "admitted" for row in rows), timeout_s=_ADMITTED_S)

    def reaches(self, host: LabHost, vm: str, other: str) -> bool:
        return VmConsole(host, vm).reaches(VM_ADDRESSES[other][0], timeout_s=1)

    def until_reached(self) -> None:
        """web reaches db."""
        console = VmConsole(self.alpha, "web")
        console.wait_ready()
        wait_until(
            lambda: console.reaches(VM_ADDRESSES["db"][0], timeout_s=1), timeout_s=_ADMITTED_S, what="web reaches db"
        )

    def versions(self) -> list[int]:
        return [self.ask(host, "policy", "status")[1]["version"] for host in (self.alpha, self.beta)]

    def update(self, policy: Policy) -> tuple[int, Any]:
        self.alpha.put("/run/next.dsse", self.operators.envelope(policy))
        return self.ask(self.alpha, "policy", "update", "/run/next.dsse", "--without", "gamma")


def until(host: LabHost, command: str, holds: Callable[[Any], bool], *, timeout_s: float = 180) -> None:
    """Wait until what the daemon answers to a command is so."""

    def answers() -> bool:
        result = host.run(f"{SHAMON} {command} --json", check=False, timeout_s=60)
        return result.status == 0 and holds(json.loads(result.stdout))

    wait_until(answers, timeout_s=timeout_s, what=f"{host.name}: {command}", every_s=2)


@pytest.fixture(scope="module")
def pair(images: Path) -> Iterator[Pair]:
    with Lab(images) as lab:
        yield Pair(lab)


def test_of_two_compatible_policies_the_shared_type_flows_and_the_others_do_not(pair: Pair) -> None:
    for host, vm in ((pair.alpha, "web"), (pair.alpha, "shop"), (pair.beta, "db"), (pair.beta, "spy")):
        pair.start(host, vm)
    pair.until_reached()
    assert pair.versions() == [1, 1]
    digests = {pair.ask(host, "policy", "status")[1]["digest"] for host in (pair.alpha, pair.beta)}
    assert digests == {pair.first.digest, pair.betas_own.digest}
    for host, peer in ((pair.alpha, "beta"), (pair.beta, "alpha")):
        assert {(row["peer"], row["type"]) for row in pair.ask(host, "links")[1]} == {(peer, RED)}
        row = next(row for row in pair.ask(host, "peers")[1] if row["host"] == peer)
        assert RED in row["shared"]
        assert "rival/own" in row["withheld"][BLUE], row["withheld"]
    VmConsole(pair.alpha, "shop").wait_ready()
    assert not pair.reaches(pair.alpha, "shop", "spy")
    for one, other, permitted in (("web", "db", True), ("shop", "spy", False)):
        code, answers = pair.ask(pair.alpha, "policy", "explain", one, other)
        (carried,) = [answer for answer in answers if answer["check"] == "carry"]
        assert (code == 0, carried["permitted"]) == (permitted, permitted)
        assert permitted or "rival/own" in carried["reason"]


def test_an_update_that_one_host_refuses_changes_nothing_anywhere(pair: Pair) -> None:
    # beta takes alpha's policy, as a host that is set up anew.
    pair.beta.run("systemctl stop shamon.service; rm -f /var/lib/shamon/shamon.sqlite*", timeout_s=120)
    pair.beta.put("/etc/shamon/policy.toml", pair.operators.envelope(pair.first))
    pair.beta.run("systemctl start shamon.service", timeout_s=240)
    pair.admitted()
    pair.start(pair.beta, "db")
    pair.until_reached()
    before = [pair.ask(host, "policy", "status")[1] for host in (pair.alpha, pair.beta)]
    code, value = pair.update(pair.operators.version(DB_MOVED, after=pair.first))
    assert code == 1
    assert "beta: db: the policy gives db to gamma, not to beta" in value["error"]["found"]
    after = [pair.ask(host, "policy", "status")[1] for host in (pair.alpha, pair.beta)]
    for key in ("version", "digest", "tpm_counter", "agreed_to"):
        assert [status[key] for status in after] == [status[key] for status in before]
    assert pair.reaches(pair.alpha, "web", "db")


@pytest.mark.parametrize(
    ("number", "when", "expected"),
    [
        pytest.param(1, "before", 1, marks=pytest.mark.full),
        (1, "after", 1),
        (2, "before", 2),
        pytest.param(2, "after", 2, marks=pytest.mark.full),
    ],
)
def test_whenever_the_coordinator_dies_every_host_is_on_one_version(
    pair: Pair, number: int, when: str, expected: int
) -> None:
    """Message 1 asks beta to agree, message 2 brings it the record. Each time the version that was in force before,
    or the one after it, is in force on both in the end, and on no host anything in between."""
    current = _policy_in_force(pair)
    following = pair.operators.version(also=NEW_TYPE, after=current)
    pair.alpha.run("systemctl stop shamon.service", timeout_s=120)
    pair.alpha.put(_DYING, _DYING_COORDINATOR)
    command = f"/opt/shamon/bin/python {_DYING} {number} {when}"
    pair.alpha.run(f"systemd-run --unit=dying -p Restart=no {_IN_DOMAIN} {command}", timeout_s=240)
    pair.admitted()
    code, _ = pair.update(following)
    assert code == 4  # the daemon is gone
    assert pair.ask(pair.beta, "policy", "status")[1]["version"] in (current.version, following.version)
    pair.alpha.run("systemctl reset-failed dying.service; systemctl start shamon.service", check=False, timeout_s=240)
    pair.admitted()
    wanted = current.version if expected == 1 else following.version
    for host in (pair.alpha, pair.beta):
        until(host, "policy status", lambda status: status["version"] == wanted and status["agreed_to"] is None)
    pair.until_reached()


def _policy_in_force(pair: Pair) -> Policy:
    """As alpha says: the first, or the one that the test before brought about."""
    status = pair.ask(pair.alpha, "policy", "status")[1]
    policy = pair.first
    while policy.digest != status["digest"]:
        policy = pair.operators.version(also=NEW_TYPE, after=policy)
        assert policy.version <= status["version"]
    return policy
