"""What pyxfrm packs it unpacks to the same; whatever else comes is an XfrmError; keys go in and never out."""

import struct
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.pyxfrm import (
    Acquire,
    Address,
    Algorithm,
    AsyncEvent,
    Direction,
    Drops,
    HashThreshold,
    Lifetime,
    Migration,
    Policy,
    PortMatch,
    Replay,
    SaDirection,
    SaFlag,
    SecurityAssociation,
    Selector,
    Template,
    XfrmError,
    aes_gcm,
)
from shamon_host.pyxfrm.acquire import decode_acquire, encode_acquire
from shamon_host.pyxfrm.async_event import decode_async_event, encode_async_event
from shamon_host.pyxfrm.attributes import iterate_attributes, pack_attribute, unpack_security_context
from shamon_host.pyxfrm.constants import Attribute
from shamon_host.pyxfrm.databases import (
    decode_default_policy,
    decode_sad_info,
    decode_spd_info,
    encode_thresholds,
)
from shamon_host.pyxfrm.migration import decode_migration, encode_migration
from shamon_host.pyxfrm.policy_codec import decode_policy, decode_policy_id, encode_policy, encode_policy_id
from shamon_host.pyxfrm.sa_decode import decode_deleted_sa, decode_sa, decode_sa_id
from shamon_host.pyxfrm.sa_encode import encode_renewal, encode_sa, encode_sa_id
from tests.examples import examples
from tests.unit.pyxfrm.strategies import (
    CONTEXTS,
    LIFETIMES,
    OPTIONAL_U32,
    U8,
    U32,
    addresses,
    associations,
    async_events,
    migrations,
    policies,
)

FEW = settings(max_examples=examples(40))


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
    for name in ("sequence", "replay_threshold", "timer_threshold"):
        assert getattr(decoded, name) == getattr(sa, name)
    assert sa.replay is None or decoded.replay == sa.replay
    for algorithm in (decoded.aead, decoded.auth, decoded.cipher, decoded.compression):
        assert algorithm is None or algorithm.key == b""


@FEW
@given(async_events())
def test_the_numbers_of_an_sa_come_back(event: AsyncEvent) -> None:
    assert decode_async_event(encode_async_event(event)) == event


@FEW
@given(migrations())
def test_a_migration_comes_back(migration: Migration) -> None:
    body = encode_migration(migration)
    assert decode_migration(body) == migration
    # As notification, each move is an attribute of its own.
    found = list(iterate_attributes(body, 64))
    packed = dict(found)[Attribute.MIGRATE]
    told = b"".join(pack_attribute(kind, payload) for kind, payload in found if kind != Attribute.MIGRATE)
    for start in range(0, len(packed), 76):
        told += pack_attribute(Attribute.MIGRATE, packed[start : start + 76])
    assert decode_migration(body[:64] + told) == migration


@FEW
@given(policies().filter(lambda policy: policy.templates), addresses(4), U32, CONTEXTS, OPTIONAL_U32)
def test_an_acquire_comes_back(
    policy: Policy, address: Address, sequence: int, context: str | None, cpu: int | None
) -> None:
    first = policy.templates[0]
    version = (first.destination or first.source or policy.selector.source).version
    address = address if version == 4 else IPv6Address(int(address))
    asked = Acquire(
        source=address,
        destination=address,
        protocol=50,
        selector=policy.selector,
        policy=replace(policy, security_context=None),
        sequence=sequence,
        security_context=context,
        cpu=cpu,
    )
    assert decode_acquire(encode_acquire(asked)) == asked


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
    for decode in (
        decode_sa,
        decode_sa_id,
        decode_deleted_sa,
        decode_policy,
        decode_policy_id,
        decode_acquire,
        decode_async_event,
        decode_migration,
        decode_sad_info,
        decode_spd_info,
        decode_default_policy,
        unpack_security_context,
    ):
        try:
            decode(body)
        except XfrmError:
            continue


@FEW
@given(
    st.one_of(
        associations().map(lambda sa: (encode_sa(sa), decode_sa)),
        policies().map(lambda policy: (encode_policy(policy), decode_policy)),
        migrations().map(lambda migration: (encode_migration(migration), decode_migration)),
        async_events().map(lambda event: (encode_async_event(event), decode_async_event)),
    ),
    st.data(),
)
def test_what_is_damaged_is_read_or_an_error(
    message: tuple[bytes, Callable[[bytes], object]], data: st.DataObject
) -> None:
    body, decode = bytearray(message[0]), message[1]
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(U8)
    try:
        decode(bytes(body[: data.draw(st.integers(0, len(body)))]))
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


def test_replay_state_that_does_not_fit_its_window_is_refused() -> None:
    with pytest.raises(XfrmError, match="4 words"):
        encode_sa(replace(SA, replay=Replay(sent=1, bitmap=(1,))))
    plain = replace(SA, flags=SaFlag.NONE, replay_window=32)
    with pytest.raises(XfrmError, match="without ESN"):
        encode_sa(replace(plain, replay=Replay(sent=2**32)))
    cut = pack_attribute(Attribute.REPLAY_ESN_VAL, struct.pack("=7I", 2, 5, 6, 1, 2, 64, 0))
    with pytest.raises(XfrmError, match="EBADMSG"):
        decode_sa(encode_sa(replace(plain, replay_window=0)) + cut)


def test_an_sa_for_sending_alone_has_no_replay_window() -> None:
    sa = replace(SA, replay_window=0, direction=SaDirection.OUT)
    assert decode_sa(encode_sa(sa)) == sa


def test_drops_are_read() -> None:
    body = bytearray(encode_sa(SA))
    body[192:204] = struct.pack("=3I", 1, 2, 3)
    assert decode_sa(bytes(body)).drops == Drops(outside_window=1, replayed=2, wrong_icv=3)


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
        {"tfc_padding": 2**32},
        {"cpu": -1},
        {"flags": 256},
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
    with pytest.raises(XfrmError, match=r"0\.\.0x20"):
        encode_thresholds(HashThreshold(local=33, remote=0), None)
    with pytest.raises(XfrmError, match="70000 bytes"):
        encode_sa(replace(SA, aead=Algorithm(name="x", key=bytes(70000))))
    with pytest.raises(XfrmError, match="nothing"):
        encode_async_event(AsyncEvent(sa_id=SA.id, source=SA.source))
    with pytest.raises(XfrmError, match="replay window"):
        encode_sa(replace(SA, replay_window=0))
