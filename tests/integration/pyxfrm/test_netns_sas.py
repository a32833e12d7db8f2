"""SAs in a kernel: skipped where it has no ESP, so whole in a lab host alone."""

import contextlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from shamon_host.pyxfrm import (
    Acquire,
    Direction,
    Expire,
    Lifetime,
    SaChanged,
    XfrmError,
)
from shamon_host.pyxfrm.client import Xfrm
from shamon_host.pyxfrm.monitor import XfrmMonitor
from tests.integration.pyxfrm.namespaces import HERE, OUT, PORT, SA, SPI, THERE, Namespace, next_event


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
