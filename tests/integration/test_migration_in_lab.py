"""VMs that move between two real hosts: libvirt and SELinux let them, their disks and links follow, and whoever dies in
the midst of it, each is in one place afterwards."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shamon_host.testing.story_policy import VM_ADDRESSES
from tests.integration.lab.coalition import SHAMON, Coalition
from tests.integration.lab.console import VmConsole
from tests.integration.lab.frames import Kind
from tests.integration.lab.host import LabHost
from tests.integration.lab.lab import Lab
from tests.integration.lab.story_world import LAB_TIMING
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.full
_CHANGES = (
    ('[vms.web]\nlabel = "red"', '[vms.web]\nlabel = "red"\nmay_move_to = ["beta"]'),
    ('[types."acme/red"]\non_failure = "replace"', '[types."acme/red"]\non_failure = "keep"'),
)
_WEB, _DB = VM_ADDRESSES["web"][0], VM_ADDRESSES["db"][0]
_TIMING = replace(LAB_TIMING, lease_s=120)
"""An emulated host with one processor is busy while it copies: its handshakes take longer than otherwise."""
_WITHIN_S = 2 * _TIMING.lease_s
_LIVE_PARTS = ["attested", "prepared", "copied", "disk ended", "memory ended", "accepted", "given", "taken"]
_PARTS = ["attested", "prepared", "stopped", "copied", "accepted", "given", "taken"]


class Pair:
    """alpha, whose VM web may move to beta, and beta, which runs db."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        Coalition(lab, timing=_TIMING, hosts=("alpha", "beta"), changes=_CHANGES).found()
        self.alpha, self.beta = lab.host("alpha"), lab.host("beta")
        for host in (self.alpha, self.beta):
            host.run("systemctl enable --now shamon.service", timeout_s=240)
            self.until_answers(host)
        for host, vm in ((self.alpha, "web"), (self.beta, "db")):
            self.ask(host, "vm", "start", vm)
            VmConsole(host, vm).wait_ready()
        self.until_admitted()

    def ask(self, host: LabHost, *arguments: str, status: int = 0) -> Any:
        """What `shamon ... --json` says."""
        told = host.run(f"{SHAMON} {' '.join(arguments)} --json", check=False, timeout_s=600)
        assert told.status == status, told.stdout + told.stderr
        return json.loads(told.stdout)

    def until_answers(self, host: LabHost) -> None:
        wait_until(
            lambda: host.run(f"{SHAMON} status", check=False, timeout_s=60).status == 0,
            timeout_s=180,
            what=f"the daemon of {host.name} answers",
        )

    def until_admitted(self) -> None:
        wait_until(
            lambda: all(self.state_of_other(host) == "admitted" for host in (self.alpha, self.beta)),
            timeout_s=_WITHIN_S,
            what="the two hosts admit each other",
        )

    def state_of_other(self, host: LabHost) -> str:
        """What becomes of the other host, as this one says. gamma is never there."""
        other = self.other(host).name
        return next(str(row["state"]) for row in self.ask(host, "peers") if row["host"] == other)

    def until_reaches(self, host: LabHost, vm: str, address: str) -> None:
        console = VmConsole(host, vm)
        console.wait_ready()
        wait_until(lambda: console.reaches(address), timeout_s=_WITHIN_S, what=f"{vm} reaches {address}")

    def where(self) -> list[str]:
        """Hosts with a domain of web, in whatever state."""
        return [host.name for host in (self.alpha, self.beta) if "web" in host.run("virsh -q list --name").stdout]

    def owners(self) -> set[str]:
        """Hosts that say that web is theirs."""
        hosts = (self.alpha, self.beta)
        return {host.name for host in hosts if any(row["name"] == "web" for row in self.ask(host, "vms"))}

    def until_in_one_place(self) -> LabHost:
        """The host that runs web, and that alone says so."""

        def found() -> str:
            where = self.where()
            return where[0] if len(where) == 1 and self.owners() == set(where) else ""

        host = self.lab.host(wait_until(found, timeout_s=_WITHIN_S, what="web is in one place"))
        VmConsole(host, "web").wait_ready()
        return host

    def begin(self, source: LabHost, *options: str, until: str) -> None:
        """Have web moved to the other host, and come back when the command says how far it is."""
        command = " ".join([SHAMON, "vm", "migrate", "web", self.other(source).name, *options])
        source.run(f"rm -f /run/migrate.log; {command} >/run/migrate.log 2>&1 &")
        reached = f"grep -q '{until}' /run/migrate.log"
        over = "! pgrep -f 'vm migrat[e]' >/dev/null"
        source.run(f"until {reached}; do {over} && cat /run/migrate.log >&2 && exit 1; sleep 0.1; done", timeout_s=300)

    def kill_daemon_amid(self, source: LabHost, killed: LabHost, *options: str, until: str) -> None:
        """`kill -9` when the move has come so far; systemd starts it again."""
        self.begin(source, *options, until=until)
        killed.run("systemctl kill --signal=KILL shamon.service")
        print(source.run("cat /run/migrate.log").stdout)
        for host in (self.alpha, self.beta):
            self.until_answers(host)
        self.until_admitted()

    def other(self, host: LabHost) -> LabHost:
        return self.beta if host is self.alpha else self.alpha


@pytest.fixture(scope="module")
def pair(images: Path) -> Iterator[Pair]:
    with Lab(images) as lab:
        yield Pair(lab)


def _runs_under_its_label(pair: Pair, host: LabHost) -> None:
    [web] = [row for row in pair.ask(host, "vms") if row["name"] == "web"]
    pid = host.run("cat /run/libvirt/qemu/web.pid").stdout.strip()
    label = host.run(f"cat /proc/{pid}/attr/current").stdout.strip("\0\n ")
    assert (web["state"], web["context"]) == ("running", label)
    disk = host.run(f"stat -c %C {web['disk']}").stdout.strip()
    assert disk.split(":", 3)[3] == label.split(":", 3)[3], "the disk has the categories of its machine"


def test_it_moves_with_its_disk(pair: Pair) -> None:
    pair.until_reaches(pair.alpha, "web", _DB)
    VmConsole(pair.alpha, "web").write_marker("written on alpha")
    told = pair.ask(pair.alpha, "vm", "migrate", "web", "beta")
    print(told)
    assert (told["step"], list(told["parts_ms"])) == ("it is running", _PARTS)
    assert told["downtime_ms"] > 0
    assert pair.where() == ["beta"]
    assert pair.owners() == {"beta"}
    console = VmConsole(pair.beta, "web")
    console.wait_ready()
    assert console.marker() == "written on alpha"
    _runs_under_its_label(pair, pair.beta)
    assert pair.alpha.run("ls /var/lib/libvirt/images/shamon").stdout.split() == []
    pair.until_reaches(pair.beta, "db", _WEB)
    pair.ask(pair.alpha, "vm", "start", "web", status=2)


def test_and_back_again(pair: Pair) -> None:
    """The link that it needs there comes up by itself, and carries nothing but ESP."""
    pair.until_admitted()
    VmConsole(pair.beta, "web").write_marker("written on beta")
    told = pair.ask(pair.beta, "vm", "migrate", "web", "alpha")
    print(told)
    assert told["step"] == "it is running"
    assert (pair.where(), pair.owners()) == (["alpha"], {"alpha"})
    mark = pair.lab.wire.mark()
    pair.until_reaches(pair.alpha, "web", _DB)
    kinds = {frame.kind for frame in pair.lab.wire.since(mark)}
    assert Kind.ESP in kinds
    assert Kind.UDP not in kinds
    assert VmConsole(pair.alpha, "web").marker() == "written on beta"
    _runs_under_its_label(pair, pair.alpha)


class Conversation:
    """db asks web for a line over one TCP connection again and again; web's end lives in its memory alone."""

    def __init__(self, pair: Pair, port: int) -> None:
        self._db, self._port = VmConsole(pair.beta, "db"), port
        self._heard = f"/run/heard-{port}"

    def begin(self, web: VmConsole) -> None:
        web.run("echo 'while read -r line; do echo $line; done' > /run/answer", check=True)
        web.run(f"(nc -l -p {self._port} -e sh /run/answer >/dev/null 2>&1 &)", check=True)
        self._db.run("echo 'n=0; while :; do n=$((n+1)); echo $n; usleep 200000; done' > /run/talk", check=True)
        self._db.run(f"(sh /run/talk | nc {_WEB} {self._port} > {self._heard} 2>&1 &)", check=True)
        wait_until(lambda: self.heard() > 3, timeout_s=60, what="the two talk")

    def heard(self) -> int:
        """The last number that came back."""
        words = self._db.run(f"tail -n 1 {self._heard}").stdout.split()
        return int(words[-1]) if words and words[-1].isdecimal() else 0

    def goes_on(self) -> bool:
        """The same connection, with nothing missing in what came back."""
        before = self.heard()
        wait_until(lambda: self.heard() > before + 3, timeout_s=60, what="the two talk on")
        lines, last = self._db.run(f"wc -l < {self._heard}; tail -n 1 {self._heard}", check=True).stdout.split()
        return abs(int(lines) - int(last)) <= 2  # some come in between


def _only_esp(pair: Pair, mark: int) -> None:
    """Between the hosts there was ESP, and TCP of the peer service; nothing with a port of links."""
    frames = pair.lab.wire.since(mark)
    assert any(frame.kind is Kind.ESP for frame in frames)
    strange = [frame for frame in frames if frame.kind not in (Kind.ESP, Kind.TCP, Kind.ARP, Kind.ICMP6)]
    assert not strange, strange[:3]
    sent = sum(len(frame.raw) for frame in frames if frame.kind is Kind.ESP)
    clear = sum(len(frame.raw) for frame in frames if frame.kind is Kind.TCP)
    print(f"ESP {sent >> 10} KiB, peer service {clear >> 10} KiB")
    assert sent > clear


@pytest.fixture
def at_alpha(pair: Pair) -> VmConsole:
    """web runs on alpha, and reaches db."""
    source = pair.until_in_one_place()
    pair.until_admitted()
    if source is pair.beta:
        pair.ask(pair.beta, "vm", "migrate", "web", "alpha")
        pair.until_admitted()
    pair.until_reaches(pair.alpha, "web", _DB)
    return VmConsole(pair.alpha, "web")


def test_it_moves_while_it_runs(pair: Pair, at_alpha: VmConsole) -> None:
    """A TCP connection goes on, memory and disk are there, and the wire has nothing but ESP of it."""
    at_alpha.run("echo in memory > /run/note", check=True)
    at_alpha.write_marker("written before")
    talk = Conversation(pair, 9001)
    talk.begin(at_alpha)
    mark = pair.lab.wire.mark()
    told = pair.ask(pair.alpha, "vm", "migrate", "web", "beta", "--live")
    print(told)
    assert (told["step"], list(told["parts_ms"])) == ("it is running", _LIVE_PARTS)
    assert pair.where() == ["beta"]
    _only_esp(pair, mark)
    assert talk.goes_on()
    console = VmConsole(pair.beta, "web")
    console.wait_ready()
    assert console.run("cat /run/note").stdout.strip() == "in memory"
    assert console.marker() == "written before"
    _runs_under_its_label(pair, pair.beta)
    for host in (pair.alpha, pair.beta):
        assert "shpa" not in host.run("ls /sys/class/net").stdout, "no passage is left"
    pair.until_admitted()


def test_and_comes_back_while_it_runs(pair: Pair) -> None:
    talk = Conversation(pair, 9002)
    talk.begin(VmConsole(pair.beta, "web"))
    told = pair.ask(pair.beta, "vm", "migrate", "web", "alpha", "--live")
    print(told)
    assert told["step"] == "it is running"
    assert (pair.where(), pair.owners()) == (["alpha"], {"alpha"})
    assert talk.goes_on()


@pytest.mark.parametrize("until", ["is copied while it runs", "stands still for the rest"])
@pytest.mark.parametrize("at_source", [True, False])
def test_a_daemon_that_is_killed_in_the_midst_of_a_live_move(
    pair: Pair, at_alpha: VmConsole, until: str, at_source: bool
) -> None:
    """It has not lost its memory, wherever it is."""
    at_alpha.run(f"echo {until} {at_source} > /run/note", check=True)
    pair.kill_daemon_amid(pair.alpha, pair.alpha if at_source else pair.beta, "--live", until=until)
    host = pair.until_in_one_place()
    print(f"web is on {host.name}")
    assert VmConsole(host, "web").run("cat /run/note").stdout.strip() == f"{until} {at_source}"
    pair.until_reaches(host, "web", _DB)


def test_a_host_that_loses_its_power_in_the_midst_of_a_live_move(pair: Pair, at_alpha: VmConsole) -> None:
    """The VM runs on where it is, and its host is told what became of the move."""
    at_alpha.run("echo still here > /run/note", check=True)
    pair.begin(pair.alpha, "--live", until="is copied while it runs")
    pair.beta.kill()
    wait_until(
        lambda: pair.alpha.run("pgrep -f 'vm migrat[e]'", check=False).status != 0,
        timeout_s=_WITHIN_S,
        what="the command ends",
    )
    print(pair.alpha.run("cat /run/migrate.log").stdout)
    pair.beta.boot()
    pair.beta.run("systemctl start shamon.service", timeout_s=240)
    pair.until_answers(pair.beta)
    pair.until_admitted()
    host = pair.until_in_one_place()
    print(f"web is on {host.name}")
    if host is pair.alpha:
        assert VmConsole(pair.alpha, "web").run("cat /run/note").stdout.strip() == "still here"


@pytest.mark.parametrize(("until", "at_source"), [("its disk is sent", True), ("is handed over", False)])
def test_a_daemon_that_is_killed_in_the_midst_of_it(pair: Pair, until: str, at_source: bool) -> None:
    source = pair.until_in_one_place()
    pair.until_admitted()
    VmConsole(source, "web").write_marker(f"{until} {at_source}")
    pair.kill_daemon_amid(source, source if at_source else pair.other(source), until=until)
    host = pair.until_in_one_place()
    print(f"web is on {host.name}, and was on {source.name}")
    assert VmConsole(host, "web").marker() == f"{until} {at_source}"
    pair.until_reaches(host, "web", _DB)


def test_a_host_that_is_not_trusted_gets_nothing(pair: Pair) -> None:
    source = pair.until_in_one_place()
    if source is pair.beta:
        pair.until_admitted()
        pair.ask(pair.beta, "vm", "migrate", "web", "alpha")
    pid = pair.alpha.run("cat /run/libvirt/qemu/web.pid").stdout
    pair.beta.run("cp /bin/true /usr/local/bin/unknown; date +%N >> /usr/local/bin/unknown")
    pair.beta.run("/usr/local/bin/unknown", check=False)
    wait_until(
        lambda: pair.state_of_other(pair.alpha) == "suspended",
        timeout_s=_WITHIN_S,
        what="beta is suspended",
    )
    told = pair.alpha.run(f"{SHAMON} vm migrate web beta", check=False, timeout_s=240)
    assert told.status != 0
    assert "beta" in told.stderr, told.stderr
    assert pair.where() == ["alpha"]
    assert pair.alpha.run("cat /run/libvirt/qemu/web.pid").stdout == pid, "it was not even stopped"


def test_nothing_of_it_was_denied(pair: Pair) -> None:
    """But the capability that `systemctl` asks for whoever runs it, and does without."""
    for host in (pair.alpha, pair.beta):
        denied = [line for line in host.denials() if any(name in line for name in ("shamon_t", "virtd_t", "svirt_t"))]
        assert [line for line in denied if "sys_resource" not in line] == []
