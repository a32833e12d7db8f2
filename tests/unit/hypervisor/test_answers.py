"""A machine that never answers holds up itself alone, and not for long: it is destroyed."""

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import VmName
from shamon_host.hypervisor.answers import Unanswered, answered
from shamon_host.hypervisor.ports import DomainState
from shamon_host.hypervisor.quarantines import Keep
from tests.unit.hypervisor.vm_world import SHOP, WEB, VmWorld

_WITHIN_S = 10.0
_MOMENT_S = 0.02
_LONG_S = 60.0


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What a machine waits for that does not answer; it does after the test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def silent(world: VmWorld, monkeypatch: pytest.MonkeyPatch, never: threading.Event) -> Callable[[str], None]:
    """From now on web answers no `suspend`, or `resume`, before `never`."""

    def silence(verb: str) -> None:
        call = getattr(world.hypervisor, verb)

        def hangs(name: VmName) -> None:
            if name == WEB:
                never.wait()
            call(name)

        monkeypatch.setattr(world.hypervisor, verb, hangs)

    world.vms.start(WEB)
    world.vms.start(SHOP)
    world.vms.answers.answer_s = _MOMENT_S
    world.vms.answers.patience_s = _LONG_S
    return silence


def quarantine(world: VmWorld, name: VmName, keep: Keep | None = None) -> None:
    world.vms.quarantine(name, "odd", ports_down=world.hub.detach, keep=keep or Keep())


def gone(world: VmWorld, name: VmName, kind: str = "vm.stop") -> bool:
    """Whether it is in the end, and the audit log says why."""
    done = threading.Event()
    world.hypervisor.subscribe(lambda: done.set() if world.domain(name) is None else None)
    return (world.domain(name) is None or done.wait(_WITHIN_S)) and kind in world.kinds(name)


def test_what_is_asked_of_other_vms_goes_on(world: VmWorld, silent: Callable[[str], None]) -> None:
    silent("suspend")
    with pytest.raises(Unanswered, match="does not answer"):
        quarantine(world, WEB)
    assert world.hub.bridges["br-red"] == []
    quarantine(world, SHOP)
    assert world.state(SHOP) is DomainState.PAUSED
    assert world.status(WEB).cut_off == "odd"


def test_it_is_asked_once_and_resists_until_it_answers(
    world: VmWorld, silent: Callable[[str], None], never: threading.Event
) -> None:
    silent("suspend")
    with pytest.raises(Unanswered):
        quarantine(world, WEB)
    threads = threading.active_count()
    for _ in range(3):
        world.vms.enforce_labels()
        assert world.vms.resisting == {WEB}
    assert threading.active_count() == threads
    stands_still = threading.Event()
    world.hypervisor.subscribe(stands_still.set)
    never.set()
    assert stands_still.wait(_WITHIN_S)
    assert world.state(WEB) is DomainState.PAUSED


@pytest.mark.parametrize("keep", [Keep(), Keep(memory=True)], ids=["", "memory"])
def test_one_that_is_to_stand_still_and_does_not_answer_is_destroyed(
    world: VmWorld, silent: Callable[[str], None], keep: Keep
) -> None:
    silent("suspend")
    world.vms.answers.patience_s = _MOMENT_S
    with pytest.raises(Unanswered):
        quarantine(world, WEB, keep)
    assert gone(world, WEB)
    assert world.images.overlay(WEB) is not None
    assert not world.hypervisor.dumps


def test_one_that_is_suspended_for_a_peer_and_does_not_answer_is_destroyed(
    world: VmWorld, silent: Callable[[str], None]
) -> None:
    silent("suspend")
    world.vms.answers.patience_s = _MOMENT_S
    with pytest.raises(Unanswered):
        world.vms.suspend(WEB, "its peer failed")
    assert gone(world, WEB)


def test_one_that_does_not_go_on_is_wanted_all_the_same(
    world: VmWorld, silent: Callable[[str], None], never: threading.Event
) -> None:
    """What it was asked may still come about, and is no mistake then."""
    quarantine(world, WEB)
    silent("resume")
    with pytest.raises(Unanswered):
        world.vms.start(WEB)
    status = world.status(WEB)
    assert (status.wanted, status.cut_off) == (True, "")
    runs = threading.Event()
    world.hypervisor.subscribe(runs.set)
    never.set()
    assert runs.wait(_WITHIN_S)
    assert world.vms.enforce_labels() == ()
    assert world.state(WEB) is DomainState.RUNNING


def test_an_error_that_is_an_answer_destroys_nothing(
    world: VmWorld, silent: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    del silent

    def refuses(_name: VmName) -> None:
        raise BackendFailed("libvirtd does not answer")

    monkeypatch.setattr(world.hypervisor, "suspend", refuses)
    with pytest.raises(BackendFailed, match="libvirtd"):
        world.vms.suspend(WEB, "a test")
    assert world.state(WEB) is DomainState.RUNNING


def test_a_monitor_that_did_not_answer_once_is_not_waited_for_again(
    monkeypatch: pytest.MonkeyPatch, never: threading.Event
) -> None:
    asked, libvirt_qemu = [], MagicMock()

    def command(_domain: object, text: str, _flags: int) -> str:
        asked.append(text)
        never.wait()
        return ""

    libvirt_qemu.qemuMonitorCommand = command
    monkeypatch.setitem(sys.modules, "libvirt", MagicMock())
    monkeypatch.setitem(sys.modules, "libvirt_qemu", libvirt_qemu)
    for module in ("libvirt_domains", "libvirt_qemu", "libvirt_live"):
        monkeypatch.delitem(sys.modules, f"shamon_host.hypervisor.{module}", raising=False)
    libvirt_live = importlib.import_module("shamon_host.hypervisor.libvirt_live")
    monkeypatch.setattr(libvirt_live, "_ANSWER_S", _MOMENT_S)
    report = MagicMock(state=DomainState.RUNNING)
    report.name = WEB
    live = libvirt_live.LibvirtLive(qemu=MagicMock(domains=lambda: [report]), directory=Path("/"))
    for count in (1, 2):
        with pytest.raises(Unanswered):
            live.abandon(WEB)
        assert len(asked) == count, "each attempt asks once"


def test_one_call(never: threading.Event) -> None:
    assert answered(lambda: 7, _WITHIN_S, where="web") == 7
    with pytest.raises(ZeroDivisionError):
        answered(lambda: 1 // 0, _WITHIN_S, where="web")
    with pytest.raises(Unanswered, match="nothing within"):
        answered(never.wait, _MOMENT_S, where="web")
