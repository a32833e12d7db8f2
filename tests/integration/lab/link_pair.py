"""alpha and beta with two links between them, and VMs whose frames show what they are: a payload of one byte.

The proofs of what links keep apart use it, on hosts of their own or on those that the story was told on.
"""

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from shamon_host.testing.story_policy import VM_ADDRESSES
from tests.integration.lab.coalition import SHAMON
from tests.integration.lab.console import VmConsole
from tests.integration.lab.errors import LabError
from tests.integration.lab.frames import Frame, Kind
from tests.integration.lab.host import LabHost
from tests.integration.lab.inventory import differences, inventory
from tests.integration.lab.lab import Lab
from tests.integration.lab.link_objects import IN_DOMAIN
from tests.integration.lab.port_watch import RUN
from tests.integration.lab.waiting import wait_until

RED, BLUE = "acme/red", "rival/blue"
VMS: Mapping[str, Mapping[str, str]] = {
    RED: {"alpha": "web", "beta": "db"},
    BLUE: {"alpha": "shop", "beta": "spy"},
}
"""Type → host → the VM of that type."""
MARKS = {RED: "a1", BLUE: "b2"}
"""Type → the byte, in hexadecimal, that fills the payload of its frames."""
PORT_BLOCK = (0x4000, 0x7FFF)
_WATCH = Path(__file__).with_name("port_watch.py")
_COUNTERS = "cat /proc/net/xfrm_stat; nft -j list table inet shamon; echo; dmesg | grep -c 'denied.*polmatch' || true"
_CONVERGED_S = 240
_LOAD = (
    "touch /run/load; (while [ -e /run/load ]; do ping -q {pace}-i 0.2 -w 30 -s {size} -p {mark} {address}; "
    "usleep 200000; done) >/dev/null 2>&1 &"
)


class LinkPair:
    """Both hosts' daemons run, or are to be started by `start`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.alpha, self.beta = lab.host("alpha"), lab.host("beta")
        self.hosts = (self.alpha, self.beta)

    def peer(self, host: LabHost) -> LabHost:
        return self.beta if host is self.alpha else self.alpha

    # The daemons

    def start(self, types: Sequence[str] = (RED, BLUE)) -> None:
        """Start daemons and VMs where they do not run, and wait until both types are carried."""
        for host in self.hosts:
            host.run("systemctl enable --now shamon.service", timeout_s=240)
        for host in self.hosts:
            self.until_answers(host)
            running = {row["name"] for row in self.ask(host, "vms") if row["state"] == "running"}
            for vm in sorted({VMS[name][host.name] for name in types} - running):
                self.ask(host, "vm", "start", vm)
        for host in self.hosts:
            for name in types:
                VmConsole(host, VMS[name][host.name]).wait_ready(300)
        self.until_carried(types)

    def ask(self, host: LabHost, *arguments: str, check: bool = True, timeout_s: float = 300) -> Any:
        """What `shamon ... --json` says. Raises LabError for another status than 0 if `check`."""
        result = host.run(f"{SHAMON} {shlex.join(arguments)} --json", check=False, timeout_s=timeout_s)
        if check and result.status != 0:
            raise LabError(f"{host.name}: shamon {' '.join(arguments)}: {result.stdout[-2000:]}{result.stderr[-500:]}")
        try:
            return json.loads(result.stdout)
        except ValueError:
            return None

    def until_answers(self, host: LabHost) -> None:
        wait_until(
            lambda: self.ask(host, "status", check=False, timeout_s=60) is not None,
            timeout_s=180,
            what=f"the daemon of {host.name} answers",
        )

    def links(self, host: LabHost) -> list[dict[str, Any]]:
        """The rows of `shamon links`; () while the daemon does not answer."""
        rows = self.ask(host, "links", check=False, timeout_s=60)
        return rows if isinstance(rows, list) else []

    def link(self, host: LabHost, name: str) -> dict[str, Any]:
        """The row of this type's link; there is one."""
        (row,) = (row for row in self.links(host) if row["type"] == name)
        return row

    def carried(self, host: LabHost) -> set[str]:
        """Types whose link is up."""
        return {row["type"] for row in self.links(host) if row["state"] == "up"}

    def until_carried(self, types: Sequence[str] = (RED, BLUE), *, timeout_s: float = _CONVERGED_S) -> None:
        """Until links of exactly these types are up on both sides, and their VMs talk."""
        wait_until(
            lambda: all(self.carried(host) == set(types) for host in self.hosts),
            timeout_s=timeout_s,
            what=f"links of {types}",
            every_s=1,
        )
        for name in types:
            self.until_talk(name)

    def until_talk(self, name: str, *, timeout_s: float = _CONVERGED_S) -> None:
        wait_until(lambda: self.talk(name), timeout_s=timeout_s, what=f"VMs of {name} talk")

    def until_whole(self, types: Sequence[str] = (RED, BLUE), *, timeout_s: float = _CONVERGED_S) -> None:
        """Until the kernel of each host holds what these types need and nothing else of ours, and their VMs talk."""
        self.until_carried(types, timeout_s=timeout_s)
        for host in self.hosts:
            # Superseded SAs stay for a while after each handshake.
            left: list[str] = []

            def whole(host: LabHost = host, left: list[str] = left) -> bool:
                taps = [tap for name in VMS for tap in self.taps(host, name)]
                before, found = self.links(host), inventory(host, self.peer(host).ipv4)
                left[:] = differences(found, self.links(host), taps, before=before)
                return not left

            try:
                wait_until(whole, timeout_s=60, what=f"{host.name} holds what it should", every_s=1)
            except LabError as error:
                raise LabError(f"{error}: {'; '.join(left)}") from error

    @contextlib.contextmanager
    def stopped(self, *hosts: LabHost) -> Iterator[None]:
        """The daemons of these hosts stand still meanwhile: what holds is what the kernel holds alone."""
        for host in hosts:
            host.run("kill -STOP $(systemctl show -P MainPID shamon.service)")
        try:
            yield
        finally:
            for host in hosts:
                host.run("kill -CONT $(systemctl show -P MainPID shamon.service)")

    def in_domain(self, host: LabHost, source: str, *, timeout_s: float = 120) -> str:
        """Run Python source in the daemon's SELinux domain, which nobody else may."""
        return host.run(f"{IN_DOMAIN} {shlex.quote(source)}", timeout_s=timeout_s).stdout

    def audit_end(self, host: LabHost) -> int:
        """The number of the newest audit record."""
        records, after = [{"sequence": 0}], 0
        while batch := self.ask(host, "audit", "--after", str(after), "--limit", "1000"):
            records, after = batch, int(batch[-1]["sequence"])
        return int(records[-1]["sequence"])

    def audit_since(self, host: LabHost, after: int) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = self.ask(host, "audit", "--after", str(after), "--limit", "1000")
        return records

    # The VMs

    def talk(self, name: str) -> bool:
        """Whether the type's VM on alpha reaches the one on beta now."""
        console, address = VmConsole(self.alpha, VMS[name]["alpha"]), VM_ADDRESSES[VMS[name]["beta"]][0]
        try:
            return console.reaches(address, timeout_s=1)
        except LabError:
            return False  # a VM that boots

    def taps(self, host: LabHost, name: str) -> list[str]:
        """The taps of the type's VM on this host; none while it does not run."""
        told = host.run(f"virsh -q domiflist {VMS[name][host.name]}", check=False)
        return [line.split()[0] for line in told.stdout.splitlines() if line.strip()]

    def ports(self, host: LabHost, name: str) -> list[str]:
        """Every port of the type's bridge."""
        (tap, *_) = self.taps(host, name)
        return host.run(f"ls /sys/class/net/{tap}/master/brif").stdout.split()

    @contextlib.contextmanager
    def load(self, *types: str, size: int = 1400, full: bool = True) -> Iterator[None]:
        """The VMs of these types on alpha ask those on beta with marked packets of `size`: as fast as those answer, or
        five times a second."""
        for name in types:
            command = _LOAD.format(
                pace="-A " if full else "", size=size, mark=MARKS[name], address=VM_ADDRESSES[VMS[name]["beta"]][0]
            )
            VmConsole(self.alpha, VMS[name]["alpha"]).run(command, check=True)
        try:
            yield
        finally:
            for name in types:
                wait_until(partial(self._is_unloaded, name), timeout_s=120, what=f"the load of {name} ends")

    def _is_unloaded(self, name: str) -> bool:
        """It is told to end. A console may be slow to answer under the load, which would go on."""
        try:
            VmConsole(self.alpha, VMS[name]["alpha"]).run("rm -f /run/load; killall ping")
        except LabError:
            return False
        return True

    @contextlib.contextmanager
    def watched(self, devices: Mapping[str, Sequence[str]], seconds: float) -> Iterator[dict[str, Any]]:
        """Count marked frames for so long: host's name → device → counts, see `port_watch`. They are there at the end
        of the `with`, which lasts as long as the watch does."""
        found: dict[str, Any] = {}
        for host in self.hosts:
            host.put("/run/port_watch.py", _WATCH)
            words = shlex.join([*MARKS.values(), "--", *devices[host.name]])
            command = f"python3 /run/port_watch.py {seconds} /run/port-watch.json {words}"
            host.run(
                f"rm -f /run/port-watch.*; nohup {command} </dev/null >/run/port-watch.log 2>&1 & watch=$!; "
                "until [ -e /run/port-watch.ready ]; do "
                "kill -0 $watch || { cat /run/port-watch.log >&2; exit 1; }; sleep 0.2; done",
                timeout_s=60,
            )
        yield found
        for host in self.hosts:
            found[host.name] = json.loads(
                host.run(
                    "until [ -e /run/port-watch.json ]; do sleep 0.5; done; cat /run/port-watch.json",
                    timeout_s=seconds + 120,
                ).stdout
            )

    # What the kernel and the wire tell

    def counters(self, host: LabHost) -> dict[str, int]:
        """/proc/net/xfrm_stat, the counters of the guard's rules, and as `avc` the polmatch denials of this boot."""
        return read_counters(host.run(_COUNTERS).stdout)

    @contextlib.contextmanager
    def rising(self, host: LabHost) -> Iterator[dict[str, int]]:
        """What rose of the counters, and by how much, once the `with` is left."""
        before, rose = self.counters(host), dict[str, int]()
        yield rose
        after = self.counters(host)
        rose.update({name: after[name] - before[name] for name in after if after[name] != before.get(name, 0)})

    def leaks(self, mark: int) -> list[Frame]:
        """Frames on the wire since `mark` that are in clear: with a port of the block, or a run of any type's mark."""
        runs = [bytes.fromhex(byte) * RUN for byte in MARKS.values()]
        return [
            frame
            for frame in self.lab.wire.since(mark)
            if (frame.kind is not Kind.TCP and frame.touches_port(*PORT_BLOCK)) or any(run in frame.raw for run in runs)
        ]

    @contextlib.contextmanager
    def never_in_clear(self) -> Iterator[None]:
        """No leak on the wire meanwhile, and something did pass as ESP: the wire was looked at."""
        mark = self.lab.wire.mark()
        yield
        assert self.leaks(mark) == []
        assert self.lab.wire.since(mark, kinds=[Kind.ESP])


def read_counters(text: str) -> dict[str, int]:
    """Of what `LinkPair.counters` asks for."""
    lines = text.splitlines()
    counters = {name: int(count) for name, count in (line.split() for line in lines if line.startswith("Xfrm"))}
    (ruleset,) = (line for line in lines if line.startswith("{"))
    for item in json.loads(ruleset)["nftables"]:
        if "counter" in item:
            counters[item["counter"]["name"]] = int(item["counter"]["packets"])
    return {**counters, "avc": int(lines[-1])}
