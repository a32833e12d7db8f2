"""Netlink framing, answers and notifications of pyxfrm, from bytes."""

import errno
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, ip_interface
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.pyxfrm import (
    Acquire,
    AsyncEvent,
    AsyncEventFlag,
    DefaultAction,
    DefaultPolicy,
    DefaultPolicyChanged,
    Direction,
    Expire,
    KeyManagerAddresses,
    Lifetime,
    Mapped,
    Mark,
    Migrated,
    Migration,
    Move,
    Other,
    PoliciesFlushed,
    Policy,
    PolicyChanged,
    PolicyDeleted,
    PolicyExpire,
    PolicyId,
    PolicyType,
    PortMatch,
    Replay,
    Reported,
    SaChanged,
    SaDeleted,
    SaId,
    SaProgressed,
    SasFlushed,
    SecurityAssociation,
    Selector,
    Template,
    Usage,
    XfrmError,
    aes_gcm,
    requests,
    xfrm_stat,
)
from shamon_host.pyxfrm.async_event import encode_async_event
from shamon_host.pyxfrm.attributes import pack_attribute, pack_policy_type, pack_security_context
from shamon_host.pyxfrm.constants import NLMSG_DONE, NLMSG_ERROR, Attribute, Message, NetlinkFlag
from shamon_host.pyxfrm.events import Event, decode_event
from shamon_host.pyxfrm.framing import Frame, answer_error, iterate_frames, pack_frame
from shamon_host.pyxfrm.migration import encode_migration
from shamon_host.pyxfrm.policy_codec import encode_policy, encode_policy_id, encode_template
from shamon_host.pyxfrm.sa_encode import encode_sa, encode_sa_id
from shamon_host.pyxfrm.structs import ID, MAPPING_TAIL, pack_address, pack_selector, pack_spi

ONE, TWO = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
SA = SecurityAssociation(
    source=ONE, destination=TWO, spi=0x1001, aead=aes_gcm(bytes(36)), lifetime=Lifetime(hard_add_s=9)
)
POLICY = Policy(selector=Selector.any(4), direction=Direction.OUT, templates=(Template(source=ONE, destination=TWO),))
CONTEXT = "system_u:object_r:shamon_link_t:s0:c10"


def frame(kind: int, body: bytes, flags: int = 0) -> Frame:
    return Frame(type=kind, flags=flags, sequence=1, body=body)


def test_a_body_is_padded_to_four_bytes() -> None:
    packed = pack_frame(kind=0x1C, flags=5, sequence=7, body=b"\xff")
    assert packed == struct.pack("=IHHII", 20, 0x1C, 5, 7, 0) + b"\xff\0\0\0"


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_frames_come_out_as_they_went_in(bodies: list[bytes]) -> None:
    datagram = b"".join(pack_frame(kind=0x10, flags=1, sequence=n, body=body) for n, body in enumerate(bodies))
    frames = list(iterate_frames(datagram))
    assert [found.sequence for found in frames] == list(range(len(bodies)))
    assert all(found.body.startswith(body) for found, body in zip(frames, bodies, strict=True))


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_an_error(datagram: bytes) -> None:
    try:
        list(iterate_frames(datagram))
    except XfrmError:
        return


def test_a_frame_does_not_show_its_body() -> None:
    assert "secret" not in repr(frame(0x10, b"secret"))


def answer(code: int, text: bytes, *, capped: bool) -> Frame:
    request = pack_frame(kind=0x10, flags=5, sequence=1, body=b"x" * 10)
    body = struct.pack("=i", -code) + (request[:16] if capped else request)
    flags = NetlinkFlag.ACK_TLVS | (NetlinkFlag.CAPPED if capped else 0)
    return frame(NLMSG_ERROR, body + pack_attribute(1, text), flags)


@pytest.mark.parametrize("capped", [True, False])
def test_a_refusal_carries_the_kernels_words(capped: bool) -> None:
    error = answer_error(answer(errno.ENOSYS, b"Requested AEAD algorithm not found\0", capped=capped), "add SA")
    assert error is not None
    assert (error.errno, error.detail) == (errno.ENOSYS, "Requested AEAD algorithm not found")
    assert str(error) == "add SA: ENOSYS (Function not implemented): Requested AEAD algorithm not found"


def test_a_refusal_says_where() -> None:
    told = pack_attribute(1, b"Invalid attribute\0") + pack_attribute(2, struct.pack("=I", 44))
    body = struct.pack("=i", -errno.EINVAL) + bytes(16) + told
    error = answer_error(frame(NLMSG_ERROR, body, NetlinkFlag.ACK_TLVS | NetlinkFlag.CAPPED), "add SA")
    assert error is not None
    assert (error.offset, error.attribute) == (44, None)
    assert str(error).endswith("Invalid attribute (at byte 44 of the request)")
    request = requests.delete_sa(SaId(destination=TWO, spi=0x1001, mark=Mark(value=1)))
    assert request.failed(error).attribute == "MARK"
    for elsewhere in (16, 40, 43, 56, 2**32 - 1):
        pointed = XfrmError(operation="", errno=errno.EINVAL, offset=elsewhere)
        assert request.failed(pointed).attribute == ("MARK" if elsewhere in range(40, 52) else None)


def test_answers_without_words() -> None:
    assert answer_error(frame(NLMSG_ERROR, struct.pack("=i", 0) + bytes(16)), "add SA") is None
    assert answer_error(frame(NLMSG_DONE, b""), "dump") is None
    assert answer_error(frame(NLMSG_DONE, struct.pack("=i", 0)), "dump") is None
    for wrong in (frame(NLMSG_DONE, struct.pack("=i", -errno.ENOMEM)), frame(NLMSG_ERROR, b""), frame(0x10, b"")):
        assert answer_error(wrong, "dump") is not None


@given(st.binary(max_size=60), st.integers(0, 0x3FF))
def test_any_answer_can_be_read(body: bytes, flags: int) -> None:
    answer_error(frame(NLMSG_ERROR, body, flags), "add SA")


ACQUIRE_SELECTOR = Selector(
    source=ip_interface("192.0.2.1/32"),
    destination=ip_interface("192.0.2.2/32"),
    protocol=17,
    source_port=PortMatch(port=24576),
    destination_port=PortMatch(port=24577),
)


def acquire_body(context: str | None) -> bytes:
    fixed_part = encode_policy(Policy(selector=POLICY.selector, direction=POLICY.direction))
    return b"".join(
        (
            ID.pack(pack_address(TWO), pack_spi(0), 50),
            pack_address(ONE),
            pack_selector(ACQUIRE_SELECTOR),
            fixed_part,
            struct.pack("=4I", 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 42),
            pack_attribute(Attribute.TMPL, encode_template(POLICY.templates[0], 2)),
            pack_security_context(context),
        )
    )


@pytest.mark.parametrize("context", [CONTEXT, None])
def test_acquire(context: str | None) -> None:
    assert decode_event(frame(Message.ACQUIRE, acquire_body(context))) == Acquire(
        source=ONE,
        destination=TWO,
        protocol=50,
        selector=ACQUIRE_SELECTOR,
        policy=POLICY,
        sequence=42,
        security_context=context,
    )


def sa_told(head: int, extra: bytes) -> bytes:
    """A message whose head (struct xfrm_usersa_info and `extra`) is followed by the SA's attributes."""
    body = encode_sa(SA)
    return body[:head] + extra + body[head:]


PROGRESS = AsyncEvent(
    sa_id=SA.id,
    source=ONE,
    reqid=7,
    flags=AsyncEventFlag.CR,
    replay=Replay(sent=2**33, received=5, bitmap=(31, 0)),
    replay_window=64,
    usage=Usage(bytes=1, packets=2, add_time=3, use_time=4),
)
MIGRATION = Migration(
    selector=ACQUIRE_SELECTOR,
    direction=Direction.OUT,
    moves=(Move(old_source=ONE, old_destination=TWO, new_source=ONE, new_destination=IPv4Address("192.0.2.9")),),
    key_manager=KeyManagerAddresses(local=ONE, remote=TWO),
)
EVENTS: Sequence[tuple[int, bytes, Event]] = (
    (Message.EXPIRE, sa_told(224, b"\1" + bytes(7)), Expire(sa=SA, hard=True)),
    (Message.EXPIRE, sa_told(224, bytes(8)), Expire(sa=SA, hard=False)),
    (Message.POLEXPIRE, encode_policy(POLICY)[:168] + b"\1" + bytes(7) + encode_policy(POLICY)[168:],
     PolicyExpire(policy=POLICY, hard=True)),
    (Message.NEWSA, encode_sa(SA), SaChanged(sa=SA, updated=False)),
    (Message.UPDSA, encode_sa(SA), SaChanged(sa=SA, updated=True)),
    (Message.DELSA, encode_sa_id(SA.id) + pack_attribute(Attribute.SA, encode_sa(SA)[:224]),
     SaDeleted(sa_id=SaId(destination=TWO, spi=0x1001))),
    (Message.FLUSHSA, b"\0", SasFlushed(protocol=0)),
    (Message.NEWPOLICY, encode_policy(POLICY), PolicyChanged(policy=POLICY, updated=False)),
    (Message.UPDPOLICY, encode_policy(POLICY), PolicyChanged(policy=POLICY, updated=True)),
    (Message.DELPOLICY, encode_policy_id(PolicyId(direction=Direction.OUT, index=9)),
     PolicyDeleted(policy_id=PolicyId(direction=Direction.OUT, index=9), policy=None)),
    (Message.FLUSHPOLICY, b"", PoliciesFlushed()),
    (Message.FLUSHPOLICY, pack_policy_type(PolicyType.SUB), PoliciesFlushed(type=PolicyType.SUB)),
    (Message.GETDEFAULT, b"\1\2\0",
     DefaultPolicyChanged(
         default=DefaultPolicy(
             incoming=DefaultAction.BLOCK, forwarded=DefaultAction.ACCEPT, outgoing=DefaultAction.UNSPEC
         )
     )),
    (Message.NEWAE, encode_async_event(PROGRESS), SaProgressed(event=PROGRESS)),
    (Message.MIGRATE, encode_migration(MIGRATION), Migrated(migration=MIGRATION)),
    (Message.MAPPING,
     encode_sa_id(SA.id)
     + MAPPING_TAIL.pack(7, pack_address(ONE), pack_address(TWO), b"\x11\x94", b"\x11\x95"),
     Mapped(sa_id=SA.id, reqid=7, old_source=ONE, old_port=4500, new_source=TWO, new_port=4501)),
    (Message.REPORT,
     b"\x3c\0\0\0" + pack_selector(ACQUIRE_SELECTOR) + pack_attribute(Attribute.COADDR, pack_address(TWO)),
     Reported(protocol=60, selector=ACQUIRE_SELECTOR, address=TWO)),
    (99, b"", Other(type=99)),
)  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "event"), EVENTS)
def test_event(kind: int, body: bytes, event: Event) -> None:
    assert decode_event(frame(kind, body)) == event


def test_a_deleted_policy_is_told_with_its_templates_and_context() -> None:
    # The fixed part is nested, the attributes stand beside it (xfrm_notify_policy).
    body = b"".join(
        (
            encode_policy_id(PolicyId(direction=Direction.OUT, selector=POLICY.selector)),
            pack_attribute(Attribute.POLICY, encode_policy(POLICY)[:168]),
            pack_attribute(Attribute.TMPL, encode_template(POLICY.templates[0], 2)),
            pack_security_context(CONTEXT),
        )
    )
    event = decode_event(frame(Message.DELPOLICY, body))
    assert isinstance(event, PolicyDeleted)
    assert event.policy is not None
    assert (event.policy.templates, event.policy.security_context) == (POLICY.templates, CONTEXT)


def test_a_deleted_sa_is_told_with_its_attributes() -> None:
    whole = encode_sa(SA)
    event = decode_event(
        frame(Message.DELSA, encode_sa_id(SA.id) + pack_attribute(Attribute.SA, whole[:224]) + whole[224:])
    )
    assert isinstance(event, SaDeleted)
    assert event.sa == SA


@given(st.sampled_from(Message), st.binary(max_size=400))
def test_any_bytes_are_an_event_or_an_error(kind: Message, body: bytes) -> None:
    try:
        decode_event(frame(kind, body))
    except XfrmError:
        return


def test_statistics(tmp_path: Path) -> None:
    path = tmp_path / "xfrm_stat"
    path.write_text("XfrmInError             \t0\nXfrmInPolBlock          \t12\n")
    assert xfrm_stat(path) == {"XfrmInError": 0, "XfrmInPolBlock": 12}
    path.write_text("XfrmInError many\n")
    with pytest.raises(XfrmError, match="EBADMSG"):
        xfrm_stat(path)
    with pytest.raises(XfrmError, match="ENOENT"):
        xfrm_stat(tmp_path / "none")
