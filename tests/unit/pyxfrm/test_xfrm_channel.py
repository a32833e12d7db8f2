"""Requests and answers on a socket that is scripted instead of the kernel's."""

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest

pytest.importorskip("pyroute2", reason="needs the host extra: pyroute2")

from shamon_host.pyxfrm import (
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
from shamon_host.pyxfrm.constants import NLMSG_DONE, NLMSG_ERROR, Message
from shamon_host.pyxfrm.framing import Frame, iterate_frames, pack_frame
from shamon_host.pyxfrm.policy_codec import encode_policy
from shamon_host.pyxfrm.sa_decode import decode_sa
from shamon_host.pyxfrm.sa_encode import encode_sa
from shamon_host.pyxfrm.values import Address

ONE, TWO = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
SA = SecurityAssociation(source=ONE, destination=TWO, spi=0x1001, aead=aes_gcm(b"\xa5" * 36))
KERNEL, PROCESS = (0, 0), (4711, 0)
Answer = bytes | OSError
Script = Callable[[list[Frame]], Iterator[Answer]]


class ScriptedSocket:
    """Answers what is sent with what the script yields: datagrams of the kernel, or errors of the socket."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.sent: list[list[Frame]] = []
        self.waiting: list[Answer] = []
        self.sender = KERNEL
        self.flags = 0
        self.receive_buffer = 425984

    def settimeout(self, limit_s: float) -> None:
        assert limit_s > 0

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def send(self, datagram: bytes) -> int:
        frames = list(iterate_frames(datagram))
        self.sent.append(frames)
        self.waiting += self.script(frames)
        return len(datagram)

    def recvmsg(self, size: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        datagram, sender = self.recvfrom(size)
        return datagram, [], self.flags, sender

    def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
        if not self.waiting:
            raise BlockingIOError if self.flags else TimeoutError
        match self.waiting.pop(0):
            case OSError() as error:
                raise error
            case bytes(datagram):
                return datagram[:size], self.sender

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVBUF)
        return self.receive_buffer

    def close(self) -> None:
        self.waiting.clear()


def ack(sequence: int, code: int = 0) -> bytes:
    body = struct.pack("=i", -code) + bytes(16)
    return pack_frame(kind=NLMSG_ERROR, flags=0, sequence=sequence, body=body)


def done(sequence: int) -> bytes:
    return pack_frame(kind=NLMSG_DONE, flags=2, sequence=sequence, body=struct.pack("=i", 0))


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
