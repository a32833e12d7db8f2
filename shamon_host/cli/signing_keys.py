"""Files of signing keys on the command line, and the passphrases that protect them.

A private key is written once, with mode 0600, and never over anything. A passphrase comes from the terminal or from a
file descriptor: arguments and the environment are there for others to read. No error carries either of them.
"""

import getpass
import os
import sys
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from shamon_host.daemon.files import read_limited
from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.peer.signed_record import PrivateKey, public_text

_MAX_KEY_BYTES = 16 * 1024
_MAX_PASSPHRASE_BYTES = 1023
"""The most that OpenSSL takes for PEM."""


def make_key(path: Path, algorithm: str, passphrase: bytes | None) -> str:
    """Write a new private key (PEM, PKCS #8), and return its public key in base64.

    Raises BadInput when there is such a file, BackendFailed when it cannot be written.
    """
    key: PrivateKey = Ed25519PrivateKey.generate() if algorithm == "ed25519" else generate_private_key(SECP256R1())
    protection = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    _write_once(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    return public_text(key)


def read_key(path: Path, passphrase_fd: int | None) -> PrivateKey:
    """A private key from its file; the passphrase is asked for if it needs one. Raises BadInput."""
    pem = read_limited(path, _MAX_KEY_BYTES, "private key")
    passphrase = None
    if passphrase_fd is not None:
        passphrase = passphrase_from(passphrase_fd)
    elif b"ENCRYPTED" in pem:
        passphrase = _asked(f"Passphrase of {path}: ")
    try:
        key = load_pem_private_key(pem, password=passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadInput(
            "not a private key, or not its passphrase",
            where=str(path),
            expected="PEM (PKCS #8), with a passphrase if, and only if, it is encrypted",
        ) from None
    if not isinstance(key, (Ed25519PrivateKey, EllipticCurvePrivateKey)):
        raise BadInput("a key of another kind", where=str(path), expected="Ed25519 or ECDSA P-256")
    return key


def new_passphrase() -> bytes:
    """Ask for a passphrase twice. Raises BadInput."""
    first = _asked("Passphrase: ")
    if _asked("The same again: ") != first:
        raise BadInput("the two passphrases differ")
    return first


def passphrase_from(descriptor: int) -> bytes:
    """The first line that can be read from a file descriptor. Raises BadInput."""
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            line = file.readline(_MAX_PASSPHRASE_BYTES + 2)
    except (OSError, TypeError, ValueError):
        raise BadInput("no passphrase can be read", where=f"file descriptor {descriptor}") from None
    return _checked(line.removesuffix(b"\n"))


def _asked(prompt: str) -> bytes:
    if not sys.stdin.isatty():
        raise BadInput("there is no terminal to ask for the passphrase", remedy="Give it with --passphrase-fd.")
    try:
        return _checked(getpass.getpass(prompt).encode("utf-8", "surrogateescape"))
    except EOFError:
        raise BadInput("no passphrase was given") from None


def _checked(passphrase: bytes) -> bytes:
    if not 0 < len(passphrase) <= _MAX_PASSPHRASE_BYTES:
        raise BadInput("bad passphrase", expected=f"1 to {_MAX_PASSPHRASE_BYTES} bytes")
    return passphrase


def _write_once(path: Path, secret: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise BadInput("it is there already, and no key is replaced", where=str(path)) from None
    except OSError as error:
        raise BackendFailed("cannot be written", where=str(path), found=error.strerror or "") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise BackendFailed("cannot be written", where=str(path), found=error.strerror or "") from error
        raise
