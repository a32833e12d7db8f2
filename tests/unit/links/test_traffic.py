"""Counters of devices: as the kernel's messages have them, and as the kernel in memory counts."""

import struct

import pytest

from shamon_host.links.linux_devices import IFINFO
from shamon_host.links.linux_netlink import NetlinkError, pack_text
from shamon_host.links.linux_traffic import STATS64, traffic_of
from shamon_host.links.model import CloseGate
from shamon_host.links.ports import Traffic
from shamon_host.pyxfrm.attributes import pack_attribute
from tests.unit.links.conftest import RED, Host, carries, join

_UP, _DOWN = 1, 0


def _message(name: str, flags: int, stats: bytes) -> bytes:
    return IFINFO.pack(0, 0, 9, flags, 0) + pack_text(3, name) + pack_attribute(STATS64, stats)


def test_what_the_kernel_tells_of_our_devices() -> None:
    """struct rtnl_link_stats64 has 24 counters or more; others' devices are left out."""
    stats = struct.pack("=24Q", *range(1, 25))
    bodies = [_message(name, _UP, stats) for name in ("shl20", "shbr7", "shvm0-0", "eth0", "lo")]
    traffic = traffic_of([*bodies, _message("shl21", _DOWN, bytes(192))])
    whole = Traffic(up=True, rx_packets=1, tx_packets=2, rx_dropped=7 + 5, tx_dropped=8 + 6)
    assert traffic == {"shl20": whole, "shbr7": whole, "shvm0-0": whole, "shl21": Traffic(up=False)}


@pytest.mark.parametrize("stats", [b"", bytes(63)])
def test_counters_that_are_cut_off_are_an_error(stats: bytes) -> None:
    with pytest.raises(NetlinkError):
        traffic_of([_message("shl20", _UP, stats)])


def test_frames_are_counted_where_they_pass(alpha: Host, beta: Host) -> None:
    for host in (alpha, beta):
        host.links.reconcile({})
        host.start_vm("shvm0-0", RED)
    join(alpha, beta)
    device = alpha.links.status()[0]["device"]
    assert carries(alpha, "shvm0-0", beta, "shvm0-0")
    at_alpha, at_beta = alpha.kernel.traffic(), beta.kernel.traffic()
    assert (at_alpha["shvm0-0"].rx_packets, at_alpha[device].tx_packets) == (1, 1)
    assert (at_beta[device].rx_packets, at_beta["shvm0-0"].tx_packets) == (1, 1)
    alpha.kernel.apply([CloseGate(address=beta.address)])
    assert not carries(alpha, "shvm0-0", beta, "shvm0-0")
    after = alpha.kernel.traffic()[device]
    assert (after.tx_packets, after.tx_dropped) == (1, 1)
    assert beta.kernel.traffic()[device].rx_packets == 1


def test_a_bridge_that_is_down_forwards_nothing_and_is_not_sealed(alpha: Host, beta: Host) -> None:
    for host in (alpha, beta):
        host.links.reconcile({})
        host.start_vm("shvm0-0", RED)
    join(alpha, beta)
    bridge = alpha.links.status()[0]["bridge"]
    alpha.kernel.set_down(bridge)
    assert not alpha.kernel.traffic()[bridge].up
    assert not alpha.kernel.read().bridges[bridge].sealed
    assert not carries(alpha, "shvm0-0", beta, "shvm0-0")
    alpha.links.reconcile(alpha.taps)
    assert carries(alpha, "shvm0-0", beta, "shvm0-0")
