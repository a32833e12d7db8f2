"""Credentials made without a TPM: what opens them, and what does not. swtpm opens the same ones (integration tests)."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.attestation.credential import (
    MAX_BLOB_BYTES,
    MAX_ENCRYPTED_SECRET_BYTES,
    Credential,
    EkPrivate,
    make_credential,
    open_credential,
)
from shamon_host.attestation.ek import EkPublic
from shamon_host.domain.errors import BadInput

_KEYS: dict[str, EkPrivate] = {
    "ecc": ec.generate_private_key(ec.SECP256R1()),
    "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
}
_NAME = b"\x00\x0b" + bytes(range(32))
_kinds = pytest.mark.parametrize("key", _KEYS.values(), ids=_KEYS)


@_kinds
@given(secret=st.binary(min_size=1, max_size=32))
def test_the_right_tpm_gets_the_secret(key: EkPrivate, secret: bytes) -> None:
    credential = make_credential(EkPublic.of(key.public_key()), _NAME, secret)
    assert open_credential(key, _NAME, credential) == secret
    assert len(credential.blob) <= MAX_BLOB_BYTES
    assert len(credential.encrypted_secret) <= MAX_ENCRYPTED_SECRET_BYTES
    assert repr(credential) == "Credential()"


@_kinds
def test_another_ak_another_ek_or_a_changed_bit_gets_nothing(key: EkPrivate) -> None:
    credential = make_credential(EkPublic.of(key.public_key()), _NAME, b"secret of thirty-two bytes, so.")
    with pytest.raises(BadInput, match="another AK or EK"):
        open_credential(key, _NAME[:-1] + b"\xff", credential)
    for other in (
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ):
        with pytest.raises(BadInput):
            open_credential(other, _NAME, credential)
    for name in ("blob", "encrypted_secret"):
        data = getattr(credential, name)
        for at in range(len(data)):
            changed = replace(credential, **{name: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]})
            with pytest.raises(BadInput):
                open_credential(key, _NAME, changed)


@_kinds
@given(blob=st.binary(max_size=80), encrypted=st.binary(max_size=300))
def test_any_bytes_are_refused_in_words(key: EkPrivate, blob: bytes, encrypted: bytes) -> None:
    with pytest.raises(BadInput):
        open_credential(key, _NAME, Credential(blob=blob, encrypted_secret=encrypted))


@pytest.mark.parametrize("secret", [b"", bytes(33)])
def test_a_secret_has_a_size_that_a_tpm_takes(secret: bytes) -> None:
    with pytest.raises(BadInput, match="wrong size"):
        make_credential(EkPublic.of(_KEYS["ecc"].public_key()), _NAME, secret)
