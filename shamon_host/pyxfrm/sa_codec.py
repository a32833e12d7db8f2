"""SAs to and from the bytes of NEWSA, UPDSA, GETSA, DELSA and ALLOCSPI (net/xfrm/xfrm_user.c).

A body is everything after the netlink header. Decoding keeps no keys.
"""

from .association import SaId, SecurityAssociation
from .attributes import (
    attributes,
    fixed,
    iterate_attributes,
    pack_algorithm,
    pack_algorithm_icv,
    pack_attribute,
    pack_interface_id,
    pack_mark,
    pack_security_context,
    pack_u32,
    unpack_algorithm,
    unpack_mark,
    unpack_security_context,
    unpack_u32,
)
from .constants import PROTO_ALL, Attribute, Mode, SaFlag
from .errors import invalid, malformed
from .structs import (
    ID,
    LIFETIME_CFG,
    LIFETIME_CUR,
    REPLAY_STATE,
    REPLAY_STATE_ESN,
    SELECTOR,
    SPI_RANGE,
    STATS,
    USERSA_FLUSH,
    USERSA_ID,
    USERSA_INFO_SIZE,
    USERSA_LIFETIME_OFFSET,
    USERSA_TAIL,
    family_of,
    pack_address,
    pack_lifetime,
    pack_selector,
    pack_spi,
    pack_usage,
    unpack_address,
    unpack_lifetime,
    unpack_selector,
    unpack_usage,
)
from .values import Address, Algorithm, Lifetime, Replay, Selector

_MODELLED = frozenset(
    {
        Attribute.ALG_AUTH,
        Attribute.ALG_CRYPT,
        Attribute.ALG_COMP,
        Attribute.ALG_AEAD,
        Attribute.ALG_AUTH_TRUNC,
        Attribute.SEC_CTX,
        Attribute.REPLAY_VAL,
        Attribute.REPLAY_ESN_VAL,
        Attribute.SA_EXTRA_FLAGS,
        Attribute.MARK,
        Attribute.IF_ID,
        # Kernel's own accounts and padding.
        Attribute.LASTUSED,
        Attribute.LTIME_VAL,
        Attribute.PAD,
        # Around an SA in notifications.
        Attribute.SA,
    }
)
_LEGACY_WINDOW_MAX = 32
"""Packets that struct xfrm_replay_state's bitmap holds."""


def _needs_esn_attribute(sa: SecurityAssociation) -> bool:
    return bool(sa.flags & SaFlag.ESN) or sa.replay_window > _LEGACY_WINDOW_MAX


def _encode_info(sa: SecurityAssociation) -> bytes:
    return b"".join(
        (
            pack_selector(sa.selector),
            ID.pack(pack_address(sa.destination), pack_spi(sa.spi), sa.protocol),
            pack_address(sa.source),
            pack_lifetime(sa.lifetime),
            pack_usage(sa.usage),
            bytes(STATS.size),
            USERSA_TAIL.pack(
                sa.sequence,
                sa.reqid,
                family_of(sa.destination.version),
                sa.mode,
                0 if _needs_esn_attribute(sa) else sa.replay_window,
                sa.flags,
            ),
        )
    )


def encode_sa(sa: SecurityAssociation) -> bytes:
    """Body of NEWSA or UPDSA. Raises XfrmError for what cannot be installed."""
    if sa.unmodelled:
        raise invalid(f"install SA {sa.id}", "it was read with attributes that are not modelled here")
    if sa.flags & SaFlag.ESN and not sa.replay_window:
        raise invalid(f"install SA {sa.id}", "ESN needs a replay window of at least 1 packet")
    replay = b""
    if _needs_esn_attribute(sa):
        words = (sa.replay_window + 31) // 32
        # The kernel starts with an empty bitmap if none follows (xfrm_alloc_replay_state_esn).
        state = REPLAY_STATE_ESN.pack(words, 0, 0, 0, 0, sa.replay_window)
        replay = pack_attribute(Attribute.REPLAY_ESN_VAL, state)
    return b"".join(
        (
            _encode_info(sa),
            pack_algorithm_icv(Attribute.ALG_AEAD, sa.aead),
            pack_algorithm_icv(Attribute.ALG_AUTH_TRUNC, sa.auth),
            pack_algorithm(Attribute.ALG_CRYPT, sa.cipher),
            pack_algorithm(Attribute.ALG_COMP, sa.compression),
            pack_security_context(sa.security_context),
            replay,
            pack_u32(Attribute.SA_EXTRA_FLAGS, sa.extra_flags) if sa.extra_flags else b"",
            pack_mark(sa.mark),
            pack_interface_id(sa.interface_id),
        )
    )


def encode_sa_id(sa_id: SaId) -> bytes:
    """Body of DELSA or GETSA."""
    return USERSA_ID.pack(
        pack_address(sa_id.destination), pack_spi(sa_id.spi), family_of(sa_id.destination.version), sa_id.protocol
    ) + pack_mark(sa_id.mark)


def encode_flush(protocol: int = PROTO_ALL) -> bytes:
    """Body of FLUSHSA."""
    return USERSA_FLUSH.pack(protocol)


def encode_alloc_spi(
    *, source: Address, destination: Address, protocol: int, mode: Mode, reqid: int, first: int, last: int
) -> bytes:
    """Body of ALLOCSPI."""
    placeholder = SecurityAssociation(
        source=source, destination=destination, spi=0, protocol=protocol, mode=mode, reqid=reqid
    )
    return _encode_info(placeholder) + SPI_RANGE.pack(first, last)


def encode_renewal(body: bytes, lifetime: Lifetime) -> bytes:
    """Body of UPDSA made from that of NEWSA: everything as the kernel reported it, with other limits.

    Keys pass through as bytes and are not looked at.
    """
    head = bytearray(body[:USERSA_INFO_SIZE])
    head[USERSA_LIFETIME_OFFSET : USERSA_LIFETIME_OFFSET + LIFETIME_CFG.size] = pack_lifetime(lifetime)
    kept = (
        pack_attribute(kind, payload)
        for kind, payload in iterate_attributes(body, USERSA_INFO_SIZE)
        if kind not in (Attribute.LASTUSED, Attribute.PAD)
    )
    return bytes(head) + b"".join(kept)


def _decode_replay(found: dict[int, bytes], window: int) -> tuple[int, Replay | None]:
    if (payload := found.get(Attribute.REPLAY_ESN_VAL)) is not None:
        _words, oseq, seq, oseq_hi, seq_hi, window = fixed(REPLAY_STATE_ESN, Attribute.REPLAY_ESN_VAL, payload)
        return window, Replay(sent=oseq_hi << 32 | oseq, received=seq_hi << 32 | seq)
    if (payload := found.get(Attribute.REPLAY_VAL)) is not None:
        oseq, seq, _bitmap = fixed(REPLAY_STATE, Attribute.REPLAY_VAL, payload)
        return window, Replay(sent=oseq, received=seq)
    return window, None


def _plain_selector(selector: Selector | None, version: int) -> Selector | None:
    """The kernel fills in the family of an empty selector: read it back as what was asked for."""
    return None if selector == Selector.any(version) else selector


def decode_sa(body: bytes, attribute_offset: int = USERSA_INFO_SIZE) -> SecurityAssociation:
    """An SA from the body of NEWSA, UPDSA or EXPIRE. Raises XfrmError if it cannot be understood whole."""
    if len(body) < max(USERSA_INFO_SIZE, attribute_offset):
        raise malformed("read an SA", f"{len(body)} of {attribute_offset} bytes")
    offset = SELECTOR.size
    daddr, spi, protocol = ID.unpack_from(body, offset)
    offset += ID.size
    saddr = body[offset : offset + 16]
    lifetime_at = USERSA_LIFETIME_OFFSET
    usage_at = lifetime_at + LIFETIME_CFG.size
    tail_at = usage_at + LIFETIME_CUR.size + STATS.size
    sequence, reqid, family, mode, window, flags = USERSA_TAIL.unpack_from(body, tail_at)
    found = attributes(body, attribute_offset)
    window, replay = _decode_replay(found, window)
    destination = unpack_address(daddr, family)

    def algorithm(kind: Attribute) -> Algorithm | None:
        return unpack_algorithm(kind, found[kind]) if kind in found else None

    def number(kind: Attribute) -> int:
        return unpack_u32(kind, found[kind]) if kind in found else 0

    try:
        return SecurityAssociation(
            source=unpack_address(saddr, family),
            destination=destination,
            spi=int.from_bytes(spi, "big"),
            protocol=protocol,
            mode=Mode(mode),
            reqid=reqid,
            selector=_plain_selector(unpack_selector(body, 0, family), destination.version),
            aead=algorithm(Attribute.ALG_AEAD),
            auth=algorithm(Attribute.ALG_AUTH_TRUNC) or algorithm(Attribute.ALG_AUTH),
            cipher=algorithm(Attribute.ALG_CRYPT),
            compression=algorithm(Attribute.ALG_COMP),
            flags=SaFlag(flags),
            extra_flags=number(Attribute.SA_EXTRA_FLAGS),
            replay_window=window,
            lifetime=unpack_lifetime(body, lifetime_at),
            security_context=(
                unpack_security_context(found[Attribute.SEC_CTX]) if Attribute.SEC_CTX in found else None
            ),
            mark=unpack_mark(found[Attribute.MARK]) if Attribute.MARK in found else None,
            interface_id=number(Attribute.IF_ID),
            unmodelled=frozenset(found.keys() - _MODELLED),
            sequence=sequence,
            usage=unpack_usage(body, usage_at),
            replay=replay,
        )
    except ValueError as error:
        raise malformed("read an SA", str(error)) from None


def decode_sa_id(body: bytes) -> SaId:
    """From the body of a DELSA notification."""
    if len(body) < USERSA_ID.size:
        raise malformed("read an SA id", f"{len(body)} of {USERSA_ID.size} bytes")
    daddr, spi, family, protocol = USERSA_ID.unpack_from(body)
    found = attributes(body, USERSA_ID.size)
    return SaId(
        destination=unpack_address(daddr, family),
        spi=int.from_bytes(spi, "big"),
        protocol=protocol,
        mark=unpack_mark(found[Attribute.MARK]) if Attribute.MARK in found else None,
    )
