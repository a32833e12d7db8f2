"""The file of a host's TLS key that only the host's TPM opens.

Sealed is the private number of an ECC P-256 key, 32 bytes. The file is like PEM, under a label of its own, so that
nobody takes it for a key that can be read:

    -----BEGIN SHAMON SEALED KEY-----
    (base64)
    -----END SHAMON SEALED KEY-----
"""

import base64
import binascii
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec

from shamon_host.domain.errors import BadInput

_BEGIN, _END = b"-----BEGIN SHAMON SEALED KEY-----\n", b"-----END SHAMON SEALED KEY-----\n"
_SCALAR_BYTES = 32
_MAX_FILE_BYTES = 8 * 1024


def sealed_key(key: ec.EllipticCurvePrivateKey, seal: Callable[[bytes], bytes]) -> bytes:
    """What goes into the file. `seal`: `Tpm.seal`. Raises BackendFailed."""
    blob = seal(key.private_numbers().private_value.to_bytes(_SCALAR_BYTES, "big"))
    return _BEGIN + base64.encodebytes(blob) + _END


def is_sealed(data: bytes) -> bool:
    """Whether this is such a file."""
    return data.startswith(_BEGIN)


def open_key(data: bytes, unseal: Callable[[bytes], bytes], *, where: str) -> ec.EllipticCurvePrivateKey:
    """The key in such a file. `unseal`: `Tpm.unseal`. Raises BadInput, BackendFailed."""
    try:
        if len(data) > _MAX_FILE_BYTES or not data.startswith(_BEGIN) or not data.endswith(_END):
            raise ValueError
        blob = base64.b64decode(data[len(_BEGIN) : -len(_END)].replace(b"\n", b""), validate=True)
    except (ValueError, binascii.Error):
        raise BadInput("not a sealed key", where=where, expected="as `shamon host join` writes it") from None
    secret = unseal(blob)
    try:
        if len(secret) != _SCALAR_BYTES:
            raise ValueError
        return ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())
    except ValueError:
        raise BadInput("what is sealed is no key", where=where) from None
