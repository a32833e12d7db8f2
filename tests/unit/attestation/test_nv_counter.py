"""The definition of the TPM's counter, byte by byte, and what is refused in its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.attestation.nv_counter import (
    COUNTER_ATTRIBUTES,
    COUNTER_INDEX,
    NvAttribute,
    NvCounter,
)
from shamon_host.domain.errors import BackendFailed

COUNTER = NvCounter()
DEFINED, WRITTEN = COUNTER.public(written=False), COUNTER.public(written=True)
BITS = 8 * len(DEFINED)
WRITTEN_BIT = 1 << 8 * len(DEFINED[10:]) + 29
ORDERLY, AUTHWRITE, PLATFORM_CREATE = 1 << 26, 1 << 2, 1 << 30


def test_it_is_defined_as_libtpms_gives_it_back() -> None:
    """TPMS_NV_PUBLIC that libtpms answered TPM2_NV_ReadPublic with, before and after the first increment."""
    assert DEFINED.hex() == "01935348" + "000b" + "02060012" + "0000" + "0008"
    assert WRITTEN.hex() == "01935348" + "000b" + "22060012" + "0000" + "0008"


def test_it_is_in_the_owners_range() -> None:
    assert 0x01800000 <= COUNTER_INDEX <= 0x01BFFFFF


def test_nobody_can_turn_it_back() -> None:
    assert not int(COUNTER_ATTRIBUTES) & (ORDERLY | AUTHWRITE | PLATFORM_CREATE)
    assert NvAttribute.WRITTEN not in COUNTER_ATTRIBUTES


def test_it_has_counted_once_it_was_written() -> None:
    assert not COUNTER.has_counted(DEFINED)
    assert COUNTER.has_counted(WRITTEN)


@given(st.sampled_from([DEFINED, WRITTEN]), st.integers(min_value=0, max_value=BITS - 1))
def test_any_other_bit_makes_it_another_index(public: bytes, bit: int) -> None:
    changed = (int.from_bytes(public, "big") ^ 1 << bit).to_bytes(len(public), "big")
    if 1 << bit == WRITTEN_BIT:
        assert COUNTER.has_counted(changed) is not COUNTER.has_counted(public)
        return
    with pytest.raises(BackendFailed, match="NV index 0x01935348") as caught:
        COUNTER.has_counted(changed)
    assert changed.hex() in caught.value.found


@given(st.binary(max_size=200).filter(lambda data: data not in (DEFINED, WRITTEN)))
def test_whatever_a_tpm_says_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(BackendFailed, match="tpm2_nvundefine -C o 0x01935348") as caught:
        COUNTER.has_counted(data)
    assert len(str(caught.value)) < 600


def test_a_counter_elsewhere_is_not_this_one() -> None:
    with pytest.raises(BackendFailed):
        NvCounter(index=COUNTER_INDEX + 1).has_counted(WRITTEN)


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_the_value_is_big_endian(value: int) -> None:
    assert COUNTER.value(value.to_bytes(8, "big")) == value


@given(st.binary(max_size=20).filter(lambda data: len(data) != 8))
def test_a_value_of_another_size_is_refused(data: bytes) -> None:
    with pytest.raises(BackendFailed, match="8 bytes"):
        COUNTER.value(data)
