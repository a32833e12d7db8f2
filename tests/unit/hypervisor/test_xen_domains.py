"""Domains of Xen: whether one runs is what the hypervisor says, not what libvirt believes."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import VmName
from shamon_host.hypervisor.ports import DomainState
from shamon_host.hypervisor.xen_control import XenDomain

WEB = VmName("web")
RUNNING, PAUSED = 0, 3


@dataclass
class Control:
    """The hypervisor with one domain. `pauses`: how often it was paused and not unpaused. `deaf`: somebody else undoes
    whatever is asked for here."""

    pauses: int = 0
    deaf: bool = False
    calls: list[str] = field(default_factory=list)

    def domains(self) -> Iterator[XenDomain]:
        yield XenDomain(number=7, uuid="u", sid=1, paused=self.pauses > 0, dying=False)

    def context_of(self, _sid: int) -> str:
        return "system_u:system_r:shamon_vm_red_t"

    def enforcing(self) -> bool:
        return True

    def pause(self, _number: int) -> None:
        self.calls.append("pause")
        self.pauses += not self.deaf

    def unpause(self, _number: int) -> None:
        self.calls.append("unpause")
        if not self.pauses:
            raise BackendFailed("Invalid argument")
        self.pauses -= not self.deaf


@dataclass
class Domain:
    """libvirt's, which pauses and unpauses by the same hypervisor."""

    control: Control
    believed: int = RUNNING

    def ID(self) -> int:  # noqa: N802  libvirt's name
        return 7

    def UUIDString(self) -> str:  # noqa: N802  libvirt's name
        return "u"

    def state(self) -> tuple[int, int]:
        return self.believed, 0

    def suspend(self) -> None:
        self.control.pause(7)
        self.believed = PAUSED

    def resume(self) -> None:
        self.control.unpause(7)
        self.believed = RUNNING


@dataclass
class Bench:
    xen: Any
    control: Control
    domain: Domain

    def state(self) -> DomainState:
        """As it is reported."""
        believed = DomainState.PAUSED if self.domain.believed == PAUSED else DomainState.RUNNING
        return DomainState(self.xen.observed(self.domain, WEB, believed)[0])


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    stub: Any = MagicMock(spec=ModuleType("libvirt"))
    for number, name in enumerate(("RUNNING", "BLOCKED", "SHUTDOWN", "PAUSED", "PMSUSPENDED", "SHUTOFF", "CRASHED")):
        setattr(stub, f"VIR_DOMAIN_{name}", number)
    for name in ("LIFECYCLE", "DEVICE_ADDED", "DEVICE_REMOVED"):
        setattr(stub, f"VIR_DOMAIN_EVENT_ID_{name}", name)
    stub.libvirtError = RuntimeError
    monkeypatch.setitem(sys.modules, "libvirt", stub)
    for module in ("libvirt_domains", "libvirt_xen"):
        monkeypatch.delitem(sys.modules, f"shamon_host.hypervisor.{module}", raising=False)
    xen = importlib.import_module("shamon_host.hypervisor.libvirt_xen").LibvirtXen
    control = Control()
    domain = Domain(control)

    class Xen(xen):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            self._control = control

        @contextmanager
        def connected(self) -> Iterator[Any]:
            yield MagicMock(lookupByName=lambda _name: domain)

    return Bench(Xen(), control, domain)


def test_a_domain_that_somebody_unpaused_past_libvirt_runs(bench: Bench) -> None:
    bench.xen.suspend(WEB)
    assert bench.state() is DomainState.PAUSED
    bench.control.unpause(7)
    assert (bench.domain.believed, bench.state()) == (PAUSED, DomainState.RUNNING)


def test_it_is_suspended_again_and_runs_again_whatever_libvirt_believes(bench: Bench) -> None:
    for _ in range(2):
        bench.xen.suspend(WEB)
        bench.control.unpause(7)
        bench.xen.resume(WEB)
        bench.xen.suspend(WEB)
        assert (bench.state(), bench.control.pauses) == (DomainState.PAUSED, 1)
        bench.xen.resume(WEB)
        assert (bench.state(), bench.control.pauses) == (DomainState.RUNNING, 0)


def test_one_that_was_paused_past_libvirt_runs_again(bench: Bench) -> None:
    bench.control.pause(7)
    assert bench.state() is DomainState.PAUSED
    bench.xen.suspend(WEB)
    assert bench.control.pauses == 1, "it would take two resumptions to let it go on"
    bench.xen.resume(WEB)
    assert bench.state() is DomainState.RUNNING


def test_one_that_does_not_stand_still_is_told_of(bench: Bench) -> None:
    bench.control.deaf = True
    with pytest.raises(BackendFailed, match="does not do as it is told"):
        bench.xen.suspend(WEB)
