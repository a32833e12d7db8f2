"""Links on two real hosts while things go wrong: policies deleted, daemons killed at each of their steps, hosts booted,
cables pulled, clocks set. In between and afterwards: nothing in clear, nothing left over, and VMs that talk again with
nobody doing anything.

What belongs in every run is in `links/proofs.py`, for the hosts that the story was told on.
"""

import itertools
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.integration.lab.coalition import Coalition
from tests.integration.lab.frames import Kind
from tests.integration.lab.host import LabHost
from tests.integration.lab.inventory import inventory
from tests.integration.lab.lab import Lab
from tests.integration.lab.link_objects import flush_policies
from tests.integration.lab.link_pair import BLUE, RED, LinkPair
from tests.integration.lab.story_world import LAB_TIMING
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.full

_DYING = "/root/dying_links.py"
_DYING_LINKS = Path(__file__).parent / "lab" / "dying_links.py"
_DROP_IN = "/run/systemd/system/shamon.service.d/dying.conf"
_ARMED, _DIED = "/var/lib/shamon/dies-after", "/var/lib/shamon/died-after"
_BRING_UP = (
    (1, "AllocateSpi"),
    (1, "AddSpdEntry"),
    (2, "AddSpdEntry"),
    (1, "AddSa"),
    (1, "CreateTunnel"),
    (2, "AddSa"),
    (1, "AttachPort"),
    (1, "OpenGate"),
)
_REKEY = ((1, "AllocateSpi"), (1, "AddSa"), (2, "AddSa"), (1, "OpenGate"), (1, "DeleteSas"), (2, "DeleteSas"))
"""Of SAs the sending one goes at once, the receiving one after ten seconds."""
_TEARDOWN = (
    (1, "CloseGate"),
    (1, "DetachPort"),
    (1, "DeleteSas"),
    (1, "DeleteTunnel"),
    (1, "DeleteSpdEntry"),
    (2, "DeleteSpdEntry"),
)
_CLOCK = Path(__file__).parent / "lab" / "policy_clock.py"
_PRIORITY = 1
_REMOVED_WITHIN_S = 1.0
_CABLE_OUT_S = 60.0
_HOUR_S = 3600


@pytest.fixture(scope="module")
def pair(images: Path) -> Iterator[LinkPair]:
    with Lab(images) as lab:
        programs = {_DYING: _DYING_LINKS.read_bytes()}
        Coalition(lab, timing=LAB_TIMING, hosts=("alpha", "beta"), programs=programs).found()
        made = LinkPair(lab)
        made.start()
        yield made


# Never in clear


def test_policies_deleted_one_by_one(pair: LinkPair) -> None:
    with pair.never_in_clear(), pair.load(RED, BLUE):
        rose, left = _policies_are_deleted(pair)
        assert left == "0"
        assert rose.get("guard_out", 0) > 0, f"frames did go out without IPsec, and the guard took them: {rose}"
    pair.until_whole()


def test_policies_flushed(pair: LinkPair) -> None:
    with pair.never_in_clear(), pair.load(RED, BLUE):
        with pair.stopped(pair.alpha), pair.rising(pair.alpha) as rose:
            flush_policies(pair.alpha)
            time.sleep(3)
        assert rose.get("guard_out", 0) > 0, rose
    pair.until_whole()


def test_an_unlabelled_policy_of_better_priority(pair: LinkPair) -> None:
    """Put in by hand, it lets a link's frames out as they are: the guard holds, with the daemon standing still
    too; the daemon removes the policy within a second, and the audit log says so."""
    pair.until_carried()
    alpha = pair.alpha
    row = pair.link(alpha, RED)
    alpha.put("/run/policy_clock.py", _CLOCK)
    out = ["src", f"{alpha.ipv4}/32", "dst", f"{pair.beta.ipv4}/32", "proto", "udp"]
    out += ["sport", str(row["local_port"]), "dport", str(row["peer_port"]), "dir", "out"]
    anything = ["src", "0.0.0.0/0", "dst", "0.0.0.0/0", "dir", "out"]
    into = ["src", "0.0.0.0/0", "dst", "0.0.0.0/0", "dir", "in"]
    with pair.never_in_clear(), pair.load(RED, BLUE), pair.stopped(alpha), pair.rising(alpha) as rose:
        assert _stayed_s(alpha, out, limit_s=4) is None
        alpha.run(f"ip xfrm policy delete {shlex.join(out)}")
    assert rose.get("guard_out", 0) > 0, rose
    assert rose.get("XfrmOutPolBlock", 0) == 0, "the policy that was put in is what decided"
    pair.until_talk(RED)
    after = pair.audit_end(alpha)
    with pair.never_in_clear(), pair.load(RED, BLUE, full=False):
        stayed = [_stayed_s(alpha, each, limit_s=20) for each in (out, anything, into, out, anything)]
    told = [
        operation
        for record in pair.audit_since(alpha, after)
        if record["kind"] == "link.apply"
        for operation in record["detail"]["operations"]
        if operation.startswith("delete foreign SPD entry") and f"priority {_PRIORITY} " in operation
    ]
    assert len(told) == len(stayed), told
    print(f"seconds until the policy was gone: {stayed}")
    assert all(seconds is not None and seconds < _REMOVED_WITHIN_S for seconds in stayed), stayed
    pair.until_carried()


def _stayed_s(host: LabHost, arguments: list[str], *, limit_s: float) -> float | None:
    """How long the unlabelled policy stayed in."""
    words = shlex.join([*arguments, "priority", str(_PRIORITY)])
    told = host.run(f"python3 /run/policy_clock.py {limit_s} {_PRIORITY} {words}", timeout_s=limit_s + 60).stdout
    found = re.search(r'"stayed_s": ([\d.]+)', told)
    return float(found[1]) if found else None


def _policies_are_deleted(pair: LinkPair) -> tuple[dict[str, int], str]:
    """Every SPD entry of alpha goes, one after the other, while its daemon stands still and both links are loaded.
    Returns what rose of its counters, and what is left in the SPD."""
    with pair.stopped(pair.alpha), pair.rising(pair.alpha) as rose:
        pair.in_domain(pair.alpha, _DELETE_ONE_BY_ONE)
        left = pair.alpha.run("ip xfrm policy | grep -c '^src .* proto udp' || true").stdout.strip()
    return rose, left


_DELETE_ONE_BY_ONE = """
import time
from shamon_host.pyxfrm.client import Xfrm
with Xfrm() as xfrm:
    for policy in xfrm.dump_policies(lambda policy: policy.selector.protocol == 17):
        xfrm.delete_policy(policy.id)
        time.sleep(0.5)
    time.sleep(3)
"""


# kill -9 at each step


class DyingAlpha:
    """alpha's daemon, told after which of its operations to die."""

    def __init__(self, pair: LinkPair) -> None:
        self.pair = pair
        self.host = pair.alpha

    def arm(self, number: int, name: str, *, begin: str = "") -> None:
        """It dies of this operation, counted from the first that is called `begin` on, which is `name` if not said."""
        self.host.run(f"rm -f {_DIED}; echo '{number} {name} {begin or name}' > {_ARMED}; restorecon {_ARMED}")

    def died_of(self) -> str:
        """What it did last; "" if it did not die."""
        return self.host.run(f"cat {_DIED} 2>/dev/null", check=False).stdout


@pytest.fixture(scope="class")
def dying(pair: LinkPair) -> Iterator[DyingAlpha]:
    """Its daemon is one that can be told; the link of one type is enough."""
    alpha = pair.alpha
    alpha.put(_DYING, _DYING_LINKS)
    command = f"/usr/local/sbin/lab-in-domain /opt/shamon/bin/python {_DYING}"
    alpha.put(_DROP_IN, f"[Service]\nExecStart=\nExecStart={command}\nRestartSec=0.1\n")
    pair.ask(alpha, "vm", "stop", "shop")
    alpha.run("systemctl daemon-reload; systemctl restart shamon.service", timeout_s=240)
    pair.until_whole([RED])
    yield DyingAlpha(pair)
    alpha.run(f"rm -f {_DROP_IN} {_ARMED}; systemctl daemon-reload", timeout_s=60)
    alpha.run("systemctl reset-failed shamon.service; systemctl restart shamon.service", timeout_s=240)
    pair.start()


class TestKilled:
    """alpha's daemon, at each of its steps. Afterwards it is the product's own again."""

    @pytest.mark.parametrize(("number", "name"), _REKEY)
    def test_at_a_step_of_a_rekey(self, pair: LinkPair, dying: DyingAlpha, number: int, name: str) -> None:
        with pair.never_in_clear(), pair.load(RED, full=False):
            dying.arm(number, name)
            pair.alpha.run("/opt/shamon/bin/shamon attest >/dev/null 2>&1", check=False, timeout_s=120)
            died = _until_dead(dying, within_s=2 * LAB_TIMING.period_s + 20)
            pair.until_whole([RED])
        assert died.startswith(name)

    @pytest.mark.parametrize(("down", "up"), list(itertools.zip_longest(_TEARDOWN, _BRING_UP, fillvalue=_TEARDOWN[0])))
    def test_at_a_step_of_teardown_and_of_bring_up(
        self, pair: LinkPair, dying: DyingAlpha, down: tuple[int, str], up: tuple[int, str]
    ) -> None:
        """Stopping the unit takes the link down, starting it brings it up again; both end with a kill."""
        with pair.never_in_clear(), pair.load(RED, full=False):
            dying.arm(*down, begin=_TEARDOWN[0][1])
            pair.alpha.run("systemctl stop shamon.service", check=False, timeout_s=120)
            fell = dying.died_of()
            dying.arm(*up)
            pair.alpha.run("systemctl reset-failed shamon.service; systemctl start --no-block shamon.service")
            rose = _until_dead(dying, within_s=120)
            pair.until_whole([RED])
        assert (fell.split()[:1], rose.split()[0]) == ([down[1]], up[1])


def _until_dead(dying: DyingAlpha, *, within_s: float) -> str:
    """What the daemon died of."""
    return wait_until(dying.died_of, timeout_s=within_s, what="the daemon's death", every_s=1)


# Left alone


def test_a_host_boots(pair: LinkPair) -> None:
    with pair.never_in_clear():
        pair.alpha.reboot()
        pair.until_whole(timeout_s=420)


def test_the_peers_power_fails(pair: LinkPair) -> None:
    """Until it is back, alpha's gate closes on time."""
    with pair.never_in_clear():
        pair.beta.kill()
        wait_until(
            lambda: not inventory(pair.alpha, pair.beta.ipv4).gate_open,
            timeout_s=LAB_TIMING.lease_s + 10,
            what="alpha's gate closes",
        )
        pair.beta.boot()
        pair.until_whole(timeout_s=420)


def test_the_cable_is_out_for_a_minute(pair: LinkPair) -> None:
    with pair.never_in_clear(), pair.load(RED, BLUE), _cut(pair, "beta"):
        mark = pair.lab.wire.mark()
        _gates_close(pair)
        assert pair.lab.wire.since(mark, kinds=[Kind.ESP]), "until the gate closed it did send"
    pair.until_whole()


@pytest.mark.parametrize("step_s", [-_HOUR_S, _HOUR_S], ids=["back", "forward"])
def test_a_clock_is_set_by_an_hour(pair: LinkPair, step_s: int) -> None:
    """First the links go on, or come up anew. Then, with the cable out, the gates close as if no clock had moved."""
    alpha = pair.alpha
    try:
        with pair.never_in_clear():
            _step(alpha, step_s)
            pair.until_whole()
            with pair.load(RED, BLUE), _cut(pair, "beta"):
                _step(alpha, -step_s)
                _gates_close(pair)
            pair.until_whole()
    finally:
        alpha.run(f"date -s @{int(time.time())} > /dev/null")


def _step(host: LabHost, seconds: int) -> None:
    host.run(f"date -s @$(($(date +%s) + {seconds})) > /dev/null")


@contextmanager
def _cut(pair: LinkPair, host: str) -> Iterator[None]:
    """For a minute at least."""
    since = time.monotonic()
    pair.lab.wire.cut(host)
    try:
        yield
        time.sleep(max(0.0, _CABLE_OUT_S - (time.monotonic() - since)))
    finally:
        pair.lab.wire.restore(host)


def _gates_close(pair: LinkPair) -> None:
    """The cable of beta is out. Both gates are closed when the lease is over, and from then on alpha, whose VMs still
    ask, sends nothing that was theirs."""
    started = time.monotonic()
    for host in pair.hosts:
        wait_until(
            partial(_is_closed, pair, host),
            timeout_s=LAB_TIMING.lease_s + 5 - (time.monotonic() - started),
            what=f"{host.name}'s gate closes",
        )
    mark = pair.lab.wire.mark()
    time.sleep(5)
    assert pair.lab.wire.since(mark, kinds=[Kind.ESP]) == []


def _is_closed(pair: LinkPair, host: LabHost) -> bool:
    return not inventory(host, pair.peer(host).ipv4).gate_open
