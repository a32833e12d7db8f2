"""The composition root with the real database, API socket and signals, over backends in memory for what needs a host.

The end is asked for as soon as the daemon says that it is ready, in its own loop: a signal can come neither before its
handlers are there nor after they are gone, and no test waits for time to pass.
"""

import asyncio
import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import shamon_host.daemon
from shamon_host.cli.api_client import ApiClient
from shamon_host.cli.main import main as shamon
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.service import only_one
from shamon_host.daemon.system_clock import SystemClock
from shamon_host.domain.errors import BackendFailed, ShamonError, Unreachable
from shamon_host.domain.policy import HypervisorKind
from shamon_host.peer.sealed_key import sealed_key
from shamon_host.testing.flask import MemoryFlask
from shamon_host.testing.hypervisor import MemoryHypervisor
from shamon_host.testing.images import MemoryImages
from shamon_host.testing.kernel import MemoryKernel
from shamon_host.testing.live import MemoryLive
from shamon_host.testing.machine import MeasuredMachine
from shamon_host.testing.memory_world import MEMORY_TIMING
from shamon_host.testing.severable import MemoryServiceManager
from shamon_host.testing.story_policy import story_policy
from shamon_host.testing.tpm import MemoryTpm
from shamon_host.testing.wire import MemoryWire

COMPOSITION = "shamon_host.daemon.composition"


class Starter(MemoryServiceManager):
    """Who starts the daemon, and what happens (in the daemon's loop) once that is ready."""

    then: Callable[[], None] | None = None

    def ready(self) -> None:
        super().ready()
        assert self.then is not None, "it should not have come this far"
        self.then()


class NoPeers:
    """`peer.ports.PeerTransport` of a host that reaches nobody."""

    def __init__(self, closed: list[str]) -> None:
        self._closed = closed

    async def call(self, *_: object, **__: object) -> bytes:
        raise Unreachable("there are no peers")

    async def close(self) -> None:
        self._closed.append("transport")


class World:
    """One host: files below `root`, backends in memory; `closed` names those that were let go, in their order."""

    def __init__(self, root: Path) -> None:
        self.root, self.closed = root, list[str]()
        self.starter = Starter()
        self.machine = MeasuredMachine()
        self.machine.boot()
        self.kernel = MemoryKernel(["192.0.2.1"], MemoryWire(), SystemClock())
        self.hypervisor = MemoryHypervisor(switch=self.kernel, addresses={}, enforcing=lambda: True)
        self.flask = MemoryFlask()
        self.libvirt_error: ShamonError | None = None
        (root / "policy.toml").write_text(story_policy(image_sha256="0" * 64, timing=MEMORY_TIMING))
        (root / "alpha.ak").write_bytes(self.machine.tpm.ak_public())
        init = ["coalition", "init", "lab", "--ca", str(root / "ca")]
        enrol = ["coalition", "enrol", "alpha", "--ca", str(root / "ca"), "--policy", str(root / "policy.toml")]
        places = ["--ak", str(root / "alpha.ak"), "--registry", str(root / "peers"), "--out", str(root / "tls")]
        assert shamon(init) == 0
        assert shamon([*enrol, *places, "--tpm", "software"]) == 0
        (root / "reference").mkdir()
        self.config = root / "host.toml"
        self.config.write_text(
            f'name = "alpha"\nstate_dir = "{root}/state"\nruntime_dir = "{root}/run"\npolicy = "{root}/policy.toml"\n'
            f'peers = "{root}/peers"\nreference = "{root}/reference"\n[tls]\nca = "{root}/ca/ca.pem"\n'
            f'certificate = "{root}/tls/alpha.pem"\nkey = "{root}/tls/alpha.key"\n'
        )

    @property
    def socket(self) -> Path:
        return self.root / "run" / "shamon.sock"

    def backend(self, name: str, real: object) -> Any:
        """`real` with a `close` that is noted."""

        class Noted:
            def __getattr__(self, attribute: str) -> Any:
                return getattr(real, attribute)

            def close(_) -> None:  # noqa: N805
                self.closed.append(name)

        return Noted()

    def make_xen(self) -> None:
        """The host has Xen, and its policy says so."""
        kinds = {"alpha": HypervisorKind.XEN}
        text = story_policy(image_sha256="0" * 64, timing=MEMORY_TIMING, hypervisors=kinds)
        (self.root / "policy.toml").write_text(text)
        self.config.write_text(self.config.read_text() + '[hypervisor]\ntype = "xen"\n')
        self.hypervisor.flask = self.flask

    def libvirt_xen(self, uri: str, control: object) -> Any:
        assert (uri, control) == ("xen:///system", "libxenctrl")
        return self.backend("hypervisor", self.hypervisor)

    def xen_flask(self, *, control: object, work: Path) -> Any:
        assert (control, work) == ("libxenctrl", self.root / "run")
        return self.flask

    def libvirt(self, _uri: str, *, virt_type: str) -> Any:
        if self.libvirt_error:
            raise self.libvirt_error
        return self.backend("hypervisor", self.hypervisor)

    def libvirt_live(self, *, qemu: object, directory: Path) -> MemoryLive:
        assert (qemu is not None, directory) == (True, self.root / "run")
        return MemoryLive(hypervisor=self.hypervisor, images=MemoryImages(clean={}))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    world = World(tmp_path)
    capsys.readouterr()
    stubs: dict[str, dict[str, Any]] = {
        "shamon_host.attestation.tpm_device": {"DeviceTpm": lambda _: world.backend("tpm", world.machine.tpm)},
        "shamon_host.hypervisor.libvirt_live": {"LibvirtLive": world.libvirt_live},
        "shamon_host.hypervisor.libvirt_qemu": {"LibvirtQemu": world.libvirt},
        "shamon_host.hypervisor.libvirt_xen": {"LibvirtXen": world.libvirt_xen},
        "shamon_host.hypervisor.xen_control": {"XenControl": lambda: "libxenctrl"},
        "shamon_host.hypervisor.xen_flask": {"XenFlask": world.xen_flask},
        "shamon_host.links.linux_passage_streams": {"LinuxPassageStreams": lambda: None},
        "shamon_host.links.linux_control_wire": {"ControlWire": None},
        "shamon_host.links.linux_kernel": {"LinuxLinkKernel": lambda: world.backend("kernel", world.kernel)},
    }
    for name, members in stubs.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(shamon_host.daemon, "composition", None, raising=False)  # whatever it is, it comes back
    monkeypatch.delitem(sys.modules, COMPOSITION, raising=False)
    composition = importlib.import_module(COMPOSITION)

    async def serve_peers(*_: object, **__: object) -> object:
        async def close() -> None:
            world.closed.append("peer service")

        return SimpleNamespace(close=close)

    monkeypatch.setattr(composition, "serve_peers", serve_peers)
    monkeypatch.setattr(composition, "HttpTransport", lambda **_: NoPeers(world.closed))
    monkeypatch.setattr(composition, "open_logs", lambda: world.machine.logs)
    monkeypatch.setattr(composition, "Systemd", lambda: world.starter)
    yield world
    sys.modules.pop(COMPOSITION, None)


def daemon(world: World) -> int:
    """Run the daemon to its end; its exit code."""
    return shamon(["daemon", "--config", str(world.config)])


def life(world: World, question: Callable[[], None], number: int = signal.SIGTERM) -> int:
    """Run the daemon, ask it something from another thread once it is ready, then end it with a signal."""
    asking: list[asyncio.Task[None]] = []

    async def ask() -> None:
        try:
            await asyncio.to_thread(question)
        finally:
            signal.raise_signal(number)

    def unhandled(*_: object) -> None:
        raise SystemExit("nobody handles the signal")  # goes through the loop, and ends this test alone

    world.starter.then = lambda: asking.append(asyncio.get_running_loop().create_task(ask()))
    before = signal.signal(number, unhandled)
    try:
        code = daemon(world)
    finally:
        signal.signal(number, before)
    for task in asking:
        if not task.cancelled():  # it is when the daemon ended by itself, which its exit code tells
            task.result()
    return code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_life_from_start_to_signal(world: World, number: int) -> None:
    seen: list[Any] = []
    code = life(world, lambda: seen.append(ApiClient(world.socket).get("/v1/status")), number)
    assert code == 0
    assert seen[0]["host"] == "alpha"
    assert seen[0]["peers"]["enrolled"] == 2
    assert world.closed == ["peer service", "transport", "tpm", "hypervisor", "kernel"]
    assert world.kernel.read().guard
    with only_one(world.root / "state" / "daemon.lock"):
        pass
    # and again, on what the first life left
    assert life(world, lambda: None) == 0


def test_a_sealed_key_is_opened_by_the_tpm_that_sealed_it(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    path = world.root / "tls" / "alpha.key"
    key = load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, EllipticCurvePrivateKey)
    path.write_bytes(sealed_key(key, world.machine.tpm.seal))
    assert life(world, lambda: None) == 0
    path.write_bytes(sealed_key(key, MemoryTpm().seal))
    assert daemon(world) == 1
    assert "TPM2_Load failed" in capsys.readouterr().err


def test_another_one_is_refused_while_it_runs(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (world.root / "state").mkdir()
    with only_one(world.root / "state" / "daemon.lock"):
        assert daemon(world) == 1
    assert "another daemon runs" in capsys.readouterr().err
    assert world.closed == []


def test_a_host_with_xen(world: World) -> None:
    world.make_xen()
    seen: list[Any] = []
    assert life(world, lambda: seen.append(ApiClient(world.socket).get("/v1/status"))) == 0
    assert seen[0]["flask"] == {"wrong": "", "changed_by_others": ""}
    assert world.flask.loads == 1
    assert world.closed == ["peer service", "transport", "tpm", "hypervisor", "kernel"]


@pytest.mark.parametrize("configured", ["xen", "qemu"])
def test_another_hypervisor_than_the_policy_says(
    world: World, capsys: pytest.CaptureFixture[str], configured: str
) -> None:
    world.make_xen()
    if configured == "qemu":
        world.config.write_text(world.config.read_text().replace('type = "xen"', 'type = "kvm"'))
    else:
        (world.root / "policy.toml").write_text(story_policy(image_sha256="0" * 64, timing=MEMORY_TIMING))
    assert daemon(world) == 3
    told = capsys.readouterr().err
    assert "hosts.alpha.hypervisor: this host has another hypervisor than the policy says" in told
    assert f"found: {configured}" in told or f"found {configured}" in told
    assert world.flask.loads == 0


def test_without_libvirt_it_says_so(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.libvirt_error = BackendFailed("libvirtd does not answer", where="qemu:///system")
    assert daemon(world) == 1
    assert capsys.readouterr().err == "shamon: qemu:///system: libvirtd does not answer\n"
    assert world.closed == ["kernel"]


def test_without_its_logs_it_says_so(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.machine.logs.present = False
    assert daemon(world) == 1
    assert "no measurement logs" in capsys.readouterr().err
    assert world.closed == ["transport", "tpm", "hypervisor", "kernel"]


def test_bad_configuration_says_where(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.config.write_text('name = "alpha"\nimages = 1\n')
    assert daemon(world) == 2
    assert "host.toml: images" in capsys.readouterr().err


def test_a_log_that_cannot_be_written_ends_it_with_one_sentence(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first thing to write down is that a peer does not answer."""

    def full(*_: object) -> None:
        raise BackendFailed("the database failed", where="shamon.sqlite", found="SQLITE_FULL")

    world.starter.then = lambda: monkeypatch.setattr(AuditLog, "append", full)
    assert daemon(world) == 1
    assert capsys.readouterr().err.startswith("shamon: shamon.sqlite: the database failed\n")
    assert world.closed == ["peer service", "transport", "tpm", "hypervisor", "kernel"]
