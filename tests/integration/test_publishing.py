"""`shamon coalition expel` and `publish` against a host's peer service, over TLS on the loopback interface."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.cli.main import main
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.results import TpmKind
from shamon_host.peer.coalition_ca import init_coalition, key_pem, read_ca_certificates
from shamon_host.peer.enroller import Enroller
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.host_record import Authorities, authorities_of, read_host_record, sign_leave, successor
from shamon_host.peer.http_transport import serve_peers
from shamon_host.peer.ports import Membership, PeerIdentity
from shamon_host.peer.registry_messages import OPERATOR_NAME, Exchange
from shamon_host.peer.tls import TlsFiles
from shamon_host.peer.wire import REGISTRY
from shamon_host.testing.memory_world import MEMORY_TIMING
from shamon_host.testing.story_policy import story_policy
from tests.integration.test_http_transport import LOOPBACK, free_port

ALPHA, BETA, GAMMA = HostName("alpha"), HostName("beta"), HostName("gamma")


class Listener:
    """A host that takes records, as its daemon would, and does nothing else."""

    def __init__(self, registry: PeerRegistry, authorities: Authorities) -> None:
        self.registry = registry
        self.authorities = dict(authorities)
        self.callers: list[str] = []

    async def handle(self, caller: PeerIdentity, path: str, body: bytes) -> bytes:
        assert path == REGISTRY
        self.callers.append(caller.host)
        told = Exchange.decode(body)
        for certificate in told.cas:
            name, key = successor(certificate, self.authorities, datetime.now(UTC))
            self.authorities[name] = key
        for record in told.records:
            read = read_host_record(record, self.authorities, source="test")
            if read.rank > self.registry.ranks().get(read.peer.host, -1):
                self.registry.take(read)
        return Exchange.of(self.registry.ranks(), self.registry.newer_than(told.ranks)).encode()


class World:
    """An operator's machine with alpha, beta and gamma in its registry; alpha answers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        init_coalition(root / "ca", "lab")
        self.port = free_port()
        text = story_policy(image_sha256="0" * 64, timing=MEMORY_TIMING)
        (root / "policy.toml").write_text(text)
        policy = parse_policy(text.encode(), source="policy")
        entries = {
            name: replace(entry, address=LOOPBACK, port=self.port if name == ALPHA else free_port())
            for name, entry in policy.hosts.items()
        }
        self.policy = replace(policy, hosts=entries)
        """That of the file, with hosts on the loopback interface, which no policy may have."""
        self.enroller = Enroller.load(root / "ca", root / "peers")
        self.keys = {host: ec.generate_private_key(ec.SECP256R1()) for host in (ALPHA, BETA, GAMMA)}
        for host, key in self.keys.items():
            ak = TpmPublic.attestation_key(ec.generate_private_key(ec.SECP256R1()).public_key()).encode()
            self.enroller.enrol(self.policy, host, key=key.public_key(), ak_public=ak, tpm=TpmKind.SOFTWARE)
        self.authorities = authorities_of(read_ca_certificates(root / "ca" / "ca.pem"))
        self.alpha = Listener(PeerRegistry.load(root / "peers", self.authorities), self.authorities)
        record = self.enroller.registry.record(ALPHA)
        assert record is not None
        pem = x509.load_der_x509_certificate(record.certificate).public_bytes(Encoding.PEM)
        (root / "alpha.pem").write_bytes(pem)
        (root / "alpha.key").write_bytes(key_pem(self.keys[ALPHA]))
        self.files = TlsFiles(ca=root / "ca" / "ca.pem", certificate=root / "alpha.pem", key=root / "alpha.key")

    async def run(self, *arguments: str, listening: bool = True) -> int:
        """One command of the operator, while alpha answers (or does not)."""
        command = ["coalition", *arguments, "--ca", str(self.root / "ca"), "--registry", str(self.root / "peers")]
        command += ["--policy", str(self.root / "policy.toml"), "--json"]
        if not listening:
            return await asyncio.to_thread(main, command)
        server = await serve_peers(
            self.alpha,
            name=ALPHA,
            tls=self.files,
            directory=self.alpha.registry,
            address=LOOPBACK,
            port=self.port,
        )
        try:
            return await asyncio.to_thread(main, command)
        finally:
            await server.close()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    monkeypatch.setattr("shamon_host.cli.publishing.read_policy_or_envelope", lambda _: (world.policy, b""))
    return world


async def test_an_expulsion_reaches_whoever_answers(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert await world.run("expel", "beta", "--reason", "stolen") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["host"], told["serial"], told["told"]) == ("beta", 2, ["alpha"])
    assert list(told["untold"]) == ["gamma"]
    beta = world.alpha.registry.get(BETA)
    assert beta is not None
    assert (beta.expelled, beta.reason) == (True, "stolen")
    assert world.alpha.callers == [OPERATOR_NAME]


async def test_who_left_is_heard_of(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    record = world.alpha.registry.record(GAMMA)
    assert record is not None
    world.alpha.registry.take(sign_leave(record, world.keys[GAMMA], world.authorities))
    assert await world.run("publish") == 0
    capsys.readouterr()
    gamma = PeerRegistry.load(world.root / "peers", world.authorities).get(GAMMA)
    assert gamma is not None
    assert gamma.membership is Membership.LEFT


async def test_hosts_that_know_the_older_ca_hear_of_the_new_one(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """The operator's own certificate is by the new one already."""
    (world.root / "host-ca.pem").write_bytes(world.files.ca.read_bytes())
    world.files = replace(world.files, ca=world.root / "host-ca.pem")
    assert await world.run("rotate-ca") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["told"], told["records"]) == (["alpha"], 3)
    assert told["ca"] == "CN=Shamon coalition lab #2"
    assert [peer.serial for peer in world.alpha.registry.hosts()] == [2, 2, 2]
    assert len(world.alpha.authorities) == 2
    assert await world.run("expel", "gamma") == 0
    gamma = world.alpha.registry.get(GAMMA)
    assert gamma is not None
    assert gamma.expelled


async def test_a_rotation_brings_nobody_back_who_has_left(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (world.root / "host-ca.pem").write_bytes(world.files.ca.read_bytes())
    world.files = replace(world.files, ca=world.root / "host-ca.pem")
    record = world.alpha.registry.record(GAMMA)
    assert record is not None
    world.alpha.registry.take(sign_leave(record, world.keys[GAMMA], world.authorities))
    assert await world.run("rotate-ca") == 0
    capsys.readouterr()
    for registry in (world.alpha.registry, Enroller.load(world.root / "ca", world.root / "peers").registry):
        gamma = registry.get(GAMMA)
        assert gamma is not None
        assert (gamma.membership, gamma.serial) == (Membership.LEFT, 2)


async def test_nobody_answers(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert await world.run("expel", "beta", listening=False) == 4
    told = json.loads(capsys.readouterr().out)  # one value, the failure in it
    assert told["told"] == []
    assert "alpha" in told["untold"]
    beta = PeerRegistry.load(world.root / "peers", world.authorities).get(BETA)
    assert beta is not None
    assert beta.expelled  # it is written down, and published later
