"""One type between two enforcing hosts, over the real kernels: what passes, what does not, and what is on the wire."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.lab import Lab, LabHost
from tests.integration.lab.frames import Frame, Kind
from tests.integration.lab.waiting import wait_until
from tests.integration.links.probe import Probe

PORT = 0x4000
LAST_PORT = 0x7FFF
RED, BLUE = 7, 8
KEYS = {"alpha": "bytes(range(36))", "beta": "bytes(range(100, 136))"}
"""By receiver. Test keys, on hosts that last as long as the test."""
_SET_UP = """
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName
from shamon_host.links.planner import plan

def context(kind, category={category}):
    return SelinuxContext(user="system_u", role="object_r", type=kind, categories=frozenset({{category}}))

link = DesiredLink(
    peer=HostName("{peer}"), type=TypeName("acme/red"), local="{local}", remote="{remote}", local_port={port},
    peer_port={port}, bridge=bridge_name({category}), link_context=context("shamon_link_t"),
    spd_context=context("shamon_spd_t"),
)
kernel.apply([InstallGuard(), *[AddSpdEntry(entry=entry) for entry in BLOCK_ENTRIES], CreateBridge(name=link.bridge)])
kernel.apply([AddSpdEntry(entry=entry) for entry in link.spd_entries])
in_spi = kernel.allocate_spi(source=link.remote, destination=link.local)
kernel.apply([AddSa(sa=link.sa(inbound=True, spi=in_spi, key={key}, lifetime_s=600)), CreateTunnel(tunnel=link.tunnel)])
answer = in_spi
"""
_OPEN = """
out_spi = {spi}
kernel.apply([
    AddSa(sa=link.sa(inbound=False, spi=out_spi, key={key}, lifetime_s=600)),
    AttachPort(bridge=link.bridge, interface=link.device, isolated=True),
    OpenGate(address=link.remote, seconds=500),
])
"""
_CLEAR = """
state = kernel.read()
kernel.apply([
    *[CloseGate(address=address) for address in state.gate],
    DeleteSas(ids=tuple(sa.id for sa in state.sas)),
    *[DeleteTunnel(local_port=tunnel.local_port) for tunnel in state.tunnels],
    *[DeleteSpdEntry(entry=entry) for entry in state.spd],
    *[DeleteBridge(name=name) for name in state.bridges],
])
left = kernel.read()
answer = [len(left.sas), len(left.spd), len(left.tunnels), len(left.bridges), len(left.gate)]
"""


@dataclass(frozen=True)
class Ends:
    """Both ends of a link, with what stands in for a VM on each: a network namespace behind a tap-like device."""

    lab: Lab
    alpha: Probe
    beta: Probe

    def pings(self, *, count: int = 2, size: int = 56, target: str = "10.9.0.2") -> bool:
        """Whether alpha's VM gets answers from beta's. The VMs fragment nothing.

        It forgets whom it asked for by ARP before: a question of before that is about to be given up would take these
        packets with it.
        """
        ping = f"ip netns exec vm ping -q -M do -c {count} -i 0.2 -W 2 -s {size} {target}"
        command = f"ip -n vm neigh flush all; {ping}"
        return self.alpha.host.run(command, check=False).status == 0

    def in_clear(self, mark: int) -> list[Frame]:
        """Frames since `mark` that show a port of the block."""
        return [frame for frame in self.lab.wire.since(mark) if frame.touches_port(PORT, LAST_PORT)]

    def esp_from_alpha(self, mark: int) -> list[Frame]:
        """The far VM's own neighbour discovery goes on meanwhile."""
        own = (self.alpha.host.ipv4, self.alpha.host.ipv6)
        return [frame for frame in self.lab.wire.since(mark, kinds=[Kind.ESP]) if frame.source in own]

    def counters(self, probe: Probe) -> dict[str, int]:
        answer = probe.ask("answer = dict(kernel.counters())")
        assert isinstance(answer, dict)
        return answer


@pytest.fixture(scope="module")
def probes(hosts: list[LabHost]) -> Iterator[tuple[Probe, Probe]]:
    alpha, beta = Probe(host=hosts[0]), Probe(host=hosts[1])
    for number, probe in enumerate((alpha, beta), 1):
        probe.start()
        probe.host.run(_vm(number))
    yield alpha, beta
    for probe in (alpha, beta):
        probe.host.run("ip netns del vm; nft delete table inet shamon; nft delete table bridge shamon", check=False)
        probe.stop()


both_families = pytest.mark.parametrize("ends", [4, 6], indirect=True)


@pytest.fixture
def ends(request: pytest.FixtureRequest, lab: Lab, probes: tuple[Probe, Probe]) -> Iterator[Ends]:
    """A link that is up, over IPv4 or IPv6; gone without a trace afterwards."""
    ends = Ends(lab, *probes)
    _bring_up(ends, version=getattr(request, "param", 4))
    yield ends
    for probe in probes:
        assert probe.ask(_CLEAR) == [0, 0, 0, 0, 0]


@both_families
def test_frames_pass_and_only_as_esp(ends: Ends) -> None:
    mark = ends.lab.wire.mark()
    assert ends.pings()
    assert ends.pings(size=1472), "a full Ethernet frame is fragmented below and put together again"
    assert ends.pings(target="fd00::2")
    assert ends.pings(size=1452, target="fd00::2"), "the same over IPv6"
    assert not ends.pings(size=1473), "and no more is one of an Ethernet"
    assert ends.esp_from_alpha(mark)
    assert not ends.in_clear(mark)


def test_read_is_what_was_applied(ends: Ends) -> None:
    answer = ends.alpha.ask("""
        state = kernel.read()
        wanted = DesiredState(
            links=(DesiredLink(**{**{name: getattr(link, name) for name in link.__slots__}, "attached": True,
                               "in_spis": frozenset({in_spi}), "out_spis": frozenset({out_spi})}),),
            bridges=frozenset({link.bridge}), gate={link.remote: 500.0},
        )
        answer = [
            [repr(operation) for operation in plan(wanted, state)], list(state.foreign),
            str(next(iter(state.tunnels)).context), state.guard, state.selinux_enforcing,
            {port: isolated for port, isolated in state.bridges["shbr7"].ports.items() if port != "shvm1"},
        ]
    """)
    assert answer == [[], [], f"system_u:object_r:shamon_link_t:s0:c{RED}", True, True, {"shl20": True}]


def test_own_changes_are_not_told(ends: Ends) -> None:
    """Everything that brought the link up was this program's; a stranger's change is told."""
    ends.alpha.ask("events.clear()")
    ends.alpha.ask("kernel.apply([DetachPort(interface=link.device), CloseGate(address=link.remote)])")
    ends.alpha.ask(
        "kernel.apply([AttachPort(bridge=link.bridge, interface=link.device, isolated=True),"
        "OpenGate(address=link.remote, seconds=500), CreateBridge(name='shbr9'), DeleteBridge(name='shbr9')])"
    )
    assert ends.alpha.ask("answer = [repr(event) for event in events]") == []
    ends.alpha.host.run("ip link set shl20 nomaster")
    assert "shl20" in ends.alpha.ask("answer = repr(events)")
    ends.alpha.ask("events.clear()")
    ends.alpha.host.run("nft flush set inet shamon gate4; nft delete table bridge shamon")
    assert "nft" in ends.alpha.ask("answer = repr(events)")
    assert ends.alpha.ask("answer = kernel.read().guard") is False


@both_families
def test_another_category_does_not_get_in(ends: Ends) -> None:
    """The receiver's SA is of another type than the SPD entry for these ports."""
    ends.beta.ask(f"""
        kernel.apply([DeleteSas(ids=(SaId(destination=link.local, spi=in_spi),))])
        sa = link.sa(inbound=True, spi=0x7777, key={KEYS["beta"]}, lifetime_s=600)
        kernel.apply([AddSa(sa=SecurityAssociation(
            source=sa.source, destination=sa.destination, spi=sa.spi, reqid=sa.reqid, key=sa.key, hard_lifetime_s=600,
            context=context("shamon_link_t", {BLUE}),
        ))])
    """)
    ends.alpha.ask(f"""
        kernel.apply([DeleteSas(ids=(SaId(destination=link.remote, spi=out_spi),))])
        kernel.apply([AddSa(sa=link.sa(inbound=False, spi=0x7777, key={KEYS["beta"]}, lifetime_s=600))])
    """)
    before = ends.counters(ends.beta)["XfrmInPolBlock"]
    assert not ends.pings()
    assert ends.counters(ends.beta)["XfrmInPolBlock"] > before
    polmatch = [line for line in ends.beta.host.denials() if "polmatch" in line]
    assert any(f"shamon_link_t:s0:c{BLUE}" in line and f"shamon_spd_t:s0:c{RED}" in line for line in polmatch)


@both_families
def test_never_in_clear_without_the_spd(ends: Ends) -> None:
    """Every SPD entry is gone, the block entries too: the rules of nft are what is left."""
    before = ends.counters(ends.alpha)["guard_out"]
    ends.alpha.ask("kernel.apply([DeleteSpdEntry(entry=entry) for entry in kernel.read().spd])")
    mark = ends.lab.wire.mark()
    assert not ends.pings()
    assert ends.counters(ends.alpha)["guard_out"] > before
    assert not ends.in_clear(mark)
    assert not ends.esp_from_alpha(mark)


def test_block_entries_come_before_the_guard(ends: Ends) -> None:
    """Only the labelled entries are gone."""
    before = ends.counters(ends.alpha)
    ends.alpha.ask("kernel.apply([DeleteSpdEntry(entry=entry) for entry in link.spd_entries])")
    mark = ends.lab.wire.mark()
    assert not ends.pings()
    after = ends.counters(ends.alpha)
    assert after["XfrmOutPolBlock"] > before["XfrmOutPolBlock"]
    assert after["guard_out"] == before["guard_out"]
    assert not ends.in_clear(mark)


def test_kernel_asks_for_a_key(ends: Ends) -> None:
    """A frame finds no SA: the ACQUIRE names the link's ports and its socket's label. An SA that ends is told too."""
    ends.alpha.ask(f"""
        events.clear()
        kernel.apply([DeleteSas(ids=(SaId(destination=link.remote, spi=out_spi),))])
        sa = link.sa(inbound=True, spi=0x7777, key={KEYS["beta"]}, lifetime_s=2)
        kernel.apply([AddSa(sa=sa)])
    """)
    assert not ends.pings(count=1)
    ends.alpha.host.run("sleep 3")
    answer = ends.alpha.ask("""
        from shamon_host.links.ports import AcquireEvent, ExpireEvent
        told = [(event.source_port, event.destination_port, str(event.context))
                for event in events if isinstance(event, AcquireEvent)]
        answer = [told, [(event.spi, event.hard) for event in events if isinstance(event, ExpireEvent)]]
    """)
    assert answer[0] == [[PORT, PORT, f"system_u:object_r:shamon_link_t:s0:c{RED}"]]
    assert [0x7777, True] in answer[1]


@both_families
def test_gate_closes_by_itself(ends: Ends) -> None:
    ends.alpha.ask("kernel.apply([OpenGate(address=link.remote, seconds=6.0)])")
    assert ends.pings(count=1)
    left = ends.alpha.ask("answer = kernel.read().gate[link.remote]")
    assert 0 <= left <= 6
    ends.alpha.host.run("sleep 6.5")
    assert ends.alpha.ask("answer = dict(kernel.read().gate)") == {}
    before = ends.counters(ends.alpha)["gate_out"]
    mark = ends.lab.wire.mark()
    assert not ends.pings()
    assert ends.counters(ends.alpha)["gate_out"] > before
    assert not ends.esp_from_alpha(mark)


def test_peers_gate_is_shut(ends: Ends) -> None:
    """The receiver's own gate counts too."""
    ends.beta.ask("kernel.apply([CloseGate(address=link.remote)])")
    before = ends.counters(ends.beta)["gate_in"]
    assert not ends.pings()
    assert ends.counters(ends.beta)["gate_in"] > before


def test_host_is_not_in_the_bridge(ends: Ends) -> None:
    """A VM gets no answer from the host that it runs on, by none of the host's addresses."""
    host = ends.alpha.host
    host.run("ip -n vm addr replace 192.0.2.77/24 dev eth0; ip -n vm addr replace 2001:db8::77/64 dev eth0 nodad")
    try:
        before = ends.counters(ends.alpha)["host_in"]
        assert not ends.pings(target=host.ipv4)
        by_arp = ends.counters(ends.alpha)["host_in"]
        assert by_arp > before
        assert not ends.pings(target=host.ipv6)
        assert ends.counters(ends.alpha)["host_in"] > by_arp
        neighbours = host.run("ip -n vm neigh").stdout
        assert not any("lladdr" in line for line in neighbours.splitlines() if host.ipv4 in line or host.ipv6 in line)
    finally:
        host.run("ip -n vm addr del 192.0.2.77/24 dev eth0; ip -n vm addr del 2001:db8::77/64 dev eth0")


def test_strangers_are_seen_and_removed(ends: Ends) -> None:
    host = ends.alpha.host
    ends.alpha.ask("events.clear()")
    host.run("ip link add shl299 type bridge")
    # Only the daemon's domain may label a policy; one without a label matches every flow.
    host.run("ip xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dir out priority 1")
    assert not ends.pings(), "the link's frames meet the guard"
    answer = ends.alpha.ask("""
        state = kernel.read()
        strange = [entry for entry in state.spd if entry.foreign]
        seen = [list(state.foreign), [entry.foreign for entry in strange], repr(events)]
        kernel.apply([DeleteSpdEntry(entry=entry) for entry in strange])
        answer = [*seen, [entry.foreign for entry in kernel.read().spd if entry.foreign]]
    """)
    host.run("ip link del shl299")
    assert ["shl299" in words for words in answer[0]] == [True]
    assert ["allow out" in words for words in answer[1]] == [True]
    assert "SPD entry" in answer[2]
    assert answer[3] == []
    assert ends.pings(), "its socket does not keep the route that it found under the entry"


def test_after_a_stranger_that_came_and_went_links_carry_again(ends: Ends) -> None:
    policy = "src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dir out"
    ends.alpha.host.run(f"ip xfrm policy add {policy} priority 1")
    assert not ends.pings(), "the link's frames meet the guard"
    ends.alpha.host.run(f"ip xfrm policy delete {policy}")
    assert ends.alpha.ask("answer = [entry.foreign for entry in kernel.read().spd if entry.foreign]") == []
    assert ends.pings(), "its socket does not keep the route that it found under the entry"


def test_after_a_stranger_that_went_while_nobody_listened_links_carry_again(ends: Ends) -> None:
    policy = "src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dir out"
    ends.alpha.host.run(f"ip xfrm policy add {policy} priority 1")
    assert not ends.pings(), "the link's frames meet the guard"
    ends.alpha.kill(meanwhile=f"ip xfrm policy delete {policy}")
    assert ends.pings(), "the next run looks for routes anew"
    _tell_again(ends.alpha, ends)


def test_tunnel_outlives_a_kill_in_the_store(ends: Ends) -> None:
    ends.alpha.kill()
    assert ends.pings()
    answer = ends.alpha.ask("answer = [str(tunnel.context) for tunnel in kernel.read().tunnels]")
    assert answer == [f"system_u:object_r:shamon_link_t:s0:c{RED}"]
    _tell_again(ends.alpha, ends)
    ends.alpha.ask("kernel.apply([DeleteTunnel(local_port=link.local_port)])")
    assert ends.alpha.host.run("ip l2tp show tunnel").stdout == ""


def test_stopping_the_service_ends_the_tunnels(ends: Ends) -> None:
    ends.alpha.stop()
    wait_until(lambda: not ends.alpha.host.run("ip l2tp show tunnel").stdout, timeout_s=20, what="the tunnel is gone")
    ends.alpha.start()
    assert ends.alpha.ask("answer = len(kernel.read().tunnels)") == 0
    _tell_again(ends.alpha, ends)


def test_tunnel_dies_with_a_process_that_has_no_store(ends: Ends) -> None:
    without = Probe(host=ends.alpha.host, fd_store=False)
    without.start()
    try:
        _bring_up(ends, version=4, only=without)
        assert without.ask("answer = len(kernel.read().tunnels)") == 1
        without.kill()
        assert without.ask("answer = len(kernel.read().tunnels)") == 0
    finally:
        ends.alpha.start()
        _tell_again(ends.alpha, ends)


def _bring_up(ends: Ends, *, version: int, only: Probe | None = None) -> None:
    probes = [only] if only is not None else [ends.alpha, ends.beta]
    spis: dict[str, int] = {}
    for probe in probes:
        spis[probe.host.name] = probe.ask(_source(ends, probe, version))
    if only is not None:
        return
    for probe, peer in ((ends.alpha, ends.beta), (ends.beta, ends.alpha)):
        probe.ask(_OPEN.format(spi=spis[peer.host.name], key=KEYS[peer.host.name]))
        probe.ask("kernel.apply([AttachPort(bridge=link.bridge, interface='shvm1', isolated=False)])")


def _source(ends: Ends, probe: Probe, version: int) -> str:
    here = probe.host
    there = ends.beta.host if here is ends.alpha.host else ends.alpha.host
    local, remote = (here.ipv4, there.ipv4) if version == 4 else (here.ipv6, there.ipv6)
    return _SET_UP.format(category=RED, peer=there.name, local=local, remote=remote, port=PORT, key=KEYS[here.name])


def _tell_again(probe: Probe, ends: Ends) -> None:
    """A new run knows no `link`."""
    version = 6 if ":" in probe.ask("answer = repr([entry for entry in kernel.read().spd if entry.source])") else 4
    probe.ask(_source(ends, probe, version).partition("kernel.apply")[0])


def _vm(number: int) -> str:
    """A network namespace with its end of a veth pair, the other end named as a VM's tap."""
    commands = [
        "ip netns add vm",
        "ip link add shvm1 type veth peer name eth0 netns vm",
        "ip -n vm link set eth0 up",
        f"ip -n vm addr add 10.9.0.{number}/24 dev eth0",
        f"ip -n vm addr add fd00::{number}/64 dev eth0 nodad",
    ]
    return f"bash -ec {shlex.quote('; '.join(commands))}"
