"""A TLS key that only the host's TPM opens."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.peer.coalition_ca import key_pem
from shamon_host.peer.sealed_key import is_sealed, open_key, sealed_key
from shamon_host.peer.tls import TlsFiles
from shamon_host.testing.tpm import MemoryTpm

KEY = ec.generate_private_key(ec.SECP256R1())
TPM = MemoryTpm()


def test_the_tpm_that_sealed_it_opens_it_and_no_other() -> None:
    data = sealed_key(KEY, TPM.seal)
    assert is_sealed(data)
    assert not is_sealed(key_pem(KEY))
    assert open_key(data, TPM.unseal, where="it").private_numbers() == KEY.private_numbers()
    with pytest.raises(BackendFailed):
        open_key(data, MemoryTpm().unseal, where="it")


@pytest.mark.parametrize("number", [0, 1 << 255, 1])
def test_what_is_sealed_must_be_a_key(number: int) -> None:
    """2**255 is one; 0 is none."""
    data = sealed_key(KEY, lambda _: TPM.seal(number.to_bytes(32, "big")))
    if number:
        assert open_key(data, TPM.unseal, where="it").private_numbers().private_value == number
        return
    with pytest.raises(BadInput, match="no key"):
        open_key(data, TPM.unseal, where="it")


def test_what_is_sealed_must_have_its_size() -> None:
    for size in (1, 31, 33, 64):
        data = sealed_key(KEY, lambda _, size=size: TPM.seal(bytes([1] * size)))  # type: ignore[misc]  # bound early
        with pytest.raises(BadInput, match="no key"):
            open_key(data, TPM.unseal, where="it")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    sealed = sealed_key(KEY, TPM.seal)
    for each in (data, sealed[:32] + data, sealed[:32] + data + sealed[-31:], sealed + data + b"x"):
        with pytest.raises((BadInput, BackendFailed)):
            open_key(each, TPM.unseal, where="it")


def test_an_unsealed_key_is_in_no_repr(tmp_path: Path) -> None:
    path = tmp_path / "host.key"
    path.write_bytes(sealed_key(KEY, TPM.seal))
    files = TlsFiles(ca=path, certificate=path, key=path).opened(TPM.unseal, tmp_path)
    assert "unsealed=" not in repr(files)
    assert files.private_key() is files.unsealed
    with pytest.raises(BadInput, match="cannot be read"):
        TlsFiles(ca=path, certificate=path, key=tmp_path / "none").opened(TPM.unseal, tmp_path)
