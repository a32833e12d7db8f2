"""PCR arithmetic: extend, initial values, selections, composite digest."""

import hashlib

import pytest

from shamon_host.attestation.pcr import (
    Bank,
    PcrError,
    PcrSelection,
    composite_digest,
    extend,
    initial_value,
    replay,
    require_pcr,
)


def test_extend_is_the_hash_over_value_and_digest() -> None:
    digest = hashlib.sha256(b"event").digest()
    assert extend(Bank.SHA256, bytes(32), digest) == hashlib.sha256(bytes(32) + digest).digest()


def test_replay_extends_in_order() -> None:
    one, two = hashlib.sha256(b"1").digest(), hashlib.sha256(b"2").digest()
    expected = extend(Bank.SHA256, extend(Bank.SHA256, bytes(32), one), two)
    assert replay(Bank.SHA256, [one, two], bytes(32)) == expected
    assert replay(Bank.SHA256, [two, one], bytes(32)) != expected
    assert replay(Bank.SHA256, [], bytes(32)) == bytes(32)


@pytest.mark.parametrize(("value", "digest"), [(bytes(20), bytes(32)), (bytes(32), bytes(20)), (b"", b"")])
def test_extend_refuses_what_is_not_of_the_bank(value: bytes, digest: bytes) -> None:
    with pytest.raises(PcrError, match="not of the sha256 bank"):
        extend(Bank.SHA256, value, digest)


@pytest.mark.parametrize("bank", list(Bank))
def test_initial_values(bank: Bank) -> None:
    assert initial_value(bank, 10) == bytes(bank.digest_size)
    assert initial_value(bank, 17) == b"\xff" * bank.digest_size
    assert initial_value(bank, 0, startup_locality=3) == bytes(bank.digest_size - 1) + b"\x03"
    assert initial_value(bank, 1, startup_locality=3) == bytes(bank.digest_size)
    assert Bank.of_algorithm_id(bank.algorithm_id) is bank
    assert len(bank.digest(b"")) == bank.digest_size


@pytest.mark.parametrize("pcr", [-1, 24])
def test_there_are_24_pcrs(pcr: int) -> None:
    with pytest.raises(PcrError):
        require_pcr(pcr)


def test_selection_sorts_and_prints() -> None:
    selection = PcrSelection.of({Bank.SHA256: [3, 0, 3], Bank.SHA384: []})
    assert selection.as_mapping() == {Bank.SHA256: (0, 3), Bank.SHA384: ()}
    assert str(selection) == "sha256:0,3+sha384:"
    assert list(selection) == [(Bank.SHA256, 0), (Bank.SHA256, 3)]
    assert str(PcrSelection(())) == "none"


@pytest.mark.parametrize(
    "banks",
    [
        ((Bank.SHA256, (1, 0)),),
        ((Bank.SHA256, (0, 0)),),
        ((Bank.SHA256, (24,)),),
        ((Bank.SHA256, (0,)), (Bank.SHA256, (1,))),
    ],
)
def test_selection_refuses_what_a_tpm_could_not_mean(banks: tuple[tuple[Bank, tuple[int, ...]], ...]) -> None:
    with pytest.raises(PcrError):
        PcrSelection(banks)


def test_composite_digest_follows_the_order_of_the_selection() -> None:
    values = {Bank.SHA256: {0: b"\x01" * 32, 1: b"\x02" * 32}, Bank.SHA1: {0: b"\x03" * 20}}
    selection = PcrSelection.of({Bank.SHA1: [0], Bank.SHA256: [1, 0]})
    expected = hashlib.sha384(b"\x03" * 20 + b"\x01" * 32 + b"\x02" * 32).digest()
    assert composite_digest(Bank.SHA384, selection, values) == expected


def test_composite_digest_names_what_is_missing() -> None:
    selection = PcrSelection.of({Bank.SHA256: [0, 7]})
    with pytest.raises(PcrError, match="PCR 7, bank sha256"):
        composite_digest(Bank.SHA256, selection, {Bank.SHA256: {0: bytes(32)}})
    with pytest.raises(PcrError, match="wrong length"):
        composite_digest(Bank.SHA256, selection, {Bank.SHA256: {0: bytes(31), 7: bytes(32)}})
