"""SAs from the bytes of NEWSA, UPDSA, DELSA and EXPIRE (net/xfrm/xfrm_user.c). Keys stay behind.

A body is everything after the netlink header.
"""

from dataclasses import replace

from .association import SaId, SecurityAssociation
from .attributes import (
    attributes,
    fixed,
    unpack_algorithm,
    unpack_mark,
    unpack_offload,
    unpack_security_context,
    unpack_u32,
)
from .constants import Attribute, ExtraFlag, Mode, SaDirection, SaFlag
from .errors import malformed
from .sa_options_codec import IPTFS, decode_encapsulation, decode_iptfs, decode_output_mark, decode_replay
from .structs import (
    ID,
    LIFETIME_CFG,
    SELECTOR,
    STATS,
    U8,
    U64,
    USERSA_ID,
    USERSA_INFO_SIZE,
    USERSA_LIFETIME_OFFSET,
    USERSA_TAIL,
    unpack_address,
    unpack_lifetime,
    unpack_selector,
    unpack_usage,
)
from .values import Address, Algorithm, Drops, Selector

_MODELLED = IPTFS | {
    Attribute.ALG_AUTH,
    Attribute.ALG_CRYPT,
    Attribute.ALG_COMP,
    Attribute.ALG_AEAD,
    Attribute.ALG_AUTH_TRUNC,
    Attribute.SEC_CTX,
    Attribute.REPLAY_VAL,
    Attribute.REPLAY_ESN_VAL,
    Attribute.REPLAY_THRESH,
    Attribute.ETIMER_THRESH,
    Attribute.MTIMER_THRESH,
    Attribute.SA_EXTRA_FLAGS,
    Attribute.MARK,
    Attribute.SET_MARK,
    Attribute.SET_MARK_MASK,
    Attribute.IF_ID,
    Attribute.ENCAP,
    Attribute.COADDR,
    Attribute.TFCPAD,
    Attribute.OFFLOAD_DEV,
    Attribute.SA_DIR,
    Attribute.NAT_KEEPALIVE_INTERVAL,
    Attribute.SA_PCPU,
    # Kernel's own accounts and padding.
    Attribute.LASTUSED,
    Attribute.LTIME_VAL,
    Attribute.PAD,
    # Around an SA in notifications.
    Attribute.SA,
}
_PLAIN = frozenset(
    {
        Attribute.ALG_AUTH,
        Attribute.ALG_CRYPT,
        Attribute.ALG_COMP,
        Attribute.ALG_AEAD,
        Attribute.ALG_AUTH_TRUNC,
        Attribute.SEC_CTX,
        Attribute.REPLAY_VAL,
        Attribute.REPLAY_ESN_VAL,
        Attribute.PAD,
        Attribute.SA,
    }
)
"""An SA with no more than these has no options."""
_TAIL_AT = USERSA_INFO_SIZE - USERSA_TAIL.size
_STATS_AT = _TAIL_AT - STATS.size
_NO_DROPS = Drops()


def _plain_selector(selector: Selector | None, version: int) -> Selector | None:
    """The kernel fills in the family of an empty selector: read it back as what was asked for."""
    return None if selector == Selector.any(version) else selector


def decode_sa(body: bytes, attribute_offset: int = USERSA_INFO_SIZE) -> SecurityAssociation:
    """An SA from the body of NEWSA, UPDSA or EXPIRE. Raises XfrmError if it cannot be understood whole."""
    if len(body) < max(USERSA_INFO_SIZE, attribute_offset):
        raise malformed("read an SA", f"{len(body)} of {attribute_offset} bytes")
    found = attributes(body, attribute_offset)
    try:
        sa = _decode(body, found)
        return sa if found.keys() <= _PLAIN else _with_options(sa, found)
    except ValueError as error:
        raise malformed("read an SA", str(error)) from None


def _decode(body: bytes, found: dict[int, bytes]) -> SecurityAssociation:
    daddr, spi, protocol = ID.unpack_from(body, SELECTOR.size)
    saddr = body[SELECTOR.size + ID.size : USERSA_LIFETIME_OFFSET]
    sequence, reqid, family, mode, window, flags = USERSA_TAIL.unpack_from(body, _TAIL_AT)
    window, replay = decode_replay(found, window)
    drops = STATS.unpack_from(body, _STATS_AT)
    destination = unpack_address(daddr, family)

    def algorithm(kind: Attribute) -> Algorithm | None:
        return unpack_algorithm(kind, found[kind]) if kind in found else None

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
        replay_window=window,
        lifetime=unpack_lifetime(body, USERSA_LIFETIME_OFFSET),
        security_context=unpack_security_context(found[Attribute.SEC_CTX]) if Attribute.SEC_CTX in found else None,
        sequence=sequence,
        replay=replay,
        usage=unpack_usage(body, USERSA_LIFETIME_OFFSET + LIFETIME_CFG.size),
        drops=Drops(outside_window=drops[0], replayed=drops[1], wrong_icv=drops[2]) if any(drops) else _NO_DROPS,
    )


def _with_options(sa: SecurityAssociation, found: dict[int, bytes]) -> SecurityAssociation:
    """What most SAs do not have."""
    family = 2 if sa.destination.version == 4 else 10

    def number(kind: Attribute) -> int:
        return unpack_u32(kind, found[kind]) if kind in found else 0

    def number_or_none(kind: Attribute) -> int | None:
        return unpack_u32(kind, found[kind]) if kind in found else None

    direction = None
    if (payload := found.get(Attribute.SA_DIR)) is not None:
        direction = SaDirection(fixed(U8, Attribute.SA_DIR, payload)[0])
    last_used = 0
    if (payload := found.get(Attribute.LASTUSED)) is not None:
        last_used = fixed(U64, Attribute.LASTUSED, payload)[0]
    return replace(
        sa,
        extra_flags=ExtraFlag(number(Attribute.SA_EXTRA_FLAGS)),
        mark=unpack_mark(found[Attribute.MARK]) if Attribute.MARK in found else None,
        output_mark=decode_output_mark(found),
        interface_id=number(Attribute.IF_ID),
        direction=direction,
        encapsulation=decode_encapsulation(found, family),
        care_of_address=_address(found, Attribute.COADDR, family),
        offload=unpack_offload(found),
        tfc_padding=number(Attribute.TFCPAD),
        nat_keepalive_s=number(Attribute.NAT_KEEPALIVE_INTERVAL),
        mapping_threshold_s=number(Attribute.MTIMER_THRESH),
        cpu=number_or_none(Attribute.SA_PCPU),
        iptfs=decode_iptfs(found),
        unmodelled=frozenset(found.keys() - _MODELLED),
        replay_threshold=number_or_none(Attribute.REPLAY_THRESH),
        timer_threshold=number_or_none(Attribute.ETIMER_THRESH),
        last_used=last_used,
    )


def _address(found: dict[int, bytes], kind: Attribute, family: int) -> Address | None:
    if (payload := found.get(kind)) is None:
        return None
    if len(payload) < 16:
        raise malformed("read attributes", f"attribute {kind} has {len(payload)} of 16 bytes")
    return unpack_address(payload[:16], family)


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
        source=_address(found, Attribute.SRCADDR, family),
    )


def decode_deleted_sa(body: bytes) -> SecurityAssociation | None:
    """The whole SA in a DELSA notification: its fixed part is an attribute, the others stand beside it
    (xfrm_notify_sa). None if it is not told."""
    found = attributes(body, USERSA_ID.size)
    fixed_part = found.get(Attribute.SA)
    return None if fixed_part is None else decode_sa(fixed_part[:USERSA_INFO_SIZE] + body[USERSA_ID.size :])
