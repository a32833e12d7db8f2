"""What runs on lab hosts as scripts, as far as it is pure: marks in frames, notifications of policies, counters."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from tests.integration.lab.link_pair import read_counters
from tests.integration.lab.policy_clock import DELETED, NEW, events
from tests.integration.lab.port_watch import RUN, marks_in


def test_a_mark_is_a_long_run_of_its_byte() -> None:
    assert marks_in(b"head" + b"\xa1" * RUN + b"tail", ["a1", "b2"]) == ["a1"]
    assert marks_in(b"\xa1" * (RUN - 1) + b"\xb2" * RUN, ["a1", "b2"]) == ["b2"]
    assert marks_in(b"", ["a1"]) == []


def _policy(priority: int) -> bytes:
    """struct xfrm_userpolicy_info (include/uapi/linux/xfrm.h)."""
    return bytes(56 + 64 + 32) + struct.pack("=IIBBBBxxxx", priority, 8, 1, 0, 0, 0)


def _message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_policies_that_come_and_go_are_known_by_their_priority() -> None:
    gone = bytes(64) + struct.pack("=HH", 4 + 2, 16) + b"ab" + bytes(2) + struct.pack("=HH", 4 + 168, 7) + _policy(1)
    datagram = _message(NEW, _policy(1)) + _message(0x15, bytes(20)) + _message(DELETED, gone)
    assert len(_policy(1)) == 168
    assert list(events(datagram)) == [(NEW, 1), (DELETED, 1)]
    assert list(events(_message(DELETED, bytes(64)))) == [(DELETED, None)]


@given(st.binary(max_size=400))
def test_any_datagram_is_read(datagram: bytes) -> None:
    assert all(kind in (NEW, DELETED) for kind, _ in events(datagram))


def test_counters_of_kernel_rules_and_denials() -> None:
    said = (
        "XfrmInError             \t0\nXfrmInStateSeqError     \t5\n"
        '{"nftables": [{"metainfo": {}}, {"counter": {"name": "guard_in", "packets": 7, "bytes": 1}}]}\n\n3\n'
    )
    assert read_counters(said) == {"XfrmInError": 0, "XfrmInStateSeqError": 5, "guard_in": 7, "avc": 3}
