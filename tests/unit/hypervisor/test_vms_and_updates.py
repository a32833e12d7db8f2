"""What runs while another version of the policy comes into force: it keeps what it was started with, or is stopped."""

from dataclasses import replace
from uuid import NAMESPACE_DNS, uuid5

import pytest

from shamon_host.domain.errors import Refused
from shamon_host.domain.labels import SelinuxContext, TypeName, VmName
from shamon_host.domain.policy import Policy, Renames
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.replay import renamed_map
from shamon_host.hypervisor.ports import DomainState, VmSpec
from shamon_host.hypervisor.vm_spec import interface_mac
from tests.unit.hypervisor.vm_world import (
    ALPHA,
    BETA,
    BLUE,
    DB,
    GATE,
    LABEL_MAP,
    POLICY,
    POLICY_TEXT,
    PROBE,
    RED,
    SHOP,
    WEB,
    VmWorld,
    context_of,
)

CRIMSON = TypeName("acme/crimson")
RENAMES = Renames(types={RED: CRIMSON}, labels={"red": "crimson"})


def changed(*changes: tuple[str, str]) -> Policy:
    text = POLICY_TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_policy(text.encode(), source="policy.toml")


def with_interfaces(*types: TypeName) -> Policy:
    """The same, but `gate` has its interfaces in another order, or fewer of them."""
    gate = replace(POLICY.vms[GATE], interfaces=types)
    return replace(POLICY, vms={**POLICY.vms, GATE: gate})


SWAPPED = with_interfaces(BLUE, RED)
RENAMED = replace(
    changed((str(RED), str(CRIMSON)), ("labels.red.", "labels.crimson."), ('"red"', '"crimson"')), renames=RENAMES
)
RIVALS = changed(
    ("conflicts.audit", f'conflicts.rivals = {{types = ["{RED}", "{BLUE}"]}}\nconflicts.audit'),
    ('labels.both.types = ["acme/red", "rival/blue"]', 'labels.both.types = ["acme/red"]'),
)
WITHOUT_SHOP = replace(POLICY, vms={name: entry for name, entry in POLICY.vms.items() if name != SHOP})


def start_by_hand(world: VmWorld, name: VmName, context: SelinuxContext) -> None:
    world.images.fresh_overlay(name, "app", world.policy.images["app"].sha256)
    world.hypervisor.start_paused(
        VmSpec(
            name=name,
            uuid=str(uuid5(NAMESPACE_DNS, name)),
            context=context,
            disk=f"/overlays/{name}.qcow2",
            interfaces=(),
        )
    )


class TestInterfaces:
    def test_a_running_vm_keeps_the_types_that_it_was_started_with(self, world: VmWorld) -> None:
        world.vms.start(GATE)
        taps = world.vms.states.taps()
        world.policy = SWAPPED
        assert world.vms.states.taps() == taps
        assert list(taps.values()) == [RED, BLUE]
        assert world.vms.states.running() == {GATE: (RED, BLUE)}
        assert world.status(GATE).interfaces == (RED, BLUE)

    def test_one_that_does_not_run_has_those_of_the_policy(self, world: VmWorld) -> None:
        world.vms.start(GATE)
        world.vms.stop(GATE)
        world.policy = SWAPPED
        assert world.status(GATE).interfaces == (BLUE, RED)
        assert [interface.bridge for interface in world.vms.start(GATE).interfaces] == ["br-blue", "br-red"]
        assert list(world.vms.states.taps().values()) == [BLUE, RED]

    def test_nothing_that_is_noted_of_a_vm_loses_them(self, world: VmWorld) -> None:
        world.vms.start(GATE)
        world.vms.quarantine(GATE, "a test", ports_down=world.hub.detach)
        world.vms.suspend(GATE, "a test")
        assert world.documents.get("vm", GATE) == {
            "wanted": False,
            "quarantine": world.vms.states.quarantine(GATE).to_document(),  # type: ignore[union-attr]
            "interfaces": [RED, BLUE],
            "disks": [],
            "base": world.policy.images["app"].sha256,
        }
        world.vms.start(GATE)
        assert world.documents.get("vm", GATE) == {
            "wanted": True,
            "interfaces": [RED, BLUE],
            "disks": [],
            "base": world.policy.images["app"].sha256,
        }

    def test_of_one_started_before_they_were_noted_the_policy_says_them(self, world: VmWorld) -> None:
        world.vms.start(GATE)
        world.documents.put("vm", GATE, {"wanted": True})
        assert world.vms.states.running() == {GATE: (RED, BLUE)}
        assert world.vms.stop_forbidden(POLICY) == ()

    def test_they_follow_renames(self, world: VmWorld) -> None:
        world.vms.start(GATE)
        world.vms.start(WEB)
        world.policy, world.label_map = RENAMED, renamed_map(LABEL_MAP, RENAMES)
        assert RED not in world.vms.states.taps().values()  # nothing has a bridge under a name that is no more
        for _ in range(2):  # an interrupted switch is finished at the next start
            world.vms.rename_types(RENAMES)
            assert world.vms.states.running() == {GATE: (CRIMSON, BLUE), WEB: (CRIMSON,)}
        assert sorted(world.vms.states.taps().values()) == [CRIMSON, CRIMSON, BLUE]
        assert world.vms.stop_forbidden(POLICY) == ()
        assert world.status(GATE).wanted


class TestStopForbidden:
    @pytest.mark.parametrize("policy", [SWAPPED, with_interfaces(RED), with_interfaces()], ids=["order", "one", "none"])
    @pytest.mark.parametrize("before", [POLICY, None], ids=["switch", "start"])
    def test_other_interfaces(self, world: VmWorld, policy: Policy, before: Policy | None) -> None:
        world.vms.start(GATE)
        world.vms.start(WEB)
        world.policy = policy
        assert world.vms.stop_forbidden(before) == (GATE,)
        assert world.domain(GATE) is None
        assert world.state(WEB) is DomainState.RUNNING
        kind, name, detail = world.entries[-1]
        assert (kind, name, detail["rule"]) == ("vm.forbidden", GATE, "running")
        assert "acme/red, rival/blue" in detail["reason"]

    def test_another_label(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.start(SHOP)
        types = {**LABEL_MAP.types, RED: max(LABEL_MAP.types.values()) + 1}
        world.label_map = replace(LABEL_MAP, types=types)
        assert world.vms.stop_forbidden(POLICY) == (WEB,)
        assert "would have" in world.entries[-1][2]["reason"]

    def test_at_a_start_what_the_policy_in_force_forbids(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.start(SHOP)
        world.policy = RIVALS
        stopped = world.vms.stop_forbidden()
        assert len(stopped) == 1  # the other one may run when it is alone
        assert world.kinds(stopped[0])[-1] == "vm.forbidden"
        assert world.vms.stop_forbidden() == ()

    def test_at_a_start_what_the_policy_in_force_does_not_know(self, world: VmWorld) -> None:
        world.vms.start(SHOP)
        world.policy, world.label_map = WITHOUT_SHOP, replace(LABEL_MAP, vms={WEB: LABEL_MAP.vms[WEB]})
        assert world.vms.stop_forbidden() == (SHOP,)
        assert world.domain(SHOP) is None
        assert world.kinds(SHOP)[-1] == "vm.forbidden"

    def test_at_a_start_a_vm_of_the_label_map_that_was_started_by_hand(self, world: VmWorld) -> None:
        start_by_hand(world, WEB, context_of(WEB))
        start_by_hand(world, PROBE, context_of(PROBE))
        (stopped,) = world.vms.stop_forbidden()
        assert stopped in (WEB, PROBE)

    def test_what_nobody_of_ours_started_is_left_to_the_peers(self, world: VmWorld) -> None:
        start_by_hand(world, VmName("stranger"), context_of(WEB))
        assert world.vms.stop_forbidden() == ()
        assert world.vms.stop_forbidden(POLICY) == ()
        assert len(world.hypervisor.domains()) == 1

    def test_what_is_permitted_goes_on(self, world: VmWorld) -> None:
        for name in (WEB, SHOP, GATE):
            world.vms.start(name)
        world.vms.suspend(SHOP, "a test")
        assert world.vms.stop_forbidden() == world.vms.stop_forbidden(POLICY) == ()


class TestSuccessor:
    def test_interfaces_that_will_change(self, world: VmWorld) -> None:
        world.successor = replace(SWAPPED, version=2)
        with pytest.raises(Refused, match="version 2 is to come: it has interfaces for acme/red, rival/blue"):
            world.vms.start(GATE)
        assert world.domain(GATE) is None
        assert not world.entries[-1][2]["permitted"]
        world.vms.start(WEB)

    def test_what_is_to_come_can_be_asked_without_a_start(self, world: VmWorld) -> None:
        (only,) = world.vms.start_decisions(GATE)
        assert only.permitted
        world.successor = replace(SWAPPED, version=2)
        _, permitted, denied = world.vms.start_decisions(GATE)
        assert (permitted.permitted, denied.permitted) == (True, False)
        assert all(each.permitted for each in world.vms.start_decisions(WEB))
        assert not world.entries

    def test_a_vm_of_another_host_that_runs_here_counts(self, world: VmWorld) -> None:
        """Somebody started it by hand: what may run beside it is asked all the same."""
        start_by_hand(world, DB, context_of(DB))
        assert world.vms.start_decisions(PROBE)[0].rule == "chinese-wall"

    def test_types_that_will_change(self, world: VmWorld) -> None:
        both = replace(POLICY.vms[WEB], label="both", interfaces=(RED,))
        world.successor = replace(POLICY, version=2, vms={**POLICY.vms, WEB: both})
        with pytest.raises(Refused, match="its types acme/red become acme/red, rival/blue"):
            world.vms.start(WEB)
        world.vms.start(GATE)

    def test_names_that_will_change(self, world: VmWorld) -> None:
        world.successor = RENAMED
        world.vms.start(GATE)
        world.vms.start(WEB)
        assert world.kinds(GATE) == ["vm.start", "vm.attach", "vm.attach", "vm.start", "label.vm"]


def test_addresses_are_of_the_vm_of_one_host() -> None:
    """A VM of the same name, which another policy gives to another host, is not the one that an overlay means."""
    assert POLICY.vms[DB].host == BETA
    assert interface_mac("unit", BETA, DB, 0) != interface_mac("unit", ALPHA, DB, 0)
    assert interface_mac("unit", BETA, DB, 0) == interface_mac("unit", BETA, DB, 0)
