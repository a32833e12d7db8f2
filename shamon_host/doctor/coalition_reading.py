"""The files of a coalition on this host: configuration, policy, certificates, key, registry, Reference Values."""

import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from shamon_host.daemon.config import MAX_CONFIG_BYTES, HostConfig, parse_config, parse_config_file
from shamon_host.daemon.policy_source import parse_policy_or_envelope
from shamon_host.doctor.facts import CoalitionFacts, KeyFile, RegistrySummary
from shamon_host.doctor.host_files import HostFiles
from shamon_host.doctor.look import Look
from shamon_host.domain.errors import ShamonError
from shamon_host.peer.coalition_ca import parse_ca_certificates, parse_certificates
from shamon_host.peer.enrolment import RECORD_SUFFIX, PeerRegistry, record_in_file
from shamon_host.peer.host_record import MAX_RECORD_ENVELOPE_BYTES, Authorities, HostRecord, authorities_of
from shamon_host.peer.policy_envelope import MAX_ENVELOPE_BYTES
from shamon_host.peer.reference_envelope import MAX_ENVELOPE_BYTES as MAX_REFERENCE_BYTES
from shamon_host.peer.reference_envelope import opened
from shamon_host.peer.sealed_key import is_sealed

T = TypeVar("T")

_PEM_BYTES = 1 << 20
_MAX_RECORDS = 10_000
DEFAULTS = parse_config({"name": "host"}, source="defaults")
"""Where things are on a host whose host.toml is not there, or cannot be understood. Its name is nobody's."""


def read_coalition(files: HostFiles, config_path: Path) -> CoalitionFacts:
    config = files.data(config_path, MAX_CONFIG_BYTES).then(
        lambda data: _parsed(lambda: parse_config_file(data, source=str(config_path)))
    )
    places = config.value or DEFAULTS
    policy = files.data(places.policy, MAX_ENVELOPE_BYTES).then(
        lambda data: _parsed(lambda: parse_policy_or_envelope(data, source=str(places.policy))[0])
    )
    ca = files.data(places.tls_ca, _PEM_BYTES).then(lambda pem: _parsed(lambda: parse_ca_certificates(pem, where="CA")))
    return CoalitionFacts(
        config=config,
        policy=policy,
        ca=ca,
        certificate=files.data(places.tls_certificate, _PEM_BYTES).then(
            lambda pem: _parsed(lambda: parse_certificates(pem, where="certificate"))
        ),
        key=_key(files, places.tls_key),
        registry=_registry(files, places, ca),
        references={
            host: _reference(files, places, places.reference / f"{host}.json")
            for host in (policy.value.hosts if policy.value else ())
        },
        images={name: _size(files, path) for name, (path, _) in places.images.items()},
    )


def _parsed(parse: Callable[[], T]) -> Look[T]:
    """What a parser of this program makes of bytes that may be anything."""
    try:
        return Look(parse())
    except ShamonError as error:
        return Look(bad=str(error))


def _key(files: HostFiles, path: Path) -> Look[KeyFile]:
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


def _registry(files: HostFiles, places: HostConfig, ca: Look[tuple[x509.Certificate, ...]]) -> Look[RegistrySummary]:
    """Every record, verified by the CA."""
    names = files.names(places.peers)
    if names.value is None:
        return Look(unread=names.unread)
    paths = sorted(path for name in names.value if (path := places.peers / name).suffix == RECORD_SUFFIX)
    if len(paths) > _MAX_RECORDS:
        return Look(bad=f"{len(paths)} records")
    if ca.value is None:
        return Look(unread="without ca.pem no record can be verified") if paths else Look()
    authorities = _parsed(lambda: authorities_of(ca.value or ()))
    if authorities.value is None:
        return Look(bad=authorities.bad)
    records = []
    for path in paths:
        found = files.data(path, MAX_RECORD_ENVELOPE_BYTES).then(partial(_record, authorities.value, path))
        if found.value is None:
            return Look(bad=found.bad or ("" if found.unread else f"{path} leads nowhere"), unread=found.unread)
        records.append(found.value)
    return _parsed(lambda: PeerRegistry(records=records)).then(partial(_summary, places))


def _record(authorities: Authorities, path: Path, data: bytes) -> Look[HostRecord]:
    return _parsed(lambda: record_in_file(data, path, authorities))


def _summary(places: HostConfig, registry: PeerRegistry) -> Look[RegistrySummary]:
    own = registry.get(places.name)
    return Look(
        RegistrySummary(
            hosts=frozenset(str(peer.host) for peer in registry.hosts()),
            own_certificate=own.certificate_sha256 if own is not None else None,
        )
    )


def _reference(files: HostFiles, places: HostConfig, path: Path) -> Look[str]:
    def check(data: bytes) -> Look[str]:
        return _parsed(lambda: opened(data, places.reference_signers, source=str(path))).then(lambda _: Look(""))

    return files.data(path, MAX_REFERENCE_BYTES).then(check)


def _size(files: HostFiles, path: Path) -> Look[int]:
    return files.status(path).then(
        lambda found: Look(found.st_size) if stat.S_ISREG(found.st_mode) else Look(bad="no regular file")
    )
