"""Rekeys of a link between two enforcing hosts, under traffic both ways that is counted: nothing is lost.

A hundred under a UDP stream: the link managers of both hosts are driven as handshakes drive them, over the real
kernels; every tenth time the last answer is lost. Behind each end a network namespace stands in for a VM. What a lost
datagram would show in: the receiver's numbers against the sender's count, the packet counters of SAs at both ends, and
the error counters of IPsec, of which none may rise.

Then by the whole program between two VMs, with keys that the policy has renewed every hundred packets.
"""

import json
import re
import secrets
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shamon_host.links.rekeying import MAX_SAS
from shamon_host.testing.story_policy import VM_ADDRESSES
from tests.integration.lab import Lab, LabHost
from tests.integration.lab.coalition import SHAMON, Coalition
from tests.integration.lab.console import VmConsole
from tests.integration.lab.story_world import LAB_TIMING
from tests.integration.lab.waiting import wait_until
from tests.integration.links.probe import Probe

REKEYS, REKEYS_OF_VMS = 100, 30
CATEGORY = 7
_STREAM = Path(__file__).parent / "links" / "udp_stream.py"
_HOME = "/run/stream"
_STOP = f"{_HOME}/stop"
_PORT = 4000
_LIFETIME_S = 900
_SET_UP = """
import time
from types import SimpleNamespace
from shamon_host.daemon.database import Database
from shamon_host.daemon.store import Store
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.manager import LinkManager

RED, PEER, ADDRESS = TypeName("acme/red"), HostName("{peer}"), "{remote}"

manager = LinkManager(
    host=HostName("{name}"), address="{local}", kernel=kernel, documents=Store(Database(":memory:")),
    label_map=lambda: LabelMap(types={{RED: {category}}}, vms={{}}), audit=lambda *_: None,
    boottime_s=lambda: time.clock_gettime(time.CLOCK_BOOTTIME), boot_id="lab",
)
manager.ensure_bridge(RED)
manager.reconcile({{"{tap}": RED}}, {{}})

def offer():
    (made,) = manager.offer(PEER, ADDRESS, [RED])
    return [made.port, made.spi]

def agreed(own, other, in_key, out_key):
    return SimpleNamespace(type=RED, local_port=own[0], peer_port=other[0], in_spi=own[1], out_spi=other[1],
                           in_key=bytes.fromhex(in_key), out_key=bytes.fromhex(out_key))

def receive(link):
    manager.install_inbound(PEER, ADDRESS, [link], lifetime_s={lifetime})

def send(link):
    manager.install_outbound(PEER, ADDRESS, [link], gate_s={lifetime} - 2.0, lifetime_s={lifetime})

def give_up(link):
    manager.abandon(PEER, ADDRESS, [link.in_spi], [link], gate_s={lifetime} / 2, unanswered=True)

def largest():
    sas = kernel.read().sas
    return max(sum(sa.destination == address for sa in sas) for address in (manager.address, ADDRESS))
"""
_TAP = "shvm7-0"


class Pair:
    """Both probes, and the rekeys between them."""

    def __init__(self, alpha: Probe, beta: Probe) -> None:
        self.alpha, self.beta = alpha, beta
        self._link = ""
        """Source of alpha's end of the newest link."""
        for probe, peer in ((alpha, beta), (beta, alpha)):
            probe.ask(
                _SET_UP.format(
                    name=probe.host.name, peer=peer.host.name, local=probe.host.ipv4, remote=peer.host.ipv4,
                    category=CATEGORY, tap=_TAP, lifetime=_LIFETIME_S,
                )
            )  # fmt: skip
        self._of_beta = beta.ask("answer = offer()")

    def rekey(self, *, ends_the_one_before: str) -> int:
        """One handshake, but for alpha's last step, which comes with the next call: `ends_the_one_before` is `send`,
        or `give_up` if the answer was lost. Returns the most SAs in one direction at either end."""
        keys = secrets.token_hex(36), secrets.token_hex(36)  # test keys, on hosts that last as long as the test
        before = f"{ends_the_one_before}(link); manager.tidy()" if self._link else ""
        of_alpha, most_a = self.alpha.ask(
            f"""
            {before}
            own = offer()
            link = agreed(own, {self._of_beta}, "{keys[0]}", "{keys[1]}")
            receive(link)
            answer = [own, largest()]
            """
        )
        self._link = "link"
        self._of_beta, most_b = self.beta.ask(
            f"""
            link = agreed({self._of_beta}, {of_alpha}, "{keys[1]}", "{keys[0]}")
            receive(link)
            send(link)
            manager.tidy()
            answer = [offer(), largest()]
            """
        )
        return max(int(most_a), int(most_b))

    def finish(self) -> None:
        """Alpha hears the answer of the last one."""
        self.alpha.ask("send(link)")
        self._link = ""


@pytest.fixture
def pair(hosts: list[LabHost]) -> Iterator[Pair]:
    alpha, beta = Probe(host=hosts[0]), Probe(host=hosts[1])
    for number, probe in enumerate((alpha, beta), 1):
        probe.host.run("systemctl stop shamon", check=False)
        probe.start()
        probe.host.run(_namespace(number))
        probe.host.put(f"{_HOME}/udp_stream.py", _STREAM)
    yield Pair(alpha, beta)
    for probe in (alpha, beta):
        probe.ask("manager.close_all(); manager.reconcile({}, {})")
        probe.host.run(f"touch {_STOP}; sleep 4; ip netns del stream", check=False)
        probe.host.run("nft delete table inet shamon; nft delete table bridge shamon", check=False)
        probe.ask("kernel.apply([DeleteSpdEntry(entry=entry) for entry in kernel.read().spd])")
        probe.stop()


@pytest.mark.full
def test_a_hundred_rekeys_lose_no_datagram(pair: Pair) -> None:
    pair.rekey(ends_the_one_before="send")
    pair.finish()
    ends = (pair.alpha, pair.beta)
    _until_reached(pair)
    before = [_errors(probe.host) for probe in ends]
    for probe, address in ((pair.alpha, "10.9.7.1"), (pair.beta, "10.9.7.2")):
        _start(probe.host, "receive", address)
    for probe, address in ((pair.alpha, "10.9.7.2"), (pair.beta, "10.9.7.1")):
        _start(probe.host, "send", address)
    most = 0
    for number in range(REKEYS):
        lost = number % 10 == 9
        most = max(most, pair.rekey(ends_the_one_before="give_up" if lost else "send"))
    pair.finish()
    time.sleep(2)
    for probe in ends:
        probe.host.run(f"touch {_STOP}")
    sent = [_told(probe.host, "send") for probe in ends]
    received = [_told(probe.host, "receive") for probe in reversed(ends)]
    for out, into in zip(sent, received, strict=True):
        assert out["refused"] == 0, (out, into)
        assert out["sent"] > 10 * REKEYS
        assert into == {"received": out["sent"], "different": out["sent"], "highest": out["sent"] - 1}, (out, into)
    assert [_errors(probe.host) for probe in ends] == before
    assert most <= MAX_SAS
    carried = [_packets(probe.host) for probe in ends]
    common = carried[0].keys() & carried[1].keys()
    assert common, carried
    assert {spi: carried[0][spi] for spi in common} == {spi: carried[1][spi] for spi in common}


@pytest.mark.full
def test_between_vms_keys_are_renewed_by_usage_and_no_packet_is_lost(images: Path) -> None:
    with Lab(images) as lab:
        coalition = Coalition(lab, timing=LAB_TIMING, hosts=("alpha", "beta"))
        coalition.policy = coalition.policy.replace("action_delay_s", "rekey_packets = 100\naction_delay_s")
        coalition.found()
        hosts = lab.host("alpha"), lab.host("beta")
        for host, vm in zip(hosts, ("web", "db"), strict=True):
            _start_daemon(host)
            host.run(f"{SHAMON} vm start {vm}", timeout_s=300)
        web, db = (VmConsole(host, vm) for host, vm in zip(hosts, ("web", "db"), strict=True))
        for console in (web, db):
            console.wait_ready()
        wait_until(lambda: web.reaches(VM_ADDRESSES["db"][0]), timeout_s=360, what="web reaches db", every_s=2)
        before, mark = [_errors(host) for host in hosts], len(_audited(hosts[0]))
        for console, to in ((web, "db"), (db, "web")):
            console.run(f"ping -q -i 0.05 -c 1000000 {VM_ADDRESSES[to][0]} > /pings 2>&1 &", check=True)
        wait_until(
            lambda: _kinds(hosts[0], mark).count("link.install-outbound") >= REKEYS_OF_VMS,
            timeout_s=1200,
            what=f"{REKEYS_OF_VMS} rekeys",
            every_s=10,
        )
        for console in (web, db):
            console.run("killall -INT ping; sleep 2", check=True)
        for console in (web, db):
            told = console.run("cat /pings", check=True).stdout
            counts = re.search(r"(\d+) packets transmitted, (\d+) packets received", told)
            assert counts, told
            # The last one may be on its way when the program is told to end.
            assert int(counts[1]) - int(counts[2]) in (0, 1), told
            assert int(counts[1]) > 20 * REKEYS_OF_VMS
            assert "duplicates" not in told
        assert [_errors(host) for host in hosts] == before
        kinds = [kind for host in hosts for kind in _kinds(host, 0)]
        assert kinds.count("link.demand") > REKEYS_OF_VMS // 3


def _start_daemon(host: LabHost) -> None:
    host.run("systemctl enable --now shamon.service", timeout_s=240)
    status = f"{SHAMON} status"
    wait_until(lambda: host.run(status, check=False).status == 0, timeout_s=240, what="the daemon answers", every_s=2)


def _audited(host: LabHost) -> list[dict[str, object]]:
    """The whole audit log."""
    records: list[dict[str, object]] = []
    while True:
        after = records[-1]["sequence"] if records else 0
        told = host.run(f"{SHAMON} audit --after {after} --limit 1000 --json", timeout_s=120).stdout
        page = json.loads(told)
        if not page:
            return records
        records += page


def _kinds(host: LabHost, after: int) -> list[str]:
    return [str(record["kind"]) for record in _audited(host)[after:]]


def _namespace(number: int) -> str:
    commands = [
        f"mkdir -p {_HOME}; rm -f {_STOP}",
        "ip netns add stream",
        f"ip link add {_TAP} type veth peer name eth0 netns stream",
        "ip -n stream link set lo up",
        "ip -n stream link set eth0 up",
        f"ip -n stream addr add 10.9.7.{number}/24 dev eth0",
    ]
    return f"bash -ec {shlex.quote('; '.join(commands))}"


def _until_reached(pair: Pair) -> None:
    """ARP is done, and the link carries."""
    pair.alpha.host.run("ip netns exec stream ping -q -c 3 -i 0.3 -w 20 10.9.7.2", timeout_s=60)
    for probe, address in ((pair.alpha, "10.9.7.2"), (pair.beta, "10.9.7.1")):
        # An entry that is to be confirmed anew is no loss, but would look like one.
        probe.host.run(
            f"mac=$(ip -n stream neigh show {address} | grep -o '..:..:..:..:..:..'); "
            f"ip -n stream neigh replace {address} lladdr $mac dev eth0 nud permanent"
        )


def _start(host: LabHost, role: str, address: str) -> None:
    program = f"/opt/shamon/bin/python -I {_HOME}/udp_stream.py {role} {address} {_PORT} {_STOP}"
    host.run(f"nohup ip netns exec stream {program} > {_HOME}/{role}.json 2> {_HOME}/{role}.err < /dev/null &")


def _told(host: LabHost, role: str) -> dict[str, int]:
    """What that end printed when it ended."""
    wait = f"for i in $(seq 60); do [ -s {_HOME}/{role}.json ] && break; sleep 1; done"
    text = host.run(f"{wait}; cat {_HOME}/{role}.json; cat {_HOME}/{role}.err >&2", timeout_s=120).stdout
    told = json.loads(text)
    assert isinstance(told, dict)
    return told


def _errors(host: LabHost) -> dict[str, int]:
    """Every counter of /proc/net/xfrm_stat is one of packets that were dropped."""
    lines = host.run("cat /proc/net/xfrm_stat").stdout.splitlines()
    return {name: int(count) for name, count in (line.split() for line in lines)}


def _packets(host: LabHost) -> dict[str, int]:
    """SPI → packets that its SA carried, by iproute2."""
    text = host.run("ip -s xfrm state").stdout
    found = {}
    for block in re.split(r"^(?=src )", text, flags=re.MULTILINE):
        spi, current = re.search(r"spi (0x[0-9a-f]+)", block), block.partition("lifetime current:")[2]
        packets = re.search(r"(\d+)\(packets\)", current)
        if "aead " in block and spi and packets:
            found[spi[1]] = int(packets[1])
    return found
