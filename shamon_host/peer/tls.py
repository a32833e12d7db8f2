"""Mutual TLS 1.3 between hosts: nothing older, no resumption, and the certificate must be the very one enrolled.

The coalition's CA alone would let any of its hosts answer for any other that shares an address, so a caller also pins
the certificate's digest, inside the TLS handshake, before a byte of a request leaves.
"""

import hashlib
import hmac
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from shamon_host.domain.errors import BadInput
from shamon_host.peer.coalition_ca import key_pem, parse_certificates
from shamon_host.peer.sealed_key import is_sealed, open_key
from shamon_host.peer.signed_record import PrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files of this host: the coalition's CA, the host's certificate, and its key (mode 0600).

    A key that the host's TPM has sealed has to be opened first, once (`opened`).
    """

    ca: Path
    certificate: Path
    key: Path
    unsealed: EllipticCurvePrivateKey | None = field(default=None, repr=False)
    """The key, where `key` holds it sealed."""
    scratch: Path | None = None
    """Where an unsealed key may lie for a moment, as `ssl` takes keys from files only: a directory in memory."""

    def opened(self, unseal: Callable[[bytes], bytes], scratch: Path) -> Self:
        """The same files with the key opened, if it is sealed. `unseal`: `Tpm.unseal`. Raises BadInput,
        BackendFailed."""
        data = self._key_bytes()
        if not is_sealed(data):
            return self
        return replace(self, unsealed=open_key(data, unseal, where=str(self.key)), scratch=scratch)

    def certificate_sha256(self) -> bytes:
        """SHA-256 of this host's own certificate, as others enrol it. Raises BadInput."""
        return hashlib.sha256(self._chain()[0]).digest()

    def cas(self) -> tuple[bytes, ...]:
        """What stands behind it, DER: the word of an older CA for the one that issued it. Raises BadInput."""
        return self._chain()[1:]

    def _chain(self) -> tuple[bytes, ...]:
        try:
            pem = self.certificate.read_bytes()
        except OSError as error:
            raise BadInput("cannot be read", where=str(self.certificate), found=error.strerror or "") from error
        return tuple(each.public_bytes(Encoding.DER) for each in parse_certificates(pem, where=str(self.certificate)))

    def private_key(self) -> PrivateKey:
        """The key of the certificate, which also signs this host's votes on policies. Raises BadInput."""
        if self.unsealed is not None:
            return self.unsealed
        data = self._key_bytes()
        if is_sealed(data):
            raise BadInput("the key is sealed by the host's TPM", where=str(self.key), expected="to be opened first")
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadInput(
                "the key cannot be read",
                where=str(self.key),
                expected="PEM, without a password",
                found=type(error).__name__,
            ) from None
        if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
            raise BadInput("a key of another kind", where=str(self.key), expected="ECDSA P-256 or Ed25519")
        return key

    def load_into(self, context: ssl.SSLContext) -> None:
        """Give certificate and key to a context. Raises OSError where they cannot be used."""
        if self.unsealed is None:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            return
        with tempfile.TemporaryDirectory(prefix="key-", dir=self.scratch) as directory:  # mode 0700
            path = Path(directory) / "host.key"
            path.touch(mode=0o600)
            path.write_bytes(key_pem(self.unsealed))
            context.load_cert_chain(self.certificate, path)

    def _key_bytes(self) -> bytes:
        try:
            return self.key.read_bytes()
        except OSError as error:
            raise BadInput("the key cannot be read", where=str(self.key), found=error.strerror or "") from error


class _PinnedConnection(ssl.SSLObject):
    """A TLS connection that ends its own handshake when another certificate than the pinned one answers."""

    def do_handshake(self) -> None:
        super().do_handshake()
        context = self.context
        shown = hashlib.sha256(self.getpeercert(True) or b"").digest()
        if not isinstance(context, _PinnedContext) or not hmac.compare_digest(shown, context.pinned_sha256):
            raise ssl.SSLCertVerificationError("another certificate than the enrolled one answers")


class _PinnedContext(ssl.SSLContext):
    sslobject_class = _PinnedConnection
    pinned_sha256: bytes = b""


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For a server that takes only clients with a certificate of the coalition's CA. Raises BadInput."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context, files)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    return context


def client_context(files: TlsFiles, certificate_sha256: bytes) -> ssl.SSLContext:
    """For calls to the one host that has this certificate, under the name in it. Raises BadInput."""
    context = _PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(context, files)
    context.pinned_sha256 = certificate_sha256
    context.hostname_checks_common_name = False
    return context


def _restrict(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(cafile=files.ca)
    except OSError as error:
        raise BadInput(
            "not the certificate of a CA",
            where=str(files.ca),
            expected="PEM",
            found=_reason(error),
            remedy="Copy ca.pem of the coalition to this host.",
        ) from error
    try:
        files.load_into(context)
    except OSError as error:
        raise BadInput(
            "certificate and key cannot be used",
            where=f"{files.certificate}, {files.key}",
            expected="PEM, the key without a password and belonging to the certificate",
            found=_reason(error),
        ) from None


def _no_password() -> str:
    """Without this, an encrypted key would make OpenSSL ask on the terminal."""
    return ""


def _reason(error: OSError) -> str:
    return error.reason if isinstance(error, ssl.SSLError) and error.reason else error.strerror or type(error).__name__
