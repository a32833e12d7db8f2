"""Requests and answers on a socket that is scripted instead of the kernel's."""

import errno
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

pytest.importorskip("pyroute2", reason="needs the host extra: pyroute2")

from shamon_host.pyxfrm import (
    Batch,
    Direction,
    Lifetime,
    Lost,
    PoliciesFlushed,
    Policy,
    SaId,
    SecurityAssociation,
    Selector,
    XfrmError,
    aes_gcm,
    client,
    monitor,
    transport,
)
from shamon_host.pyxfrm.constants import Message, NetlinkFlag
from shamon_host.pyxfrm.exchange import SequenceNumbers
from shamon_host.pyxfrm.framing import Frame, pack_frame
from shamon_host.pyxfrm.policy_codec import encode_policy
from shamon_host.pyxfrm.sa_decode import decode_sa
from shamon_host.pyxfrm.sa_encode import encode_sa
from shamon_host.pyxfrm.values import Address
from tests.unit.pyxfrm.scripted_socket import PROCESS, Answer, Script, ScriptedSocket, ack, done

ONE, TWO = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
SA = SecurityAssociation(source=ONE, destination=TWO, spi=0x1001, aead=aes_gcm(b"\xa5" * 36))


def xfrm_on(script: Script, monkeypatch: pytest.MonkeyPatch) -> tuple[client.Xfrm, ScriptedSocket]:
    scripted = ScriptedSocket(script)

    def opened(**_: object) -> ScriptedSocket:
        return scripted

    monkeypatch.setattr(transport, "open_socket", opened)
    monkeypatch.setattr(monitor, "open_socket", opened)
    return client.Xfrm(), scripted


def test_a_request_ends_with_its_ack(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(frames: list[Frame]) -> Iterator[Answer]:
        yield ack(99)  # of a request that was given up
        yield ack(frames[0].sequence)

    xfrm, scripted = xfrm_on(script, monkeypatch)
    xfrm.add_sa(SA)
    assert scripted.sent[0][0].body == encode_sa(SA)
    assert scripted.waiting == []


def test_a_refusal_names_the_operation_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    xfrm, _ = xfrm_on(lambda frames: iter([ack(frames[0].sequence, errno.EEXIST)]), monkeypatch)
    with pytest.raises(XfrmError) as caught:
        xfrm.add_sa(SA)
    assert str(caught.value) == "add SA to 192.0.2.2 proto 50 spi 0x00001001: EEXIST (File exists)"


def test_silence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    xfrm, _ = xfrm_on(lambda _: iter(()), monkeypatch)
    with pytest.raises(XfrmError, match="ETIMEDOUT"):
        xfrm.flush_sas()


def test_a_full_buffer_and_a_cut_answer_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    xfrm, scripted = xfrm_on(lambda _: iter([OSError(errno.ENOBUFS, "No buffer space")]), monkeypatch)
    with pytest.raises(XfrmError, match="ENOBUFS"):
        xfrm.flush_policies()
    scripted.script = lambda frames: iter([ack(frames[0].sequence)])
    scripted.flags = socket.MSG_TRUNC
    with pytest.raises(XfrmError, match="EBADMSG"):
        xfrm.flush_policies()


def test_what_a_process_sends_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    xfrm, scripted = xfrm_on(lambda frames: iter([ack(frames[0].sequence)]), monkeypatch)
    scripted.sender = PROCESS
    with pytest.raises(XfrmError, match="ETIMEDOUT"):
        xfrm.flush_sas()


def test_many_are_deleted_in_one_datagram(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(frames: list[Frame]) -> Iterator[Answer]:
        codes = {0: errno.ESRCH, 2: errno.EPERM}
        yield b"".join(ack(frame.sequence, codes.get(place, 0)) for place, frame in enumerate(frames))

    xfrm, scripted = xfrm_on(script, monkeypatch)
    ids = [SaId(destination=TWO, spi=spi) for spi in range(0x100, 0x10A)]
    failures = xfrm.delete_sas([*ids, ids[0]])
    assert list(failures) == [ids[2]]
    assert failures[ids[2]].errno == errno.EPERM
    assert [len(frames) for frames in scripted.sent] == [10]
    assert {frame.type for frame in scripted.sent[0]} == {Message.DELSA}


def test_very_many_are_deleted_in_a_few_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    xfrm, scripted = xfrm_on(lambda frames: iter([ack(frames[-1].sequence)]), monkeypatch)
    assert xfrm.delete_sas(SaId(destination=TWO, spi=spi) for spi in range(256, 856)) == {}
    assert [len(frames) for frames in scripted.sent] == [256, 256, 88]
    assert xfrm.delete_sas([]) == {}


def test_an_ack_is_asked_of_the_last_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    xfrm, scripted = xfrm_on(lambda frames: iter([ack(frames[-1].sequence)]), monkeypatch)
    assert xfrm.delete_sas(SaId(destination=TWO, spi=spi) for spi in (256, 257, 258)) == {}
    assert [bool(frame.flags & NetlinkFlag.ACK) for frame in scripted.sent[0]] == [False, False, True]


def test_a_batch_tells_what_failed_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(frames: list[Frame]) -> Iterator[Answer]:
        yield ack(frames[1].sequence, errno.EEXIST, text="it is there")
        yield ack(frames[3].sequence, errno.EINVAL, offset=16 + 224 + 8)

    xfrm, scripted = xfrm_on(script, monkeypatch)
    batch = Batch()
    policy = Policy(selector=Selector.any(4), direction=Direction.IN)
    batch.add_sa(SA)
    batch.add_policy(policy)
    batch.delete_sa(SA.id)
    batch.update_sa(SA)
    outcomes = xfrm.run(batch)
    assert [frame.type for frame in scripted.sent[0]] == [
        Message.NEWSA,
        Message.NEWPOLICY,
        Message.DELSA,
        Message.UPDSA,
    ]
    assert (len(batch), outcomes.done) == (4, 2)
    failures = dict(outcomes.failures)
    assert str(failures[1]) == f"add policy {policy.id}: EEXIST (File exists): it is there"
    assert str(failures[3]) == f"update SA {SA.id}: EINVAL (Invalid argument) (attribute ALG_AEAD)"
    with pytest.raises(XfrmError, match="EEXIST"):
        outcomes.raise_first()


def test_what_lost_its_answers_is_not_called_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(frames: list[Frame]) -> Iterator[Answer]:
        yield ack(frames[0].sequence, errno.ESRCH)
        yield OSError(errno.ENOBUFS, "No buffer space available")

    xfrm, scripted = xfrm_on(script, monkeypatch)
    batch = Batch()
    for spi in range(256, 556):
        batch.delete_sa(SaId(destination=TWO, spi=spi))
    errors = [error for error in xfrm.run(batch).errors if error is not None]
    assert [len(frames) for frames in scripted.sent] == [256]
    assert [error.errno for error in errors] == [errno.ESRCH, *[errno.ENOBUFS] * 255, *[errno.ECANCELED] * 44]
    assert "not known" in str(errors[1])
    assert "to 192.0.2.2 proto 50 spi 0x00000200" in str(errors[256])


def test_a_batch_fits_the_sockets_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = ScriptedSocket(lambda frames: iter([ack(frames[-1].sequence)]))
    scripted.receive_buffer = 5 * transport.ACK_MAX
    monkeypatch.setattr(transport, "open_socket", lambda **_: scripted)
    xfrm = client.Xfrm()
    assert xfrm.delete_sas(SaId(destination=TWO, spi=spi) for spi in range(256, 268)) == {}
    assert [len(frames) for frames in scripted.sent] == [5, 5, 2]
    scripted.sent.clear()
    large = replace(SA, security_context="x" * 4000)
    monkeypatch.setattr(xfrm._channel, "_batch_size", 256)
    batch = Batch()
    for spi in range(256, 356):
        batch.add_sa(replace(large, spi=spi))
    assert xfrm.run(batch).done == 100
    assert all(sum(16 + len(frame.body) for frame in frames) <= 128 << 10 for frames in scripted.sent)
    assert len(scripted.sent) == 4


def test_numbers_begin_anew_before_they_run_out() -> None:
    numbers = SequenceNumbers()
    assert (numbers.take(), numbers.take(3), numbers.take()) == (1, 2, 5)
    numbers._next = 0xFFFFFFF0
    assert numbers.take(256) == 1


def test_a_dump_that_was_given_up_is_read_to_its_end_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(frames: list[Frame]) -> Iterator[Answer]:
        if not scripted.sent[1:]:
            yield pack_frame(kind=Message.NEWSA, flags=2, sequence=frames[0].sequence, body=encode_sa(SA))
            yield OSError(errno.EINTR, "Interrupted system call")
            yield pack_frame(kind=Message.NEWSA, flags=2, sequence=frames[0].sequence, body=encode_sa(SA))
        yield done(frames[0].sequence)

    xfrm, scripted = xfrm_on(script, monkeypatch)
    with pytest.raises(XfrmError, match="EINTR"):
        xfrm.dump_sas()
    assert len(scripted.waiting) == 2
    assert xfrm.dump_sas() == ()
    assert scripted.waiting == []


def test_a_dump_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SecurityAssociation(source=TWO, destination=ONE, spi=0x1002)

    def script(frames: list[Frame]) -> Iterator[Answer]:
        sequence = frames[0].sequence
        for sa in (SA, other):
            yield pack_frame(kind=Message.NEWSA, flags=2, sequence=sequence, body=encode_sa(sa))
        yield done(sequence)

    xfrm, _ = xfrm_on(script, monkeypatch)
    assert xfrm.dump_sas() == (SA, other)
    assert xfrm.dump_sas(lambda sa: sa.larval) == (other,)


def test_a_dump_that_changed_meanwhile_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(selector=Selector.any(4), direction=Direction.IN)
    interrupted = 0x10

    def script(frames: list[Frame], times: list[int] = [1]) -> Iterator[Answer]:  # noqa: B006
        flags = 2 | (interrupted if times[0] else 0)
        times[0] = max(times[0] - 1, 0)
        yield pack_frame(kind=Message.NEWPOLICY, flags=flags, sequence=frames[0].sequence, body=encode_policy(policy))
        yield done(frames[0].sequence)

    xfrm, scripted = xfrm_on(script, monkeypatch)
    assert xfrm.dump_policies() == (policy,)
    assert len(scripted.sent) == 2
    scripted.script = lambda frames: script(frames, [99])
    with pytest.raises(XfrmError, match="EINTR"):
        xfrm.dump_policies()


def test_an_sa_is_renewed_with_the_key_the_kernel_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(frames: list[Frame]) -> Iterator[Answer]:
        if frames[0].type == Message.GETSA:
            yield pack_frame(kind=Message.NEWSA, flags=0, sequence=frames[0].sequence, body=encode_sa(SA))
        yield ack(frames[0].sequence)

    xfrm, scripted = xfrm_on(script, monkeypatch)
    xfrm.renew_sa(SA.id, Lifetime(hard_add_s=40))
    update = scripted.sent[1][0]
    assert update.type == Message.UPDSA
    assert decode_sa(update.body).lifetime == Lifetime(hard_add_s=40)
    assert b"\xa5" * 36 in update.body


def test_a_larval_sa_is_not_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    larval = SecurityAssociation(source=ONE, destination=TWO, spi=0x1001)

    def script(frames: list[Frame]) -> Iterator[Answer]:
        yield pack_frame(kind=Message.NEWSA, flags=0, sequence=frames[0].sequence, body=encode_sa(larval))
        yield ack(frames[0].sequence)

    xfrm, _ = xfrm_on(script, monkeypatch)
    with pytest.raises(XfrmError, match="ENOKEY"):
        xfrm.renew_sa(SA.id, Lifetime())


@pytest.mark.parametrize(("first", "last"), [(0, 5), (9, 8), (1, 2**32)])
def test_a_range_of_spis_that_is_none(first: int, last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    xfrm, scripted = xfrm_on(lambda _: iter(()), monkeypatch)
    source: Address = ONE
    with pytest.raises(XfrmError, match="not a range"):
        xfrm.allocate_spi(source=source, destination=TWO, first=first, last=last)
    assert scripted.sent == []


def test_a_protocol_is_a_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    xfrm, scripted = xfrm_on(lambda _: iter(()), monkeypatch)
    for ask in (xfrm.flush_sas, lambda protocol: xfrm.dump_sas(protocol=protocol)):
        with pytest.raises(XfrmError, match=r"protocol must be 0\.\.0xff"):
            ask(256)
    assert scripted.sent == []


def test_the_monitor_tells_of_what_it_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    _, scripted = xfrm_on(lambda _: iter(()), monkeypatch)
    scripted.flags = 1
    flushed = pack_frame(kind=Message.FLUSHPOLICY, flags=0, sequence=0, body=b"")
    scripted.waiting = [
        flushed,
        OSError(errno.ENOBUFS, "No buffer space available"),
        pack_frame(kind=Message.NEWSA, flags=0, sequence=0, body=b"short"),
        flushed,
    ]
    events = monitor.XfrmMonitor().read()
    assert [type(event) for event in events] == [PoliciesFlushed, Lost, Lost, PoliciesFlushed]
    assert monitor.XfrmMonitor().read() == ()
    scripted.waiting = [OSError(errno.EBADF, "Bad file descriptor")]
    with pytest.raises(XfrmError, match="EBADF"):
        monitor.XfrmMonitor().read()


def test_the_monitor_hears_the_kernel_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    _, scripted = xfrm_on(lambda _: iter(()), monkeypatch)
    scripted.flags, scripted.sender = 1, PROCESS
    scripted.waiting = [pack_frame(kind=Message.FLUSHPOLICY, flags=0, sequence=0, body=b"")]
    assert monitor.XfrmMonitor().read() == ()
