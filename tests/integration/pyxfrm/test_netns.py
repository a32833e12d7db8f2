"""pyxfrm on this machine's kernel, in network namespaces that the tests make and remove.

Needs root, iproute2 and a kernel with XFRM_USER. SAs need ESP and AES-GCM in the kernel, labels need SELinux: each of
these tests says what it misses and is skipped.
"""

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

pytest.importorskip("pyroute2", reason="needs the host extra: pyroute2")

from pyroute2 import netns as pyroute2_netns

from shamon_host.pyxfrm import (
    Acquire,
    Action,
    Direction,
    Event,
    Expire,
    Group,
    Lifetime,
    Mark,
    PoliciesFlushed,
    Policy,
    PolicyChanged,
    PolicyDeleted,
    PolicyFlag,
    PortMatch,
    SaChanged,
    SaDeleted,
    SaFlag,
    SaId,
    SecurityAssociation,
    Selector,
    Template,
    XfrmError,
    aes_gcm,
    xfrm_stat,
)
from shamon_host.pyxfrm.client import Xfrm
from shamon_host.pyxfrm.monitor import XfrmMonitor

HERE, THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")
SPI = 0x1001
PORT = 24576
KEY = bytes(range(36))
OUT = Policy(
    selector=Selector(
        source=ip_interface("192.0.2.1/32"),
        destination=ip_interface("192.0.2.2/32"),
        protocol=17,
        source_port=PortMatch(port=PORT),
        destination_port=PortMatch(port=PORT, mask=0xFC00),
    ),
    direction=Direction.OUT,
    priority=100,
    templates=(Template(source=HERE, destination=THERE, reqid=7),),
)
BLOCK6 = Policy(
    selector=Selector(source=ip_interface("::/0"), destination=ip_interface("2001:db8::1/64"), protocol=17),
    direction=Direction.IN,
    priority=1000,
    action=Action.BLOCK,
)
SA = SecurityAssociation(
    source=HERE,
    destination=THERE,
    spi=SPI,
    reqid=7,
    aead=aes_gcm(KEY),
    flags=SaFlag.ESN,
    replay_window=128,
    lifetime=Lifetime(hard_add_s=600),
)


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    name: str

    def ip(self, *arguments: str) -> str:
        return ip("-n", self.name, *arguments)

    def udp_socket(self) -> socket.socket:
        opened = pyroute2_netns.create_socket(self.name, socket.AF_INET, socket.SOCK_DGRAM, flags=0)
        assert isinstance(opened, socket.socket)
        return opened

    def statistics(self) -> dict[str, int]:
        # /proc/net shows the namespace of the reader.
        text = ip("netns", "exec", self.name, "cat", "/proc/net/xfrm_stat")
        path = Path(f"/tmp/{self.name}.xfrm_stat")
        path.write_text(text)
        try:
            return xfrm_stat(path)
        finally:
            path.unlink()


@pytest.fixture(scope="module")
def namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces on one wire, 192.0.2.1 and 192.0.2.2."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces and XFRM netlink")
    if shutil.which("ip") is None:
        pytest.skip("needs ip (Debian: iproute2)")
    tag = secrets.token_hex(3)
    here, there = Namespace(name=f"xfrm-{tag}-a"), Namespace(name=f"xfrm-{tag}-b")
    made = []
    try:
        for namespace in (here, there):
            try:
                ip("netns", "add", namespace.name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
            made.append(namespace)
        here.ip("link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", there.name)
        for namespace, address in ((here, HERE), (there, THERE)):
            namespace.ip("address", "add", f"{address}/24", "dev", "wire")
            namespace.ip("link", "set", "wire", "up")
        yield here, there
    finally:
        for namespace in made:
            ip("netns", "delete", namespace.name)


@pytest.fixture
def here(namespaces: tuple[Namespace, Namespace]) -> Namespace:
    return namespaces[0]


@pytest.fixture
def there(namespaces: tuple[Namespace, Namespace]) -> Namespace:
    return namespaces[1]


def opened(namespace: Namespace) -> Xfrm:
    try:
        return Xfrm(netns=namespace.name)
    except XfrmError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            pytest.skip("the kernel has no XFRM_USER")
        raise


@pytest.fixture
def xfrm(here: Namespace) -> Iterator[Xfrm]:
    with opened(here) as xfrm:
        yield xfrm
        xfrm.flush_policies()
        xfrm.flush_sas()


@pytest.fixture
def peer(there: Namespace) -> Iterator[Xfrm]:
    with opened(there) as xfrm:
        yield xfrm
        xfrm.flush_policies()
        xfrm.flush_sas()


@pytest.fixture
def monitor(here: Namespace, xfrm: Xfrm) -> Iterator[XfrmMonitor]:
    with XfrmMonitor(list(Group), netns=here.name) as monitor:
        yield monitor


@pytest.fixture
def esp(xfrm: Xfrm) -> None:
    """Skips where the kernel has no ESP."""
    probe = replace(SA, spi=0xFFF0)
    try:
        xfrm.add_sa(probe)
    except XfrmError as error:
        if error.errno in (errno.ENOSYS, errno.EPROTONOSUPPORT, errno.EINVAL):
            pytest.skip(f"needs ESP and rfc4106(gcm(aes)) in the kernel: {error}")
        raise
    xfrm.delete_sa(probe.id)


async def next_event(monitor: XfrmMonitor, wanted: Callable[[Event], bool], limit_s: float = 10) -> Event:
    async with asyncio.timeout(limit_s):
        async for event in monitor:
            if wanted(event):
                return event
    raise AssertionError("the monitor ended")


# Policies


def test_policies_come_back_as_asked_and_as_ip_shows_them(xfrm: Xfrm, here: Namespace) -> None:
    xfrm.add_policy(OUT)
    xfrm.add_policy(BLOCK6)
    assert set(xfrm.dump_policies()) == {OUT, BLOCK6}
    assert xfrm.get_policy(OUT.id) == OUT
    shown = here.ip("xfrm", "policy")
    assert f"src 192.0.2.1/32 dst 192.0.2.2/32 proto udp sport {PORT} dport {PORT}" in shown
    assert "dir out priority 100" in shown
    assert "proto esp reqid 7 mode transport" in shown
    assert "src ::/0 dst 2001:db8::1/64 proto udp" in shown
    assert "dir in action block priority 1000" in shown
    counts = xfrm.counts()
    assert (counts.policies_out, counts.policies_in, counts.policies_fwd) == (1, 1, 0)


def test_policies_that_ip_adds_are_read(xfrm: Xfrm, here: Namespace) -> None:
    line = (
        "xfrm policy add src 10.1.2.3/8 dst 10.2.0.0/16 dir fwd priority 5 ptype main mark 5 mask 0xff flag icmp"
        " limit byte-hard 4096 limit time-hard 3600 limit packet-soft 9"
        " tmpl src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x77 mode tunnel reqid 3 level use"
    )
    here.ip(*line.split())
    (policy,) = xfrm.dump_policies()
    assert policy.selector.source == ip_interface("10.1.2.3/8")
    assert (policy.direction, policy.priority, policy.mark) == (Direction.FWD, 5, Mark(value=5, mask=0xFF))
    assert policy.flags == PolicyFlag.ICMP
    assert policy.lifetime == Lifetime(hard_bytes=4096, hard_add_s=3600, soft_packets=9)
    (template,) = policy.templates
    assert (template.spi, template.optional, template.reqid) == (0x77, True, 3)
    # Added again from what was read, it is the same to the kernel.
    xfrm.delete_policy(policy.index_id)
    xfrm.add_policy(replace(policy, usage=None, index=0))
    assert xfrm.dump_policies() == (policy,)


def test_policies_are_updated_and_deleted(xfrm: Xfrm) -> None:
    xfrm.add_policy(OUT)
    with pytest.raises(XfrmError, match="EEXIST"):
        xfrm.add_policy(OUT)
    xfrm.update_policy(replace(OUT, priority=7))
    (found,) = xfrm.dump_policies()
    assert found.priority == 7
    xfrm.add_policy(BLOCK6)
    assert xfrm.delete_policies([found.index_id, BLOCK6.id, OUT.id]) == {}
    assert xfrm.dump_policies() == ()
    with pytest.raises(XfrmError, match="ENOENT"):
        xfrm.delete_policy(OUT.id)


def test_many_policies_are_dumped_whole(xfrm: Xfrm) -> None:
    wanted = {
        replace(OUT, selector=replace(OUT.selector, destination_port=PortMatch(port=port))) for port in range(1, 701)
    }
    for policy in wanted:
        xfrm.add_policy(policy)
    assert set(xfrm.dump_policies()) == wanted
    assert len(xfrm.dump_policies(lambda policy: policy.selector.destination_port == PortMatch(port=5))) == 1
    assert xfrm.delete_policies(policy.id for policy in wanted) == {}
    assert xfrm.counts().policies_out == 0


def test_a_flush_leaves_nothing(xfrm: Xfrm, here: Namespace) -> None:
    xfrm.add_policy(OUT)
    xfrm.flush_policies()
    assert xfrm.dump_policies() == ()
    assert here.ip("xfrm", "policy") == ""
    xfrm.flush_policies()


def test_the_default_policy_is_read(xfrm: Xfrm) -> None:
    assert xfrm.default_policy().outgoing.name in ("ACCEPT", "UNSPEC")


def test_a_block_policy_is_counted(xfrm: Xfrm, here: Namespace) -> None:
    xfrm.add_policy(replace(OUT, action=Action.BLOCK, templates=()))
    before = here.statistics()
    with here.udp_socket() as sender:
        sender.bind((str(HERE), PORT))
        with pytest.raises(PermissionError):
            sender.sendto(b"x", (str(THERE), PORT))
    assert here.statistics()["XfrmOutPolBlock"] == before["XfrmOutPolBlock"] + 1


# SPIs


def test_spis_are_allocated_in_the_range_asked_for(xfrm: Xfrm) -> None:
    def allocated(first: int, last: int, reqid: int) -> SecurityAssociation:
        return xfrm.allocate_spi(source=THERE, destination=HERE, reqid=reqid, first=first, last=last)

    larval = [allocated(spi, spi, reqid) for reqid, spi in enumerate((0x200, 0x201, 0x202))]
    larval.append(allocated(0x300, 0x3FF, 7))
    assert [sa.spi for sa in larval[:3]] == [0x200, 0x201, 0x202]
    assert larval[3].spi in range(0x300, 0x400)
    assert all(sa.larval and (sa.source, sa.destination) == (THERE, HERE) for sa in larval)
    assert xfrm.get_sa(larval[0].id) == larval[0]
    assert xfrm.counts().sas == 4
    with pytest.raises(XfrmError, match="ENOENT"):
        allocated(0x200, 0x202, 8)
    assert xfrm.delete_sas([*(sa.id for sa in larval), SaId(destination=HERE, spi=0x999)]) == {}
    assert all(sa.spi == 0 for sa in xfrm.dump_sas())  # what the refused allocation left, until it expires
    with pytest.raises(XfrmError, match="ESRCH"):
        xfrm.delete_sa(larval[0].id)


def test_spis_of_ipv6(xfrm: Xfrm) -> None:
    larval = xfrm.allocate_spi(source=ip_address("2001:db8::1"), destination=ip_address("2001:db8::2"))
    assert xfrm.get_sa(larval.id).destination == ip_address("2001:db8::2")


def test_an_algorithm_the_kernel_lacks_is_named(xfrm: Xfrm) -> None:
    assert SA.aead is not None
    with pytest.raises(XfrmError) as caught:
        xfrm.add_sa(replace(SA, aead=replace(SA.aead, name="rfc4106(gcm(none))", key=KEY)))
    assert caught.value.errno == errno.ENOSYS
    assert KEY.hex() not in str(caught.value)


# Events


async def test_a_packet_without_sa_is_an_acquire(xfrm: Xfrm, here: Namespace, monitor: XfrmMonitor) -> None:
    xfrm.add_policy(OUT)
    with here.udp_socket() as sender:
        sender.bind((str(HERE), PORT))
        sender.setblocking(False)
        with contextlib.suppress(OSError):  # the packet itself may be refused at once
            sender.sendto(b"x", (str(THERE), PORT + 1))
    event = await next_event(monitor, lambda event: isinstance(event, Acquire))
    assert isinstance(event, Acquire)
    assert (event.source, event.destination, event.protocol) == (HERE, THERE, 50)
    assert (event.selector.source.ip, event.selector.destination.ip) == (HERE, THERE)
    assert event.selector.source_port == PortMatch(port=PORT)
    assert event.selector.destination_port == PortMatch(port=PORT + 1)
    assert event.selector.protocol == 17
    assert event.policy == OUT
    assert event.sequence > 0
    larval = [sa for sa in xfrm.dump_sas() if sa.larval]
    assert [sa.sequence for sa in larval] == [event.sequence]


async def test_changes_by_others_are_told(xfrm: Xfrm, monitor: XfrmMonitor, here: Namespace) -> None:
    here.ip("xfrm", "policy", "add", "src", "192.0.2.1/32", "dst", "192.0.2.2/32", "dir", "out", "action", "block")
    added = await next_event(monitor, lambda event: isinstance(event, PolicyChanged))
    assert isinstance(added, PolicyChanged)
    assert (added.policy.action, added.updated) == (Action.BLOCK, False)
    xfrm.delete_policy(added.policy.index_id)
    deleted = await next_event(monitor, lambda event: isinstance(event, PolicyDeleted))
    assert isinstance(deleted, PolicyDeleted)
    assert deleted.policy == added.policy
    xfrm.add_policy(OUT)
    here.ip("xfrm", "policy", "flush")  # nothing is told of a flush that finds nothing
    await next_event(monitor, lambda event: isinstance(event, PoliciesFlushed))
    larval = xfrm.allocate_spi(source=THERE, destination=HERE)
    xfrm.delete_sa(larval.id)
    gone = await next_event(monitor, lambda event: isinstance(event, SaDeleted))
    assert gone == SaDeleted(sa_id=larval.id)


def test_the_monitor_can_be_polled(xfrm: Xfrm, monitor: XfrmMonitor) -> None:
    assert monitor.fileno() >= 0
    assert monitor.read() == ()
    xfrm.add_policy(OUT)
    assert [type(event) for event in monitor.read()] == [PolicyChanged]
    assert monitor.read() == ()


# Namespaces


def test_namespaces_are_apart(xfrm: Xfrm, peer: Xfrm, there: Namespace) -> None:
    xfrm.add_policy(OUT)
    assert peer.dump_policies() == ()
    with Xfrm(netns=f"/run/netns/{there.name}") as by_path:
        by_path.add_policy(BLOCK6)
    assert peer.dump_policies() == (BLOCK6,)


def test_an_unknown_namespace_is_refused_and_not_made() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to enter namespaces")
    name = f"xfrm-{secrets.token_hex(3)}-none"
    with pytest.raises(XfrmError, match="ENOENT"):
        Xfrm(netns=name)
    assert not Path(f"/run/netns/{name}").exists()


# SAs


@pytest.mark.usefixtures("esp")
def test_sas_come_back_as_asked_and_as_ip_shows_them(xfrm: Xfrm, here: Namespace) -> None:
    xfrm.add_sa(SA)
    (found,) = xfrm.dump_sas()
    assert found == SA
    assert found.aead is not None
    assert found.aead.key == b""
    assert xfrm.get_sa(SA.id) == SA
    shown = here.ip("xfrm", "state")
    assert f"proto esp spi {SPI:#010x} reqid 7 mode transport" in shown
    assert "flag esn" in shown
    with pytest.raises(XfrmError, match="EEXIST"):
        xfrm.add_sa(SA)
    xfrm.delete_sa(SA.id)
    assert xfrm.dump_sas() == ()


@pytest.mark.usefixtures("esp")
def test_an_allocated_spi_gets_its_keys_by_an_update(xfrm: Xfrm) -> None:
    larval = xfrm.allocate_spi(source=SA.source, destination=SA.destination, reqid=SA.reqid)
    wanted = replace(SA, spi=larval.spi)
    with pytest.raises(XfrmError, match="EEXIST"):
        xfrm.add_sa(wanted)
    xfrm.update_sa(wanted)
    assert xfrm.dump_sas() == (wanted,)


@pytest.mark.usefixtures("esp")
def test_fifty_sas_go_at_once(xfrm: Xfrm) -> None:
    ids = []
    for spi in range(0x2000, 0x2000 + 50):
        sa = replace(SA, spi=spi)
        xfrm.add_sa(sa)
        ids.append(sa.id)
    started = time.perf_counter()
    assert xfrm.delete_sas(ids) == {}
    elapsed_s = time.perf_counter() - started
    assert xfrm.dump_sas() == ()
    assert elapsed_s < 1


@pytest.mark.usefixtures("esp")
async def test_traffic_takes_the_sa_and_a_renewal_keeps_its_numbers(
    xfrm: Xfrm, peer: Xfrm, here: Namespace, there: Namespace, monitor: XfrmMonitor
) -> None:
    for side, direction in ((peer, Direction.IN), (xfrm, Direction.OUT)):
        side.add_sa(SA)
        side.add_policy(replace(OUT, direction=direction))
    with here.udp_socket() as sender, there.udp_socket() as receiver:
        sender.bind((str(HERE), PORT))
        receiver.bind((str(THERE), PORT))
        receiver.settimeout(10)
        for number in range(3):
            sender.sendto(bytes([number]), (str(THERE), PORT))
            assert receiver.recv(10) == bytes([number])
        (before,) = xfrm.dump_sas()
        assert before.usage is not None
        assert before.usage.packets == 3
        assert before.replay is not None
        assert before.replay.sent == 3
        for side in (xfrm, peer):
            side.renew_sa(SA.id, Lifetime(hard_add_s=1200))
        (renewed,) = xfrm.dump_sas()
        assert renewed == replace(SA, lifetime=Lifetime(hard_add_s=1200))
        assert renewed.replay == before.replay
        changed = await next_event(monitor, lambda event: isinstance(event, SaChanged) and event.updated)
        assert isinstance(changed, SaChanged)
        assert changed.sa == renewed
        sender.sendto(b"after", (str(THERE), PORT))
        assert receiver.recv(10) == b"after"
    (received,) = peer.dump_sas()
    assert received.replay is not None
    assert received.replay.received == 4
    assert xfrm.delete_sas([SA.id]) == {}


@pytest.mark.usefixtures("esp")
async def test_an_sa_ends_with_its_hard_lifetime(xfrm: Xfrm, monitor: XfrmMonitor) -> None:
    xfrm.add_sa(replace(SA, lifetime=Lifetime(hard_add_s=2, soft_add_s=1)))
    soft = await next_event(monitor, lambda event: isinstance(event, Expire))
    assert isinstance(soft, Expire)
    assert (soft.sa.id, soft.hard) == (SA.id, False)
    hard = await next_event(monitor, lambda event: isinstance(event, Expire))
    assert isinstance(hard, Expire)
    assert (hard.sa.id, hard.hard) == (SA.id, True)
    assert xfrm.dump_sas() == ()


@pytest.mark.usefixtures("esp")
def test_labels_come_back(xfrm: Xfrm, here: Namespace) -> None:
    if not Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("needs SELinux: without it the kernel drops security contexts")
    context = Path("/proc/self/attr/current").read_text(encoding="ascii").rstrip("\0\n")
    sa, policy = replace(SA, security_context=context), replace(OUT, security_context=context)
    xfrm.add_sa(sa)
    xfrm.add_policy(policy)
    assert xfrm.dump_sas() == (sa,)
    assert xfrm.dump_policies() == (policy,)
    with pytest.raises(XfrmError, match="ENOENT"):
        xfrm.delete_policy(OUT.id)
    assert context in here.ip("xfrm", "policy")
    xfrm.delete_policy(policy.id)
    # What ip adds can be named here.
    line = f"xfrm policy add src 192.0.2.1 dst 192.0.2.2 dir out priority 9 action block ctx {context}"
    here.ip(*line.split())
    (by_ip,) = xfrm.dump_policies()
    assert by_ip.security_context == context
    xfrm.delete_policy(by_ip.id)
    with pytest.raises(XfrmError):
        xfrm.add_sa(replace(SA, spi=0x1002, security_context="no:such:context:s0"))


def test_without_selinux_a_label_is_dropped_without_a_word(xfrm: Xfrm) -> None:
    if Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("needs a kernel with SELinux off")
    labelled = replace(OUT, security_context="system_u:object_r:shamon_spd_t:s0:c10")
    xfrm.add_policy(labelled)
    assert xfrm.dump_policies() == (OUT,)
    assert xfrm.dump_policies() != (labelled,)


@pytest.mark.usefixtures("esp")
async def test_an_acquire_tells_the_context_of_the_socket(xfrm: Xfrm, here: Namespace, monitor: XfrmMonitor) -> None:
    if not Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("needs SELinux: without it an ACQUIRE has no security context")
    context = Path("/proc/self/attr/current").read_text(encoding="ascii").rstrip("\0\n")
    xfrm.add_policy(replace(OUT, security_context=context))
    with here.udp_socket() as sender:
        sender.bind((str(HERE), PORT))
        sender.setblocking(False)
        with contextlib.suppress(OSError):
            sender.sendto(b"x", (str(THERE), PORT))
    event = await next_event(monitor, lambda event: isinstance(event, Acquire))
    assert isinstance(event, Acquire)
    assert event.security_context == context
