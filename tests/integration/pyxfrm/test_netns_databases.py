"""SPD and SAD as wholes, and what changes many entries at once: defaults, thresholds, types, moves, expiry by hand."""

import contextlib
import socket
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from shamon_host.pyxfrm import (
    PROTO_AH,
    PROTO_ESP,
    Acquire,
    Action,
    AddressFilter,
    AsyncEvent,
    DefaultAction,
    DefaultPolicy,
    DefaultPolicyChanged,
    Direction,
    HashThreshold,
    KeyManagerAddresses,
    Mark,
    Migrated,
    Migration,
    Mode,
    Move,
    PoliciesFlushed,
    Policy,
    PolicyExpire,
    PolicyFlag,
    PolicyType,
    Replay,
    SaDirection,
    Selector,
    Template,
    XfrmError,
    clear_socket_policies,
    set_socket_policy,
)
from shamon_host.pyxfrm.client import Xfrm
from shamon_host.pyxfrm.monitor import XfrmMonitor
from tests.integration.pyxfrm.namespaces import HERE, OUT, PORT, THERE, Namespace, migrated_event, next_event

ELSEWHERE = ip_address("192.0.2.3")
NETWORKS = Selector(source=ip_interface("10.0.0.0/24"), destination=ip_interface("10.0.1.0/24"))
TUNNEL = Policy(
    selector=NETWORKS,
    direction=Direction.OUT,
    templates=(Template(source=HERE, destination=THERE, mode=Mode.TUNNEL, reqid=3),),
)
UNCHANGED = DefaultPolicy(incoming=DefaultAction.UNSPEC, forwarded=DefaultAction.UNSPEC, outgoing=DefaultAction.UNSPEC)


def test_the_sizes_of_both_databases(xfrm: Xfrm) -> None:
    xfrm.add_policy(OUT)
    xfrm.add_policy(replace(OUT, direction=Direction.FWD))
    xfrm.allocate_spi(source=THERE, destination=HERE)
    sad, spd = xfrm.sad_info(), xfrm.spd_info()
    assert sad.sas == 1
    assert (spd.policies_in, spd.policies_out, spd.policies_fwd) == (0, 1, 1)
    assert sad.hash_table is not None
    assert 0 < sad.hash_table.buckets <= sad.hash_table.most_buckets
    assert spd.hash_table is not None


def test_hash_thresholds_are_set_for_each_family(xfrm: Xfrm) -> None:
    before = xfrm.spd_info()
    xfrm.set_hash_thresholds(v4=HashThreshold(local=24, remote=16))
    after = xfrm.spd_info()
    assert after.threshold_v4 == HashThreshold(local=24, remote=16)
    assert after.threshold_v6 == before.threshold_v6
    xfrm.set_hash_thresholds(v4=before.threshold_v4, v6=HashThreshold(local=64, remote=48))
    assert xfrm.spd_info().threshold_v6 == HashThreshold(local=64, remote=48)
    xfrm.set_hash_thresholds(v6=before.threshold_v6)


async def test_the_default_policy_is_set_told_and_enforced(xfrm: Xfrm, here: Namespace, monitor: XfrmMonitor) -> None:
    before = xfrm.default_policy()
    try:
        xfrm.set_default_policy(replace(UNCHANGED, outgoing=DefaultAction.BLOCK))
        changed = replace(before, outgoing=DefaultAction.BLOCK)
        assert xfrm.default_policy() == changed
        event = await next_event(monitor, lambda event: isinstance(event, DefaultPolicyChanged))
        assert event == DefaultPolicyChanged(default=changed)
        assert "out: block" in here.ip("xfrm", "policy", "getdefault").lower().replace("\n", " ").replace("\t", " ")
        with here.udp_socket() as sender:
            sender.bind((str(HERE), PORT))
            with pytest.raises(OSError):
                sender.sendto(b"x", (str(THERE), PORT))
    finally:
        xfrm.set_default_policy(before)
    assert xfrm.default_policy() == before


async def test_policies_of_both_types_are_flushed_apart(xfrm: Xfrm, monitor: XfrmMonitor) -> None:
    try:
        xfrm.add_policy(replace(TUNNEL, type=PolicyType.SUB))
    except XfrmError as error:
        pytest.skip(f"needs a kernel with XFRM_SUB_POLICY: {error}")
    xfrm.add_policy(TUNNEL)
    assert {policy.type for policy in xfrm.dump_policies()} == {PolicyType.MAIN, PolicyType.SUB}
    assert xfrm.get_policy(replace(TUNNEL, type=PolicyType.SUB).id).type is PolicyType.SUB
    xfrm.flush_policies(PolicyType.SUB)
    assert xfrm.dump_policies() == (TUNNEL,)
    event = await next_event(monitor, lambda event: isinstance(event, PoliciesFlushed))
    assert event == PoliciesFlushed(type=PolicyType.SUB)


def test_marks_and_interface_ids_keep_policies_apart(xfrm: Xfrm) -> None:
    several = (TUNNEL, replace(TUNNEL, mark=Mark(value=5, mask=0xFF)), replace(TUNNEL, interface_id=7))
    for policy in several:
        xfrm.add_policy(policy)
    assert set(xfrm.dump_policies()) == set(several)
    xfrm.delete_policy(several[2].id)
    xfrm.delete_policy(several[1].id)
    assert xfrm.dump_policies() == (TUNNEL,)


def test_flags_and_several_templates_come_back(xfrm: Xfrm) -> None:
    policy = replace(
        TUNNEL,
        flags=PolicyFlag.LOCALOK | PolicyFlag.ICMP,
        templates=(*TUNNEL.templates, Template(protocol=PROTO_AH, optional=True)),
    )
    xfrm.add_policy(policy)
    assert xfrm.dump_policies() == (policy,)


async def test_a_policy_moves_to_other_addresses(xfrm: Xfrm, monitor: XfrmMonitor) -> None:
    xfrm.add_policy(TUNNEL)
    migration = Migration(
        selector=NETWORKS,
        direction=Direction.OUT,
        moves=(Move(old_source=HERE, old_destination=THERE, new_source=HERE, new_destination=ELSEWHERE, reqid=3),),
        key_manager=KeyManagerAddresses(local=HERE, remote=ELSEWHERE),
    )
    try:
        xfrm.migrate(migration)
    except XfrmError as error:
        if error.name != "ENOPROTOOPT":
            raise
        pytest.skip("needs a kernel with XFRM_MIGRATE")
    (moved,) = xfrm.dump_policies()
    assert moved.templates == (replace(TUNNEL.templates[0], destination=ELSEWHERE),)
    with pytest.raises(XfrmError, match="migrate policy dir out"):
        xfrm.migrate(migration)  # none has the old addresses now
    assert await migrated_event(monitor) == Migrated(migration=migration)


async def test_a_policy_expires_by_hand(xfrm: Xfrm, monitor: XfrmMonitor) -> None:
    xfrm.add_policy(TUNNEL)
    xfrm.expire_policy(TUNNEL.id, hard=False)
    soft = await next_event(monitor, lambda event: isinstance(event, PolicyExpire))
    assert soft == PolicyExpire(policy=TUNNEL, hard=False)
    (found,) = xfrm.dump_policies()
    xfrm.expire_policy(found.index_id, hard=True)
    hard = await next_event(monitor, lambda event: isinstance(event, PolicyExpire))
    assert hard == PolicyExpire(policy=TUNNEL, hard=True)
    assert xfrm.dump_policies() == ()
    with pytest.raises(XfrmError, match="ENOENT"):
        xfrm.expire_policy(TUNNEL.id, hard=True)


async def test_a_program_asks_key_managers(xfrm: Xfrm, monitor: XfrmMonitor) -> None:
    wanted = Acquire(
        source=HERE,
        destination=THERE,
        protocol=PROTO_ESP,
        selector=NETWORKS,
        policy=TUNNEL,
        sequence=0,
        security_context=None,
    )
    xfrm.acquire(wanted)
    event = await next_event(monitor, lambda event: isinstance(event, Acquire))
    assert isinstance(event, Acquire)
    assert event.sequence > 0
    assert event == replace(wanted, sequence=event.sequence)


def test_an_acquires_larval_sa_is_given_its_spi(xfrm: Xfrm, here: Namespace, monitor: XfrmMonitor) -> None:
    xfrm.add_policy(OUT)
    with here.udp_socket() as sender:
        sender.bind((str(HERE), PORT))
        sender.setblocking(False)
        with contextlib.suppress(OSError):  # the packet itself may be refused at once
            sender.sendto(b"x", (str(THERE), PORT + 1))
    (event,) = (event for event in monitor.read() if isinstance(event, Acquire))
    found = xfrm.allocate_spi(source=HERE, destination=THERE, reqid=7, first=0x600, last=0x6FF, sequence=event.sequence)
    assert found.spi in range(0x600, 0x700)
    assert found.sequence == event.sequence
    assert [sa.spi for sa in xfrm.dump_sas()] == [found.spi]


def test_dumps_of_sas_are_filtered_by_the_kernel(xfrm: Xfrm) -> None:
    one = xfrm.allocate_spi(source=THERE, destination=HERE)
    two = xfrm.allocate_spi(source=ip_address("2001:db8::1"), destination=ip_address("2001:db8::2"))
    ah = xfrm.allocate_spi(source=THERE, destination=HERE, protocol=PROTO_AH)
    network = ip_interface("192.0.2.0/24")
    assert set(xfrm.dump_sas(addresses=AddressFilter(source=network, destination=network))) == {one, ah}
    assert xfrm.dump_sas(protocol=PROTO_AH) == (ah,)
    ipv6 = ip_interface("2001:db8::/64")
    assert xfrm.dump_sas(addresses=AddressFilter(source=ipv6, destination=ipv6)) == (two,)
    elsewhere = ip_interface("198.51.100.0/24")
    assert xfrm.dump_sas(addresses=AddressFilter(source=elsewhere, destination=elsewhere)) == ()


def test_an_spi_is_allocated_for_a_mark_and_an_interface(xfrm: Xfrm) -> None:
    found = xfrm.allocate_spi(source=THERE, destination=HERE, mark=Mark(value=1, mask=3), interface_id=5)
    assert (found.mark, found.interface_id) == (Mark(value=1, mask=3), 5)
    assert xfrm.get_sa(found.id) == found
    with pytest.raises(XfrmError, match="ESRCH"):
        xfrm.delete_sa(replace(found.id, mark=Mark(value=2, mask=3)))
    xfrm.delete_sa(found.id)


def test_an_spi_is_allocated_for_a_direction_and_a_cpu(xfrm: Xfrm) -> None:
    found = xfrm.allocate_spi(source=THERE, destination=HERE, direction=SaDirection.IN, cpu=0)
    if found.direction is None:
        pytest.skip("needs Linux 6.10: an older one passes the direction over")
    assert found.direction is SaDirection.IN
    assert found.cpu in (0, None)  # told from Linux 6.13 on


def test_the_numbers_of_a_larval_sa_are_read_and_not_set(xfrm: Xfrm) -> None:
    larval = xfrm.allocate_spi(source=THERE, destination=HERE, reqid=9)
    event = xfrm.get_async_event(larval.id)
    assert (event.sa_id, event.source) == (larval.id, THERE)
    assert event.replay is not None
    assert (event.replay.sent, event.replay.received) == (0, 0)
    assert event.replay_threshold is not None
    with pytest.raises(XfrmError, match="EINVAL"):
        xfrm.set_async_event(AsyncEvent(sa_id=larval.id, source=THERE, replay=Replay(sent=5)))
    with pytest.raises(XfrmError, match="EINVAL"):
        xfrm.expire_sa(larval.id, hard=False)


def test_a_policy_of_a_single_socket(xfrm: Xfrm, here: Namespace) -> None:
    with here.udp_socket() as sender:
        sender.bind((str(HERE), PORT))
        set_socket_policy(sender, Policy(selector=Selector.any(4), direction=Direction.OUT, action=Action.BLOCK))
        (found,) = xfrm.dump_policies()
        assert (found.direction, found.action) == (Direction.SOCKET_OUT, Action.BLOCK)
        assert xfrm.spd_info().socket_out == 1
        with pytest.raises(OSError):
            sender.sendto(b"x", (str(THERE), PORT))
        with here.udp_socket() as other:
            other.sendto(b"x", (str(THERE), PORT))
        clear_socket_policies(sender)
        assert xfrm.dump_policies() == ()
        sender.sendto(b"x", (str(THERE), PORT))


def test_a_policy_of_a_socket_of_ipv6(xfrm: Xfrm) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as opened:
        set_socket_policy(
            opened,
            Policy(selector=Selector.any(6), direction=Direction.IN, templates=(Template(reqid=7, optional=True),)),
        )
        with Xfrm() as own:
            found = own.dump_policies(lambda policy: policy.direction is Direction.SOCKET_IN)
            assert [policy.templates[0].reqid for policy in found] == [7]
            clear_socket_policies(opened)
    assert xfrm.dump_policies() == ()
