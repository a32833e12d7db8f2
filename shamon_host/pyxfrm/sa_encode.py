"""SAs into the bytes of NEWSA, UPDSA, GETSA, DELSA, ALLOCSPI, EXPIRE and of a filtered dump (net/xfrm/xfrm_user.c).

A body is everything after the netlink header. Attributes stand in the order in which iproute2 can be made to send them.
"""

import struct

from .association import SaId, SecurityAssociation
from .attributes import (
    iterate_attributes,
    pack_algorithm,
    pack_algorithm_icv,
    pack_attribute,
    pack_interface_id,
    pack_mark,
    pack_offload,
    pack_security_context,
    pack_u32,
)
from .constants import PROTO_ALL, Attribute, Mode, SaDirection, SaFlag
from .errors import invalid
from .sa_options_codec import (
    encode_encapsulation,
    encode_iptfs,
    encode_output_mark,
    encode_replay,
    encode_replay_esn,
    pack_direction,
)
from .structs import (
    ADDRESS_FILTER,
    HARD,
    LIFETIME_CFG,
    REPLAY_STATE_ESN,
    SPI_RANGE,
    U8,
    USERSA_FLUSH,
    USERSA_ID,
    USERSA_INFO,
    USERSA_INFO_SIZE,
    USERSA_LIFETIME_OFFSET,
    family_of,
    pack_address,
    pack_lifetime,
    pack_selector,
    pack_spi,
)
from .values import UNLIMITED, Address, AddressFilter, Lifetime, Mark

_LEGACY_WINDOW_MAX = 32
"""Packets that struct xfrm_replay_state's bitmap holds."""
_ESN = int(SaFlag.ESN)
"""As an int: an operator of an enum takes longer than all of the packing."""
_NO_LIMITS = pack_lifetime(UNLIMITED)
_ESN_ATTRIBUTE = struct.Struct("=HH" + REPLAY_STATE_ESN.format[1:])


def _needs_esn_attribute(sa: SecurityAssociation) -> bool:
    return bool(int(sa.flags) & _ESN) or sa.replay_window > _LEGACY_WINDOW_MAX


def _encode_info(sa: SecurityAssociation, legacy_window: int) -> bytes:
    return USERSA_INFO.pack(
        pack_selector(sa.selector),
        pack_address(sa.destination),
        sa.spi.to_bytes(4, "big"),
        sa.protocol,
        pack_address(sa.source),
        _NO_LIMITS if sa.lifetime is UNLIMITED else pack_lifetime(sa.lifetime),
        sa.sequence,
        sa.reqid,
        family_of(sa.destination.version),
        sa.mode,
        legacy_window,
        sa.flags,
    )


def encode_sa(sa: SecurityAssociation) -> bytes:
    """Body of NEWSA or UPDSA. Raises XfrmError for what cannot be installed."""
    if sa.unmodelled:
        raise invalid(f"install SA {sa.id}", "it was read with attributes that are not modelled here")
    with_esn = _needs_esn_attribute(sa)
    if not sa.replay_window and with_esn and sa.direction is not SaDirection.OUT:
        raise invalid(f"install SA {sa.id}", "ESN needs a replay window of at least 1 packet")
    parts = [_encode_info(sa, 0 if with_esn else sa.replay_window)]
    if sa.aead is not None:
        parts.append(pack_algorithm_icv(Attribute.ALG_AEAD, sa.aead))
    if sa.auth is not None:
        if sa.auth.icv_bits:
            parts.append(pack_algorithm_icv(Attribute.ALG_AUTH_TRUNC, sa.auth))
        else:
            parts.append(pack_algorithm(Attribute.ALG_AUTH, sa.auth))
    parts += (
        pack_algorithm(Attribute.ALG_CRYPT, sa.cipher),
        pack_algorithm(Attribute.ALG_COMP, sa.compression),
        pack_security_context(sa.security_context),
    )
    if _has_options(sa):
        parts.extend(_encode_options(sa))
    if with_esn:
        parts.append(_encode_esn(sa))
    elif sa.replay is not None:
        parts.append(encode_replay(sa.replay, sa.replay_window))
    if sa.extra_flags:
        parts.append(pack_u32(Attribute.SA_EXTRA_FLAGS, sa.extra_flags))
    if sa.mark is not None:
        parts.append(pack_mark(sa.mark))
    if sa.interface_id:
        parts.append(pack_interface_id(sa.interface_id))
    if sa.output_mark is not None:
        parts.append(encode_output_mark(sa.output_mark))
    return b"".join(parts)


def _encode_esn(sa: SecurityAssociation) -> bytes:
    """An empty bitmap is left out: the kernel makes it (xfrm_alloc_replay_state_esn)."""
    words = (sa.replay_window + 31) // 32
    replay = sa.replay
    if replay is None:
        return _ESN_ATTRIBUTE.pack(_ESN_ATTRIBUTE.size, Attribute.REPLAY_ESN_VAL, words, 0, 0, 0, 0, sa.replay_window)
    if len(replay.bitmap) not in (0, words):
        raise invalid(f"install SA {sa.id}", f"a bitmap of {words} words is needed, not {len(replay.bitmap)}")
    return encode_replay_esn(replay, sa.replay_window)


def _has_options(sa: SecurityAssociation) -> bool:
    return not (
        sa.encapsulation is None
        and sa.care_of_address is None
        and sa.offload is None
        and sa.direction is None
        and sa.iptfs is None
        and sa.cpu is None
        and sa.replay_threshold is None
        and sa.timer_threshold is None
        and not (sa.tfc_padding or sa.nat_keepalive_s or sa.mapping_threshold_s)
    )


def _encode_options(sa: SecurityAssociation) -> list[bytes]:
    """What most SAs do not have."""
    parts = []
    if sa.encapsulation is not None:
        parts.append(encode_encapsulation(sa.encapsulation))
    if sa.care_of_address is not None:
        parts.append(pack_attribute(Attribute.COADDR, pack_address(sa.care_of_address)))
    parts.append(pack_offload(sa.offload))
    for kind, number in (
        (Attribute.TFCPAD, sa.tfc_padding or None),
        (Attribute.REPLAY_THRESH, sa.replay_threshold),
        (Attribute.ETIMER_THRESH, sa.timer_threshold),
        (Attribute.MTIMER_THRESH, sa.mapping_threshold_s or None),
        (Attribute.NAT_KEEPALIVE_INTERVAL, sa.nat_keepalive_s or None),
        (Attribute.SA_PCPU, sa.cpu),
    ):
        if number is not None:
            parts.append(pack_u32(kind, number))
    parts.append(pack_direction(sa.direction))
    if sa.iptfs is not None:
        parts.extend(encode_iptfs(sa.iptfs))
    return parts


def encode_sa_id(sa_id: SaId) -> bytes:
    """Body of DELSA or GETSA."""
    destination = sa_id.destination
    body = USERSA_ID.pack(
        pack_address(destination), sa_id.spi.to_bytes(4, "big"), family_of(destination.version), sa_id.protocol
    )
    if sa_id.mark is None and sa_id.source is None:
        return body
    source = b"" if sa_id.source is None else pack_attribute(Attribute.SRCADDR, pack_address(sa_id.source))
    return body + pack_mark(sa_id.mark) + source


def encode_flush(protocol: int = PROTO_ALL) -> bytes:
    """Body of FLUSHSA."""
    return USERSA_FLUSH.pack(protocol)


def encode_sa_filter(protocol: int = PROTO_ALL, addresses: AddressFilter | None = None) -> bytes:
    """Body of a dump of SAs: attributes alone."""
    parts = pack_attribute(Attribute.PROTO, U8.pack(protocol)) if protocol else b""
    if addresses is not None:
        packed = ADDRESS_FILTER.pack(
            pack_address(addresses.source.ip),
            pack_address(addresses.destination.ip),
            family_of(addresses.source.version),
            addresses.source.network.prefixlen,
            addresses.destination.network.prefixlen,
        )
        parts += pack_attribute(Attribute.ADDRESS_FILTER, packed)
    return parts


def encode_alloc_spi(
    *,
    source: Address,
    destination: Address,
    protocol: int,
    mode: Mode,
    reqid: int,
    first: int,
    last: int,
    sequence: int = 0,
    mark: Mark | None = None,
    interface_id: int = 0,
    direction: SaDirection | None = None,
    cpu: int | None = None,
) -> bytes:
    """Body of ALLOCSPI."""
    placeholder = SecurityAssociation(
        source=source,
        destination=destination,
        spi=0,
        protocol=protocol,
        mode=mode,
        reqid=reqid,
        sequence=sequence,
        cpu=cpu,
    )
    return b"".join(
        (
            _encode_info(placeholder, 0),
            SPI_RANGE.pack(first, last),
            pack_mark(mark),
            pack_interface_id(interface_id),
            pack_direction(direction),
            b"" if cpu is None else pack_u32(Attribute.SA_PCPU, cpu),
        )
    )


def encode_sa_expiry(sa_id: SaId, *, hard: bool) -> bytes:
    """Body of EXPIRE, with which a program ends an SA, or tells others that it will."""
    destination = sa_id.destination
    info = USERSA_INFO.pack(
        pack_selector(None),
        pack_address(destination),
        pack_spi(sa_id.spi),
        sa_id.protocol,
        bytes(16),
        bytes(LIFETIME_CFG.size),
        0,
        0,
        family_of(destination.version),
        0,
        0,
        0,
    )
    return info + HARD.pack(hard) + pack_mark(sa_id.mark)


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
