"""Both clients on a kernel: batches, coroutines, threads, namespaces by file descriptor, the kernel's words."""

import asyncio
import errno
import os
import socket
import threading
import time
from dataclasses import replace

import pytest

from shamon_host.pyxfrm import (
    Batch,
    Direction,
    Group,
    Lost,
    PolicyChanged,
    PolicyId,
    PortMatch,
    SaId,
    XfrmError,
    aes_gcm,
    transport,
)
from shamon_host.pyxfrm.async_client import AsyncXfrm
from shamon_host.pyxfrm.attributes import pack_attribute
from shamon_host.pyxfrm.client import Xfrm
from shamon_host.pyxfrm.constants import Attribute, Message
from shamon_host.pyxfrm.monitor import XfrmMonitor
from shamon_host.pyxfrm.policy_codec import encode_policy
from shamon_host.pyxfrm.requests import Request
from tests.integration.pyxfrm.namespaces import BLOCK6, HERE, OUT, SA, Namespace


def numbered(port: int) -> PortMatch:
    return PortMatch(port=port)


def test_a_batch_goes_through_whatever_becomes_of_one(xfrm: Xfrm) -> None:
    batch = Batch()
    batch.add_policy(OUT)
    batch.add_policy(OUT)
    batch.update_policy(replace(OUT, priority=5))
    batch.delete_sa(SaId(destination=HERE, spi=0x999))
    batch.add_policy(BLOCK6)
    outcomes = xfrm.run(batch)
    assert [error and error.name for error in outcomes.errors] == [None, "EEXIST", None, "ESRCH", None]
    assert outcomes.done == 3
    assert set(xfrm.dump_policies()) == {replace(OUT, priority=5), BLOCK6}


def test_a_large_batch_is_exact(xfrm: Xfrm) -> None:
    """2,000 policies, every tenth of them twice: each second one is refused, and no other."""
    batch, twice = Batch(), set()
    for port in range(1, 2001):
        policy = replace(OUT, selector=replace(OUT.selector, destination_port=numbered(port)))
        batch.add_policy(policy)
        if port % 10 == 0:
            twice.add(len(batch))
            batch.add_policy(policy)
    outcomes = xfrm.run(batch)
    assert {place for place, _ in outcomes.failures} == twice
    assert {error.name for _, error in outcomes.failures} == {"EEXIST"}
    assert xfrm.spd_info().policies_out == 2000
    deleted = Batch()
    for policy in xfrm.dump_policies():
        deleted.delete_policy(policy.id)
    assert xfrm.run(deleted).done == 2000
    assert xfrm.spd_info().policies_out == 0


def test_a_batch_of_failures_overruns_nothing(xfrm: Xfrm) -> None:
    wanted = [SaId(destination=HERE, spi=spi) for spi in range(256, 256 + 3000)]
    batch = Batch()
    for sa_id in wanted:
        batch.delete_sa(sa_id)
    outcomes = xfrm.run(batch)
    assert {error and error.errno for error in outcomes.errors} == {errno.ESRCH}
    assert xfrm.delete_sas(wanted) == {}


def test_a_small_receive_buffer_holds_what_is_sent_for_it(xfrm: Xfrm) -> None:
    """Each answer is an error with words, the largest there is; a buffer for ten of them loses none."""
    opened = xfrm._channel._socket
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5 * transport.ACK_MAX)  # the kernel doubles it
    xfrm._channel._batch_size = transport.batch_size(opened)
    assert xfrm._channel._batch_size == 10
    batch = Batch()
    for spi in range(256, 556):
        batch.add_sa(replace(SA, spi=spi, aead=replace(aes_gcm(bytes(36)), name="rfc4106(gcm(none))")))
    assert {error and error.errno for error in xfrm.run(batch).errors} == {errno.ENOSYS}


async def test_coroutines_have_all_of_it(xfrm: Xfrm, here: Namespace) -> None:
    async with AsyncXfrm(netns=here.name) as other:
        await other.add_policy(OUT)
        assert await other.get_policy(OUT.id) == OUT
        assert (await other.counts()).policies_out == 1
        larval = await other.allocate_spi(source=SA.source, destination=SA.destination)
        assert await other.delete_sas([larval.id, larval.id]) == {}
        with pytest.raises(XfrmError, match="ENOENT"):
            await other.delete_policy(BLOCK6.id)
        batch = Batch()
        batch.add_policy(BLOCK6)
        batch.add_policy(BLOCK6)
        assert (await other.run(batch)).done == 1
        assert await other.statistics() == xfrm.statistics()
        assert set(await other.dump_policies()) == set(xfrm.dump_policies()) == {OUT, BLOCK6}


async def test_the_loop_goes_on_while_a_large_spd_is_read(xfrm: Xfrm, here: Namespace) -> None:
    batch = Batch()
    for port in range(1, 1001):
        batch.add_policy(replace(OUT, selector=replace(OUT.selector, destination_port=numbered(port))))
    assert xfrm.run(batch).done == 1000
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with AsyncXfrm(netns=here.name) as other:
        counting = asyncio.create_task(count())
        assert len(await other.dump_policies()) == 1000
        counting.cancel()
        assert turns > 5
        # Given up in the middle, then asked again: the rest of the first is no part of the second.
        for _ in range(3):
            reading = asyncio.create_task(other.dump_policies())
            for _ in range(4):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        assert len(await other.dump_policies()) == 1000
        assert (await other.spd_info()).policies_out == 1000


def test_threads_share_a_client(xfrm: Xfrm) -> None:
    failures: list[BaseException] = []

    def add(first: int) -> None:
        try:
            for port in range(first, first + 50):
                policy = replace(OUT, selector=replace(OUT.selector, destination_port=numbered(port)))
                xfrm.add_policy(policy)
                assert xfrm.get_policy(policy.id) == policy
        except (XfrmError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=(first,)) for first in (1, 1001, 2001, 3001)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert xfrm.spd_info().policies_out == 200


def test_a_namespace_is_named_by_a_file_descriptor(xfrm: Xfrm, here: Namespace) -> None:
    opened = os.open(f"/run/netns/{here.name}", os.O_RDONLY)
    try:
        with Xfrm(netns=opened) as other, XfrmMonitor([Group.POLICY], netns=opened) as monitor:
            xfrm.add_policy(OUT)
            assert other.dump_policies() == (OUT,)
            assert [type(event) for event in monitor.read()] == [PolicyChanged]
    finally:
        os.close(opened)


def test_a_client_is_in_its_namespace_whatever_becomes_of_the_name(xfrm: Xfrm, here: Namespace) -> None:
    opened = os.open(f"/run/netns/{here.name}", os.O_RDONLY)
    with Xfrm(netns=opened) as other:
        os.close(opened)
        assert other.statistics() == xfrm.statistics()
        assert other.statistics().keys() > {"XfrmInError", "XfrmInPolBlock"}


def test_the_kernels_words_and_the_place_are_told(xfrm: Xfrm) -> None:
    with pytest.raises(XfrmError) as caught:
        xfrm.add_policy(replace(OUT, share=9))
    assert caught.value.errno == errno.EINVAL
    # A mark of four bytes, which no value can be made to say.
    short: Request[None] = Request(
        Message.NEWPOLICY, encode_policy(OUT) + pack_attribute(Attribute.MARK, bytes(4)), "add", OUT
    )
    with pytest.raises(XfrmError) as caught:
        xfrm._channel.call(short)
    assert caught.value.errno in (errno.EINVAL, errno.ERANGE)
    assert caught.value.offset == 16 + len(encode_policy(OUT))
    assert caught.value.attribute == "MARK"


def test_a_monitor_that_is_not_read_says_so(xfrm: Xfrm, here: Namespace) -> None:
    with (
        XfrmMonitor([Group.POLICY], netns=here.name, receive_buffer=4096) as small,
        XfrmMonitor([Group.POLICY], netns=here.name, receive_buffer=8 << 20) as large,
    ):
        batch = Batch()
        for port in range(1, 2001):
            batch.add_policy(replace(OUT, selector=replace(OUT.selector, destination_port=numbered(port))))
        assert xfrm.run(batch).done == 2000
        assert any(isinstance(event, Lost) for event in small.read())
        events = large.read()
        assert len(events) == 2000
        assert {type(event) for event in events} == {PolicyChanged}
        xfrm.add_policy(BLOCK6)  # and both go on
        assert [type(event) for event in small.read()] == [PolicyChanged]


def test_a_policy_is_found_by_its_index(xfrm: Xfrm) -> None:
    xfrm.add_policy(OUT)
    (found,) = xfrm.dump_policies()
    assert xfrm.get_policy(PolicyId(direction=Direction.OUT, index=found.index)) == OUT


def test_thousands_are_deleted_within_a_moment(xfrm: Xfrm) -> None:
    batch = Batch()
    for port in range(1, 2001):
        batch.add_policy(replace(OUT, selector=replace(OUT.selector, destination_port=numbered(port))))
    assert xfrm.run(batch).done == 2000
    ids = [policy.index_id for policy in xfrm.dump_policies()]
    started = time.perf_counter()
    assert xfrm.delete_policies(ids) == {}
    assert time.perf_counter() - started < 10
    assert xfrm.dump_policies() == ()


def test_a_key_is_in_no_error(xfrm: Xfrm) -> None:
    key = bytes(range(100, 136))
    batch = Batch()
    batch.add_sa(replace(SA, aead=replace(aes_gcm(key), name="rfc4106(gcm(none))")))
    (error,) = xfrm.run(batch).errors
    assert error is not None
    assert error.errno == errno.ENOSYS
    assert key.hex() not in repr(error) + str(error) + repr(batch)
    assert repr(key)[2:-1] not in repr(batch)
