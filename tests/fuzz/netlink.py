"""Datagrams of the kernel's XFRM family: frames, and in them whatever it may tell."""

from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_interface

from shamon_host.pyxfrm import (
    Acquire,
    AsyncEvent,
    Direction,
    Encapsulation,
    IpTfs,
    KeyManagerAddresses,
    Mark,
    Migration,
    Move,
    Policy,
    PolicyType,
    Replay,
    SaDirection,
    SaFlag,
    SecurityAssociation,
    Selector,
    Template,
    Usage,
    XfrmError,
    aes_gcm,
)
from shamon_host.pyxfrm.acquire import encode_acquire
from shamon_host.pyxfrm.async_event import encode_async_event
from shamon_host.pyxfrm.constants import NLMSG_DONE, NLMSG_ERROR, Message
from shamon_host.pyxfrm.databases import decode_default_policy, decode_sad_info, decode_spd_info
from shamon_host.pyxfrm.events import decode_event
from shamon_host.pyxfrm.framing import answer_error, iterate_frames, pack_frame
from shamon_host.pyxfrm.migration import encode_migration
from shamon_host.pyxfrm.policy_codec import encode_policy
from shamon_host.pyxfrm.sa_encode import encode_sa

_ONE, _TWO = ip_address("192.0.2.1"), ip_address("192.0.2.2")
_SELECTOR = Selector(source=ip_interface("192.0.2.1/32"), destination=ip_interface("192.0.2.2/32"), protocol=17)
_ANSWERS: Mapping[int, Callable[[bytes], object]] = {
    Message.NEWSADINFO: decode_sad_info,
    Message.NEWSPDINFO: decode_spd_info,
    Message.GETDEFAULT: decode_default_policy,
}


def read_datagram(data: bytes) -> None:
    """As a channel and the monitor do. Raises XfrmError; one bad message does not hide the next."""
    failed = None
    for frame in iterate_frames(data):
        try:
            if frame.type in (NLMSG_ERROR, NLMSG_DONE):
                answer_error(frame, "fuzz")
            else:
                decode_event(frame)
                if (decode := _ANSWERS.get(frame.type)) is not None:
                    decode(frame.body)
        except XfrmError as error:
            failed = error
    if failed is not None:
        raise failed


def datagrams() -> tuple[bytes, ...]:
    """One with each kind of message."""
    sa = SecurityAssociation(
        source=_ONE,
        destination=_TWO,
        spi=0x1001,
        aead=aes_gcm(bytes(36)),
        flags=SaFlag.ESN,
        replay_window=64,
        replay=Replay(sent=2**33, received=1, bitmap=(1, 0)),
        security_context="system_u:object_r:shamon_link_t:s0:c10",
        mark=Mark(value=1),
        output_mark=Mark(value=1, mask=3),
        interface_id=5,
        encapsulation=Encapsulation(source_port=4500, destination_port=4500, original_address=_ONE),
        direction=SaDirection.IN,
        cpu=1,
        iptfs=IpTfs(drop_time_us=1, reorder_window=3, dont_fragment=True),
    )
    policy = Policy(
        selector=_SELECTOR,
        direction=Direction.OUT,
        type=PolicyType.SUB,
        templates=(Template(source=_ONE, destination=_TWO, reqid=7), Template()),
        security_context="system_u:object_r:shamon_spd_t:s0:c10",
    )
    wanted = Acquire(
        source=_ONE,
        destination=_TWO,
        protocol=50,
        selector=_SELECTOR,
        policy=policy,
        sequence=7,
        security_context="system_u:object_r:shamon_link_t:s0:c10",
    )
    migration = Migration(
        selector=_SELECTOR,
        direction=Direction.OUT,
        moves=(Move(old_source=_ONE, old_destination=_TWO, new_source=_TWO, new_destination=_ONE),) * 2,
        key_manager=KeyManagerAddresses(local=_ONE, remote=_TWO),
    )
    progress = AsyncEvent(
        sa_id=sa.id, source=_ONE, replay=Replay(sent=1, bitmap=(0, 0)), replay_window=64, usage=Usage(bytes=9)
    )
    bodies = (
        (Message.NEWSA, encode_sa(sa)),
        (Message.NEWPOLICY, encode_policy(policy)),
        (Message.ACQUIRE, encode_acquire(wanted)),
        (Message.MIGRATE, encode_migration(migration)),
        (Message.NEWAE, encode_async_event(progress)),
        (Message.EXPIRE, encode_sa(sa)[:224] + bytes(8) + encode_sa(sa)[224:]),
        (Message.MAPPING, bytes(20) + b"\2\0\x32\0" + bytes(40)),
        (Message.REPORT, b"\x3c\0\0\0" + encode_policy(policy)[:56]),
        (Message.GETDEFAULT, b"\1\2\0"),
        (Message.FLUSHSA, b"\0"),
    )
    frames = tuple(pack_frame(kind=kind, flags=0, sequence=1, body=body) for kind, body in bodies)
    return (b"".join(frames[:3]), *frames)
