"""What libvirt's drivers have in common, on a libvirt that is not there: how often it is asked, and what it is not."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import shamon_host.hypervisor
from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import SelinuxContext, VmName
from shamon_host.hypervisor.ports import VmSpec

WEB = VmName("web")
MODULE = "shamon_host.hypervisor.libvirt_domains"
SPEC = VmSpec(
    name=WEB,
    uuid="00000000-0000-4000-8000-000000000001",
    context=SelinuxContext(user="system_u", role="system_r", type="svirt_t", categories=frozenset({1, 512, 513})),
    disk="/overlays/web.qcow2",
    interfaces=(),
)


class LibvirtError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"error {code}")
        self.code = code

    def get_error_code(self) -> int:
        return self.code


@dataclass
class Domain:
    """One of libvirt's."""

    asked: list[str]
    persistent: bool = False
    active: bool = True

    def UUIDString(self) -> str:  # noqa: N802  libvirt's name
        return "00000000-0000-4000-8000-0000000000ff"

    def isPersistent(self) -> bool:  # noqa: N802  libvirt's name
        return self.persistent

    def destroy(self) -> None:
        self.asked.append("destroy")
        if not self.active:
            raise LibvirtError(sys.modules["libvirt"].VIR_ERR_OPERATION_INVALID)
        self.active = False

    def undefineFlags(self, _flags: int) -> None:  # noqa: N802  libvirt's name
        self.asked.append("undefine")


@dataclass
class Libvirt:
    """The module and its one connection. `known`: the domain `web`, where there is one."""

    domains: Any = None
    """The adapter's module."""
    asked: list[str] = field(default_factory=list)
    known: Domain | None = None

    def lookupByName(self, name: str) -> Domain:  # noqa: N802  libvirt's name
        assert name == WEB
        if self.known is None:
            raise LibvirtError(sys.modules["libvirt"].VIR_ERR_NO_DOMAIN)
        return self.known

    def createXML(self, _xml: str, _flags: int) -> Domain:  # noqa: N802  libvirt's name
        self.asked.append("create")
        raise LibvirtError(0)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: True

    def adapter(self, busy: int = 0) -> Any:
        """One that libvirt keeps waiting so often before it writes memory."""
        asked = self.asked

        class Adapter(self.domains.LibvirtDomains):  # type: ignore[misc, name-defined]
            def domain_xml(self, spec: VmSpec) -> str:
                return f"<domain><name>{spec.name}</name></domain>"

            def forget_tpm(self, name: VmName, uuid: str) -> None:
                raise NotImplementedError

            def observed(self, domain: Any, name: VmName, state: Any) -> Any:
                raise NotImplementedError

            def write_memory(self, _domain: Any, path: str) -> None:
                asked.append("dump")
                if asked.count("dump") <= busy:
                    raise LibvirtError(sys.modules["libvirt"].VIR_ERR_OPERATION_TIMEOUT)
                Path(path).write_bytes(b"memory")

        return Adapter("qemu:///system")


class _Names(ModuleType):
    """Every constant of libvirt, each another number."""

    def __getattr__(self, name: str) -> int:
        if not name.startswith("VIR_"):
            raise AttributeError(name)
        value = len(vars(self)) + 1000
        setattr(self, name, value)
        return value


@pytest.fixture
def libvirt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Libvirt]:
    stub, world = _Names("libvirt"), Libvirt()
    vars(stub).update(
        libvirtError=LibvirtError, registerErrorHandler=lambda *_: None, open=lambda _uri: world, VIR_ERR_NO_DOMAIN=42
    )
    monkeypatch.setitem(sys.modules, "libvirt", stub)
    monkeypatch.setattr(shamon_host.hypervisor, "libvirt_domains", None, raising=False)  # whatever it is, it comes back
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    world.domains = importlib.import_module(MODULE)
    monkeypatch.setattr(world.domains, "_start_event_thread", lambda: None)
    yield world
    sys.modules.pop(MODULE, None)


@pytest.mark.parametrize("active", [True, False])
def test_a_definition_of_somebody_else_stays(libvirt: Libvirt, *, active: bool) -> None:
    """With its NVRAM, and the memory that was saved with it."""
    libvirt.known = Domain(libvirt.asked, persistent=True, active=active)
    libvirt.adapter().destroy(WEB)
    assert libvirt.asked == ["destroy"]
    assert not libvirt.known.active


def test_nothing_starts_under_a_name_that_somebody_defined(libvirt: Libvirt) -> None:
    libvirt.known = Domain(libvirt.asked, persistent=True, active=False)
    with pytest.raises(BackendFailed, match="somebody has defined a domain") as raised:
        libvirt.adapter().start_paused(SPEC)
    assert libvirt.asked == []
    assert "virsh undefine web" in raised.value.remedy
    assert raised.value.found == "UUID 00000000-0000-4000-8000-0000000000ff"


@pytest.mark.parametrize("known", [True, False])
def test_one_that_runs_or_is_not_there_is_libvirts_to_judge(libvirt: Libvirt, *, known: bool) -> None:
    libvirt.known = Domain(libvirt.asked) if known else None
    with pytest.raises(BackendFailed, match="libvirt failed"):
        libvirt.adapter().start_paused(SPEC)
    assert libvirt.asked == ["create"]
    libvirt.adapter().destroy(WEB)


def test_memory_that_libvirt_writes_in_the_end(
    libvirt: Libvirt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shamon_host.hypervisor.kept_files.os.setxattr", lambda *_: None)
    libvirt.known, path = Domain(libvirt.asked), tmp_path / "web.memory"
    libvirt.adapter(busy=9).dump_memory(WEB, str(path))
    assert (path.read_bytes(), libvirt.asked) == (b"memory", ["dump"] * 10)


def test_memory_that_libvirt_never_comes_to_write(libvirt: Libvirt, tmp_path: Path) -> None:
    libvirt.known = Domain(libvirt.asked)
    with pytest.raises(BackendFailed, match="busy with the domain") as raised:
        libvirt.adapter(busy=100).dump_memory(WEB, str(tmp_path / "web.memory"))
    assert "ask for the quarantine again" in raised.value.remedy
    assert (list(tmp_path.iterdir()), len(libvirt.asked)) == ([], 10)
