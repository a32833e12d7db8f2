"""`shamon coalition invite` and `shamon host join` against each other, over TLS on the loopback interface."""

import argparse
import asyncio
import json
import socket
import ssl
import stat
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from shamon_host.attestation.ek import EkPublic
from shamon_host.cli.host_joining import join_coalition
from shamon_host.cli.main import main
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, Refused, ShamonError, Unreachable
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HostEntry
from shamon_host.peer.coalition_ca import init_coalition, parse_certificate, read_ca_certificates
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.host_record import authorities_of
from shamon_host.peer.http_transport import HttpTransport, serve_peers
from shamon_host.peer.join_http import call
from shamon_host.peer.join_messages import REQUEST, Invitation
from shamon_host.peer.joining import Applicant
from shamon_host.peer.ports import PeerIdentity
from shamon_host.peer.signed_record import public_text
from shamon_host.peer.tls import TlsFiles, server_context
from shamon_host.peer.wire import HELLO
from shamon_host.testing.memory_world import MEMORY_TIMING
from shamon_host.testing.story_policy import story_policy
from shamon_host.testing.tpm import MemoryTpm

LOOPBACK = "127.0.0.1"
HOST_ALPHA = HostName("alpha")


class Operator:
    """The operator's machine: a CA, a policy, a registry."""

    def __init__(self, root: Path) -> None:
        self.root = root
        init_coalition(root / "ca", "lab")
        (root / "policy.toml").write_text(story_policy(image_sha256="0" * 64, timing=MEMORY_TIMING))

    @contextmanager
    def inviting(self, host: str, *more: str, valid: str = "60s") -> Iterator["Waiting"]:
        waiting = Waiting(self.root / f"{host}.invitation")
        arguments = ["coalition", "invite", host, "--listen", f"{LOOPBACK}:0", "--valid", valid, *more]
        arguments += ["--out", str(waiting.invitation), "--tpm", "software"]
        for name, path in (("ca", "ca"), ("policy", "policy.toml"), ("registry", "peers")):
            arguments += [f"--{name}", str(self.root / path)]
        thread = threading.Thread(target=waiting.run, args=(arguments,))
        thread.start()
        try:
            waiting.until_there()
            yield waiting
        finally:
            thread.join(timeout=60)
            assert not thread.is_alive()

    def registry(self) -> PeerRegistry:
        return PeerRegistry.load(self.root / "peers", authorities_of(read_ca_certificates(self.root / "ca" / "ca.pem")))


class Waiting:
    """An `invite` that runs; `exit_code` when it has ended."""

    def __init__(self, invitation: Path) -> None:
        self.invitation = invitation
        self.exit_code: int | None = None

    def run(self, arguments: list[str]) -> None:
        self.exit_code = main(arguments)

    def until_there(self) -> None:
        deadline = time.monotonic() + 20
        while not self.invitation.exists():
            assert self.exit_code is None, "it has ended"
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def taken(self, to: Path) -> Path:
        """The invitation's file, as the host gets it."""
        to.write_bytes(self.invitation.read_bytes())
        return to


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    root = tmp_path / "operator"
    root.mkdir()
    return Operator(root)


def join(invitation: Path, tpm: MemoryTpm, directory: Path, *, new_key: bool = False, plain_key: bool = False) -> int:
    arguments = argparse.Namespace(
        invitation=invitation, dir=directory, json=True, new_key=new_key, plain_key=plain_key
    )
    return join_coalition(arguments, tpm)


def test_two_hosts_join_and_the_second_one_knows_the_first(
    operator: Operator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, host in enumerate(("alpha", "beta"), start=1):
        tpm, directory = MemoryTpm(), tmp_path / host
        pin = EkPublic.parse(tpm.ek_public()).sha256.hex()
        with operator.inviting(host, "--ek", pin) as waiting:
            assert stat.S_IMODE(waiting.invitation.stat().st_mode) == 0o600
            invitation = waiting.taken(tmp_path / "invitation")
            assert join(invitation, tpm, directory) == 0
        assert waiting.exit_code == 0
        assert not invitation.exists()
        assert not waiting.invitation.exists()
        assert f"{host} has joined: software TPM" in capsys.readouterr().out
        authorities = authorities_of(read_ca_certificates(directory / "ca.pem"))
        registry = PeerRegistry.load(directory / "peers", authorities)
        assert len(registry.hosts()) == number
        assert registry.records() == operator.registry().records()
        assert stat.S_IMODE((directory / "host.key").stat().st_mode) == 0o600
        files = TlsFiles(ca=directory / "ca.pem", certificate=directory / "host.pem", key=directory / "host.key")
        assert b"PRIVATE KEY" not in files.key.read_bytes()
        with pytest.raises(BadInput, match="sealed by the host's TPM"):
            files.private_key()
        with pytest.raises(BackendFailed):
            files.opened(MemoryTpm().unseal, tmp_path)  # another TPM's
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        server_context(files.opened(tpm.unseal, scratch))  # they belong together
        assert list(scratch.iterdir()) == []
        own = registry.by_certificate(files.certificate_sha256())
        assert (own.host, own.ak_public, own.ek_sha256.hex()) == (host, tpm.ak_public(), pin)


def test_a_host_that_joins_again_gets_a_new_certificate_for_its_key(operator: Operator, tmp_path: Path) -> None:
    tpm, directory = MemoryTpm(), tmp_path / "alpha"
    files = TlsFiles(ca=directory / "ca.pem", certificate=directory / "host.pem", key=directory / "host.key")
    serials, keys = [], []
    for new_key, plain_key in ((False, False), (False, True), (False, False), (True, False)):
        with operator.inviting("alpha", "--trust-first-ek") as waiting:
            join(waiting.taken(tmp_path / "invitation"), tpm, directory, new_key=new_key, plain_key=plain_key)
        assert (b"PRIVATE KEY" in files.key.read_bytes()) is plain_key
        serials.append(parse_certificate(files.certificate.read_bytes(), where="host").serial_number)
        keys.append(public_text(files.opened(tpm.unseal, tmp_path).private_key()))
    assert len(set(serials)) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]
    alpha = operator.registry().get(HOST_ALPHA)
    assert alpha is not None
    assert (alpha.serial, alpha.record_key) == (4, keys[3])


def test_a_host_whose_tpm_was_cleared_joins_again_with_a_new_key(operator: Operator, tmp_path: Path) -> None:
    """Its EK and AK are those of before; what the TPM had sealed is lost."""
    tpm, directory = MemoryTpm(), tmp_path / "alpha"
    with operator.inviting("alpha", "--trust-first-ek") as waiting:
        join(waiting.taken(tmp_path / "invitation"), tpm, directory)
    tpm.clear()
    with operator.inviting("alpha", "--trust-first-ek") as waiting:
        invitation = waiting.taken(tmp_path / "invitation")
        with pytest.raises(BackendFailed) as caught:
            join(invitation, tpm, directory)
        assert "--new-key" in caught.value.remedy
        assert join(invitation, tpm, directory, new_key=True) == 0
    alpha = operator.registry().enrolled(HOST_ALPHA)
    assert (alpha.serial, alpha.ak_public) == (2, tpm.ak_public())


def test_another_tpm_does_not_get_the_name_and_nothing_is_written(
    operator: Operator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with operator.inviting("alpha", "--trust-first-ek") as waiting:
        join(waiting.taken(tmp_path / "invitation"), MemoryTpm(), tmp_path / "alpha")
    before = operator.registry().records()
    with (
        operator.inviting("alpha", "--trust-first-ek") as waiting,
        pytest.raises(Refused, match="alpha is enrolled with another"),
    ):
        join(waiting.taken(tmp_path / "invitation"), MemoryTpm(), tmp_path / "other")
    assert waiting.exit_code == 1
    assert "alpha is enrolled with another" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert operator.registry().records() == before


def test_what_is_wrong_on_the_host_does_not_use_the_invitation_up(operator: Operator, tmp_path: Path) -> None:
    tpm, directory = MemoryTpm(), tmp_path / "alpha"
    with operator.inviting("alpha", "--trust-first-ek") as waiting:
        invitation = waiting.taken(tmp_path / "invitation")
        (tmp_path / "file").write_bytes(b"{}")
        with pytest.raises(BadInput, match="file: this is no invitation"):
            join(tmp_path / "file", tpm, directory)
        with pytest.raises(BackendFailed, match="--dir"):
            join(invitation, tpm, tmp_path / "file" / "etc")
        assert join(invitation, tpm, directory) == 0
    with operator.inviting("alpha", "--trust-first-ek") as waiting:
        invitation = waiting.taken(tmp_path / "invitation")
        with pytest.raises(BackendFailed, match=r"host\.key: this host's TPM does not open .*--new-key"):
            join(invitation, MemoryTpm(), directory)
        assert join(invitation, tpm, directory) == 0


def test_nobody_comes_in_time(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    with operator.inviting("alpha", "--trust-first-ek", valid="1s") as waiting:
        pass
    assert waiting.exit_code == 1
    assert "has expired" in capsys.readouterr().err
    assert not waiting.invitation.exists()


@pytest.mark.parametrize(
    "began",
    [
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{}",
        b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
@pytest.mark.parametrize("how", ["reset", "closed"])
def test_a_stranger_who_hangs_up_does_not_end_the_invitation(
    operator: Operator, tmp_path: Path, began: bytes, how: str
) -> None:
    with operator.inviting("alpha", "--trust-first-ek") as waiting:
        invitation = waiting.taken(tmp_path / "invitation")
        where = Invitation.decode(invitation.read_bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection((where.address, where.port)) as plain, context.wrap_socket(plain) as stranger:
            stranger.sendall(began % REQUEST.encode())
            time.sleep(0.3)  # until it is being answered
            if how == "reset":
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.3)
        assert waiting.exit_code is None
        assert join(invitation, MemoryTpm(), tmp_path / "alpha") == 0
    assert waiting.exit_code == 0


def test_an_operator_of_another_ca_is_not_believed(operator: Operator, tmp_path: Path) -> None:
    """Nor is any host of the right one: its certificate has another name."""
    init_coalition(tmp_path / "false", "lab")
    with operator.inviting("alpha", "--trust-first-ek") as waiting:
        invitation = Invitation.decode(waiting.invitation.read_bytes())
        fields = json.loads(waiting.invitation.read_bytes()) | {
            "ca": (tmp_path / "false" / "ca.pem").read_bytes().hex()
        }
        false = Invitation.decode(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())
        applicant = Applicant(invitation=false, tpm=MemoryTpm(), key=ec.generate_private_key(ec.SECP256R1()))
        with pytest.raises(NotTrusted, match="not the operator who invited"):
            call(false, REQUEST, applicant.request())
        with pytest.raises(ShamonError, match="nothing is served here"):
            call(invitation, "/v1/hello", b"{}")
        join(waiting.taken(tmp_path / "invitation"), MemoryTpm(), tmp_path / "alpha")
    with pytest.raises(Unreachable, match="does not answer") as caught:
        call(invitation, REQUEST, b"{}")
    assert "SSLContext" not in str(caught.value)


def test_after_a_rotation_old_and_new_hosts_know_each_other(operator: Operator, tmp_path: Path) -> None:
    """alpha joined before it and has only the older CA; beta joined after it, and gamma was enrolled by hand."""
    files = {}
    for host in ("alpha", "beta"):
        directory = tmp_path / host
        with operator.inviting(host, "--trust-first-ek") as waiting:
            tpm = MemoryTpm()
            join(waiting.taken(tmp_path / "invitation"), tpm, directory)
        sealed = TlsFiles(ca=directory / "ca.pem", certificate=directory / "host.pem", key=directory / "host.key")
        files[host] = sealed.opened(tpm.unseal, tmp_path)
        if host == "alpha":
            command = ["coalition", "rotate-ca", "--ca", str(operator.root / "ca")]
            assert main([*command, "--registry", str(operator.root / "peers")]) == 0
    (tmp_path / "gamma.ak").write_bytes(MemoryTpm().ak_public())
    command = ["coalition", "enrol", "gamma", "--ak", str(tmp_path / "gamma.ak"), "--out", str(tmp_path / "gamma")]
    command += ["--tpm", "software", "--policy", str(operator.root / "policy.toml")]
    assert main([*command, "--ca", str(operator.root / "ca"), "--registry", str(operator.root / "peers")]) == 0
    files["gamma"] = TlsFiles(
        ca=operator.root / "ca" / "ca.pem",
        certificate=tmp_path / "gamma" / "gamma.pem",
        key=tmp_path / "gamma" / "gamma.key",
    )
    assert [len(read_ca_certificates(each.ca)) for each in files.values()] == [1, 2, 2]
    assert [len(each.cas()) for each in files.values()] == [0, 1, 1]  # what their daemons pass on
    for caller, callee in (("alpha", "beta"), ("beta", "alpha"), ("alpha", "gamma"), ("gamma", "alpha")):
        asyncio.run(_call_each_other(files[caller], files[callee], HostName(callee), operator.registry()))


async def _call_each_other(caller: TlsFiles, callee: TlsFiles, name: HostName, registry: PeerRegistry) -> None:
    class Echo:
        async def handle(self, _caller: PeerIdentity, _path: str, body: bytes) -> bytes:
            return body

    server = await serve_peers(Echo(), name=name, tls=callee, directory=registry, address=LOOPBACK, port=0)
    transport = HttpTransport(tls=caller, directory=registry)
    try:
        entry = HostEntry(name=name, address=LOOPBACK, port=server.port, types=frozenset())
        assert await transport.call(entry, HELLO, b"hello", timeout_s=5) == b"hello"
    finally:
        await transport.close()
        await server.close()
