"""Who is enrolled in the coalition: one small file for each host, written by hand or by `shamon coalition enrol`.

A peer is never more than its entry here: the certificate that TLS must show and the key that must sign its quotes.
Every handshake and every request looks here, so a host that is expelled is out at once.

    host = "alpha"
    tpm = "software"            # or "hardware"
    expelled = false
    ak_public = "AAEACw..."     # TPMT_PUBLIC, base64
    certificate = \"\"\"
    -----BEGIN CERTIFICATE-----
    ...
    \"\"\"
"""

import base64
import binascii
import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.attestation.tpm_structures import TpmFormatError
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.domain.results import TpmKind
from shamon_host.peer.coalition_ca import certificate_names, parse_certificate, write_atomically
from shamon_host.peer.ports import EnrolledPeer
from shamon_host.peer.signed_record import public_text

MAX_ENTRY_BYTES = 64 * 1024
_FIELDS: Mapping[str, type] = {
    "host": str,
    "tpm": str,
    "expelled": bool,
    "ak_public": str,
    "certificate": str,
}


class PeerRegistry:
    """`PeerDirectory` of this host: all hosts of the coalition, this one included.

    Made from entries (in memory), or loaded from a directory, which `enrol` and `expel` then write to.
    """

    def __init__(self, peers: Iterable[EnrolledPeer] = (), *, directory: Path | None = None) -> None:
        """Raises BadInput when two hosts have the same name, certificate or AK."""
        self._directory = directory
        self._peers: dict[HostName, EnrolledPeer] = {}
        for peer in peers:
            if peer.host in self._peers:
                raise BadInput("a host is enrolled twice", where=peer.host)
            self._take(peer)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read every `NAME.toml` in `directory`. Raises BadInput naming the file and the key."""
        try:
            paths = sorted(path for path in directory.iterdir() if path.suffix == ".toml")
        except OSError as error:
            raise BadInput(
                "the registry of hosts cannot be read",
                where=str(directory),
                found=error.strerror or "",
                remedy="Make it with `shamon coalition enrol`.",
            ) from error
        registry = cls(directory=directory)
        for path in paths:
            registry._take(read_entry(path), where=str(path))
        return registry

    def reload(self) -> None:
        """Read the directory again. Raises BadInput, and then nothing has changed."""
        if self._directory is not None:
            self._peers = type(self).load(self._directory)._peers

    def get(self, host: HostName) -> EnrolledPeer | None:
        """The entry of `host`, expelled or not."""
        return self._peers.get(host)

    def hosts(self) -> tuple[EnrolledPeer, ...]:
        """All entries, by name."""
        return tuple(peer for _, peer in sorted(self._peers.items()))

    def enrolled(self, host: HostName) -> EnrolledPeer:
        """See `PeerDirectory`."""
        return self._require(self._peers.get(host), host)

    def by_certificate(self, certificate_sha256: bytes) -> EnrolledPeer:
        """See `PeerDirectory`."""
        found = (peer for peer in self._peers.values() if peer.certificate_sha256 == certificate_sha256)
        return self._require(next(found, None), f"certificate {certificate_sha256.hex()}")

    def enrol(self, peer: EnrolledPeer, certificate_pem: bytes) -> None:
        """Add a host, or replace its entry; the file is written whole or not at all. Raises BadInput."""
        replaced = self._peers.pop(peer.host, None)
        try:
            self._take(peer)
            if self._directory is not None:
                write_entry(self._directory, peer, certificate_pem)
        except BaseException:
            self._peers.pop(peer.host, None)
            if replaced is not None:
                self._peers[peer.host] = replaced
            raise

    def expel(self, host: HostName) -> None:
        """No longer accept `host`, now and after a restart. Raises BadInput when it is not enrolled."""
        peer = self._peers.get(host)
        if peer is None:
            raise BadInput("the host is not enrolled", where=host)
        self._peers[host] = replace(peer, expelled=True)
        if self._directory is not None:
            path = self._directory / f"{host}.toml"
            certificate = _read_values(path)["certificate"]
            write_entry(self._directory, self._peers[host], certificate.encode())

    def _take(self, peer: EnrolledPeer, where: str = "") -> None:
        for other in self._peers.values():
            for what, same in (
                ("certificate", other.certificate_sha256 == peer.certificate_sha256),
                ("AK", other.ak_name == peer.ak_name),
            ):
                if same:
                    raise BadInput(
                        f"two hosts have the same {what}",
                        where=where or peer.host,
                        expected="a certificate and an AK of its own for each host",
                        found=f"that of {other.host}",
                    )
        self._peers[peer.host] = peer

    def _require(self, peer: EnrolledPeer | None, who: str) -> EnrolledPeer:
        if peer is None:
            raise NotTrusted("not enrolled in the coalition", where=who, remedy="Run `shamon coalition enrol`.")
        if peer.expelled:
            raise NotTrusted("the host is expelled from the coalition", where=peer.host)
        return peer


def enrolled_peer(host: HostName, certificate: x509.Certificate, ak_public: bytes, tpm: TpmKind) -> EnrolledPeer:
    """The entry of a host. Raises BadInput when the certificate is another host's, or the key is no AK."""
    names = certificate_names(certificate)
    if names != (host,):
        raise BadInput(
            "the certificate is for another host",
            where=host,
            expected=f"the one name {host}",
            found=", ".join(names) or "none",
        )
    try:
        key = TpmPublic.parse(ak_public)
        key.require_attestation_key()
    except TpmFormatError as error:
        raise BadInput(
            error.what, where=f"AK of {host}", expected=error.expected, found=error.found, remedy=error.remedy
        ) from error
    return EnrolledPeer(
        host=host,
        certificate_sha256=hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest(),
        ak_public=ak_public,
        ak_name=key.name,
        tpm=tpm,
        record_key=_record_key(certificate),
    )


def _record_key(certificate: x509.Certificate) -> str:
    """The key that signs the host's votes; none where it is of a kind that does not sign them."""
    try:
        return public_text(certificate.public_key())
    except BadInput:
        return ""


def read_ak_file(path: Path) -> bytes:
    """TPMT_PUBLIC of the AK in a file: TPMT_PUBLIC, TPM2B_PUBLIC (tpm2-tools), either in base64, or a PEM public key.

    A PEM key says nothing of its attributes: it is taken for a key made from this program's own AK template. Raises
    BadInput.
    """
    data = _read_bounded(path)
    if data.startswith(b"-----BEGIN"):
        try:
            key = load_pem_public_key(data)
            return TpmPublic.attestation_key(key).encode()  # type: ignore[arg-type]
        except (ValueError, AttributeError, TypeError) as error:
            raise BadInput(
                "not a public key for an AK", where=str(path), expected="EC P-256 or RSA", found=type(error).__name__
            ) from error
    candidates = [data]
    with suppress(binascii.Error):
        candidates.append(base64.b64decode(data.strip(), validate=True))
    reasons = []
    for candidate in candidates:
        for parse in (TpmPublic.parse, TpmPublic.parse_sized):
            try:
                return parse(candidate).encode()
            except TpmFormatError as error:
                reasons.append(str(error))
    raise BadInput(
        "not the public part of an AK",
        where=str(path),
        expected="TPMT_PUBLIC or TPM2B_PUBLIC, as bytes or base64, or PEM",
        found=reasons[-1],
    )


def read_entry(path: Path) -> EnrolledPeer:
    """Read one file of the registry, strictly. Raises BadInput with the file and the key."""
    values = _read_values(path)
    host = HostName(plain_name(values["host"], "host name"))
    if path.stem != host:
        raise BadInput("the file has another name than its host", where=str(path), expected=f"{host}.toml")
    try:
        kind = TpmKind(values["tpm"])
    except ValueError:
        raise BadInput(
            "unknown kind of TPM", where=f"{path}: tpm", expected=" or ".join(TpmKind), found=repr(values["tpm"][:40])
        ) from None
    try:
        ak_public = base64.b64decode(values["ak_public"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("not base64", where=f"{path}: ak_public") from error
    certificate = parse_certificate(values["certificate"].encode(), where=f"{path}: certificate")
    try:
        peer = enrolled_peer(host, certificate, ak_public, kind)
    except BadInput as error:
        raise BadInput(
            error.what, where=f"{path}: {error.where}", expected=error.expected, found=error.found, remedy=error.remedy
        ) from error
    return replace(peer, expelled=values["expelled"])


def write_entry(directory: Path, peer: EnrolledPeer, certificate_pem: bytes) -> Path:
    """Write the file of one host, whole or not at all, and return its path."""
    text = (
        f'host = "{peer.host}"\n'
        f'tpm = "{peer.tpm}"\n'
        f"expelled = {'true' if peer.expelled else 'false'}\n"
        f'ak_public = "{base64.b64encode(peer.ak_public).decode()}"\n'
        f'certificate = """\n{certificate_pem.decode("ascii").strip()}\n"""\n'
    )
    path = directory / f"{peer.host}.toml"
    write_atomically(path, text.encode(), mode=0o644)
    return path


def _read_values(path: Path) -> dict[str, Any]:
    """The keys of an entry, all there and of the right type."""
    try:
        values = tomllib.loads(_read_bounded(path).decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput("not a TOML file", where=str(path), found=str(error)) from error
    unknown, missing = sorted(set(values) - set(_FIELDS)), sorted(set(_FIELDS) - set(values))
    if unknown or missing:
        found = [f"unknown {name}" for name in unknown] + [f"no {name}" for name in missing]
        raise BadInput("wrong keys", where=str(path), expected=", ".join(_FIELDS), found=", ".join(found)[:200])
    for name, kind in _FIELDS.items():
        if type(values[name]) is not kind:
            raise BadInput(
                "wrong type",
                where=f"{path}: {name}",
                expected="true or false" if kind is bool else "text",
                found=type(values[name]).__name__,
            )
    return values


def _read_bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ENTRY_BYTES + 1)
    except OSError as error:
        raise BadInput("cannot be read", where=str(path), found=error.strerror or type(error).__name__) from error
    if len(data) > MAX_ENTRY_BYTES:
        raise BadInput("the file is too large", where=str(path), expected=f"at most {MAX_ENTRY_BYTES} bytes")
    return data
