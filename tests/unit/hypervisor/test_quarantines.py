"""Quarantine by its grades, what is kept of a VM, and what holds until it is released."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from shamon_host.domain.errors import BackendFailed, BadInput, Refused
from shamon_host.domain.labels import VmName
from shamon_host.domain.quarantine import Grade
from shamon_host.hypervisor.ports import DomainState
from shamon_host.hypervisor.quarantines import Keep
from shamon_host.hypervisor.vm_quarantine import Memory, Quarantine, moment, quarantine_in
from shamon_host.hypervisor.vm_states import ImageState
from tests.unit.hypervisor.vm_world import BETA, RED, SHOP, WEB, VmWorld

BOTH = Keep(memory=True, disk=True)
CUTTING = [Grade.PORTS_DOWN, Grade.SUSPEND, Grade.DESTROY]
STATES = {
    Grade.NOTE: DomainState.RUNNING,
    Grade.PORTS_DOWN: DomainState.RUNNING,
    Grade.SUSPEND: DomainState.PAUSED,
    Grade.DESTROY: None,
}


def _started(world: VmWorld) -> None:
    world.vms.start(WEB)
    world.vms.start(SHOP)
    world.write_marker(WEB, "traces")


def _quarantine(world: VmWorld, grade: Grade | None = None, keep: Keep | None = None, vm: VmName = WEB) -> None:
    world.vms.quarantine(vm, "looks odd", ports_down=world.hub.detach, grade=grade, keep=keep or Keep())


def _policy(world: VmWorld, grade: Grade, vm: VmName = WEB) -> None:
    entry = replace(world.policy.vms[vm], quarantine=grade)
    world.policy = replace(world.policy, vms={**world.policy.vms, vm: entry})


@pytest.mark.parametrize("grade", Grade)
def test_what_each_grade_does_and_what_it_leaves_alone(world: VmWorld, grade: Grade) -> None:
    _policy(world, grade)
    _started(world)
    before = world.domain(SHOP)
    _quarantine(world)
    status = world.status(WEB)
    assert status.quarantine is not None
    assert (status.quarantine.grade, status.quarantine.reason) == (grade, "looks odd")
    assert world.state(WEB) is STATES[grade]
    on_bridge = world.hub.bridges["br-red"] != []
    cut_off = grade is not Grade.NOTE
    assert (bool(status.cut_off), on_bridge, RED in world.vms.states.running_types()) == (
        cut_off,
        not cut_off,
        not cut_off,
    )
    assert status.wanted is not cut_off
    assert (world.images.overlay(WEB) is None) is (grade is Grade.DESTROY)
    assert (world.domain(SHOP), len(world.hub.bridges["br-blue"])) == (before, 1)
    kinds = world.kinds(WEB)
    assert kinds.index("vm.quarantine") < kinds.index("vm.quarantined")


@pytest.mark.parametrize("grade", Grade)
@pytest.mark.parametrize("asked", Grade)
def test_an_operator_may_ask_for_more_and_never_for_less(world: VmWorld, grade: Grade, asked: Grade) -> None:
    _policy(world, grade)
    _started(world)
    if asked.is_weaker_than(grade):
        with pytest.raises(Refused, match="weaker quarantine than the policy asks for") as raised:
            _quarantine(world, asked)
        assert raised.value.expected == f"{grade} or stronger"
        assert "vm.quarantine" not in world.kinds(WEB)
        assert world.state(WEB) is DomainState.RUNNING
    else:
        _quarantine(world, asked)
        assert world.state(WEB) is STATES[asked]


def test_a_quarantine_only_gets_stronger_until_it_is_released(world: VmWorld) -> None:
    _policy(world, Grade.NOTE)
    _started(world)
    _quarantine(world, Grade.SUSPEND)
    with pytest.raises(Refused, match="weaker quarantine than it is in quarantine with"):
        _quarantine(world, Grade.PORTS_DOWN)
    _quarantine(world)
    assert world.status(WEB).quarantine.grade is Grade.SUSPEND  # type: ignore[union-attr]
    world.vms.start(WEB)
    _quarantine(world)
    assert world.status(WEB).quarantine.grade is Grade.NOTE  # type: ignore[union-attr]


@pytest.mark.parametrize("grade", Grade)
def test_release_is_a_start(world: VmWorld, grade: Grade) -> None:
    _policy(world, grade)
    _started(world)
    _quarantine(world)
    assert world.vms.start(WEB).state is DomainState.RUNNING
    assert world.status(WEB).quarantine is None
    assert world.status(WEB).wanted
    assert RED in world.vms.states.running_types()
    assert ("vm.release", WEB, {"quarantined": "looks odd", "grade": grade}) in world.entries
    assert world.marker(WEB) == ("" if grade is Grade.DESTROY else "traces")


@pytest.mark.parametrize("grade", CUTTING)
def test_whatever_the_monitor_refuses_to_start_stays_in_quarantine(world: VmWorld, grade: Grade) -> None:
    _policy(world, grade)
    _started(world)
    _quarantine(world)
    blue = replace(world.policy.hosts[world.vms.states.host], types=frozenset())
    world.policy = replace(world.policy, hosts={**world.policy.hosts, blue.name: blue})
    with pytest.raises(Refused, match="management-label"):
        world.vms.start(WEB)
    assert world.status(WEB).cut_off
    assert world.state(WEB) is STATES[grade]


def test_a_note_outlives_a_boot_and_ends_with_a_replacement(world: VmWorld) -> None:
    _policy(world, Grade.NOTE)
    _started(world)
    _quarantine(world)
    world.reboot()
    assert WEB in world.vms.restore(replace=False, reason="booted")
    assert world.status(WEB).quarantine is not None
    world.vms.replace(WEB, "clean again")
    assert world.status(WEB).quarantine is None


@pytest.mark.parametrize("grade", CUTTING)
def test_no_boot_brings_back_what_is_cut_off(world: VmWorld, grade: Grade) -> None:
    _policy(world, grade)
    _started(world)
    _quarantine(world)
    world.reboot()
    assert world.vms.restore(replace=True, reason="booted") == (SHOP,)
    assert world.domain(WEB) is None
    with pytest.raises(Refused, match="in quarantine"):
        world.vms.start(WEB, release=False)


@pytest.mark.parametrize("grade", CUTTING)
def test_a_stop_does_not_release_it(world: VmWorld, grade: Grade) -> None:
    _policy(world, grade)
    _started(world)
    _quarantine(world)
    world.vms.stop(WEB)
    assert world.status(WEB).cut_off == "looks odd"


def test_ports_that_somebody_puts_back_are_none_of_the_types(world: VmWorld) -> None:
    """The planner takes off a bridge whatever tap is not told of here."""
    _started(world)
    _policy(world, Grade.NOTE)
    _quarantine(world, Grade.PORTS_DOWN)
    world.hub.bridges["br-red"].append(world.domain(WEB).interfaces[0].device)  # type: ignore[union-attr]
    assert set(world.vms.states.taps().values()) == {"rival/blue"}
    assert world.vms.enforce_labels() == ()
    assert world.state(WEB) is DomainState.RUNNING


def test_one_that_was_destroyed_and_is_started_by_hand_is_destroyed_again(world: VmWorld) -> None:
    _started(world)
    _quarantine(world, Grade.DESTROY)
    world.vms.start(WEB)
    _quarantine(world, Grade.SUSPEND)
    held = world.vms.states.quarantine(WEB)
    assert held is not None
    world.vms.states.note(WEB, wanted=False, quarantine=replace(held, grade=Grade.DESTROY))
    assert world.vms.enforce_labels() == ()
    assert world.domain(WEB) is None
    assert world.images.overlay(WEB) is None


@pytest.mark.parametrize("keep", [Keep(), Keep(disk=True)], ids=lambda keep: str(keep.words))
@pytest.mark.parametrize("ended", [False, True])
def test_a_daemon_that_died_before_the_disk_was_let_go_of(
    world: VmWorld, monkeypatch: pytest.MonkeyPatch, keep: Keep, *, ended: bool
) -> None:
    """A start that comes before anything else brings the quarantine about, and is of a clean one."""
    _started(world)

    def dies(_name: VmName) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(world.hypervisor, "destroy", dies)
        with pytest.raises(KeyboardInterrupt):
            _quarantine(world, Grade.DESTROY, keep)
    if ended:
        world.hypervisor.crash(WEB)
    first = world.domain(WEB)
    assert world.marker(WEB) == "traces"
    assert world.vms.start(WEB).state is DomainState.RUNNING
    assert (first is None, world.marker(WEB)) == (ended, "")
    assert [overlay.written for overlay in world.images.kept.values()] == (["traces"] if keep.disk else [])
    assert ("vm.discard-disk" in world.kinds(WEB)) is not keep.disk


def test_one_that_fails_does_not_hold_up_the_others(world: VmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    _started(world)
    for vm in (SHOP, WEB):
        _quarantine(world, vm=vm)
        world.hypervisor.resume(vm)
    suspend = world.hypervisor.suspend

    def broken(name: VmName) -> None:
        if name == SHOP:
            raise BackendFailed("it does not stand still")
        suspend(name)

    monkeypatch.setattr(world.hypervisor, "suspend", broken)
    for _ in range(2):
        world.vms.enforce_labels()
    assert world.state(WEB) is DomainState.PAUSED
    assert world.kinds(SHOP).count("vm.quarantine-failed") == 1
    assert world.vms.resisting == {SHOP}
    monkeypatch.undo()
    world.vms.enforce_labels()
    assert (world.state(SHOP), world.vms.resisting) == (DomainState.PAUSED, frozenset())


class TestKeep:
    @pytest.mark.parametrize("grade", CUTTING)
    def test_memory_and_disk(self, world: VmWorld, grade: Grade) -> None:
        _policy(world, Grade.PORTS_DOWN)
        _started(world)
        _quarantine(world, grade, BOTH)
        held = world.status(WEB).quarantine
        assert held is not None
        assert held.memory is Memory.KEPT
        memory = world.images.kept_path(held.file(WEB, "memory"))
        assert world.hypervisor.dumps == {memory: WEB}
        assert memory in held.kept
        assert world.state(WEB) is STATES[grade]
        if grade is not Grade.DESTROY:
            assert world.images.kept == {}, "it is in use, and stays where it is"
            world.vms.replace(WEB, "clean again")
            assert world.marker(WEB) == ""
        disk = world.images.kept_path(held.file(WEB, "disk"))
        assert world.images.kept[disk].written == "traces"
        assert ("vm.keep", WEB, {"disk": disk}) in world.entries

    def test_names_tell_the_vm_and_when(self, world: VmWorld) -> None:
        assert moment(1_796_039_250.9) == "20261130T114730Z"
        world.vms.quarantines.wall_s = lambda: 1_796_039_250.9
        world.vms.quarantines.new_mark = lambda: "0badcafe"
        _started(world)
        _quarantine(world, keep=BOTH)
        assert list(world.hypervisor.dumps) == ["/kept/web-20261130T114730Z-0badcafe.memory"]

    def test_each_has_a_file_of_its_own_whatever_the_clock_says(self, world: VmWorld) -> None:
        """Kept twice within a second, or after the clock was set back."""
        world.vms.quarantines.wall_s = lambda: 1_796_039_250.9
        _started(world)
        for times in (1, 2):
            _quarantine(world, keep=Keep(memory=True))
            assert len(world.hypervisor.dumps) == times
            held = world.status(WEB).quarantine
            assert held is not None
            assert len(set(held.kept)) == times
        for times in (1, 2):
            world.write_marker(WEB, f"traces {times}")
            _quarantine(world, Grade.DESTROY, Keep(disk=True))
            world.vms.start(WEB)
        assert [overlay.written for overlay in world.images.kept.values()] == ["traces 1", "traces 2"]

    def test_names_in_records_from_before_there_were_marks(self) -> None:
        noted = {"grade": "suspend", "reason": "odd", "since": "20261130T114730Z", "memory": "asked", "kept": []}
        held = Quarantine.from_document(noted)
        assert held.file(WEB, "memory") == "web-20261130T114730Z.memory", "what was begun is found again"

    def test_nothing_of_a_vm_that_is_only_noted(self, world: VmWorld) -> None:
        _policy(world, Grade.NOTE)
        _started(world)
        for keep in (BOTH, Keep(memory=True), Keep(disk=True)):
            with pytest.raises(BadInput, match="only noted"):
                _quarantine(world, keep=keep)
        assert "vm.quarantine" not in world.kinds(WEB)

    def test_a_disk_that_is_not_asked_for_goes_and_the_log_says_so(self, world: VmWorld) -> None:
        _started(world)
        _quarantine(world, Grade.DESTROY)
        assert ("vm.discard-disk", WEB, {"reason": "looks odd"}) in world.entries
        assert world.images.kept == {}

    def test_a_release_gives_it_its_disk_back(self, world: VmWorld) -> None:
        _started(world)
        _quarantine(world, keep=BOTH)
        world.vms.start(WEB)
        assert world.marker(WEB) == "traces"
        world.vms.replace(WEB, "clean again")
        assert world.images.kept == {}

    def test_it_stands_still_and_off_its_bridges_while_the_memory_is_written(
        self, world: VmWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _policy(world, Grade.PORTS_DOWN)
        _started(world)
        seen = []
        dump = world.hypervisor.dump_memory

        def dump_memory(name: VmName, path: str) -> None:
            seen.append((world.state(WEB), list(world.hub.bridges["br-red"])))
            with ThreadPoolExecutor(1) as another:  # whose calls would wait for a lock that is held here
                for refused in (world.vms.start, world.vms.stop, lambda vm: world.vms.replace(vm, "now")):
                    with pytest.raises(Refused, match="is being written"):
                        another.submit(refused, WEB).result(timeout=10)
                another.submit(world.vms.start, SHOP).result(timeout=10)
                another.submit(world.vms.enforce_labels).result(timeout=10)
            dump(name, path)

        monkeypatch.setattr(world.hypervisor, "dump_memory", dump_memory)
        _quarantine(world, keep=Keep(memory=True))
        assert seen == [(DomainState.PAUSED, [])]
        assert world.state(WEB) is DomainState.RUNNING

    def test_one_that_somebody_suspended_before_does_not_go_on(self, world: VmWorld) -> None:
        _policy(world, Grade.PORTS_DOWN)
        _started(world)
        world.vms.suspend(WEB, "its peer failed")
        _quarantine(world, keep=Keep(memory=True))
        world.vms.enforce_labels()
        assert world.state(WEB) is DomainState.PAUSED

    def test_one_that_a_peer_fails_for_meanwhile_does_not_go_on(
        self, world: VmWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _policy(world, Grade.PORTS_DOWN)
        _started(world)
        dump = world.hypervisor.dump_memory

        def dump_memory(name: VmName, path: str) -> None:
            world.vms.suspend(WEB, "its peer failed", peer=BETA)
            dump(name, path)

        monkeypatch.setattr(world.hypervisor, "dump_memory", dump_memory)
        _quarantine(world, keep=Keep(memory=True))
        world.vms.enforce_labels()
        assert world.state(WEB) is DomainState.PAUSED
        world.vms.resume_for(WEB, BETA)
        world.vms.enforce_labels()
        assert world.state(WEB) is DomainState.RUNNING

    @pytest.mark.parametrize("grade", CUTTING)
    def test_memory_that_cannot_be_written_holds_everything_else_up(
        self, world: VmWorld, monkeypatch: pytest.MonkeyPatch, grade: Grade
    ) -> None:
        _policy(world, Grade.PORTS_DOWN)
        _started(world)

        def full(_name: VmName, _path: str) -> None:
            raise BackendFailed("no space left")

        with monkeypatch.context() as patch:
            patch.setattr(world.hypervisor, "dump_memory", full)
            with pytest.raises(BackendFailed, match="no space left"):
                _quarantine(world, grade, BOTH)
        world.vms.enforce_labels()
        world.vms.finish()
        held = world.status(WEB).quarantine
        assert held is not None
        assert (world.state(WEB), held.memory, held.not_kept) == (DomainState.PAUSED, Memory.FAILED, "no space left")
        assert world.marker(WEB) == "traces"
        assert world.kinds(WEB).count("vm.not-kept") == 1
        _quarantine(world, keep=Keep(memory=True))
        assert world.state(WEB) is STATES[grade]
        assert (len(world.hypervisor.dumps), len(world.images.kept)) == (1, grade is Grade.DESTROY)

    def test_after_that_an_operator_may_do_without(self, world: VmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        _started(world)

        def full(_name: VmName, _path: str) -> None:
            raise BackendFailed("no space left")

        monkeypatch.setattr(world.hypervisor, "dump_memory", full)
        with pytest.raises(BackendFailed):
            _quarantine(world, Grade.DESTROY, BOTH)
        _quarantine(world)
        assert world.domain(WEB) is None
        assert len(world.images.kept) == 1, "that the disk is kept was asked for before"

    @pytest.mark.parametrize("grade", CUTTING)
    @pytest.mark.parametrize("failed", [False, True])
    def test_nothing_takes_away_what_is_still_to_be_kept(
        self, world: VmWorld, monkeypatch: pytest.MonkeyPatch, grade: Grade, *, failed: bool
    ) -> None:
        """Between the note and the writing, and when that has failed."""
        _policy(world, Grade.NOTE)
        _started(world)

        def full(_name: VmName, _path: str) -> None:
            raise BackendFailed("no space left")

        def later(_name: VmName) -> None:
            """Another thread comes first."""

        with monkeypatch.context() as patch:
            patch.setattr(world.hypervisor, "dump_memory", full)
            if failed:
                with pytest.raises(BackendFailed):
                    _quarantine(world, grade, Keep(memory=True))
            else:
                patch.setattr(world.vms.quarantines, "keep_memory", later)
                _quarantine(world, grade, Keep(memory=True))
        before = world.documents.get("vm", WEB)
        calls = (world.vms.stop, world.vms.start, lambda vm: world.vms.replace(vm, "its peer failed"))
        for call in calls:
            with pytest.raises(Refused, match="to be kept, and is not yet") as raised:
                call(WEB)
            assert raised.value.found == ("no space left" if failed else "")
            assert "shamon vm quarantine web" in raised.value.remedy
        assert world.documents.get("vm", WEB) == before
        assert (world.state(WEB), world.marker(WEB)) == (DomainState.PAUSED, "traces")
        _quarantine(world, grade)
        for call in calls:
            call(WEB)
        assert world.marker(WEB) == "", "it was replaced in the end"
        assert world.state(WEB) is DomainState.RUNNING

    def test_what_is_gone_by_itself_leaves_nothing_to_wait_for(
        self, world: VmWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _started(world)
        monkeypatch.setattr(world.vms.quarantines, "keep_memory", lambda _name: None)
        _quarantine(world, keep=Keep(memory=True))
        world.hypervisor.crash(WEB)
        world.vms.stop(WEB)
        assert world.vms.start(WEB).state is DomainState.RUNNING

    def test_one_that_does_not_run_has_no_memory(self, world: VmWorld) -> None:
        _started(world)
        world.vms.stop(WEB)
        with pytest.raises(BackendFailed, match="no such domain"):
            _quarantine(world, Grade.DESTROY, BOTH)
        assert world.images.overlay(WEB) is None
        assert len(world.images.kept) == 1

    def test_a_port_that_stays_up_does_not_keep_the_memory_from_being_written(self, world: VmWorld) -> None:
        def broken(_tap: str) -> None:
            raise BackendFailed("the bridge does not let go")

        _started(world)
        with pytest.raises(BackendFailed, match="does not let go"):
            world.vms.quarantine(WEB, "a test", ports_down=broken, keep=BOTH)
        assert world.state(WEB) is DomainState.PAUSED
        assert len(world.hypervisor.dumps) == 1

    def test_a_stronger_quarantine_that_is_asked_for_meanwhile(
        self, world: VmWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _started(world)

        def dump_memory(_name: VmName, path: str) -> None:
            _quarantine(world, Grade.DESTROY)
            raise BackendFailed("the domain is gone", where=path)

        monkeypatch.setattr(world.hypervisor, "dump_memory", dump_memory)
        _quarantine(world, keep=Keep(memory=True))
        held = world.status(WEB).quarantine
        assert held is not None
        assert (held.grade, held.memory, world.domain(WEB)) == (Grade.DESTROY, Memory.NOT_ASKED, None)


def test_what_was_noted_before_there_were_grades(world: VmWorld) -> None:
    _started(world)
    world.documents.put("vm", WEB, {**(world.documents.get("vm", WEB) or {}), "wanted": False, "quarantined": "odd"})
    assert world.status(WEB).cut_off == "odd"
    world.vms.enforce_labels()
    assert world.state(WEB) is DomainState.PAUSED
    world.vms.start(WEB)
    assert quarantine_in(world.documents.get("vm", WEB) or {}) is None


class TestImages:
    def test_what_an_overlay_was_made_from(self, world: VmWorld) -> None:
        assert world.status(WEB).image_state is ImageState.NONE
        _started(world)
        assert (world.status(WEB).image, world.status(WEB).image_state) == ("app", ImageState.CURRENT)
        assert world.status(WEB).image_sha256 == world.policy.images["app"].sha256
        patched = replace(world.policy.images["app"], sha256="f" * 64)
        world.policy = replace(world.policy, images={"app": patched})
        assert world.status(WEB).image_state is ImageState.OUTDATED
        world.vms.stop(WEB)
        assert world.status(WEB).image_state is ImageState.OUTDATED, "its next start is on the disk that it has"
        _quarantine(world, Grade.DESTROY)
        assert world.status(WEB).image_state is ImageState.NONE

    def test_nobody_knows_of_one_that_was_made_before_it_was_noted(self, world: VmWorld) -> None:
        _started(world)
        world.documents.put("vm", WEB, {"wanted": True, "interfaces": [RED], "disks": []})
        assert world.status(WEB).image_state is ImageState.UNKNOWN
        world.vms.replace(WEB, "to know")
        assert world.status(WEB).image_state is ImageState.CURRENT
