"""The daemon dies before any one of its acts in a quarantine or a replacement: what starts next brings the VM to what
was asked for, or to what it was; there are never two, none without its label, and no port of one that is cut off."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from shamon_host.domain.quarantine import Grade
from shamon_host.hypervisor.ports import DomainState
from shamon_host.hypervisor.quarantines import Keep
from shamon_host.hypervisor.vm_quarantine import Memory
from shamon_host.hypervisor.vm_states import ImageState
from tests.unit.hypervisor.mortal_host import TRACES, Fate, Host, died, to_every_death
from tests.unit.hypervisor.vm_world import WEB


@pytest.mark.parametrize("boots", [False, True])
@pytest.mark.parametrize(
    "keep", [Keep(), Keep(disk=True), Keep(memory=True, disk=True)], ids=lambda keep: str(keep.words)
)
@pytest.mark.parametrize("grade", Grade)
def test_quarantine(grade: Grade, keep: Keep, *, boots: bool) -> None:
    if keep.words and grade is Grade.NOTE:
        return

    def play(host: Host, fate: Fate) -> bool:
        world = host.world
        entry = replace(world.policy.vms[WEB], quarantine=grade)
        world.policy = replace(world.policy, vms={**world.policy.vms, WEB: entry})
        vms, detach = host.mortal(fate), host.act(fate, world.hub.detach)
        has_died = died(fate, lambda: vms.quarantine(WEB, "looks odd", ports_down=detach, keep=keep))
        if has_died:
            host.restart(boots=boots)
        host.look()
        host.shop_is_as_it_was()
        status = world.status(WEB)
        if status.quarantine is None:
            assert has_died
            host.web_runs(marker=TRACES)
            return has_died
        assert (status.quarantine.grade, status.quarantine.reason) == (grade, "looks odd")
        host.no_port_of_what_is_cut_off()
        gone = grade is Grade.DESTROY or (has_died and boots and grade is not Grade.NOTE)
        runs = DomainState.PAUSED if grade is Grade.SUSPEND else DomainState.RUNNING
        assert world.state(WEB) is (None if gone else runs)
        assert bool(world.images.overlay(WEB)) is (grade is not Grade.DESTROY)
        assert status.image_state is (ImageState.NONE if grade is Grade.DESTROY else ImageState.CURRENT)
        kept = [overlay.written for overlay in world.images.kept.values()]
        assert kept == ([TRACES] if keep.disk and grade is Grade.DESTROY else [])
        if keep.memory and not (has_died and boots):
            assert (status.quarantine.memory, len(world.hypervisor.dumps)) == (Memory.KEPT, 1)
        assert world.vms.start(WEB).state is DomainState.RUNNING, "nothing is in the way of its release"
        return has_died

    to_every_death(play)


@pytest.mark.parametrize("boots", [False, True])
@pytest.mark.parametrize("before", [None, *Grade])
def test_replacement(before: Grade | None, *, boots: bool) -> None:
    """Of one that runs, and of one in quarantine whose disk is kept."""

    def play(host: Host, fate: Fate) -> bool:
        world = host.world
        if before is not None:
            label = replace(world.policy.vm_labels["red"], quarantine=before)
            world.policy = replace(world.policy, vm_labels={**world.policy.vm_labels, "red": label})
            keep = Keep(disk=before.cuts_off)
            world.vms.quarantine(WEB, "looks odd", ports_down=world.hub.detach, keep=keep)
        vms = host.mortal(fate)
        has_died = died(fate, lambda: vms.replace(WEB, "clean again"))
        begun = bool((world.documents.get("vm", WEB) or {}).get("replacing"))
        if has_died:
            host.restart(boots=boots)
        host.look()
        host.shop_is_as_it_was()
        if before is not None and before.cuts_off and world.status(WEB).quarantine is not None:
            assert has_died
            assert not begun
            host.no_port_of_what_is_cut_off()
            return has_died
        if world.marker(WEB) == TRACES:
            assert has_died
            assert not begun
            assert (world.state(WEB), world.status(WEB).quarantine is None) == (DomainState.RUNNING, before is None)
            return has_died
        host.web_runs(marker="")
        kept = [overlay.written for overlay in world.images.kept.values()]
        assert kept == ([TRACES] if before is not None and before.cuts_off else [])
        return has_died

    to_every_death(play)


@pytest.mark.parametrize("then", ["stop", "start", "quarantine", "replace"])
def test_whatever_comes_after_a_replacement_that_was_cut_short(then: str) -> None:
    """The old disk never starts again; a VM that was stopped, or put in quarantine, is not started."""

    def play(host: Host, fate: Fate) -> bool:
        world = host.world
        vms = host.mortal(fate)
        has_died = died(fate, lambda: vms.replace(WEB, "clean again"))
        destroyed = world.domain(WEB) is None
        calls: dict[str, Callable[[], object]] = {
            "stop": lambda: world.vms.stop(WEB),
            "start": lambda: world.vms.start(WEB),
            "quarantine": lambda: world.vms.quarantine(WEB, "looks odd", ports_down=world.hub.detach),
            "replace": lambda: world.vms.replace(WEB, "once more"),
        }
        calls[then]()
        world.vms.finish()
        if then in ("stop", "quarantine"):
            assert world.state(WEB) in (None, DomainState.PAUSED)
            world.vms.start(WEB)
        assert world.state(WEB) is DomainState.RUNNING
        if destroyed or not has_died:
            assert world.marker(WEB) == ""
        return has_died

    to_every_death(play)
