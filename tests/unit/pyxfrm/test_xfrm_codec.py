"""What pyxfrm packs it unpacks to the same; whatever else comes is an XfrmError; keys go in and never out."""

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.pyxfrm import (
    Action,
    Address,
    Algorithm,
    Direction,
    Lifetime,
    Mark,
    Mode,
    Policy,
    PolicyFlag,
    PolicyType,
    PortMatch,
    Prefix,
    Replay,
    SaFlag,
    SecurityAssociation,
    Selector,
    Template,
    XfrmError,
    aes_gcm,
)
from shamon_host.pyxfrm.attributes import pack_attribute, unpack_security_context
from shamon_host.pyxfrm.constants import Attribute
from shamon_host.pyxfrm.policy_codec import decode_policy, decode_policy_id, encode_policy, encode_policy_id
from shamon_host.pyxfrm.sa_decode import decode_sa, decode_sa_id
from shamon_host.pyxfrm.sa_encode import encode_renewal, encode_sa, encode_sa_id
from tests.examples import examples

U8, U32 = st.integers(0, 0xFF), st.integers(0, 0xFFFFFFFF)
FEW = settings(max_examples=examples(40))
PORTS = st.none() | st.builds(PortMatch, port=st.integers(1, 0xFFFF), mask=st.integers(0, 0xFFFF))
CONTEXTS = st.none() | st.text("abc_é:0", min_size=1, max_size=60)
MARKS = st.none() | st.builds(Mark, value=U32, mask=U32)
AMOUNTS = st.none() | st.integers(0, 2**64 - 2)
SECONDS = st.none() | st.integers(1, 2**63)
LIFETIMES = st.builds(
    Lifetime,
    soft_bytes=AMOUNTS,
    hard_bytes=AMOUNTS,
    soft_packets=AMOUNTS,
    hard_packets=AMOUNTS,
    soft_add_s=SECONDS,
    hard_add_s=SECONDS,
    soft_use_s=SECONDS,
    hard_use_s=SECONDS,
)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789()-", min_size=1, max_size=63)
KEYS = st.binary(max_size=64)
PLAIN_ALGORITHMS = st.none() | st.builds(Algorithm, name=NAMES, key=KEYS)
ICV_ALGORITHMS = st.none() | st.builds(Algorithm, name=NAMES, key=KEYS, icv_bits=st.integers(0, 512))


def addresses(version: int) -> st.SearchStrategy[Address]:
    return st.ip_addresses(v=4) if version == 4 else st.ip_addresses(v=6)


def prefixes(version: int) -> st.SearchStrategy[Prefix]:
    if version == 4:
        return st.builds(lambda a, n: IPv4Interface((a, n)), st.ip_addresses(v=4), st.integers(0, 32))
    return st.builds(lambda a, n: IPv6Interface((a, n)), st.ip_addresses(v=6), st.integers(0, 128))


def selectors(version: int) -> st.SearchStrategy[Selector]:
    return st.builds(
        Selector,
        source=prefixes(version),
        destination=prefixes(version),
        protocol=U8,
        source_port=PORTS,
        destination_port=PORTS,
        interface_index=st.integers(0, 2**31 - 1),
        user=U32,
    )


def templates(version: int) -> st.SearchStrategy[Template]:
    some = st.none() | addresses(version).filter(lambda address: int(address) != 0)
    return st.builds(
        Template,
        source=some,
        destination=some,
        spi=U32,
        protocol=U8,
        mode=st.sampled_from(Mode),
        reqid=U32,
        optional=st.booleans(),
        share=U8,
        auth_algorithms=U32,
        cipher_algorithms=U32,
        compression_algorithms=U32,
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    version = draw(st.sampled_from((4, 6)))
    return Policy(
        selector=draw(selectors(version)),
        direction=draw(st.sampled_from(Direction)),
        action=draw(st.sampled_from(Action)),
        priority=draw(U32),
        templates=tuple(draw(st.lists(templates(version), max_size=6))),
        security_context=draw(CONTEXTS),
        lifetime=draw(LIFETIMES),
        flags=PolicyFlag(draw(st.integers(0, 3))),
        share=draw(U8),
        type=draw(st.sampled_from(PolicyType)),
        mark=draw(MARKS),
        interface_id=draw(U32),
        index=draw(U32),
    )


@st.composite
def associations(draw: st.DrawFn) -> SecurityAssociation:
    version = draw(st.sampled_from((4, 6)))
    selector = draw(st.none() | selectors(version))
    return SecurityAssociation(
        source=draw(addresses(version)),
        destination=draw(addresses(version)),
        spi=draw(U32),
        protocol=draw(U8),
        mode=draw(st.sampled_from(Mode)),
        reqid=draw(U32),
        selector=None if selector == Selector.any(version) else selector,
        aead=draw(ICV_ALGORITHMS),
        auth=draw(ICV_ALGORITHMS),
        cipher=draw(PLAIN_ALGORITHMS),
        compression=draw(PLAIN_ALGORITHMS),
        flags=SaFlag(draw(U8)),
        extra_flags=draw(U32),
        replay_window=draw(st.integers(1, 4096)),
        lifetime=draw(LIFETIMES),
        security_context=draw(CONTEXTS),
        mark=draw(MARKS),
        interface_id=draw(U32),
        sequence=draw(U32),
    )


@FEW
@given(policies())
def test_a_policy_comes_back_as_it_was(policy: Policy) -> None:
    decoded = decode_policy(encode_policy(policy))
    assert decoded == policy
    assert decoded.index == policy.index


@FEW
@given(policies())
def test_the_name_of_a_policy_comes_back(policy: Policy) -> None:
    decoded = decode_policy_id(encode_policy_id(policy.id))
    assert (decoded.selector, decoded.direction) == (policy.selector, policy.direction)


@FEW
@given(associations())
def test_an_sa_comes_back_as_it_was_but_for_the_keys(sa: SecurityAssociation) -> None:
    decoded = decode_sa(encode_sa(sa))
    assert decoded == sa
    assert decoded.sequence == sa.sequence
    for algorithm in (decoded.aead, decoded.auth, decoded.cipher, decoded.compression):
        assert algorithm is None or algorithm.key == b""


@FEW
@given(associations())
def test_the_name_of_an_sa_comes_back(sa: SecurityAssociation) -> None:
    assert decode_sa_id(encode_sa_id(sa.id)) == sa.id


@FEW
@given(associations(), LIFETIMES)
def test_a_renewal_changes_the_limits_alone(sa: SecurityAssociation, lifetime: Lifetime) -> None:
    told = encode_sa(sa) + pack_attribute(Attribute.LASTUSED, bytes(8))
    renewal = encode_renewal(told, lifetime)
    assert decode_sa(renewal) == replace(sa, lifetime=lifetime)
    assert len(renewal) == len(encode_sa(sa))
    assert renewal == encode_sa(replace(sa, lifetime=lifetime))


@FEW
@given(st.binary(max_size=600))
def test_any_bytes_are_an_sa_or_an_error(body: bytes) -> None:
    for decode in (decode_sa, decode_sa_id, decode_policy, decode_policy_id, unpack_security_context):
        try:
            decode(body)
        except XfrmError:
            continue


@FEW
@given(associations(), st.data())
def test_a_damaged_sa_is_an_sa_or_an_error(sa: SecurityAssociation, data: st.DataObject) -> None:
    body = bytearray(encode_sa(sa))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(U8)
    try:
        decode_sa(bytes(body[: data.draw(st.integers(0, len(body)))]))
    except XfrmError:
        return


SA = SecurityAssociation(
    source=IPv4Address("192.0.2.1"),
    destination=IPv4Address("192.0.2.2"),
    spi=0x1001,
    aead=aes_gcm(b"\xa5" * 36),
    flags=SaFlag.ESN,
    replay_window=128,
)


def test_a_key_shows_nowhere() -> None:
    assert SA.aead is not None
    shown = repr(SA) + str(SA) + repr(SA.aead) + repr(SA.id)
    assert "a5" not in shown.lower().replace("\\xa5", "a5")
    assert SA.aead.key_bits == 288


def test_what_was_read_back_cannot_be_installed_without_its_key() -> None:
    with pytest.raises(XfrmError, match="not known"):
        encode_sa(decode_sa(encode_sa(SA)))


def test_64_bit_sequence_numbers() -> None:
    body = encode_sa(replace(SA, flags=SaFlag.NONE, replay_window=0))
    esn = pack_attribute(Attribute.REPLAY_ESN_VAL, struct.pack("=6I", 0, 5, 6, 1, 2, 64))
    assert decode_sa(body + esn).replay == Replay(sent=(1 << 32) + 5, received=(2 << 32) + 6)
    with_bitmap = pack_attribute(Attribute.REPLAY_ESN_VAL, struct.pack("=8I", 2, 5, 6, 1, 2, 64, 0x3F, 0))
    assert decode_sa(body + with_bitmap).replay == Replay(sent=(1 << 32) + 5, received=(2 << 32) + 6, bitmap=(0x3F, 0))
    legacy = pack_attribute(Attribute.REPLAY_VAL, struct.pack("=3I", 7, 8, 0xFF))
    assert decode_sa(body + legacy).replay == Replay(sent=7, received=8, bitmap=(0xFF,))


def test_an_attribute_that_is_not_modelled_makes_a_difference() -> None:
    plain = replace(SA, flags=SaFlag.NONE, replay_window=0)
    newer = decode_sa(encode_sa(plain) + pack_attribute(99, bytes(8)))
    assert newer.unmodelled == {99}
    assert newer != plain
    with pytest.raises(XfrmError, match="not modelled"):
        encode_sa(newer)


def test_an_empty_selector_with_a_family_is_no_selector() -> None:
    asked = replace(SA, selector=None)
    told = encode_sa(replace(SA, selector=Selector.any(4)))
    assert decode_sa(told) == asked


def test_a_selector_without_family_is_of_the_family_of_its_sa() -> None:
    body = bytearray(encode_sa(SA))
    body[0:4] = SA.destination.packed
    body[42] = 32
    selector = decode_sa(bytes(body)).selector
    assert selector is not None
    assert selector.destination == IPv4Interface("192.0.2.2/32")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        struct.pack("=HHBBH", 8, 8, 1, 1, 0),  # empty
        struct.pack("=HHBBH", 12, 8, 1, 1, 4) + b"ab",  # cut off
        struct.pack("=HHBBH", 10, 8, 1, 1, 4) + b"abc\0",  # two lengths
        struct.pack("=HHBBH", 12, 8, 2, 1, 4) + b"abc\0",  # not SELinux
        struct.pack("=HHBBH", 12, 8, 1, 1, 4) + b"a\0c\0",  # NUL inside
        struct.pack("=HHBBH", 10, 8, 1, 1, 2) + b"\xff\0",  # not UTF-8
    ],
)
def test_a_bad_security_context_is_refused(payload: bytes) -> None:
    with pytest.raises(XfrmError, match="EBADMSG"):
        unpack_security_context(payload)


@pytest.mark.parametrize("text", [b"abc", b"abc\0", b"abc\0\0"])
def test_a_security_context_comes_with_or_without_nul(text: bytes) -> None:
    header = struct.pack("=HHBBH", 8 + len(text), 8, 1, 1, len(text))
    assert unpack_security_context(header + text) == "abc"


@pytest.mark.parametrize(
    "wrong",
    [
        {"spi": -1},
        {"spi": 2**32},
        {"reqid": 2**32},
        {"replay_window": 4097},
        {"security_context": ""},
        {"security_context": "a\0b"},
        {"security_context": "x" * 4095},
        {"source": IPv6Address("::1")},
    ],
)
def test_values_that_fit_no_sa_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(XfrmError, match="EINVAL"):
        replace(SA, **wrong)  # type: ignore[arg-type]


def test_other_values_that_fit_nothing_are_refused() -> None:
    with pytest.raises(XfrmError, match="20, 28 or 36"):
        aes_gcm(bytes(32))
    with pytest.raises(XfrmError, match="1 or more seconds"):
        Lifetime(hard_add_s=0)
    with pytest.raises(XfrmError, match="families"):
        Selector(source=IPv4Interface("0.0.0.0/0"), destination=IPv6Interface("::/0"))
    with pytest.raises(XfrmError, match="families"):
        Template(source=ip_address("192.0.2.1"), destination=ip_address("::1"))
    with pytest.raises(XfrmError, match="0xffff"):
        PortMatch(port=65536)
    with pytest.raises(XfrmError, match="at most 6"):
        Policy(selector=Selector.any(4), direction=Direction.IN, templates=(Template(),) * 7)
    with pytest.raises(XfrmError, match="replay window"):
        encode_sa(replace(SA, replay_window=0))
