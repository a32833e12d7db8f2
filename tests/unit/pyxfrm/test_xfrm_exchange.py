"""What is made of the kernel's datagrams, whatever they are: answers go to their requests, and nothing else does."""

import errno
import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.pyxfrm import SaId, XfrmError, requests
from shamon_host.pyxfrm.constants import Message
from shamon_host.pyxfrm.exchange import Dump, Leftovers, OneAnswer, Together, not_sent, parts
from shamon_host.pyxfrm.framing import iterate_frames
from tests.examples import examples
from tests.unit.pyxfrm.scripted_socket import ack, done

FEW = settings(max_examples=examples(60))
CODES = st.lists(st.sampled_from((0, errno.ESRCH, errno.EPERM)), min_size=1, max_size=40)


def _deletions(count: int) -> list[requests.Request[None]]:
    return [requests.delete_sa(SaId(destination=IPv4Address("192.0.2.2"), spi=256 + n)) for n in range(count)]


@FEW
@given(CODES, st.integers(1, 2**32 - 100), st.data())
def test_each_outcome_is_its_requests(codes: list[int], first: int, data: st.DataObject) -> None:
    exchange = Together(_deletions(len(codes)), first)
    sent = list(iterate_frames(exchange.datagram))
    assert [frame.sequence for frame in sent] == list(range(first, first + len(codes)))
    last = len(codes) - 1
    answers = [ack(first + n, code) for n, code in enumerate(codes) if code or n == last]
    # Strangers between them: of a request that was given up, and of one to come.
    strangers = st.sampled_from((ack(first - 1, errno.EIO), ack(first + len(codes), errno.EIO), done(first - 1)))
    ended = False
    for answer in answers:
        assert not ended
        assert exchange.feed(data.draw(strangers)) is False
        ended = exchange.feed(answer)
    assert ended
    assert [error.errno if error else 0 for error in exchange.outcomes] == codes


@FEW
@given(CODES, st.data())
def test_no_silent_request_is_done_after_a_loss(codes: list[int], data: st.DataObject) -> None:
    exchange = Together(_deletions(len(codes)), 1)
    told = data.draw(st.sets(st.integers(0, max(len(codes) - 2, 0)), max_size=len(codes) - 1))
    for place in sorted(told):
        exchange.feed(ack(1 + place, codes[place]))
    exchange.give_up(XfrmError(operation="receive", errno=errno.ENOBUFS))
    for place, error in enumerate(exchange.outcomes):
        expected = codes[place] if place in told else errno.ENOBUFS
        assert (error.errno if error else 0) == expected


@FEW
@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 9), st.integers(200, 2000))
def test_parts_are_the_whole_and_fit(sizes: list[int], most: int, most_bytes: int) -> None:
    wanted: list[requests.Request[None]] = [
        requests.Request(Message.DELSA, bytes(size), "delete", None) for size in sizes
    ]
    found = list(parts(wanted, most=most, most_bytes=most_bytes))
    assert [request for part in found for request in part] == wanted
    for part in found:
        assert 0 < len(part) <= most
        assert len(part) == 1 or len(Together(part, 1).datagram) <= most_bytes


@FEW
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_an_error(datagram: bytes) -> None:
    request = _deletions(1)[0]
    for exchange in (OneAnswer(request, 1), Dump(requests.dump_sas(), 1), Together([request], 1), Leftovers(1)):
        try:
            exchange.feed(datagram)
        except XfrmError:
            continue


def test_an_answer_that_was_not_asked_for_is_an_error() -> None:
    request = requests.flush_sas(0)
    exchange = OneAnswer(request, 7)
    told = struct.pack("=IHHII", 20, 0x10, 0, 7, 0) + bytes(4)
    assert exchange.feed(told) is False
    assert exchange.feed(ack(7)) is True
    with pytest.raises(XfrmError, match="1 answers instead of none"):
        request.result(exchange.answers)
    with pytest.raises(XfrmError, match="0 answers instead of one"):
        requests.sad_info().result([])


def test_what_was_not_sent_says_so() -> None:
    (error,) = not_sent(_deletions(1))
    assert error is not None
    assert str(error).startswith("delete SA to 192.0.2.2 proto 50 spi 0x00000100: ECANCELED")
