"""Netlink attributes (type, length, value) and the values that XFRM puts into them.

Keys stop here: an algorithm read from the kernel keeps its name and lengths, the key bytes are never copied out.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache

from .constants import SEC_CTX_ALG_SELINUX, SEC_CTX_DOI_LSM, Attribute, OffloadFlag, PolicyType
from .errors import invalid, malformed
from .sa_options import Offload
from .structs import ALGO, ALGO_AUTH, MARK, OFFLOAD, POLICY_TYPE, SEC_CTX, U32
from .values import Algorithm, Mark

_HEADER = struct.Struct("=HH")
_U32_ATTRIBUTE = struct.Struct("=HHI")
_ALGO = struct.Struct("=HH" + ALGO.format[1:])
_ALGO_AUTH = struct.Struct("=HH" + ALGO_AUTH.format[1:])
_MARK = struct.Struct("=HHII")
_LENGTH_MAX = 0xFFFF
_TYPE_MASK = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""


def pack_attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = _HEADER.size + len(payload)
    if length > _LENGTH_MAX:
        raise invalid("pack an attribute", f"attribute {kind} has {len(payload)} bytes")
    return _HEADER.pack(length, kind) + payload + bytes(-length % 4)


def iterate_attributes(buffer: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute from `offset` to the end. Raises XfrmError for a length that does not fit."""
    end = len(buffer)
    while offset + 4 <= end:
        length, kind = _HEADER.unpack_from(buffer, offset)
        if length < 4 or offset + length > end:
            raise malformed("read attributes", f"length {length} at offset {offset} of {end}")
        yield kind & _TYPE_MASK, buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attributes(buffer: bytes, offset: int) -> dict[int, bytes]:
    """All attributes by type; the last one wins, as in the kernel's nla_parse."""
    return dict(iterate_attributes(buffer, offset))


def fixed(layout: struct.Struct, kind: int, payload: bytes) -> tuple[int, ...]:
    """Unpack a value that begins with `layout`."""
    if len(payload) < layout.size:
        raise malformed("read attributes", f"attribute {kind} has {len(payload)} of {layout.size} bytes")
    return layout.unpack_from(payload)


def pack_u32(kind: int, value: int) -> bytes:
    return _U32_ATTRIBUTE.pack(8, kind, value)


def unpack_u32(kind: int, payload: bytes) -> int:
    return fixed(U32, kind, payload)[0]


@lru_cache(256)
def pack_security_context(context: str | None) -> bytes:
    """XFRMA_SEC_CTX, or nothing. The terminating NUL is counted, as `ip xfrm` does: the kernel compares contexts of
    policies byte by byte, so an entry added here can be named there and the other way round."""
    if context is None:
        return b""
    text = context.encode() + b"\0"
    header = SEC_CTX.pack(SEC_CTX.size + len(text), Attribute.SEC_CTX, SEC_CTX_ALG_SELINUX, SEC_CTX_DOI_LSM, len(text))
    return pack_attribute(Attribute.SEC_CTX, header + text)


@lru_cache(256)
def unpack_security_context(payload: bytes) -> str:
    """Raises XfrmError if it is not SELinux's, or not as long as it says."""
    length, _exttype, algorithm, doi, text_length = fixed(SEC_CTX, Attribute.SEC_CTX, payload)
    if length != SEC_CTX.size + text_length or length > len(payload):
        raise malformed("read a security context", f"lengths {length}, {text_length} in {len(payload)} bytes")
    if (algorithm, doi) != (SEC_CTX_ALG_SELINUX, SEC_CTX_DOI_LSM):
        raise malformed("read a security context", f"algorithm {algorithm} of domain {doi} is not SELinux")
    # The kernel adds a NUL of its own and counts it: two for what was added with one.
    text = payload[SEC_CTX.size : length].rstrip(b"\0")
    try:
        context = text.decode()
    except UnicodeDecodeError:
        raise malformed("read a security context", f"not UTF-8: {text!r}") from None
    if not context or "\0" in context:
        raise malformed("read a security context", f"empty or cut by a NUL: {text!r}")
    return context


def _key(algorithm: Algorithm) -> bytes:
    if algorithm.key_bits != len(algorithm.key) * 8:
        raise invalid("pack an algorithm", f"the key of {algorithm.name} is not known: it was read from the kernel")
    if len(algorithm.key) > _LENGTH_MAX - _ALGO_AUTH.size:
        raise invalid("pack an algorithm", f"the key of {algorithm.name} has {len(algorithm.key)} bytes")
    return algorithm.key


def pack_algorithm(kind: int, algorithm: Algorithm | None) -> bytes:
    """struct xfrm_algo, without ICV length, or nothing."""
    if algorithm is None:
        return b""
    key = _key(algorithm)
    length = _ALGO.size + len(key)
    return _ALGO.pack(length, kind, algorithm.name.encode(), algorithm.key_bits) + key + bytes(-length % 4)


def pack_algorithm_icv(kind: int, algorithm: Algorithm | None) -> bytes:
    """struct xfrm_algo_auth or xfrm_algo_aead, which look the same, or nothing."""
    if algorithm is None:
        return b""
    key = _key(algorithm)
    length = _ALGO_AUTH.size + len(key)
    head = _ALGO_AUTH.pack(length, kind, algorithm.name.encode(), algorithm.key_bits, algorithm.icv_bits)
    return head + key + bytes(-length % 4)


def unpack_algorithm(kind: int, payload: bytes) -> Algorithm:
    """Either layout. The key stays behind."""
    icv_bits = 0
    if kind in (Attribute.ALG_AEAD, Attribute.ALG_AUTH_TRUNC):
        if len(payload) < ALGO_AUTH.size:
            raise malformed("read an algorithm", f"{len(payload)} bytes")
        name, key_bits, icv_bits = ALGO_AUTH.unpack_from(payload)
    else:
        if len(payload) < ALGO.size:
            raise malformed("read an algorithm", f"{len(payload)} bytes")
        name, key_bits = ALGO.unpack_from(payload)
    return _algorithm_of(name, key_bits, icv_bits)


@lru_cache(256)
def _algorithm_of(name: bytes, key_bits: int, icv_bits: int) -> Algorithm:
    text = name.split(b"\0", 1)[0].decode("ascii", "backslashreplace")
    return Algorithm(name=text, key_bits=key_bits, icv_bits=icv_bits)


def pack_mark(mark: Mark | None) -> bytes:
    return b"" if mark is None else _MARK.pack(_MARK.size, Attribute.MARK, mark.value, mark.mask)


def unpack_mark(payload: bytes) -> Mark:
    value, mask = fixed(MARK, Attribute.MARK, payload)
    return Mark(value=value, mask=mask)


def pack_interface_id(interface_id: int) -> bytes:
    return pack_u32(Attribute.IF_ID, interface_id) if interface_id else b""


def pack_policy_type(kind: int) -> bytes:
    """XFRMA_POLICY_TYPE; nothing for MAIN, which kernels without sub policies know only by its absence."""
    return pack_attribute(Attribute.POLICY_TYPE, POLICY_TYPE.pack(kind, 0, 0)) if kind else b""


def unpack_policy_type(found: dict[int, bytes]) -> PolicyType:
    """Raises ValueError for a type that is none."""
    payload = found.get(Attribute.POLICY_TYPE)
    return PolicyType.MAIN if payload is None else PolicyType(fixed(POLICY_TYPE, Attribute.POLICY_TYPE, payload)[0])


def pack_offload(offload: Offload | None) -> bytes:
    if offload is None:
        return b""
    return pack_attribute(Attribute.OFFLOAD_DEV, OFFLOAD.pack(offload.interface_index, offload.flags))


def unpack_offload(found: dict[int, bytes]) -> Offload | None:
    if (payload := found.get(Attribute.OFFLOAD_DEV)) is None:
        return None
    index, flags = fixed(OFFLOAD, Attribute.OFFLOAD_DEV, payload)
    return Offload(interface_index=index, flags=OffloadFlag(flags))
