"""Where an SA stands (NEWAE, GETAE): sequence numbers and usage, told as packets pass, asked for and set.

With it a second machine can go on where the first one stopped (Documentation/networking/xfrm_sync.rst).
"""

from dataclasses import dataclass

from .association import SaId
from .attributes import attributes, pack_attribute, pack_mark, pack_u32, unpack_mark, unpack_u32
from .constants import AsyncEventFlag, Attribute
from .errors import invalid, malformed
from .sa_options_codec import decode_replay, encode_replay, encode_replay_esn
from .structs import (
    AEVENT_ID_SIZE,
    AEVENT_TAIL,
    LIFETIME_CUR,
    USERSA_ID,
    family_of,
    pack_address,
    pack_usage,
    unpack_address,
    unpack_usage,
)
from .values import Address, Replay, Usage, in_range


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncEvent:
    """What is known of an SA, or is to be set. `replay_window` above 0 says that `replay` is of the form for ESN.

    `timer_threshold` is in tenths of a second as the kernel reports it, but in jiffies where it is set: it never was
    converted on the way in.
    """

    sa_id: SaId
    source: Address
    reqid: int = 0
    flags: AsyncEventFlag = AsyncEventFlag.NONE
    replay: Replay | None = None
    replay_window: int = 0
    usage: Usage | None = None
    replay_threshold: int | None = None
    timer_threshold: int | None = None

    def __post_init__(self) -> None:
        if self.source.version != self.sa_id.destination.version:
            raise invalid("SA event", f"{self.source} and {self.sa_id.destination} are of different families")
        in_range("SA event", "reqid", self.reqid, 2**32 - 1)
        in_range("SA event", "flags", self.flags, 2**32 - 1)
        in_range("SA event", "replay threshold", self.replay_threshold or 0, 2**32 - 1)
        in_range("SA event", "timer threshold", self.timer_threshold or 0, 2**32 - 1)


def _encode_head(sa_id: SaId, source: Address | None, reqid: int, flags: int) -> bytes:
    destination = sa_id.destination
    head = USERSA_ID.pack(
        pack_address(destination), sa_id.spi.to_bytes(4, "big"), family_of(destination.version), sa_id.protocol
    )
    return head + AEVENT_TAIL.pack(pack_address(source), flags, reqid)


def encode_get_async_event(sa_id: SaId) -> bytes:
    """Body of GETAE, for everything."""
    wanted = AsyncEventFlag.RTHR | AsyncEventFlag.RVAL | AsyncEventFlag.LVAL | AsyncEventFlag.ETHR
    return _encode_head(sa_id, None, 0, wanted) + pack_mark(sa_id.mark)


def encode_async_event(event: AsyncEvent) -> bytes:
    """Body of NEWAE. Raises XfrmError for one that sets nothing."""
    parts = []
    if event.replay is not None:
        if event.replay_window:
            parts.append(encode_replay_esn(event.replay, event.replay_window, whole=True))
        else:
            parts.append(encode_replay(event.replay, 0))
    if event.usage is not None:
        parts.append(pack_attribute(Attribute.LTIME_VAL, pack_usage(event.usage)))
    if event.replay_threshold is not None:
        parts.append(pack_u32(Attribute.REPLAY_THRESH, event.replay_threshold))
    if event.timer_threshold is not None:
        parts.append(pack_u32(Attribute.ETIMER_THRESH, event.timer_threshold))
    if not parts:
        raise invalid(f"set SA {event.sa_id}", "nothing is to be set")
    head = _encode_head(event.sa_id, event.source, event.reqid, event.flags)
    return head + b"".join(parts) + pack_mark(event.sa_id.mark)


def decode_async_event(body: bytes) -> AsyncEvent:
    """From NEWAE, as answer or notification. Raises XfrmError."""
    if len(body) < AEVENT_ID_SIZE:
        raise malformed("read an SA event", f"{len(body)} of {AEVENT_ID_SIZE} bytes")
    daddr, spi, family, protocol = USERSA_ID.unpack_from(body)
    saddr, flags, reqid = AEVENT_TAIL.unpack_from(body, USERSA_ID.size)
    found = attributes(body, AEVENT_ID_SIZE)
    window, replay = decode_replay(found)
    usage = None
    if (payload := found.get(Attribute.LTIME_VAL)) is not None:
        if len(payload) < LIFETIME_CUR.size:
            raise malformed("read an SA event", f"usage of {len(payload)} bytes")
        usage = unpack_usage(payload, 0)

    def number(kind: Attribute) -> int | None:
        return unpack_u32(kind, found[kind]) if kind in found else None

    return AsyncEvent(
        sa_id=SaId(
            destination=unpack_address(daddr, family),
            spi=int.from_bytes(spi, "big"),
            protocol=protocol,
            mark=unpack_mark(found[Attribute.MARK]) if Attribute.MARK in found else None,
        ),
        source=unpack_address(saddr, family),
        reqid=reqid,
        flags=AsyncEventFlag(flags),
        replay=replay,
        replay_window=window,
        usage=usage,
        replay_threshold=number(Attribute.REPLAY_THRESH),
        timer_threshold=number(Attribute.ETIMER_THRESH),
    )
