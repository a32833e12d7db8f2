"""Parts of an SA's messages that have a form of their own, both ways: replay state, marks, encapsulation, IP-TFS."""

import struct

from .attributes import fixed, pack_attribute, pack_u32, unpack_u32
from .constants import Attribute, EncapsulationType, SaDirection
from .errors import invalid, malformed
from .sa_options import Encapsulation, IpTfs
from .structs import (
    ENCAP_TMPL,
    REPLAY_STATE,
    REPLAY_STATE_ESN,
    U8,
    U16,
    pack_address,
    unpack_address_or_any,
)
from .values import Mark, Replay

IPTFS = frozenset(
    {
        Attribute.IPTFS_DROP_TIME,
        Attribute.IPTFS_REORDER_WINDOW,
        Attribute.IPTFS_DONT_FRAG,
        Attribute.IPTFS_INIT_DELAY,
        Attribute.IPTFS_MAX_QSIZE,
        Attribute.IPTFS_PKT_SIZE,
    }
)


def encode_replay_esn(replay: Replay, window: int, *, whole: bool = False) -> bytes:
    """XFRMA_REPLAY_ESN_VAL; with `whole`, an empty bitmap is sent as zeros, which NEWAE demands."""
    words = (window + 31) // 32
    bitmap = replay.bitmap or ((0,) * words if whole else ())
    state = REPLAY_STATE_ESN.pack(
        words,
        replay.sent & 0xFFFFFFFF,
        replay.received & 0xFFFFFFFF,
        replay.sent >> 32,
        replay.received >> 32,
        window,
    )
    return pack_attribute(Attribute.REPLAY_ESN_VAL, state + struct.pack(f"={len(bitmap)}I", *bitmap))


def encode_replay(replay: Replay, window: int) -> bytes:
    """XFRMA_REPLAY_VAL, of an SA without ESN and with a window of at most 32."""
    if replay.sent >> 32 or replay.received >> 32 or len(replay.bitmap) > 1:
        raise invalid("pack replay state", f"numbers or bitmap are too large without ESN, window {window}")
    bitmap = replay.bitmap[0] if replay.bitmap else 0
    return pack_attribute(Attribute.REPLAY_VAL, REPLAY_STATE.pack(replay.sent, replay.received, bitmap))


def decode_replay(found: dict[int, bytes], window: int = 0) -> tuple[int, Replay | None]:
    """(replay window, state) of either form; `window` is that of the fixed part."""
    if (payload := found.get(Attribute.REPLAY_ESN_VAL)) is not None:
        words, oseq, seq, oseq_hi, seq_hi, window = fixed(REPLAY_STATE_ESN, Attribute.REPLAY_ESN_VAL, payload)
        bitmap: tuple[int, ...] = ()
        if len(payload) > REPLAY_STATE_ESN.size:
            if len(payload) != REPLAY_STATE_ESN.size + 4 * words:
                raise malformed("read replay state", f"{len(payload)} bytes for {words} words")
            bitmap = struct.unpack_from(f"={words}I", payload, REPLAY_STATE_ESN.size)
        return window, Replay(sent=oseq_hi << 32 | oseq, received=seq_hi << 32 | seq, bitmap=bitmap)
    if (payload := found.get(Attribute.REPLAY_VAL)) is not None:
        oseq, seq, bits = fixed(REPLAY_STATE, Attribute.REPLAY_VAL, payload)
        return window, Replay(sent=oseq, received=seq, bitmap=(bits,))
    return window, None


def encode_output_mark(mark: Mark) -> bytes:
    value = pack_u32(Attribute.SET_MARK, mark.value)
    return value if mark.mask == 0xFFFFFFFF else value + pack_u32(Attribute.SET_MARK_MASK, mark.mask)


def decode_output_mark(found: dict[int, bytes]) -> Mark | None:
    """Without a mask it is for the whole mark (xfrm_smark_init)."""
    if (value := found.get(Attribute.SET_MARK)) is None:
        return None
    mask = found.get(Attribute.SET_MARK_MASK)
    return Mark(
        value=unpack_u32(Attribute.SET_MARK, value),
        mask=0xFFFFFFFF if mask is None else unpack_u32(Attribute.SET_MARK_MASK, mask),
    )


def pack_direction(direction: SaDirection | None) -> bytes:
    """XFRMA_SA_DIR, or nothing."""
    return b"" if direction is None else pack_attribute(Attribute.SA_DIR, U8.pack(direction))


def encode_encapsulation(encapsulation: Encapsulation) -> bytes:
    """XFRMA_ENCAP."""
    packed = ENCAP_TMPL.pack(
        encapsulation.type,
        encapsulation.source_port.to_bytes(2, "big"),
        encapsulation.destination_port.to_bytes(2, "big"),
        pack_address(encapsulation.original_address),
    )
    return pack_attribute(Attribute.ENCAP, packed)


def encode_iptfs(iptfs: IpTfs) -> list[bytes]:
    parts = [pack_attribute(Attribute.IPTFS_DONT_FRAG, b"")] if iptfs.dont_fragment else []
    if iptfs.reorder_window is not None:
        parts.append(pack_attribute(Attribute.IPTFS_REORDER_WINDOW, U16.pack(iptfs.reorder_window)))
    for kind, number in (
        (Attribute.IPTFS_DROP_TIME, iptfs.drop_time_us),
        (Attribute.IPTFS_INIT_DELAY, iptfs.init_delay_us),
        (Attribute.IPTFS_MAX_QSIZE, iptfs.max_queue_bytes),
        (Attribute.IPTFS_PKT_SIZE, iptfs.packet_bytes),
    ):
        if number is not None:
            parts.append(pack_u32(kind, number))
    return parts


def decode_encapsulation(found: dict[int, bytes], family: int) -> Encapsulation | None:
    """XFRMA_ENCAP, None if it is not there."""
    if (payload := found.get(Attribute.ENCAP)) is None:
        return None
    if len(payload) < ENCAP_TMPL.size:
        raise malformed("read an encapsulation", f"{len(payload)} of {ENCAP_TMPL.size} bytes")
    kind, source_port, destination_port, original = ENCAP_TMPL.unpack_from(payload)
    return Encapsulation(
        type=EncapsulationType(kind),
        source_port=int.from_bytes(source_port, "big"),
        destination_port=int.from_bytes(destination_port, "big"),
        original_address=unpack_address_or_any(original, family),
    )


def decode_iptfs(found: dict[int, bytes]) -> IpTfs | None:
    if not IPTFS & found.keys():
        return None

    def number(kind: Attribute) -> int | None:
        return unpack_u32(kind, found[kind]) if kind in found else None

    window = found.get(Attribute.IPTFS_REORDER_WINDOW)
    return IpTfs(
        drop_time_us=number(Attribute.IPTFS_DROP_TIME),
        reorder_window=None if window is None else fixed(U16, Attribute.IPTFS_REORDER_WINDOW, window)[0],
        dont_fragment=Attribute.IPTFS_DONT_FRAG in found,
        init_delay_us=number(Attribute.IPTFS_INIT_DELAY),
        max_queue_bytes=number(Attribute.IPTFS_MAX_QSIZE),
        packet_bytes=number(Attribute.IPTFS_PKT_SIZE),
    )
