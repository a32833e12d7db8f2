"""A world that has happened, for tests of the command line: what alpha's daemon answers once beta has failed.

alpha and beta had a red link; beta ran an unknown program; a minute later somebody asks.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from shamon_host.attestation.reference_values import dump_reference_values
from shamon_host.daemon.api import Answer, Api
from shamon_host.domain.labels import HostName
from shamon_host.domain.results import TpmKind
from shamon_host.peer.coalition_ca import init_coalition
from shamon_host.peer.host_record import enrolled_peer, sign_host_record, write_record
from shamon_host.testing.images import sha256_of
from shamon_host.testing.memory_ca import memory_key
from shamon_host.testing.memory_host import CLEAN_IMAGE
from shamon_host.testing.memory_world import MEMORY_TIMING
from shamon_host.testing.story_policy import story_policy
from shamon_host.testing.world import Fault
from tests.unit.daemon.daemon_world import DaemonWorld, daemon, play

_HOSTS = ("alpha", "beta", "gamma", "delta")
_QUERIES = [
    *(("/v1/results", {"host": host, "limit": limit}) for host in _HOSTS for limit in ("1", "20")),
    *((f"/v1/results/{what}", {"host": host}) for host in _HOSTS for what in ("signed", "explain")),
    *(("/v1/results/evidence", {"host": host, "which": which}) for host in _HOSTS for which in ("failed", "passed")),
]


@dataclass
class Happened:
    """`answers` by path and query; `aks` of the hosts."""

    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    world: DaemonWorld | None = None
    aks: dict[str, bytes] = field(default_factory=dict)

    def answer(self, target: str) -> Answer:
        parts = urlsplit(target)
        return self.answers[parts.path, _key(dict(parse_qsl(parts.query)))]

    def files(self, directory: Path) -> None:
        """What an operator has: policy.toml, reference.json, the registry, each host's AK and certificate."""
        assert self.world is not None
        assert self.world.enrolment.reference is not None
        text = story_policy(image_sha256=sha256_of(CLEAN_IMAGE), timing=MEMORY_TIMING)
        (directory / "policy.toml").write_text(text)
        dump_reference_values(self.world.enrolment.reference, directory / "reference.json")
        (directory / "registry").mkdir()
        ca = init_coalition(directory / "ca", "lab")
        (directory / "ca.pem").write_bytes(ca.read_bytes())
        for host, ak_public in self.aks.items():
            certificate = certificate_of(HostName(host), memory_key(HostName(host)))
            pem = certificate.public_bytes(Encoding.PEM)
            (directory / f"{host}.pem").write_bytes(pem)
            (directory / f"{host}.ak").write_bytes(ak_public)
            peer = replace(enrolled_peer(HostName(host), certificate, ak_public, TpmKind.SOFTWARE), serial=1)
            write_record(directory / "registry", sign_host_record(peer, certificate, ca_key(directory)))


def happened() -> Happened:
    """Play it."""
    found = Happened()

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.wait(60)
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        await world.wait(60)
        for path, query in _QUERIES:
            answer = await Api(daemon=daemon(world.alpha)).handle("GET", path, query)
            found.answers[path, _key(query)] = answer
        found.world = world
        found.aks = {name: host.machine.tpm.ak_public() for name, host in world.hosts.items()}

    play(test)
    return found


def ca_key(directory: Path) -> EllipticCurvePrivateKey:
    """The key of the coalition whose files are in the directory."""
    key = load_pem_private_key((directory / "ca" / "ca.key").read_bytes(), password=None)
    assert isinstance(key, EllipticCurvePrivateKey)
    return key


def certificate_of(host: HostName, key: Ed25519PrivateKey) -> x509.Certificate:
    """A certificate as a host has it, of the key that it has in memory."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    then = datetime(2026, 1, 1, tzinfo=UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(host.encode()).digest()[:8], "big"))
        .not_valid_before(then)
        .not_valid_after(then + timedelta(days=825))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, None)
    )


def _key(query: Mapping[str, Any]) -> str:
    return repr(sorted((name, str(value)) for name, value in query.items()))
