"""A rekey loses nothing: a counted stream in both directions and of two types, whatever comes between its steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from shamon_host.domain.label_map import EMPTY, allocate
from shamon_host.domain.labels import SelinuxContext, TypeName
from shamon_host.links.link_records import LinkRecord, SaRecord
from shamon_host.links.model import AddSa, Operation
from shamon_host.links.rekeying import MAX_SAS, receiving, switched
from shamon_host.testing.wire import MemoryWire, WirePacket
from tests.examples import examples
from tests.unit.links.conftest import BLUE, LEASE_S, RED, Agreed, Host, agree, frame

REKEYS = 100
TAPS = {RED: "shvm0-0", BLUE: "shvm0-1"}
TYPES = (RED, BLUE)


class HeldWire(MemoryWire):
    """Packets are under way until `deliver`."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: list[WirePacket] = []

    def send(self, packet: WirePacket) -> None:
        self.packets.append(packet)
        self.under_way.append(packet)

    def deliver(self) -> None:
        """All that were sent before the call, in order."""
        packets, self.under_way = self.under_way, []
        for packet in packets:
            self.inject(packet)


@dataclass(kw_only=True)
class Stream:
    """Two hosts that send numbered frames of both types to each other at every step, also between two operations of
    one plan, and the packets that they became."""

    wire: HeldWire = field(default_factory=HeldWire)
    hosts: tuple[Host, Host] = field(init=False)
    sent: dict[tuple[str, TypeName], int] = field(default_factory=dict)
    """How many frames of a type each host has sent."""
    turns: int = 0
    contexts: dict[tuple[str, int], SelinuxContext | None] = field(default_factory=dict)
    """Destination and SPI of every SA that was ever installed → its label at the sender."""
    installed: list[tuple[str, str, int]] = field(default_factory=list)
    """Of every SA that was installed: at which host, destination and SPI."""

    def __post_init__(self) -> None:
        self.hosts = Host("alpha", "192.0.2.1", self.wire), Host("beta", "192.0.2.2", self.wire)
        self.hosts[1].label_map = allocate(EMPTY, [RED, BLUE, TypeName("aaa/first")], [])
        for host in self.hosts:
            host.links.reconcile({})
            for name, tap in TAPS.items():
                host.start_vm(tap, name)
        for host in self.hosts:
            vars(host.kernel)["apply"] = self._between(host, host.kernel.apply)
        self.streaming = False

    def _between(
        self, host: Host, apply: Callable[[Sequence[Operation]], None]
    ) -> Callable[[Sequence[Operation]], None]:
        def applied(operations: Sequence[Operation]) -> None:
            for operation in operations:
                self.turns += 1
                self.send(self.hosts[self.turns & 1], TYPES[self.turns >> 1 & 1])
                if isinstance(operation, AddSa):
                    sa = operation.sa
                    self.installed.append((host.name, sa.destination, sa.spi))
                    if sa.source == host.address:
                        self.contexts[sa.destination, sa.spi] = sa.context
                apply([operation])

        return applied

    def tick(self) -> None:
        """A frame of each type each way."""
        for host in self.hosts:
            for name in TYPES:
                self.send(host, name)

    def send(self, host: Host, name: TypeName) -> None:
        """It leaves as one packet, through an SA of its own link."""
        if not self.streaming:
            return
        mark, number = self.wire.mark(), self.sent.get((host.name, name), 0)
        host.kernel.send_from_tap(TAPS[name], frame(f"{number:08}"))
        self.sent[host.name, name] = number + 1
        (packet,) = self.wire.since(mark)
        assert packet.is_esp
        spi = int.from_bytes(packet.payload[:4])
        assert self.contexts[packet.destination, spi] == host.label_map.link_context(name)

    def check(self) -> None:
        """Everything that was sent is there, once and in order, in the VMs of its type."""
        self.wire.deliver()
        for sender, host in (self.hosts, self.hosts[::-1]):
            for name, tap in TAPS.items():
                wanted = [f"{number:08}".encode() for number in range(self.sent[sender.name, name])]
                assert [received[14:22] for received in host.received[tap]] == wanted
            refused = {
                name: count for name, count in host.kernel.counters().items() if count and not name.startswith("host_")
            }
            assert not refused

    def pass_time(self, seconds: float) -> None:
        """A packet is under way for less than this."""
        self.wire.deliver()
        for host in self.hosts:
            host.clock.advance(seconds)
            host.links.tidy()
        self.tick()


@dataclass(frozen=True)
class Rekey:
    """`gaps`: what passes before each of the four steps, in seconds. `lost`: the step that is never heard of.
    `deliver`: a bit for each step before which packets arrive; a packet is under way for less than a handshake."""

    initiator: int
    lost: str
    gaps: tuple[float, ...]
    deliver: int


GAPS = (0.0, 0.0, 0.2, 3.0)
LOST = ("", "", "", "", "hello", "confirm", "answer", "answer")


def _rekey(number: int) -> Rekey:
    """Any of them, out of one number."""
    digits = []
    for base in (2, len(LOST), 16, *([len(GAPS)] * 4)):
        number, digit = divmod(number, base)
        digits.append(digit)
    return Rekey(digits[0], LOST[digits[1]], tuple(GAPS[digit] for digit in digits[3:]), digits[2] | 1)


REKEYS_OF_A_RUN = st.lists(st.integers(0, 2 * len(LOST) * 16 * len(GAPS) ** 4 - 1), min_size=REKEYS, max_size=REKEYS)


def handshake(stream: Stream, rekey: Rekey) -> bool:
    """One, with the stream going on. False if it came to nothing."""
    a, b = stream.hosts[rekey.initiator], stream.hosts[1 - rekey.initiator]
    of_a: list[Agreed] = []
    of_b: list[Agreed] = []

    def gap(step: int) -> None:
        stream.tick()
        if rekey.deliver >> step & 1:
            stream.wire.deliver()
        if rekey.gaps[step]:
            stream.pass_time(rekey.gaps[step])

    gap(0)
    of_a, of_b = agree(a, b, TYPES)
    spis_a, spis_b = [link.in_spi for link in of_a], [link.in_spi for link in of_b]
    if rekey.lost == "hello":
        a.links.abandon(b.name, b.address, spis_a)
        b.links.abandon(a.name, a.address, spis_b)
        return False
    gap(1)
    a.links.install_inbound(b.name, b.address, of_a, lifetime_s=LEASE_S)
    gap(2)
    if rekey.lost == "confirm":
        a.links.abandon(b.name, b.address, spis_a, of_a, gate_s=LEASE_S / 2, unanswered=True)
        b.links.abandon(a.name, a.address, spis_b)
        return False
    b.links.install_inbound(a.name, a.address, of_b, lifetime_s=LEASE_S)
    stream.tick()
    b.links.install_outbound(a.name, a.address, of_b, gate_s=LEASE_S - 2, lifetime_s=LEASE_S)
    gap(3)
    if rekey.lost == "answer":
        a.links.abandon(b.name, b.address, spis_a, of_a, gate_s=LEASE_S / 2, unanswered=True)
        return False
    a.links.install_outbound(b.name, b.address, of_a, gate_s=LEASE_S - 2, lifetime_s=LEASE_S)
    return True


_MANY_IN_A_MOMENT = [2225, 224, 31, 5680, 409, 240, 211, 319, 1472, 2131, 400, 287, 1252, 22614, 247, 65535, 1759]
"""So many that some are too many, while the peer still sends under one of before: it had lost the last answer."""


@settings(max_examples=examples(25), deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(REKEYS_OF_A_RUN)
@example([*_MANY_IN_A_MOMENT, *[0] * (REKEYS - len(_MANY_IN_A_MOMENT))])
def test_a_hundred_rekeys_lose_no_packet(numbers: list[int]) -> None:
    stream = Stream()
    assert handshake(stream, Rekey(0, "", (0.0,) * 4, 0))
    stream.streaming = True
    in_vain = 0
    for number in numbers:
        rekey = _rekey(number)
        if in_vain >= 3:  # a lease ends when nothing comes for long
            rekey = Rekey(rekey.initiator, "", rekey.gaps, rekey.deliver)
        in_vain = 0 if handshake(stream, rekey) else in_vain + 1
        stream.tick()
        for host in stream.hosts:
            sas = host.kernel.read().sas
            assert len(sas) <= 2 * len(TYPES) * MAX_SAS
    stream.check()
    assert min(stream.sent.values()) > 4 * REKEYS
    assert len(set(stream.installed)) == len(stream.installed)


def test_after_the_rekeys_only_the_last_sas_are_left() -> None:
    stream = Stream()
    for number in range(30):
        assert handshake(stream, Rekey(number % 2, "", (0.0,) * 4, 0))
    assert all(len(host.kernel.read().sas) <= 2 * len(TYPES) * MAX_SAS for host in stream.hosts)
    for _ in range(10):
        stream.pass_time(5.0)
    assert all(len(host.kernel.read().sas) == 2 * len(TYPES) for host in stream.hosts)


@pytest.mark.parametrize("idle_s", [0.0, 60.0])
def test_after_a_lost_answer_the_peer_is_heard_until_the_next_handshake(idle_s: float) -> None:
    """The peer has switched, and says nothing for a while."""
    stream = Stream()
    assert handshake(stream, Rekey(0, "", (0.0,) * 4, 0))
    assert not handshake(stream, Rekey(0, "answer", (0.0,) * 4, 0))
    alpha, beta = stream.hosts
    for host in stream.hosts:
        host.clock.advance(idle_s)
        host.links.tidy()
        host.links.tidy()
    beta.kernel.send_from_tap(TAPS[RED], frame("still heard"))
    stream.wire.deliver()
    gate_is_open = idle_s < LEASE_S / 2
    assert any(b"still heard" in received for received in alpha.received[TAPS[RED]]) is gate_is_open
    if gate_is_open:
        assert handshake(stream, Rekey(1, "", (0.0,) * 4, 0))
        for _ in range(6):
            stream.pass_time(11.0)
        assert len(alpha.kernel.read().sas) == 2 * len(TYPES)


def test_the_receiving_sa_in_use_is_not_among_those_that_are_too_many() -> None:
    """Its end is put off each time that somebody looks; the others' is not."""
    link = LinkRecord(type=RED, local_port=24576, peer_port=24576, in_sas=(SaRecord(spi=1, expires_s=500.0),))
    for number in range(2, 40):
        new = LinkRecord(
            type=RED, local_port=24576, peer_port=24576, in_sas=(SaRecord(spi=number, expires_s=500.0 + number),)
        )
        sending = SaRecord(spi=number, expires_s=500.0)
        link = switched(receiving(link, new), in_spi=number, sending=sending, now_s=float(number), grace_s=10.0)
        in_use = SaRecord(spi=1, expires_s=500.0, retire_s=100.0)
        link = LinkRecord(
            type=RED,
            local_port=24576,
            peer_port=24576,
            in_sas=tuple(in_use if sa.spi == 1 else sa for sa in link.in_sas),
            out_sas=link.out_sas,
            attached=True,
        )
    assert len(link.in_sas) == len(link.out_sas) == MAX_SAS
    assert {sa.spi for sa in link.in_sas} == {1, *range(40 - MAX_SAS + 1, 40)}
    assert [sa.retire_s for sa in link.out_sas if sa.retire_s is None] == [None]
    assert link.out_sas[-1].spi == 39
