"""The life of VMs on the fakes: labels are read back before a guest runs, and what is refused does not run."""

from dataclasses import replace

import pytest

from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, Refused
from shamon_host.domain.labels import HostName, SelinuxContext, VmName
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.quarantine import Grade
from shamon_host.hypervisor.ports import DomainReport, DomainState, VmInterface, VmSpec
from shamon_host.hypervisor.vm_spec import VmSettings
from shamon_host.hypervisor.vm_states import ImageState
from shamon_host.testing.images import sha256_of
from tests.unit.hypervisor.vm_world import (
    ADDRESSES,
    ALPHA,
    BETA,
    BLUE,
    DB,
    GATE,
    IMAGE,
    POLICY_TEXT,
    PROBE,
    RED,
    SHOP,
    WEB,
    VmWorld,
    context_of,
)

GAMMA = HostName("gamma")
WRONG = SelinuxContext(user="system_u", role="system_r", type="svirt_t", categories=frozenset({1, 2}))


def _mislabel(world: VmWorld, monkeypatch: pytest.MonkeyPatch, context: SelinuxContext | None) -> list[str]:
    """Let every start end under `context`; returns what is asked of the hypervisor from then on."""
    asked: list[str] = []
    start, resume = world.hypervisor.start_paused, world.hypervisor.resume

    def start_paused(spec: VmSpec) -> DomainReport:
        start(spec)
        world.hypervisor.relabel(spec.name, context)
        return next(report for report in world.hypervisor.domains() if report.name == spec.name)

    def noted(name: VmName) -> None:
        asked.append(f"resume {name}")
        resume(name)

    monkeypatch.setattr(world.hypervisor, "start_paused", start_paused)
    monkeypatch.setattr(world.hypervisor, "resume", noted)
    return asked


class TestStart:
    def test_runs_under_its_label_on_its_types_bridges(self, world: VmWorld) -> None:
        report = world.vms.start(GATE)
        assert (report.state, report.context) == (DomainState.RUNNING, context_of(GATE))
        assert [interface.bridge for interface in report.interfaces] == ["br-red", "br-blue"]
        assert world.vms.states.taps() == dict(zip((i.device for i in report.interfaces), (RED, BLUE), strict=True))
        assert world.vms.states.running_types() == {RED, BLUE}
        assert world.status(GATE).wanted

    def test_names_and_addresses_are_stable_and_its_own(self, world: VmWorld) -> None:
        first = world.vms.start(WEB)
        shop = world.vms.start(SHOP)
        world.vms.stop(WEB)
        second = world.vms.start(WEB)
        assert (second.uuid, second.interfaces) == (first.uuid, first.interfaces)
        assert shop.uuid != first.uuid
        assert not {i.device for i in shop.interfaces} & {i.device for i in first.interfaces}
        assert not {i.mac for i in shop.interfaces} & {i.mac for i in first.interfaces}
        assert all(len(i.device) <= 15 and int(i.mac[:2], 16) & 3 == 2 for i in first.interfaces)

    def test_decision_is_in_the_audit_log_before_the_hypervisor_is_asked(
        self, world: VmWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(_spec: VmSpec) -> DomainReport:
            raise BackendFailed("the hypervisor is away")

        monkeypatch.setattr(world.hypervisor, "start_paused", broken)
        with pytest.raises(BackendFailed):
            world.vms.start(WEB)
        assert world.kinds(WEB) == ["vm.start", "vm.attach"]
        assert not world.status(WEB).wanted

    def test_guest_is_up(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.start(GATE)
        assert world.hypervisor.guest(WEB).ping(ADDRESSES[GATE][0])

    def test_second_start_changes_nothing(self, world: VmWorld) -> None:
        assert world.vms.start(WEB) == world.vms.start(WEB)

    @pytest.mark.parametrize("name", [DB, VmName("nobody")])
    def test_vm_of_another_host_or_of_none(self, world: VmWorld, name: VmName) -> None:
        with pytest.raises(BadInput, match="gate, probe, shop, web"):
            world.vms.start(name)

    def test_boot_settings_reach_the_hypervisor(self, world: VmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        specs: list[VmSpec] = []
        start = world.hypervisor.start_paused

        def noted(spec: VmSpec) -> DomainReport:
            specs.append(spec)
            return start(spec)

        monkeypatch.setattr(world.hypervisor, "start_paused", noted)
        world.vms.start(WEB)
        assert (specs[0].memory_mib, specs[0].kernel, specs[0].cmdline) == (256, "/vmlinux", "quiet")


class TestLabel:
    @pytest.mark.parametrize("found", [WRONG, None, context_of(SHOP)], ids=["wrong", "none", "another VM's"])
    def test_mismatch_destroys_before_an_instruction_runs(
        self, world: VmWorld, monkeypatch: pytest.MonkeyPatch, found: SelinuxContext | None
    ) -> None:
        asked = _mislabel(world, monkeypatch, found)
        with pytest.raises(NotTrusted) as raised:
            world.vms.start(WEB)
        assert raised.value.expected == str(context_of(WEB))
        assert raised.value.found == str(found or "no label")
        assert asked == []
        assert world.domain(WEB) is None
        assert world.kinds(WEB) == ["vm.start", "vm.attach", "label.vm"]
        assert not world.status(WEB).wanted
        assert not world.vms.states.taps()

    def test_permissive_world_is_refused(self, world: VmWorld) -> None:
        """The label is right, but binds nobody."""
        world.selinux_enforcing = False
        with pytest.raises(NotTrusted, match="expected SELinux enforcing; found permissive"):
            world.vms.start(WEB)
        assert world.domain(WEB) is None

    def test_permissive_world_that_lost_the_policy_is_refused(
        self, world: VmWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No module for `svirt_t`: a permissive host runs the VM as the hypervisor, and says nothing."""
        monkeypatch.setattr("shamon_host.testing.hypervisor.KNOWN_DOMAIN_TYPES", ())
        world.selinux_enforcing = False
        with pytest.raises(NotTrusted, match="virtd_t"):
            world.vms.start(WEB)
        assert world.domain(WEB) is None

    def test_suspended_vm_stays_so_while_selinux_is_permissive(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.suspend(WEB, "a test")
        world.selinux_enforcing = False
        with pytest.raises(NotTrusted):
            world.vms.start(WEB)
        assert world.state(WEB) is DomainState.PAUSED

    def test_running_vm_that_was_relabelled_is_destroyed(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.start(SHOP)
        world.hypervisor.relabel(WEB, WRONG)
        assert world.vms.states.taps() == {interface.device: BLUE for interface in world.status(SHOP).domain.interfaces}  # type: ignore[union-attr]
        assert world.vms.states.running_types() == {BLUE}
        assert world.vms.enforce_labels() == (WEB,)
        assert world.domain(WEB) is None
        assert world.state(SHOP) is DomainState.RUNNING
        assert world.kinds(WEB)[-1] == "vm.mislabelled"
        assert world.vms.enforce_labels() == ()

    def test_vm_of_another_host_started_by_hand_is_destroyed(self, world: VmWorld) -> None:
        world.images.fresh_overlay(DB, "app", world.policy.images["app"].sha256)
        world.hub.bridges["br-red"] = []
        world.hypervisor.start_paused(
            VmSpec(
                name=DB,
                uuid="00000000-0000-4000-8000-000000000001",
                context=context_of(DB),
                disk="/overlays/db.qcow2",
                interfaces=(VmInterface(device="tap0", bridge="br-red", mac="52:54:00:00:00:01"),),
            )
        )
        assert world.vms.enforce_labels() == (DB,)
        assert not world.hypervisor.domains()
        assert "beta" in world.entries[-1][2]["expected"]

    def test_a_stranger_is_judged_like_a_start_and_stopped(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.images.fresh_overlay(VmName("stranger"), "app", world.policy.images["app"].sha256)
        world.hypervisor.start_paused(
            VmSpec(
                name=VmName("stranger"),
                uuid="00000000-0000-4000-8000-000000000001",
                context=WRONG,
                disk="/overlays/stranger.qcow2",
                interfaces=(),
            )
        )
        assert world.vms.enforce_labels() == (VmName("stranger"),)
        assert [report.name for report in world.hypervisor.domains()] == [WEB]
        kind, subject, detail = world.entries[-1]
        assert (kind, subject, detail["permitted"]) == ("vm.stranger", "stranger", False)
        assert "the policy knows no VM stranger" in detail["reason"]


class TestWhatCannotBeDestroyed:
    """One domain that stays does not hold up the rest, and nobody is left to think that it is gone."""

    def _stays(self, world: VmWorld, monkeypatch: pytest.MonkeyPatch, *stay: str) -> None:
        destroy = world.hypervisor.destroy

        def broken(name: VmName) -> None:
            if name in stay:
                raise BackendFailed("permission denied")
            destroy(name)

        monkeypatch.setattr(world.hypervisor, "destroy", broken)

    def test_it_is_told_of_once_and_the_rest_goes_on(self, world: VmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        for vm in (WEB, SHOP, GATE):
            world.vms.start(vm)
        world.vms.quarantine(GATE, "a test", ports_down=world.hub.detach)
        world.hypervisor.resume(GATE)
        for vm in (WEB, SHOP):
            world.hypervisor.relabel(vm, WRONG)
        self._stays(world, monkeypatch, WEB)
        assert world.vms.enforce_labels() == (SHOP,)
        assert (world.state(WEB), world.state(GATE)) == (DomainState.RUNNING, DomainState.PAUSED)
        for _ in range(3):
            assert world.vms.enforce_labels() == ()
        assert world.kinds(WEB)[-2:] == ["vm.mislabelled", "vm.not-destroyed"]
        assert world.kinds(WEB).count("vm.mislabelled") == 1
        assert ("vm.not-destroyed", WEB, {"reason": "permission denied"}) in world.entries
        assert world.vms.resisting == {WEB}
        assert world.vms.states.taps() == {}, "it exchanges nothing with anybody"

    def test_it_is_tried_again_and_told_of_again_when_it_comes_back(
        self, world: VmWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.vms.start(WEB)
        world.hypervisor.relabel(WEB, WRONG)
        with monkeypatch.context() as patch:
            self._stays(world, patch, WEB)
            world.vms.enforce_labels()
        assert world.vms.enforce_labels() == (WEB,)
        assert (world.domain(WEB), world.vms.resisting) == (None, frozenset())
        world.vms.start(WEB)
        world.hypervisor.relabel(WEB, WRONG)
        assert world.vms.enforce_labels() == (WEB,)
        assert world.kinds(WEB).count("vm.mislabelled") == 2

    def test_another_reason_is_told_of(self, world: VmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        world.vms.start(WEB)
        self._stays(world, monkeypatch, WEB)
        for context in (WRONG, None):
            world.hypervisor.relabel(WEB, context)
            world.vms.enforce_labels()
        assert world.kinds(WEB)[-3:] == ["vm.mislabelled", "vm.not-destroyed", "vm.mislabelled"]

    def test_what_the_policy_forbids(self, world: VmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        for vm in (GATE, SHOP, WEB):
            world.vms.start(vm)
        before = world.policy
        red = replace(before.hosts[ALPHA], types=frozenset({RED}))
        world.policy = replace(before, hosts={**before.hosts, ALPHA: red})
        with monkeypatch.context() as patch:
            self._stays(world, patch, GATE)
            assert world.vms.stop_forbidden(before) == (SHOP,)
            for _ in range(2):
                assert world.vms.enforce_labels() == ()
            assert world.vms.resisting == {GATE}
        assert world.kinds(GATE)[-2:] == ["vm.forbidden", "vm.not-destroyed"]
        assert world.vms.enforce_labels() == (GATE,)
        assert [report.name for report in world.hypervisor.domains()] == [WEB]

    def test_what_a_later_policy_permits_again_stays(self, world: VmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        world.vms.start(SHOP)
        before = world.policy
        red = replace(before.hosts[ALPHA], types=frozenset({RED}))
        world.policy = replace(before, hosts={**before.hosts, ALPHA: red})
        with monkeypatch.context() as patch:
            self._stays(world, patch, SHOP)
            assert world.vms.stop_forbidden() == ()
        forbidding, world.policy = world.policy, before
        assert world.vms.enforce_labels() == ()
        assert (world.state(SHOP), world.vms.resisting) == (DomainState.RUNNING, frozenset())
        world.policy = forbidding
        assert world.vms.enforce_labels() == (), "it is not looked at again until the policy changes"


class TestConflict:
    def test_refused_with_the_conflict_set_named(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        with pytest.raises(Refused, match=r"audit/black.*conflict set audit.*running: web"):
            world.vms.start(PROBE)
        assert world.domain(PROBE) is None
        kind, _, detail = world.entries[-1]
        assert (kind, detail["permitted"], detail["rule"]) == ("vm.start", False, "chinese-wall")

    @pytest.mark.parametrize("narrowed", ["suspended", "quarantined"])
    def test_vm_that_does_not_run_but_is_there_still_counts(self, world: VmWorld, narrowed: str) -> None:
        world.vms.start(WEB)
        if narrowed == "suspended":
            world.vms.suspend(WEB, "a test")
        else:
            world.vms.quarantine(WEB, "a test", ports_down=world.hub.detach)
        with pytest.raises(Refused):
            world.vms.start(PROBE)

    def test_one_that_is_gone_does_not(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.stop(WEB)
        world.vms.start(PROBE)
        with pytest.raises(Refused, match="conflict set audit"):
            world.vms.start(WEB)


class TestStopAndSuspend:
    def test_stop_keeps_the_disk(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.write_marker(WEB, "mine")
        world.vms.stop(WEB)
        assert world.domain(WEB) is None
        assert not world.status(WEB).wanted
        world.vms.start(WEB)
        assert world.marker(WEB) == "mine"

    def test_suspend_and_resume(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.suspend(WEB, "its peer failed")
        assert world.state(WEB) is DomainState.PAUSED
        assert world.status(WEB).wanted
        assert world.vms.states.running_types() == {RED}
        assert world.vms.start(WEB).state is DomainState.RUNNING
        assert world.kinds(WEB)[-4:] == ["vm.suspend", "vm.start", "vm.attach", "label.vm"]

    def test_resume_is_a_start_that_the_monitor_decides(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.suspend(WEB, "a test")
        red = replace(world.policy.hosts[ALPHA], types=frozenset({BLUE}))
        world.policy = replace(world.policy, hosts={**world.policy.hosts, ALPHA: red})
        with pytest.raises(Refused, match="management-label"):
            world.vms.start(WEB)
        assert world.state(WEB) is DomainState.PAUSED

    def test_one_that_is_suspended_for_peers_goes_on_when_all_are_back(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        for peer in (BETA, GAMMA):
            world.vms.suspend(WEB, "its peer failed", peer=peer)
        world.vms.resume_for(WEB, BETA)
        assert world.state(WEB) is DomainState.PAUSED
        world.vms.resume_for(WEB, BETA)
        world.vms.resume_for(WEB, GAMMA)
        assert world.state(WEB) is DomainState.RUNNING
        assert not world.vms.states.all_suspended_for()

    def test_whoever_resumes_it_it_is_suspended_again(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.suspend(WEB, "its peer failed", peer=BETA)
        world.hypervisor.resume(WEB)
        assert world.vms.enforce_labels() == ()
        assert world.state(WEB) is DomainState.PAUSED

    def test_no_start_but_one_that_somebody_asks_for_lets_it_go_on(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.suspend(WEB, "its peer failed", peer=BETA)
        assert world.vms.start(WEB, release=False).state is DomainState.PAUSED
        world.reboot()
        assert world.vms.start(WEB, release=False).state is DomainState.PAUSED
        assert world.vms.start(WEB).state is DomainState.RUNNING
        assert world.vms.enforce_labels() == ()
        assert world.state(WEB) is DomainState.RUNNING

    def test_a_resumption_that_is_refused_leaves_it_suspended_for_the_peer(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.suspend(WEB, "its peer failed", peer=BETA)
        before = world.policy
        red = replace(world.policy.hosts[ALPHA], types=frozenset({BLUE}))
        world.policy = replace(world.policy, hosts={**world.policy.hosts, ALPHA: red})
        with pytest.raises(Refused, match="management-label"):
            world.vms.resume_for(WEB, BETA)
        world.policy = before
        assert world.vms.states.suspended_for(WEB) == {BETA}
        world.vms.resume_for(WEB, BETA)
        assert world.state(WEB) is DomainState.RUNNING

    def test_a_clean_one_is_suspended_for_nobody(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.suspend(WEB, "its peer failed", peer=BETA)
        assert world.vms.replace(WEB, "somebody asked").state is DomainState.RUNNING
        assert not world.vms.states.all_suspended_for()

    def test_what_an_earlier_version_noted_counts(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.documents.put("suspended-for", WEB, {"peer": BETA})
        world.vms.enforce_labels()
        assert world.state(WEB) is DomainState.PAUSED

    def test_suspend_of_what_does_not_run(self, world: VmWorld) -> None:
        world.vms.suspend(WEB, "a test")
        assert world.domain(WEB) is None


class TestQuarantine:
    def test_ports_go_down_before_it_is_suspended(self, world: VmWorld) -> None:
        report = world.vms.start(GATE)
        seen: list[tuple[str, DomainState | None]] = []
        world.vms.quarantine(GATE, "a test", ports_down=lambda tap: seen.append((tap, world.state(GATE))))
        assert seen == [(interface.device, DomainState.RUNNING) for interface in report.interfaces]
        assert world.state(GATE) is DomainState.PAUSED
        status = world.status(GATE)
        assert (status.wanted, status.cut_off) == (False, "a test")
        assert world.vms.states.taps() == {}
        assert world.vms.states.running_types() == frozenset()

    def test_suspended_also_when_a_port_stays_up(self, world: VmWorld) -> None:
        def broken(_tap: str) -> None:
            raise BackendFailed("the bridge does not let go")

        world.vms.start(WEB)
        with pytest.raises(BackendFailed):
            world.vms.quarantine(WEB, "a test", ports_down=broken)
        assert world.state(WEB) is DomainState.PAUSED

    def test_release_is_a_start(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.write_marker(WEB, "mine")
        world.vms.quarantine(WEB, "a test", ports_down=world.hub.detach)
        assert world.vms.start(WEB).state is DomainState.RUNNING
        assert world.kinds(WEB)[-4:] == ["vm.start", "vm.attach", "vm.release", "label.vm"]
        assert world.status(WEB).quarantine is None
        assert world.vms.states.running_types() == {RED}
        assert world.marker(WEB) == "mine"

    def test_replace_ends_it(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.quarantine(WEB, "a test", ports_down=world.hub.detach)
        world.vms.replace(WEB, "clean again")
        status = world.status(WEB)
        assert (status.wanted, status.quarantine) == (True, None)

    def test_vm_that_is_resumed_by_hand_is_suspended_again(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.quarantine(WEB, "a test", ports_down=world.hub.detach)
        world.hypervisor.resume(WEB)
        assert world.vms.states.taps() == {}
        assert world.vms.enforce_labels() == ()
        assert world.state(WEB) is DomainState.PAUSED

    def test_vm_that_does_not_run(self, world: VmWorld) -> None:
        world.vms.quarantine(WEB, "a test", ports_down=world.hub.detach)
        assert world.status(WEB).cut_off == "a test"
        assert world.vms.restore(replace=True, reason="a test") == ()


class TestReplace:
    def test_verified_image_and_fresh_overlay(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.write_marker(WEB, "left by an intruder")
        report = world.vms.replace(WEB, "its host failed")
        assert (report.state, report.context) == (DomainState.RUNNING, context_of(WEB))
        assert world.marker(WEB) == ""
        assert world.images.overlays[report.disk].base_sha256 == world.policy.images["app"].sha256
        assert world.kinds(WEB)[3:] == ["vm.replace", "vm.start", "vm.attach", "label.vm", "vm.replaced"]

    def test_wrong_image_leaves_nothing_running(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.images.clean["app"] = b"another image"
        with pytest.raises(NotTrusted, match="pinned"):
            world.vms.replace(WEB, "a test")
        assert world.domain(WEB) is None

    @pytest.mark.parametrize("became", ["quarantined", "noted", "suspended", "ended", "stopped"])
    def test_only_one_that_is_in_service(self, world: VmWorld, became: str) -> None:
        world.vms.start(WEB)
        world.write_marker(WEB, "mine")
        if became == "stopped":
            world.vms.stop(WEB)
        elif became == "suspended":
            world.vms.suspend(WEB, "its peer failed")
        elif became == "ended":
            world.vms.suspend(WEB, "its peer failed", peer=BETA)
            world.hypervisor.crash(WEB)
        else:
            if became == "noted":
                entry = replace(world.policy.vms[WEB], quarantine=Grade.NOTE)
                world.policy = replace(world.policy, vms={**world.policy.vms, WEB: entry})
            world.vms.quarantine(WEB, "odd", ports_down=world.hub.detach)
        before = world.status(WEB)
        with pytest.raises(Refused, match="left as it is"):
            world.vms.replace(WEB, "its image is rolled", in_service=True)
        assert (world.status(WEB), world.marker(WEB)) == (before, "mine")
        assert "vm.replace" not in world.kinds(WEB)

    def test_one_in_service_that_does_not_run_is_replaced(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.hypervisor.crash(WEB)
        assert world.vms.replace(WEB, "its image is rolled", in_service=True).state is DomainState.RUNNING

    def test_refused_replacement_leaves_nothing_running(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        blue = replace(world.policy.hosts[ALPHA], types=frozenset({BLUE}))
        world.policy = replace(world.policy, hosts={**world.policy.hosts, ALPHA: blue})
        with pytest.raises(Refused):
            world.vms.replace(WEB, "a test")
        assert world.domain(WEB) is None

    def test_first_start_verifies_too(self, world: VmWorld) -> None:
        world.images.clean["app"] = b"another image"
        with pytest.raises(NotTrusted, match="pinned"):
            world.vms.start(WEB)
        assert world.images.overlay(WEB) is None
        assert world.domain(WEB) is None

    def test_a_wrong_image_after_the_overlay_went_leaves_none(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.quarantine(WEB, "a test", ports_down=world.hub.detach, grade=Grade.DESTROY)
        world.images.clean["app"] = b"another image"
        with pytest.raises(NotTrusted, match="pinned"):
            world.vms.start(WEB)
        assert (world.images.overlay(WEB), world.status(WEB).image_state) == (None, ImageState.NONE)

    def test_mislabelled_replacement_is_destroyed(self, world: VmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        world.vms.start(WEB)
        asked = _mislabel(world, monkeypatch, WRONG)
        with pytest.raises(NotTrusted):
            world.vms.replace(WEB, "a test")
        assert asked == []
        assert world.domain(WEB) is None


class TestRestore:
    def _boot_again(self, world: VmWorld) -> None:
        for name in (WEB, SHOP, GATE):
            world.vms.start(name)
        world.write_marker(WEB, "written before")
        world.vms.stop(SHOP)
        world.vms.quarantine(GATE, "a test", ports_down=world.hub.detach)
        world.reboot()

    def test_starts_what_should_run(self, world: VmWorld) -> None:
        self._boot_again(world)
        assert world.vms.restore(replace=False, reason="booted") == (WEB,)
        assert world.state(WEB) is DomainState.RUNNING
        assert world.marker(WEB) == "written before"
        assert len(world.hypervisor.domains()) == 1

    def test_replaces_what_should_run(self, world: VmWorld) -> None:
        self._boot_again(world)
        assert world.vms.restore(replace=True, reason="refused by alpha") == (WEB,)
        assert world.marker(WEB) == ""

    def test_replaces_also_what_runs(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.write_marker(WEB, "written before")
        assert world.vms.restore(replace=True, reason="a test") == (WEB,)
        assert world.marker(WEB) == ""

    def test_one_that_fails_does_not_hold_up_the_others(self, world: VmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        world.vms.start(SHOP)
        world.vms.start(WEB)
        world.reboot()
        start = world.hypervisor.start_paused

        def broken(spec: VmSpec) -> DomainReport:
            if spec.name == SHOP:
                raise BackendFailed("no memory")
            return start(spec)

        monkeypatch.setattr(world.hypervisor, "start_paused", broken)
        assert world.vms.restore(replace=False, reason="booted") == (WEB,)
        assert ("vm.not-restored", SHOP, {"reason": "no memory"}) in world.entries

    def test_policy_that_no_longer_allows_it(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.reboot()
        blue = replace(world.policy.hosts[ALPHA], types=frozenset({BLUE}))
        world.policy = replace(world.policy, hosts={**world.policy.hosts, ALPHA: blue})
        assert world.vms.restore(replace=False, reason="booted") == ()
        assert world.kinds(WEB)[-1] == "vm.not-restored"


def test_crashed_vm_starts_again(world: VmWorld) -> None:
    world.vms.start(WEB)
    world.hypervisor.crash(WEB)
    assert world.status(WEB).domain is None
    assert world.status(WEB).wanted
    assert world.vms.start(WEB).state is DomainState.RUNNING


def test_a_disk_that_is_gone_is_not_replaced_without_a_word(world: VmWorld) -> None:
    world.vms.start(WEB)
    world.vms.stop(WEB)
    world.images.discard(WEB)
    with pytest.raises(BackendFailed, match=r"the disk of the VM is gone.*shamon vm replace web"):
        world.vms.start(WEB)
    assert world.images.overlay(WEB) is None
    world.vms.replace(WEB, "its disk is gone")
    assert world.status(WEB).image_state is ImageState.CURRENT


def test_vm_that_ends_at_once(world: VmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.hypervisor, "resume", world.hypervisor.crash)
    with pytest.raises(BackendFailed, match="ended right after") as raised:
        world.vms.start(WEB)
    assert "/var/log/libvirt/qemu" in raised.value.remedy


class TestIncoming:
    """A VM of another host that is started here to wait for its memory."""

    @pytest.fixture
    def pinned(self, world: VmWorld) -> VmWorld:
        """What web is booted from is pinned, and as it should be."""
        pins = f'kernel_sha256 = "{sha256_of(b"kernel")}", initrd_sha256 = "{sha256_of(b"initrd")}", cmdline = "quiet"'
        text = POLICY_TEXT.replace("images.app.sha256 = ", "images.app = {sha256 = ").replace(
            f'"{sha256_of(IMAGE)}"\n', f'"{sha256_of(IMAGE)}", {pins}}}\n'
        )
        world.policy = parse_policy(text.encode(), source="policy.toml")
        world.images.files = {"/vmlinux": b"kernel", "/initrd": b"initrd"}
        return world

    def started(self, world: VmWorld) -> list[VmSpec]:
        asked: list[VmSpec] = []

        def start(spec: VmSpec) -> DomainReport:
            asked.append(spec)
            return world.hypervisor.start_paused(spec)

        try:
            assert world.vms.start_incoming(WEB, start, permit=lambda: None) == asked[0]
        except NotTrusted:
            assert not asked
            assert world.images.overlay(WEB) is None
            raise
        return asked

    def test_it_is_booted_from_what_is_pinned(self, pinned: VmWorld) -> None:
        [spec] = self.started(pinned)
        assert (spec.kernel, spec.initrd, spec.cmdline) == ("/overlays/web.kernel", "/overlays/web.initrd", "quiet")
        assert pinned.vms.states.booted(WEB) is not None
        arrived = pinned.vms.states.arrived(WEB, wanted=True, base=sha256_of(IMAGE), runs=True)
        assert set(arrived) == {"wanted", "base", "interfaces", "disks", "boot"}

    def test_another_kernel_than_the_pinned_one(self, pinned: VmWorld) -> None:
        pinned.images.files["/vmlinux"] = b"another kernel"
        with pytest.raises(NotTrusted, match="not the pinned one"):
            self.started(pinned)

    def test_another_command_line_than_the_pinned_one(self, pinned: VmWorld) -> None:
        pinned.vms.settings = {WEB: VmSettings(kernel="/vmlinux", initrd="/initrd", cmdline="init=/bin/sh")}
        with pytest.raises(NotTrusted, match="another command line"):
            self.started(pinned)

    def test_what_is_not_permitted_now_changes_nothing(self, world: VmWorld) -> None:
        world.vms.start(WEB)

        def permit() -> None:
            raise Refused("no")

        with pytest.raises(Refused, match="no"):
            world.vms.start_incoming(WEB, world.hypervisor.start_paused, permit=permit)
        assert world.status(WEB).domain is not None
