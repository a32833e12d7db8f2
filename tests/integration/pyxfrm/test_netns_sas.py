"""SAs in a kernel: skipped where it has no ESP, so whole in a lab host alone."""

import asyncio
import contextlib
import errno
import socket
import time
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from shamon_host.pyxfrm import (
    PROTO_AH,
    PROTO_COMP,
    Acquire,
    Algorithm,
    AsyncEventFlag,
    Batch,
    Direction,
    Drops,
    Encapsulation,
    Expire,
    ExtraFlag,
    Group,
    Lifetime,
    Mapped,
    Mark,
    Migrated,
    Migration,
    Mode,
    Move,
    Offload,
    Replay,
    SaChanged,
    SaFlag,
    SaId,
    SaProgressed,
    XfrmError,
    aes_gcm,
)
from shamon_host.pyxfrm.client import Xfrm
from shamon_host.pyxfrm.monitor import XfrmMonitor
from tests.integration.pyxfrm.namespaces import HERE, OUT, PORT, SA, SPI, THERE, Namespace, migrated_event, next_event


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


KEY32, KEY20 = bytes(range(32)), bytes(range(20))
CBC = replace(
    SA,
    aead=None,
    cipher=Algorithm(name="cbc(aes)", key=KEY32),
    auth=Algorithm(name="hmac(sha256)", key=KEY32, icv_bits=128),
)
PLAIN = replace(SA, flags=SaFlag.NONE, replay_window=0)
KINDS = {
    "cipher and integrity": CBC,
    "integrity alone": replace(
        CBC, flags=SaFlag.NONE, replay_window=32, cipher=Algorithm(name="ecb(cipher_null)"), reqid=0
    ),
    "AH": replace(PLAIN, protocol=PROTO_AH, aead=None, auth=CBC.auth, mode=Mode.TUNNEL),
    "window of 32": replace(PLAIN, replay_window=32),
    "window of 1024 without ESN": replace(PLAIN, replay_window=1024),
    "window of 4096": replace(SA, replay_window=4096),
    "marks": replace(SA, mark=Mark(value=5, mask=0xFF), output_mark=Mark(value=7, mask=0xF0)),
    "output mark": replace(SA, output_mark=Mark(value=7)),
    "interface": replace(SA, interface_id=77),
    "encapsulation": replace(SA, encapsulation=Encapsulation(source_port=4500, destination_port=4501)),
    "flags": replace(
        SA,
        mode=Mode.TUNNEL,
        flags=SaFlag.ESN | SaFlag.NOECN | SaFlag.DECAP_DSCP | SaFlag.NOPMTUDISC | SaFlag.AF_UNSPEC,
        extra_flags=ExtraFlag.DONT_ENCAP_DSCP | ExtraFlag.OSEQ_MAY_WRAP,
    ),
    "padding": replace(SA, mode=Mode.TUNNEL, tfc_padding=1400),
    "selector": replace(SA, selector=replace(OUT.selector, protocol=6), sequence=9),
    "limits": replace(
        SA,
        lifetime=Lifetime(
            soft_bytes=1 << 40,
            hard_bytes=1 << 41,
            soft_packets=1 << 33,
            hard_packets=1 << 34,
            soft_add_s=3000,
            hard_add_s=3600,
            soft_use_s=1000,
            hard_use_s=2000,
        ),
    ),
    "IPv6": replace(SA, source=ip_address("2001:db8::1"), destination=ip_address("2001:db8::2"), mode=Mode.BEET),
    "mapping": replace(
        SA,
        encapsulation=Encapsulation(source_port=4500, destination_port=4500),
        mapping_threshold_s=60,
    ),
}


@pytest.mark.usefixtures("esp")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sa_comes_back(xfrm: Xfrm, kind: str) -> None:
    sa = KINDS[kind]
    try:
        xfrm.add_sa(sa)
    except XfrmError as error:
        if error.errno in (errno.ENOSYS, errno.EPROTONOSUPPORT):
            pytest.skip(f"not in this kernel: {error}")
        raise
    assert xfrm.get_sa(sa.id) == sa
    assert xfrm.dump_sas() == (sa,)
    renewed = replace(sa, lifetime=Lifetime(hard_add_s=7200))
    xfrm.renew_sa(sa.id, renewed.lifetime)
    assert xfrm.get_sa(sa.id) == renewed
    xfrm.delete_sa(sa.id)
    assert xfrm.dump_sas() == ()


@pytest.mark.usefixtures("esp")
def test_integrity_without_a_length_gets_the_algorithms_own(xfrm: Xfrm) -> None:
    assert CBC.auth is not None
    xfrm.add_sa(replace(CBC, auth=replace(CBC.auth, icv_bits=0)))
    (found,) = xfrm.dump_sas()
    assert found.auth is not None
    assert (found.auth.name, found.auth.key_bits) == ("hmac(sha256)", 256)
    assert found.auth.icv_bits > 0


@pytest.mark.usefixtures("esp")
def test_compression(xfrm: Xfrm) -> None:
    sa = replace(
        PLAIN,
        protocol=PROTO_COMP,
        aead=None,
        compression=Algorithm(name="deflate"),
        mode=Mode.TUNNEL,
        lifetime=Lifetime(),
    )
    try:
        xfrm.add_sa(sa)
    except XfrmError as error:
        pytest.skip(f"needs IPComp: {error}")
    # The kernel adds an SA of its own for the tunnel.
    assert sa in xfrm.dump_sas(protocol=PROTO_COMP)
    xfrm.flush_sas(PROTO_COMP)
    assert xfrm.dump_sas(protocol=PROTO_COMP) == ()
    limit = time.monotonic() + 10
    while xfrm.sad_info().sas:  # it goes after its last user
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.usefixtures("esp")
def test_what_ip_adds_is_read(xfrm: Xfrm, here: Namespace) -> None:
    line = (
        "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 reqid 7 mode tunnel"
        " auth-trunc hmac(sha256) 0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 128"
        " enc cbc(aes) 0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        " flag esn replay-window 128 replay-seq 5 replay-oseq 6 replay-seq-hi 1 replay-oseq-hi 2"
        " encap espinudp 4500 4501 0.0.0.0 mark 5 mask 255 output-mark 7 mask 240 if_id 9"
        " limit time-hard 600 extra-flag dont-encap-dscp"
    )
    here.ip(*line.split())
    (found,) = xfrm.dump_sas()
    assert found == replace(
        CBC,
        mode=Mode.TUNNEL,
        encapsulation=Encapsulation(source_port=4500, destination_port=4501),
        mark=Mark(value=5, mask=255),
        output_mark=Mark(value=7, mask=240),
        interface_id=9,
        extra_flags=ExtraFlag.DONT_ENCAP_DSCP,
    )
    assert found.replay is not None
    assert (found.replay.sent, found.replay.received) == (2 << 32 | 6, 1 << 32 | 5)


@pytest.mark.usefixtures("esp")
async def test_an_sa_goes_on_where_another_stopped(xfrm: Xfrm, monitor: XfrmMonitor) -> None:
    sa = replace(SA, replay_window=64, replay=Replay(sent=2**32 + 7, received=99, bitmap=(5, 0x80000000)))
    xfrm.add_sa(sa)
    (found,) = xfrm.dump_sas()
    assert found.replay == sa.replay
    event = xfrm.get_async_event(sa.id)
    assert (event.replay, event.replay_window, event.reqid) == (sa.replay, 64, 7)
    assert event.usage is not None
    moved = replace(
        event,
        flags=AsyncEventFlag.NONE,
        replay=Replay(sent=2**33, received=100),
        usage=replace(event.usage, bytes=10, packets=20),
        replay_threshold=30,
        timer_threshold=500,
    )
    xfrm.set_async_event(moved)
    after = xfrm.get_async_event(sa.id)
    assert after.replay == Replay(sent=2**33, received=100, bitmap=(0, 0))
    assert after.usage is not None
    assert (after.usage.bytes, after.usage.packets) == (10, 20)
    assert after.replay_threshold == 30
    assert after.timer_threshold in {500 * 10 // hertz for hertz in (100, 250, 300, 1000)}
    told = await next_event(monitor, lambda event: isinstance(event, SaProgressed))
    assert isinstance(told, SaProgressed)
    assert told.event.sa_id == sa.id
    assert told.event.flags & AsyncEventFlag.CU
    with pytest.raises(XfrmError, match="EINVAL"):
        xfrm.set_async_event(replace(moved, replay_window=128))


@pytest.mark.usefixtures("esp")
async def test_thresholds_that_an_sa_is_added_with(xfrm: Xfrm) -> None:
    xfrm.add_sa(replace(SA, replay_threshold=77, timer_threshold=0))
    event = xfrm.get_async_event(SA.id)
    assert (event.replay_threshold, event.timer_threshold) == (77, 0)


@pytest.mark.usefixtures("esp")
async def test_an_sa_expires_by_hand(xfrm: Xfrm, monitor: XfrmMonitor) -> None:
    xfrm.add_sa(SA)
    xfrm.expire_sa(SA.id, hard=False)
    soft = await next_event(monitor, lambda event: isinstance(event, Expire))
    assert isinstance(soft, Expire)
    assert (soft.sa.id, soft.hard) == (SA.id, False)
    xfrm.expire_sa(SA.id, hard=True)
    assert xfrm.dump_sas() == ()
    with pytest.raises(XfrmError, match="ENOENT"):
        xfrm.expire_sa(SA.id, hard=True)


@pytest.mark.usefixtures("esp")
async def test_packets_are_limited_and_told(xfrm: Xfrm, peer: Xfrm, here: Namespace, monitor: XfrmMonitor) -> None:
    xfrm.add_sa(replace(SA, lifetime=Lifetime(soft_packets=2, hard_packets=4), replay_threshold=1))
    xfrm.add_policy(OUT)
    peer.add_sa(SA)
    with here.udp_socket() as sender:
        sender.bind((str(HERE), PORT))
        sender.setblocking(False)
        for _ in range(8):
            with contextlib.suppress(OSError):
                sender.sendto(b"x", (str(THERE), PORT))
    events = []
    async with asyncio.timeout(10):
        async for event in monitor:
            events.append(event)
            if isinstance(event, Expire) and event.hard:
                break
    assert [event.hard for event in events if isinstance(event, Expire)] == [False, True]
    progress = [event.event for event in events if isinstance(event, SaProgressed)]
    assert any(event.replay is not None and event.replay.sent > 0 for event in progress)


@pytest.mark.usefixtures("esp")
async def test_an_sa_moves_to_other_addresses(xfrm: Xfrm, monitor: XfrmMonitor) -> None:
    sa = replace(SA, mode=Mode.TUNNEL)
    policy = replace(OUT, templates=(replace(OUT.templates[0], mode=Mode.TUNNEL),))
    elsewhere = ip_address("192.0.2.3")
    xfrm.add_sa(sa)
    xfrm.add_policy(policy)
    migration = Migration(
        selector=OUT.selector,
        direction=Direction.OUT,
        moves=(Move(old_source=HERE, old_destination=THERE, new_source=HERE, new_destination=elsewhere, reqid=7),),
    )
    try:
        xfrm.migrate(migration)
    except XfrmError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        pytest.skip("needs a kernel with XFRM_MIGRATE")
    (moved,) = xfrm.dump_sas()
    assert moved.destination == elsewhere
    assert (moved.spi, moved.aead, moved.reqid) == (sa.spi, sa.aead, sa.reqid)
    assert await migrated_event(monitor) == Migrated(migration=migration)


@pytest.mark.usefixtures("esp")
async def test_a_nat_that_changes_its_mind_is_told(xfrm: Xfrm, peer: Xfrm, here: Namespace, there: Namespace) -> None:
    encapsulation = Encapsulation(source_port=4500, destination_port=4500)
    peer.add_sa(replace(SA, encapsulation=encapsulation))
    xfrm.add_sa(replace(SA, encapsulation=replace(encapsulation, source_port=4501)))
    xfrm.add_policy(OUT)
    with (
        there.udp_socket() as gate,
        here.udp_socket() as sender,
        XfrmMonitor([Group.MAPPING], netns=there.name) as monitor,
    ):
        gate.bind((str(THERE), 4500))
        gate.setsockopt(socket.IPPROTO_UDP, 100, 2)  # UDP_ENCAP, UDP_ENCAP_ESPINUDP
        sender.bind((str(HERE), PORT))
        sender.sendto(b"x", (str(THERE), PORT))
        event = await next_event(monitor, lambda event: isinstance(event, Mapped))
    assert event == Mapped(sa_id=SA.id, reqid=7, old_source=HERE, old_port=4500, new_source=HERE, new_port=4501)


@pytest.mark.usefixtures("esp")
def test_wrong_keys_are_counted(xfrm: Xfrm, peer: Xfrm, here: Namespace) -> None:
    assert SA.aead is not None
    xfrm.add_sa(SA)
    xfrm.add_policy(OUT)
    peer.add_sa(replace(SA, aead=aes_gcm(bytes(36))))
    with here.udp_socket() as sender:
        sender.bind((str(HERE), PORT))
        for _ in range(3):
            sender.sendto(b"x", (str(THERE), PORT))
    limit = time.monotonic() + 10
    while peer.get_sa(SA.id).drops != Drops(wrong_icv=3):
        assert time.monotonic() < limit, peer.get_sa(SA.id)
        time.sleep(0.05)
    assert peer.statistics()["XfrmInStateProtoError"] >= 3


@pytest.mark.usefixtures("esp")
def test_hundreds_of_sas_go_in_a_batch(xfrm: Xfrm) -> None:
    batch = Batch()
    for spi in range(0x2000, 0x2000 + 600):
        batch.add_sa(replace(SA, spi=spi))
    batch.add_sa(replace(SA, spi=0x2000))
    outcomes = xfrm.run(batch)
    assert [(place, error.name) for place, error in outcomes.failures] == [(600, "EEXIST")]
    assert xfrm.sad_info().sas == 600
    assert set(xfrm.dump_sas()) == {replace(SA, spi=spi) for spi in range(0x2000, 0x2000 + 600)}
    assert xfrm.delete_sas(SaId(destination=THERE, spi=spi) for spi in range(0x2000, 0x2000 + 601)) == {}
    assert xfrm.sad_info().sas == 0


@pytest.mark.usefixtures("esp")
def test_an_offload_that_no_device_does_is_not_read_back(xfrm: Xfrm) -> None:
    asked = replace(PLAIN, offload=Offload(interface_index=1))
    try:
        xfrm.add_sa(asked)
    except XfrmError as error:
        pytest.skip(f"this kernel refuses it: {error}")
    (found,) = xfrm.dump_sas()
    assert found == PLAIN
    assert found != asked
