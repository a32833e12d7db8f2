"""The two databases as wholes: how many entries, their hash tables, and what becomes of packets that match no policy.

GETSADINFO, GETSPDINFO, NEWSPDINFO, GETDEFAULT and SETDEFAULT of net/xfrm/xfrm_user.c.
"""

from dataclasses import dataclass

from .attributes import attributes, fixed, pack_attribute
from .constants import DefaultAction, SadAttribute, SpdAttribute
from .errors import malformed
from .structs import HASH_INFO, HASH_THRESHOLD, SPD_INFO, U32, USERPOLICY_DEFAULT
from .values import in_range

_ASK = U32.pack(0xFFFFFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class HashTable:
    """Buckets there are, and the most there may be."""

    buckets: int
    most_buckets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HashThreshold:
    """From which prefix lengths on policies are hashed rather than looked through one by one: `local` is the source
    of an outgoing packet. 32 and 32 (128 and 128) hash policies of single hosts alone, the kernel's own choice."""

    local: int
    remote: int

    def __post_init__(self) -> None:
        in_range("hash threshold", "local", self.local, 128)
        in_range("hash threshold", "remote", self.remote, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class SadInfo:
    """The SAD: how many SAs, larval ones too."""

    sas: int
    hash_table: HashTable | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpdInfo:
    """The SPD: policies by direction; `socket_*` those of single sockets."""

    policies_in: int
    policies_out: int
    policies_fwd: int
    socket_in: int
    socket_out: int
    socket_fwd: int
    hash_table: HashTable | None
    threshold_v4: HashThreshold | None
    threshold_v6: HashThreshold | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many there are: SAs, and policies by direction; `socket_policies` of single sockets."""

    sas: int
    policies_in: int
    policies_out: int
    policies_fwd: int
    socket_policies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultPolicy:
    """What happens to packets that no policy matches. UNSPEC, when set, leaves a direction as it is."""

    incoming: DefaultAction
    forwarded: DefaultAction
    outgoing: DefaultAction


def encode_info_request() -> bytes:
    """Body of GETSADINFO and GETSPDINFO."""
    return _ASK


def decode_sad_info(body: bytes) -> SadInfo:
    found = attributes(body, U32.size)
    if (count := found.get(SadAttribute.CNT)) is None:
        raise malformed("read the SAD's size", "the answer has no count")
    return SadInfo(sas=fixed(U32, SadAttribute.CNT, count)[0], hash_table=_hash_table(found.get(SadAttribute.HINFO)))


def decode_spd_info(body: bytes) -> SpdInfo:
    found = attributes(body, U32.size)
    if (counts := found.get(SpdAttribute.INFO)) is None:
        raise malformed("read the SPD's size", "the answer has no count")
    incoming, outgoing, forwarded, socket_in, socket_out, socket_fwd = fixed(SPD_INFO, SpdAttribute.INFO, counts)
    return SpdInfo(
        policies_in=incoming,
        policies_out=outgoing,
        policies_fwd=forwarded,
        socket_in=socket_in,
        socket_out=socket_out,
        socket_fwd=socket_fwd,
        hash_table=_hash_table(found.get(SpdAttribute.HINFO)),
        threshold_v4=_threshold(found.get(SpdAttribute.IPV4_HTHRESH)),
        threshold_v6=_threshold(found.get(SpdAttribute.IPV6_HTHRESH)),
    )


def _hash_table(payload: bytes | None) -> HashTable | None:
    if payload is None:
        return None
    buckets, most = fixed(HASH_INFO, SadAttribute.HINFO, payload)
    return HashTable(buckets=buckets, most_buckets=most)


def _threshold(payload: bytes | None) -> HashThreshold | None:
    if payload is None:
        return None
    local, remote = fixed(HASH_THRESHOLD, SpdAttribute.IPV4_HTHRESH, payload)
    return HashThreshold(local=local, remote=remote)


def encode_thresholds(v4: HashThreshold | None, v6: HashThreshold | None) -> bytes:
    """Body of NEWSPDINFO; None leaves that family as it is. Raises XfrmError for a length that IPv4 has not."""
    parts = [_ASK]
    if v4 is not None:
        in_range("hash threshold", "local of IPv4", v4.local, 32)
        in_range("hash threshold", "remote of IPv4", v4.remote, 32)
        parts.append(pack_attribute(SpdAttribute.IPV4_HTHRESH, HASH_THRESHOLD.pack(v4.local, v4.remote)))
    if v6 is not None:
        parts.append(pack_attribute(SpdAttribute.IPV6_HTHRESH, HASH_THRESHOLD.pack(v6.local, v6.remote)))
    return b"".join(parts)


def counts_of(sad: SadInfo, spd: SpdInfo) -> Counts:
    return Counts(
        sas=sad.sas,
        policies_in=spd.policies_in,
        policies_out=spd.policies_out,
        policies_fwd=spd.policies_fwd,
        socket_policies=spd.socket_in + spd.socket_out + spd.socket_fwd,
    )


def encode_default_policy(default: DefaultPolicy | None = None) -> bytes:
    """Body of SETDEFAULT, or without one of GETDEFAULT."""
    if default is None:
        return bytes(USERPOLICY_DEFAULT.size)
    return USERPOLICY_DEFAULT.pack(default.incoming, default.forwarded, default.outgoing)


def decode_default_policy(body: bytes) -> DefaultPolicy:
    """From GETDEFAULT, as answer or notification. Raises XfrmError."""
    if len(body) < 3:
        raise malformed("read the default policy", f"{len(body)} bytes")
    try:
        incoming, forwarded, outgoing = (DefaultAction(value) for value in body[:3])
    except ValueError as error:
        raise malformed("read the default policy", str(error)) from None
    return DefaultPolicy(incoming=incoming, forwarded=forwarded, outgoing=outgoing)
