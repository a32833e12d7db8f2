"""pyxfrm on this machine's kernel, in network namespaces that the tests make and remove.

Needs root, iproute2 and a kernel with XFRM_USER. SAs need ESP and AES-GCM in the kernel, labels need SELinux: each of
these tests says what it misses and is skipped.
"""

import contextlib
import errno
import os
import secrets
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from shamon_host.pyxfrm import (
    Acquire,
    Action,
    Direction,
    Lifetime,
    Mark,
    PoliciesFlushed,
    PolicyChanged,
    PolicyDeleted,
    PolicyFlag,
    PortMatch,
    SaDeleted,
    SaId,
    SecurityAssociation,
    XfrmError,
)
from shamon_host.pyxfrm.client import Xfrm
from shamon_host.pyxfrm.monitor import XfrmMonitor
from tests.integration.pyxfrm.namespaces import (
    BLOCK6,
    HERE,
    KEY,
    OUT,
    PORT,
    SA,
    THERE,
    Namespace,
    next_event,
)

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
    before = xfrm.statistics()
    with here.udp_socket() as sender:
        sender.bind((str(HERE), PORT))
        with pytest.raises(PermissionError):
            sender.sendto(b"x", (str(THERE), PORT))
    assert xfrm.statistics()["XfrmOutPolBlock"] == before["XfrmOutPolBlock"] + 1


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


def test_without_selinux_a_label_is_dropped_without_a_word(xfrm: Xfrm) -> None:
    if Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("needs a kernel with SELinux off")
    labelled = replace(OUT, security_context="system_u:object_r:shamon_spd_t:s0:c10")
    xfrm.add_policy(labelled)
    assert xfrm.dump_policies() == (OUT,)
    assert xfrm.dump_policies() != (labelled,)
