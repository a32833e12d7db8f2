"""From one version to the next on one host: what runs keeps what it was started with, under its new name, or is
stopped."""

from dataclasses import replace

from shamon_host.daemon.policy_versions import PolicyRecord
from shamon_host.domain.labels import TypeName, VmName
from shamon_host.domain.policy_form import with_digest
from tests.unit.daemon.daemon_world import daemon, records
from tests.unit.daemon.signed_world import SignedWorld, play_signed, signed_policy

WEB = VmName("web")
RED, CRIMSON = TypeName("acme/red"), TypeName("acme/crimson")
FIRST = signed_policy()
RENAMED = signed_policy(
    ("acme/red", "acme/crimson"), after=FIRST, also='[renames]\ntypes = {"acme/red" = "acme/crimson"}\n'
)
BARE = with_digest(
    replace(
        FIRST,
        version=2,
        parent=FIRST.digest,
        vms={**FIRST.vms, WEB: replace(FIRST.vms[WEB], interfaces=())},
    )
)
"""web has no interface any more."""


def test_interfaces_follow_the_names_of_their_types() -> None:
    async def test(world: SignedWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        vms = daemon(world.alpha).own.vms
        (tap,) = vms.states.taps()
        await daemon(world.alpha).changes.switch.to(PolicyRecord(policy=RENAMED))
        assert vms.states.running() == {WEB: (CRIMSON,)}
        assert vms.states.taps() == {tap: CRIMSON}
        assert not records(world.alpha, "vm.forbidden")

    play_signed(test, first=FIRST)


def test_renames_that_a_killed_daemon_did_not_get_to_are_made_up_for() -> None:
    async def test(world: SignedWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        daemon(world.alpha).own.enforced.change(PolicyRecord(policy=RENAMED))
        assert daemon(world.alpha).own.vms.states.running() == {WEB: (RED,)}
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        assert daemon(world.alpha).own.vms.states.running() == {WEB: (CRIMSON,)}
        assert not records(world.alpha, "vm.forbidden")

    play_signed(test, first=FIRST)


def test_a_vm_whose_interfaces_change_is_stopped() -> None:
    async def test(world: SignedWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        await daemon(world.alpha).changes.switch.to(PolicyRecord(policy=BARE))
        assert not daemon(world.alpha).own.vms.states.running()
        (detail,) = records(world.alpha, "vm.forbidden", "web")
        assert "interfaces for acme/red" in detail["reason"]

    play_signed(test, first=FIRST)
