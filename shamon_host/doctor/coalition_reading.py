"""The files of a coalition on this host: configuration, policy, certificates, key, registry, Reference Values."""

import stat
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from shamon_host.daemon.config import MAX_CONFIG_BYTES, HostConfig, parse_config
from shamon_host.doctor.facts import CoalitionFacts, KeyFile, RegistrySummary
from shamon_host.doctor.host_files import HostFiles
from shamon_host.doctor.look import Look
from shamon_host.domain.errors import ShamonError
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import parse_canonical, parse_policy
from shamon_host.peer.coalition_ca import parse_ca_certificates, parse_certificates
from shamon_host.peer.enrolment import RECORD_SUFFIX
from shamon_host.peer.host_record import Authorities, HostRecord, authorities_of, read_host_record
from shamon_host.peer.policy_envelope import MAX_ENVELOPE_BYTES, payload_of
from shamon_host.peer.reference_envelope import MAX_ENVELOPE_BYTES as MAX_REFERENCE_BYTES
from shamon_host.peer.reference_envelope import opened
from shamon_host.peer.sealed_key import is_sealed

T = TypeVar("T")

_PEM_BYTES = 1 << 20
_RECORD_BYTES = 1 << 20
_MAX_RECORDS = 10_000
ETC = "/etc/shamon"


def read_coalition(files: HostFiles, config_path: Path) -> CoalitionFacts:
    config = files.data(config_path, MAX_CONFIG_BYTES).then(lambda data: _config(data, str(config_path)))
    known = config.value
    ca_path = known.tls_ca if known else f"{ETC}/ca.pem"
    certificate_path = known.tls_certificate if known else f"{ETC}/host.pem"
    policy = _policy(files, known.policy if known else f"{ETC}/policy.toml")
    ca = files.data(ca_path, _PEM_BYTES).then(lambda pem: _parsed(lambda: parse_ca_certificates(pem, where="CA")))
    certificate = files.data(certificate_path, _PEM_BYTES).then(
        lambda pem: _parsed(lambda: parse_certificates(pem, where="certificate"))
    )
    return CoalitionFacts(
        config=config,
        policy=policy,
        ca=ca.then(_readable),
        certificate=certificate.then(_readable),
        key=_key(files, known.tls_key if known else f"{ETC}/host.key"),
        registry=_registry(files, known, ca.then(_readable)),
        references={
            host: _reference(files, known, f"{known.reference if known else f'{ETC}/reference'}/{host}.json")
            for host in (policy.value.hosts if policy.value else ())
        },
        images={name: _size(files, path) for name, (path, _) in (known.images if known else {}).items()},
    )


def _parsed(parse: Callable[[], T]) -> Look[T]:
    """What a parser of this program makes of bytes that may be anything."""
    try:
        return Look(parse())
    except ShamonError as error:
        return Look(bad=str(error))


def _config(data: bytes, source: str) -> Look[HostConfig]:
    try:
        fields = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        return Look(bad=f"{source} is not TOML: {error}")
    return _parsed(lambda: parse_config(fields, source=source))


def _policy(files: HostFiles, path: Path | str) -> Look[Policy]:
    """As `daemon.policy_source.read_policy_or_envelope`."""

    def parse(data: bytes) -> Policy:
        if not data.lstrip().startswith(b"{"):
            return parse_policy(data, source=str(path))
        return parse_canonical(payload_of(data, source=str(path)), source=str(path))

    return files.data(path, MAX_ENVELOPE_BYTES).then(lambda data: _parsed(lambda: parse(data)))


def _readable(certificates: tuple[x509.Certificate, ...]) -> Look[tuple[x509.Certificate, ...]]:
    """Names, key and extensions are parsed when they are asked for: here, so that nobody has to expect an error."""
    try:
        for each in certificates:
            _ = (each.subject, each.issuer, each.extensions, each.not_valid_after_utc, each.not_valid_before_utc)
            each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.UnsupportedGeneralNameType) as error:
        return Look(bad=f"a certificate cannot be understood: {type(error).__name__}")
    return Look(certificates) if certificates else Look(bad="there is no certificate in it")


def _key(files: HostFiles, path: Path | str) -> Look[KeyFile]:
    """Mode and owner of the key, and its public half; the key itself stays in here."""
    status = files.status(path)
    data = files.data(path, _PEM_BYTES)
    if status.value is None:
        return Look(unread=status.unread)
    mode, owner = stat.S_IMODE(status.value.st_mode), status.value.st_uid
    if data.bad:
        return Look(bad=data.bad)
    sealed = data.value is not None and is_sealed(data.value)
    public: Look[bytes] = Look() if sealed else data.then(_public)
    return Look(KeyFile(mode=mode, owner=owner, sealed=sealed, public=public))


def _public(pem: bytes) -> Look[bytes]:
    try:
        key = load_pem_private_key(pem, password=None)
        return Look(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        return Look(bad=f"no key in PEM without a password: {type(error).__name__}")


def _registry(
    files: HostFiles, config: HostConfig | None, ca: Look[tuple[x509.Certificate, ...]]
) -> Look[RegistrySummary]:
    """Every record, verified by the CA."""
    directory = str(config.peers) if config else f"{ETC}/peers"
    names = files.names(directory)
    if names.value is None:
        return Look(unread=names.unread)
    records = sorted(name for name in names.value if name.endswith(RECORD_SUFFIX))
    if len(records) > _MAX_RECORDS:
        return Look(bad=f"{len(records)} records")
    if ca.value is None:
        return Look(unread="without ca.pem no record can be verified") if records else Look()
    authorities = _parsed(lambda: authorities_of(ca.value or ()))
    if authorities.value is None:
        return Look(bad=authorities.bad)
    hosts, own = set(), None
    for name in records:
        source = f"{directory}/{name}"
        found = files.data(source, _RECORD_BYTES).then(partial(_record, authorities.value, source))
        if found.value is None:
            return Look(bad=found.bad or ("" if found.unread else f"{source} leads nowhere"), unread=found.unread)
        peer = found.value.peer
        if name != f"{peer.host}{RECORD_SUFFIX}":
            return Look(bad=f"{source} is the record of {peer.host}")
        hosts.add(str(peer.host))
        if config is not None and peer.host == config.name:
            own = peer.certificate_sha256
    return Look(RegistrySummary(hosts=frozenset(hosts), own_certificate=own))


def _record(authorities: Authorities, source: str, data: bytes) -> Look[HostRecord]:
    return _parsed(lambda: read_host_record(data, authorities, source=source))


def _reference(files: HostFiles, config: HostConfig | None, path: str) -> Look[str]:
    signers = config.reference_signers if config else None

    def check(data: bytes) -> Look[str]:
        return _parsed(lambda: opened(data, signers, source=path)).then(lambda _: Look(""))

    return files.data(path, MAX_REFERENCE_BYTES).then(check)


def _size(files: HostFiles, path: Path) -> Look[int]:
    return files.status(path).then(
        lambda found: Look(found.st_size) if stat.S_ISREG(found.st_mode) else Look(bad="no regular file")
    )
