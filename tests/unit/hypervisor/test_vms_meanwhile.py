"""What is asked for while a start or a replacement reads disks, with nothing held, counts."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import pytest

from shamon_host.domain.errors import Refused
from shamon_host.domain.labels import VmName
from shamon_host.domain.quarantine import Grade
from shamon_host.hypervisor.guest_tpms import GuestTpm
from shamon_host.hypervisor.ports import DomainState
from shamon_host.hypervisor.vm_disks import VmDisks
from shamon_host.hypervisor.vm_states import VmStates
from tests.unit.hypervisor.vm_world import WEB, VmWorld

Meanwhile = Callable[[Callable[[], object]], None]
CUTTING = [Grade.PORTS_DOWN, Grade.SUSPEND, Grade.DESTROY]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Let another thread do this while disks are read, once."""

    def at_once(call: Callable[[], object]) -> None:
        read, calls = VmDisks.read_pinned, [call]

        def read_pinned(self: VmDisks, name: VmName) -> None:
            if calls:
                with ThreadPoolExecutor(1) as another:  # whose call would wait for a lock that is held here
                    another.submit(calls.pop()).result(timeout=10)
            read(self, name)

        monkeypatch.setattr(VmDisks, "read_pinned", read_pinned)

    return at_once


def _let_notes_be_enough(world: VmWorld) -> None:
    entry = replace(world.policy.vms[WEB], quarantine=Grade.NOTE)
    world.policy = replace(world.policy, vms={**world.policy.vms, WEB: entry})


def _quarantine(world: VmWorld, grade: Grade) -> None:
    world.vms.quarantine(WEB, "seen", ports_down=world.hub.detach, grade=grade)


@pytest.mark.parametrize("grade", CUTTING)
def test_a_quarantine_during_a_replacement(world: VmWorld, meanwhile: Meanwhile, grade: Grade) -> None:
    _let_notes_be_enough(world)
    world.vms.start(WEB)
    world.write_marker(WEB, "traces")
    meanwhile(lambda: _quarantine(world, grade))
    with pytest.raises(Refused, match="something else was asked for") as raised:
        world.vms.replace(WEB, "its peer failed")
    assert raised.value.found == "in quarantine: seen"
    status = world.status(WEB)
    assert (status.cut_off, status.wanted, status.replacing, world.domain(WEB)) == ("seen", False, "", None)
    world.vms.finish()
    world.vms.enforce_labels()
    assert world.domain(WEB) is None
    world.vms.start(WEB)
    assert world.marker(WEB) == ""


def test_a_stop_during_a_replacement(world: VmWorld, meanwhile: Meanwhile) -> None:
    world.vms.start(WEB)
    world.write_marker(WEB, "traces")
    meanwhile(lambda: world.vms.stop(WEB))
    with pytest.raises(Refused, match="something else was asked for"):
        world.vms.replace(WEB, "its peer failed")
    assert (world.domain(WEB), world.status(WEB).wanted) == (None, False)
    world.vms.start(WEB)
    assert world.marker(WEB) == ""


def test_a_note_that_is_made_during_a_replacement_stays(world: VmWorld, meanwhile: Meanwhile) -> None:
    _let_notes_be_enough(world)
    world.vms.start(WEB)
    _quarantine(world, Grade.NOTE)
    world.vms.replace(WEB, "clean again")
    assert world.status(WEB).quarantine is None
    meanwhile(lambda: _quarantine(world, Grade.NOTE))
    assert world.vms.replace(WEB, "clean again").state is DomainState.RUNNING
    held = world.status(WEB).quarantine
    assert held is not None
    assert (held.grade, held.reason) == (Grade.NOTE, "seen")


def test_another_replacement_meanwhile_is_done_once(world: VmWorld, meanwhile: Meanwhile) -> None:
    world.vms.start(WEB)
    meanwhile(lambda: world.vms.replace(WEB, "now"))
    with pytest.raises(Refused, match="something else was asked for"):
        world.vms.replace(WEB, "its peer failed")
    assert (world.state(WEB), world.kinds(WEB).count("vm.replaced")) == (DomainState.RUNNING, 1)


def test_a_start_meanwhile_is_of_a_clean_one(world: VmWorld, meanwhile: Meanwhile) -> None:
    world.vms.start(WEB)
    world.write_marker(WEB, "traces")
    meanwhile(lambda: world.vms.start(WEB))
    with pytest.raises(Refused, match="something else was asked for"):
        world.vms.replace(WEB, "its peer failed")
    assert (world.state(WEB), world.marker(WEB)) == (DomainState.RUNNING, "")


@pytest.mark.parametrize("before", [None, Grade.PORTS_DOWN])
def test_a_start_releases_no_quarantine_that_it_has_not_seen(
    world: VmWorld, meanwhile: Meanwhile, before: Grade | None
) -> None:
    _let_notes_be_enough(world)
    world.vms.start(WEB)
    world.vms.suspend(WEB, "a test")
    if before is not None:
        _quarantine(world, before)
    meanwhile(lambda: _quarantine(world, Grade.SUSPEND))
    with pytest.raises(Refused, match="put in quarantine while it was to be started"):
        world.vms.start(WEB)
    assert (world.status(WEB).cut_off, world.state(WEB)) == ("seen", DomainState.PAUSED)
    assert "vm.release" not in world.kinds(WEB)
    assert world.vms.start(WEB).state is DomainState.RUNNING


def test_a_start_whose_quarantine_somebody_released_meanwhile(world: VmWorld, meanwhile: Meanwhile) -> None:
    world.vms.start(WEB)
    _quarantine(world, Grade.SUSPEND)
    meanwhile(lambda: world.vms.start(WEB))
    assert world.vms.start(WEB).state is DomainState.RUNNING
    assert world.kinds(WEB).count("vm.release") == 1


def test_a_quarantine_while_the_ak_of_a_vm_is_noted(world: VmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written down beside the AK, whichever of the two comes first."""
    world.vms.start(WEB)
    tpm = GuestTpm(mark="one")
    world.vms.states.note_overlay(WEB, "", tpm=tpm)
    change = VmStates._change
    begun: list[Future[None]] = []

    def changed(self: VmStates, name: VmName, **changes: Any) -> None:
        read, calls = VmStates._document, [1]

        def then_another(self: VmStates, name: VmName) -> dict[str, Any]:
            found = read(self, name)
            if calls:
                calls.pop()
                begun.append(another.submit(_quarantine, world, Grade.SUSPEND))
                wait(begun, timeout=0.1)  # for as long as it takes, if it does not wait itself
            return found

        with monkeypatch.context() as patch:
            patch.setattr(VmStates, "_change", change)
            patch.setattr(VmStates, "_document", then_another)
            change(self, name, **changes)

    with ThreadPoolExecutor(1) as another:
        with monkeypatch.context() as patch:
            patch.setattr(VmStates, "_change", changed)
            assert world.vms.note_ak(WEB, replace(tpm, ak_public=b"its AK"))
        begun[0].result(timeout=10)
    states = world.vms.states
    quarantine, noted = states.quarantine(WEB), states.tpm(WEB)
    assert (quarantine and quarantine.reason, noted and noted.ak_public) == ("seen", b"its AK")
