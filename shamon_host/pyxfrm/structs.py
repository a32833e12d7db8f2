"""The fixed parts of XFRM messages: struct layouts of include/uapi/linux/xfrm.h on 64-bit Linux.

Native byte order with the compiler's padding written out, because Python's own alignment does not pad a struct's end.
Fields marked __be in the header are packed as bytes. Each layout's size and offsets are checked against the C compiler
in the unit tests. Every `unpack_*` takes a buffer and an offset; the caller has checked the length.
"""

import struct
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_interface
from socket import AF_INET, AF_INET6, AF_UNSPEC

from .constants import INFINITE
from .errors import malformed
from .values import Address, Lifetime, PortMatch, Prefix, Selector, Usage

SELECTOR = struct.Struct("=16s16s2s2s2s2sHBBB3xiI")
ID = struct.Struct("=16s4sB3x")
LIFETIME_CFG = struct.Struct("=8Q")
LIFETIME_CUR = struct.Struct("=4Q")
STATS = struct.Struct("=3I")
"""struct xfrm_stats: packets outside the replay window, replays, wrong ICVs."""
REPLAY_STATE = struct.Struct("=3I")
REPLAY_STATE_ESN = struct.Struct("=6I")
"""Followed by bmp_len words."""
ALGO = struct.Struct("=64sI")
ALGO_AUTH = struct.Struct("=64sII")
"""Of auth with truncation, and of AEAD: name, key length, ICV length, both in bits. Followed by the key."""
MARK = struct.Struct("=II")
SEC_CTX = struct.Struct("=HHBBH")
"""struct xfrm_user_sec_ctx: len, exttype, alg, doi, ctx_len. Followed by the context."""
POLICY_TYPE = struct.Struct("=BxHBx")
USERSA_TAIL = struct.Struct("=IIHBBB7x")
"""Of struct xfrm_usersa_info after its stats: seq, reqid, family, mode, replay_window, flags."""
USERSA_ID = struct.Struct("=16s4sHBx")
SPI_RANGE = struct.Struct("=II")
USERSA_FLUSH = struct.Struct("=B3x")
"""One byte in C; the attributes start at the next multiple of four, so the padding belongs here."""
USERPOLICY_TAIL = struct.Struct("=IIBBBB4x")
"""Of struct xfrm_userpolicy_info after its usage: priority, index, dir, action, flags, share."""
USERPOLICY_ID_TAIL = struct.Struct("=IB3x")
USERPOLICY_DEFAULT = struct.Struct("=3Bx")
USER_TMPL = struct.Struct("=16s4sB3xH2x16sIBBBx3I")
ENCAP_TMPL = struct.Struct("=H2s2s2x16s")
OFFLOAD = struct.Struct("=iB3x")
AEVENT_TAIL = struct.Struct("=16sII")
"""Of struct xfrm_aevent_id after the SA's id: saddr, flags, reqid."""
USER_MIGRATE = struct.Struct("=16s16s16s16sBBHIHH")
KMADDRESS = struct.Struct("=16s16sIH2x")
MAPPING_TAIL = struct.Struct("=I16s16s2s2s")
"""Of struct xfrm_user_mapping after the SA's id: reqid, old and new address, old and new port."""
ADDRESS_FILTER = struct.Struct("=16s16sHBB")
REPORT_HEAD = struct.Struct("=B3x")
"""Of struct xfrm_user_report before the selector."""
HASH_INFO = struct.Struct("=II")
"""struct xfrmu_sadhinfo and xfrmu_spdhinfo."""
HASH_THRESHOLD = struct.Struct("=BB")
ACQUIRE_TAIL = struct.Struct("=4I")
"""Of struct xfrm_user_acquire after its policy: aalgos, ealgos, calgos, seq."""
SPD_INFO = struct.Struct("=6I")
"""struct xfrmu_spdinfo: in, out, fwd, then the same of sockets."""
U8 = struct.Struct("=B")
U16 = struct.Struct("=H")
U32 = struct.Struct("=I")
U64 = struct.Struct("=Q")
HARD = struct.Struct("=B7x")
"""Of EXPIRE and POLEXPIRE after the SA or policy."""

USERSA_INFO_SIZE = SELECTOR.size + ID.size + 16 + LIFETIME_CFG.size + LIFETIME_CUR.size + STATS.size + USERSA_TAIL.size
USERSA_LIFETIME_OFFSET = SELECTOR.size + ID.size + 16
USERPOLICY_INFO_SIZE = SELECTOR.size + LIFETIME_CFG.size + LIFETIME_CUR.size + USERPOLICY_TAIL.size
USERSA_INFO = struct.Struct("=56s16s4sB3x16s64s44xIIHBBB7x")
"""The whole of struct xfrm_usersa_info as it is sent: the kernel reads neither usage nor stats."""
USERPOLICY_INFO = struct.Struct("=56s64s32xIIBBBB4x")
USERPOLICY_ID_SIZE = SELECTOR.size + USERPOLICY_ID_TAIL.size
AEVENT_ID_SIZE = USERSA_ID.size + AEVENT_TAIL.size
MAPPING_SIZE = USERSA_ID.size + MAPPING_TAIL.size
REPORT_SIZE = REPORT_HEAD.size + SELECTOR.size
ACQUIRE_SIZE = ID.size + 16 + SELECTOR.size + USERPOLICY_INFO_SIZE + ACQUIRE_TAIL.size

_NO_ADDRESS = bytes(16)
_NO_SELECTOR = bytes(SELECTOR.size)
_PAD_IPV4 = bytes(12)
_FAMILY = {4: int(AF_INET), 6: int(AF_INET6)}
_VERSION = {int(AF_INET): 4, int(AF_INET6): 6}


def family_of(version: int) -> int:
    """AF_INET or AF_INET6."""
    return _FAMILY[version]


def pack_address(address: Address | None) -> bytes:
    """xfrm_address_t: an IPv4 address in the first four of its sixteen bytes."""
    if address is None:
        return _NO_ADDRESS
    return address.packed if address.version == 6 else address.packed + _PAD_IPV4


@lru_cache(4096)
def unpack_address(packed: bytes, family: int) -> Address:
    """Raises XfrmError for a family that is neither AF_INET nor AF_INET6."""
    match _VERSION.get(family):
        case 4:
            return IPv4Address(packed[:4])
        case 6:
            return IPv6Address(packed)
        case _:
            raise malformed("read an address", f"address family {family}")


def unpack_address_or_any(packed: bytes, family: int) -> Address | None:
    """None for the address of zeros, whatever the family."""
    return unpack_address(packed, family) if any(packed) else None


def pack_spi(spi: int) -> bytes:
    return spi.to_bytes(4, "big")


def _pack_port(match: PortMatch | None) -> tuple[bytes, bytes]:
    if match is None:
        return b"\0\0", b"\0\0"
    return match.port.to_bytes(2, "big"), match.mask.to_bytes(2, "big")


def _unpack_port(port: bytes, mask: bytes) -> PortMatch | None:
    if port == mask == b"\0\0":
        return None
    return PortMatch(port=int.from_bytes(port, "big"), mask=int.from_bytes(mask, "big"))


def pack_selector(selector: Selector | None) -> bytes:
    """None gives the all-zero selector, whose family the kernel fills in."""
    if selector is None:
        return _NO_SELECTOR
    return SELECTOR.pack(
        pack_address(selector.destination.ip),
        pack_address(selector.source.ip),
        *_pack_port(selector.destination_port),
        *_pack_port(selector.source_port),
        _FAMILY[selector.version],
        selector.destination.network.prefixlen,
        selector.source.network.prefixlen,
        selector.protocol,
        selector.interface_index,
        selector.user,
    )


def _unpack_prefix(packed: bytes, family: int, length: int) -> Prefix:
    address = unpack_address(packed, family)
    if length > address.max_prefixlen:
        raise malformed("read a selector", f"prefix length {length} of {address}")
    return ip_interface((address, length))


def unpack_selector(buffer: bytes, offset: int, default_family: int = AF_UNSPEC) -> Selector | None:
    """None for an empty selector of no family. One that is not empty is of `default_family`: the kernel leaves
    the family of a larval SA's selector out (xfrm_find_acq)."""
    (daddr, saddr, dport, dport_mask, sport, sport_mask, family, prefix_d, prefix_s, protocol, ifindex, user) = (
        SELECTOR.unpack_from(buffer, offset)
    )
    if family == AF_UNSPEC:
        if not any(buffer[offset : offset + SELECTOR.size]):
            return None
        family = default_family
    return Selector(
        source=_unpack_prefix(saddr, family, prefix_s),
        destination=_unpack_prefix(daddr, family, prefix_d),
        protocol=protocol,
        source_port=_unpack_port(sport, sport_mask),
        destination_port=_unpack_port(dport, dport_mask),
        interface_index=ifindex,
        user=user,
    )


def pack_lifetime(lifetime: Lifetime) -> bytes:
    """No limit is XFRM_INF for bytes and packets, 0 for seconds."""
    return LIFETIME_CFG.pack(
        INFINITE if lifetime.soft_bytes is None else lifetime.soft_bytes,
        INFINITE if lifetime.hard_bytes is None else lifetime.hard_bytes,
        INFINITE if lifetime.soft_packets is None else lifetime.soft_packets,
        INFINITE if lifetime.hard_packets is None else lifetime.hard_packets,
        lifetime.soft_add_s or 0,
        lifetime.hard_add_s or 0,
        lifetime.soft_use_s or 0,
        lifetime.hard_use_s or 0,
    )


def unpack_lifetime(buffer: bytes, offset: int) -> Lifetime:
    return _lifetime_of(buffer[offset : offset + LIFETIME_CFG.size])


@lru_cache(256)
def _lifetime_of(packed: bytes) -> Lifetime:
    values = LIFETIME_CFG.unpack(packed)
    amounts = [None if value == INFINITE else value for value in values[:4]]
    seconds = [value or None for value in values[4:]]
    return Lifetime(
        soft_bytes=amounts[0],
        hard_bytes=amounts[1],
        soft_packets=amounts[2],
        hard_packets=amounts[3],
        soft_add_s=seconds[0],
        hard_add_s=seconds[1],
        soft_use_s=seconds[2],
        hard_use_s=seconds[3],
    )


def pack_usage(usage: Usage) -> bytes:
    return LIFETIME_CUR.pack(usage.bytes, usage.packets, usage.add_time, usage.use_time)


def unpack_usage(buffer: bytes, offset: int) -> Usage:
    octets, packets, add_time, use_time = LIFETIME_CUR.unpack_from(buffer, offset)
    return Usage(bytes=octets, packets=packets, add_time=add_time, use_time=use_time)
