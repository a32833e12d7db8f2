"""What two links between two hosts keep apart, shown by real kernels with SELinux enforcing: each refusal by the
counter or the denial that it leaves, and every frame that was looked at counted.

That a packet through an association of another type's category is refused, the story shows on the same hosts, and
`test_linux_kernel` with both categories in the kernel's words.

A subclass has a fixture `pair`: hosts whose daemons run, with a VM of each type on both.
"""

import time
from ipaddress import ip_address

from tests.integration.lab.frames import Frame, Kind
from tests.integration.lab.link_pair import BLUE, MARKS, RED, LinkPair
from tests.integration.lab.packets import EspPacket, esp_packet, l2tp_data, udp_frame, with_sequence
from tests.integration.lab.waiting import wait_until

_LOAD_S = 15.0
_ENOUGH = 20
"""So many frames of a type at least in that time, where the VMs' processor is emulated twice over."""
_INJECTED = 5
_PACE_S = 0.1
"""Between frames that are put in: a card's queue on the lab's wire is short."""


class LinkProofs:
    """The proofs that belong in every run."""

    def test_types_do_not_mix_under_load(self, pair: LinkPair) -> None:
        """Both links carry at the same time. At every port of each bridge, on both hosts, frames of the other type:
        none; on the wire, of either: none."""
        pair.until_carried()
        ports = {host.name: {name: pair.ports(host, name) for name in (RED, BLUE)} for host in pair.hosts}
        devices = {host: [port for names in found.values() for port in names] for host, found in ports.items()}
        assert all(len(set(found)) == len(found) == 4 for found in devices.values()), ports
        with pair.never_in_clear(), pair.load(RED, BLUE), pair.watched(devices, _LOAD_S) as seen:
            pass
        for host, found in ports.items():
            for name, other in ((RED, BLUE), (BLUE, RED)):
                for port in found[name]:
                    counts = seen[host][port]
                    assert counts["lost"] == 0, "frames were not looked at"
                    assert counts[MARKS[other]] == [0, 0], f"{host} {port}: frames of {other} among {counts}"
                    assert min(counts[MARKS[name]]) >= _ENOUGH, f"{host} {port}: {counts}"

    def test_a_plaintext_packet_to_a_link_port_is_dropped(self, pair: LinkPair) -> None:
        """It is what the tunnel would take: the peer's address and port, the session, and a frame for the VM in it."""
        pair.until_carried()  # the load of before may have cost a lease
        row = pair.link(pair.alpha, RED)
        (tap,) = pair.taps(pair.alpha, RED)
        inner = bytes.fromhex("ffffffffffff" + "525400000002" + "88b5") + bytes.fromhex(MARKS[RED]) * 200
        frames = [
            udp_frame(
                l2tp_data(row["local_port"], inner),
                macs=(pair.beta.mac, pair.alpha.mac),
                addresses=addresses,
                ports=(source_port, row["local_port"]),
            )
            for addresses in ((pair.beta.ipv4, pair.alpha.ipv4), (pair.beta.ipv6, pair.alpha.ipv6))
            for source_port in (row["peer_port"], 53)
        ]
        devices = {pair.alpha.name: [tap, row["device"]], pair.beta.name: pair.taps(pair.beta, RED)}
        with pair.watched(devices, 6) as seen, pair.rising(pair.alpha) as rose:
            for frame in frames * _INJECTED:
                _put_in(pair, frame)
        assert rose.get("guard_in", 0) == len(frames) * _INJECTED, rose
        for device, counts in seen[pair.alpha.name].items():
            assert counts[MARKS[RED]] == [0, 0], f"{device}: {counts}"

    def test_a_replayed_packet_is_dropped(self, pair: LinkPair) -> None:
        """As it was on the wire, and under a sequence number that is still to come: the one was seen, the other is
        not what its sender made. Neither reaches a VM, and nothing else is hurt."""
        pair.until_carried()  # the load of before may have cost a lease
        packets = _caught(pair)
        with pair.rising(pair.alpha) as rose:
            for frame, _ in packets:
                _put_in(pair, frame.raw)
        assert rose.get("XfrmInStateSeqError", 0) == len(packets), rose
        with pair.rising(pair.alpha) as rose:
            for number, (frame, packet) in enumerate(packets, 1):
                _put_in(pair, with_sequence(frame.raw, packet.sequence + 100_000 + number))
        assert rose.get("XfrmInStateProtoError", 0) == len(packets), rose
        assert pair.talk(RED)


def _put_in(pair: LinkPair, frame: bytes) -> None:
    pair.lab.wire.inject(frame, to="alpha")
    time.sleep(_PACE_S)


def _caught(pair: LinkPair) -> list[tuple[Frame, EspPacket]]:
    """Some of the newest ESP packets that alpha got from beta, all through one SA, which is still in use."""
    source = str(ip_address(pair.beta.ipv4))

    def caught() -> list[tuple[Frame, EspPacket]]:
        mark = pair.lab.wire.mark()
        pair.talk(RED)
        frames = [frame for frame in pair.lab.wire.since(mark, kinds=[Kind.ESP]) if frame.source == source]
        packets = [(frame, packet) for frame in frames if (packet := esp_packet(frame.raw)) is not None]
        newest = packets[-1][1].spi if packets else 0
        return [found for found in packets if found[1].spi == newest][-_INJECTED:]

    return wait_until(lambda: found if len(found := caught()) >= 3 else [], timeout_s=60, what="ESP packets from beta")
