"""Disks that VMs share: labelled by what they are, not by where they lie, and none is used that is another."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.contexts import allocate_for, vm_context
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, Refused
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import ResourceKind, SelinuxContext
from shamon_host.domain.policy import Policy
from shamon_host.domain.replay import Running, violations
from shamon_host.hypervisor.ports import DiskFile, DomainState, VmDisk, VmSpec
from shamon_host.hypervisor.vm_disks import DiskState, standing
from shamon_host.testing.disks import FRESH
from shamon_host.testing.images import sha256_of
from tests.unit.hypervisor.vm_world import ALPHA, BLUE, DB, GATE, MANUAL, RED, SHOP, WEB, VmWorld, svirt, with_disks

CACHE, BOOK = "cache", "manual"


POLICY = with_disks()
LABEL_MAP = LabelMap(types={}, vms={}, disks={CACHE: (700, 701)})


@pytest.fixture
def world() -> VmWorld:
    world = VmWorld(policy=POLICY, label_map=allocate_for(POLICY, ALPHA))
    world.disks.add(CACHE)
    world.disks.add(BOOK, MANUAL)
    return world


def changed(disk: str, **changes: Any) -> Policy:
    resources = {**POLICY.resource_labels, disk: replace(POLICY.resource_labels[disk], **changes)}
    return replace(POLICY, resource_labels=resources)


def label(world: VmWorld, disk: str) -> SelinuxContext | None:
    return world.disks.inspect(disk).label


def state(world: VmWorld, disk: str) -> DiskState:
    return next(each.state for each in world.vms.disks.statuses() if each.name == disk)


class TestStart:
    def test_disks_are_labelled_before_the_vm_starts_and_attached_as_its_label_permits(self, world: VmWorld) -> None:
        report = world.vms.start(WEB)
        assert report.disks == (
            VmDisk(path="/disks/cache.raw", read_only=False),
            VmDisk(path="/disks/manual.raw", read_only=True),
        )
        cache, manual = (set(world.label_map.disks[name]) for name in (CACHE, BOOK))
        for disk, kind, categories in ((CACHE, "svirt_image_t", cache), (BOOK, "virt_content_t", manual)):
            found = label(world, disk)
            assert found is not None
            assert (found.type, set(found.categories)) == (kind, categories)
        assert report.context == vm_context(POLICY, world.label_map, WEB)
        assert svirt(report.context).categories >= cache | manual
        assert [kind for kind, subject, _ in world.entries if subject == CACHE] == ["disk.label", "label.resource"]

    def test_vms_of_several_types_read_one_disk_and_nobody_else_could(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        assert world.vms.start(SHOP).disks == (VmDisk(path="/disks/manual.raw", read_only=True),)
        gate, shop = (svirt(vm_context(POLICY, world.label_map, vm)) for vm in (GATE, SHOP))
        assert not world.disks.may_open("/disks/manual.raw", gate, write=False)
        assert not world.disks.may_open("/disks/cache.raw", shop, write=False)

    def test_again_changes_no_label(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        before = {disk: label(world, disk) for disk in (CACHE, BOOK)}
        world.vms.stop(WEB)
        world.vms.start(WEB)
        assert {disk: label(world, disk) for disk in (CACHE, BOOK)} == before
        assert len([kind for kind, _, _ in world.entries if kind == "disk.label"]) == 2

    def test_a_disk_that_the_policy_gives_to_nobody_is_left_alone(self, world: VmWorld) -> None:
        world.disks.add("stranger")
        world.vms.start(WEB)
        assert label(world, "stranger") == FRESH


class TestRefusals:
    def test_other_content_than_the_pinned_starts_nothing(self, world: VmWorld) -> None:
        world.disks.add(BOOK, MANUAL + b"!")
        with pytest.raises(NotTrusted, match="pinned"):
            world.vms.start(WEB)
        assert world.domain(WEB) is None
        world.disks.add(BOOK, MANUAL)
        assert world.vms.start(WEB).state is DomainState.RUNNING

    def test_another_file_in_the_place_of_a_disk_is_noticed(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.stop(WEB)
        world.disks.add(CACHE, b"what somebody put there")
        assert state(world, CACHE) is DiskState.OTHER
        with pytest.raises(NotTrusted, match="disk adopt"):
            world.vms.start(WEB)
        assert label(world, CACHE) == FRESH
        world.vms.adopt_disk(CACHE)
        assert state(world, CACHE) is DiskState.NEW
        assert world.vms.start(WEB).state is DomainState.RUNNING

    def test_two_names_for_one_file_are_two_disks_and_the_second_is_refused(self, world: VmWorld) -> None:
        world.policy = with_disks(web='["cache"]', shop='["manual"]')
        world.policy = replace(
            world.policy,
            resource_labels={
                **world.policy.resource_labels,
                BOOK: replace(world.policy.resource_labels[BOOK], sha256=""),
            },
        )
        world.label_map = allocate_for(world.policy, ALPHA)
        world.disks.paths[BOOK] = world.disks.paths[CACHE]
        world.vms.start(WEB)
        with pytest.raises(NotTrusted, match="belongs to another disk"):
            world.vms.start(SHOP)

    def test_a_pinned_disk_is_known_by_its_content_whichever_file_it_is(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.stop(WEB)
        world.disks.add(BOOK, MANUAL)
        assert world.vms.start(WEB).state is DomainState.RUNNING
        assert label(world, BOOK) != FRESH

    def test_who_writes_a_disk_has_it_alone(self, world: VmWorld) -> None:
        shared = replace(POLICY.vms[SHOP], label="red", resources=(CACHE,))
        world.policy = replace(POLICY, vms={**POLICY.vms, SHOP: shared})
        world.vms.start(WEB)
        with pytest.raises(BackendFailed, match="in use"):
            world.vms.start(SHOP)

    def test_no_path_on_this_host(self, world: VmWorld) -> None:
        del world.disks.paths[CACHE]
        with pytest.raises(BadInput, match=r"no path for the disk 'cache'"):
            world.vms.start(WEB)
        assert world.domain(WEB) is None
        assert state(world, CACHE) is DiskState.MISSING

    def test_a_vm_of_another_host_with_disks(self, world: VmWorld) -> None:
        elsewhere = replace(POLICY.vms[DB], resources=("elsewhere",))
        pinned = replace(POLICY.resource_labels[BOOK], name="elsewhere")
        world.policy = replace(
            POLICY,
            vms={**POLICY.vms, DB: elsewhere},
            resource_labels={**POLICY.resource_labels, "elsewhere": pinned},
        )
        for call in (world.vms.start, lambda vm: world.vms.replace(vm, "a test")):
            with pytest.raises(BadInput, match="no VM 'db' on this host"):
                call(DB)

    def test_adopting_what_no_vm_here_has(self, world: VmWorld) -> None:
        with pytest.raises(BadInput, match="cache, manual"):
            world.vms.adopt_disk("ledger")

    def test_an_adopted_disk_is_not_the_old_file_any_more(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        with pytest.raises(Refused, match="VMs run with the file"):
            world.vms.adopt_disk(CACHE)
        world.vms.stop(WEB)
        old = world.disks.files["/disks/cache.raw"]
        world.disks.add(CACHE)
        world.vms.adopt_disk(CACHE)
        world.disks.files["/disks/cache.raw"] = old
        assert state(world, CACHE) is DiskState.OTHER
        with pytest.raises(NotTrusted, match="inode"):
            world.vms.start(WEB)

    def test_a_label_that_nobody_noted_makes_no_disk(self, world: VmWorld) -> None:
        """The records of this host were lost, or a copy brought its label along."""
        world.disks.files["/disks/cache.raw"].label = world.label_map.disk_context(CACHE, pinned=False)
        with pytest.raises(NotTrusted):
            world.vms.start(WEB)

    def test_what_libvirt_gives_to_images_that_vms_read_is_not_made_writable(self, world: VmWorld) -> None:
        world.disks.files["/disks/cache.raw"].label = replace(FRESH, type="virt_content_t")
        assert state(world, CACHE) is DiskState.OTHER
        with pytest.raises(NotTrusted):
            world.vms.start(WEB)


class TestVersions:
    """What becomes of files when the policy changes."""

    def change(self, world: VmWorld, policy: Policy) -> None:
        before = world.policy
        world.policy, world.label_map = policy, allocate_for(policy, ALPHA, world.label_map)
        world.vms.stop_forbidden(before)
        world.vms.withdraw_disks()

    def test_a_disk_that_left_the_policy_does_not_come_back_by_itself(self, world: VmWorld) -> None:
        """Else a name that is given up could be had by another organisation, content included."""
        world.vms.start(WEB)
        pair = world.label_map.disks[CACHE]
        self.change(world, with_disks(web='["manual"]'))
        left = label(world, CACHE)
        assert left is not None
        assert (left.type, set(left.categories)) == ("virt_image_t", set(pair))
        blue = replace(POLICY.resource_labels[CACHE], types=frozenset({BLUE}))
        shop = replace(POLICY.vms[SHOP], resources=(CACHE,))
        self.change(
            world,
            replace(
                POLICY,
                resource_labels={**POLICY.resource_labels, CACHE: blue},
                vms={**POLICY.vms, SHOP: shop, WEB: replace(POLICY.vms[WEB], resources=())},
            ),
        )
        assert world.label_map.disks[CACHE] != pair
        with pytest.raises(NotTrusted):
            world.vms.start(SHOP)
        world.disks.add(CACHE)
        assert world.vms.start(SHOP).state is DomainState.RUNNING

    @pytest.mark.parametrize("detour", ["inaccessible", "network"])
    def test_nor_by_a_detour(self, world: VmWorld, detour: str) -> None:
        world.vms.start(WEB)
        other = replace(
            POLICY.resource_labels[CACHE],
            **({"kind": ResourceKind.NETWORK} if detour == "network" else {"inaccessible": True, "types": frozenset()}),
        )
        vms = {**POLICY.vms, WEB: replace(POLICY.vms[WEB], resources=())}
        self.change(world, replace(POLICY, resource_labels={**POLICY.resource_labels, CACHE: other}, vms=vms))
        self.change(world, POLICY)
        assert state(world, CACHE) is DiskState.OTHER

    def test_no_vm_reaches_a_file_that_left_whoever_gets_its_categories(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        pair = world.label_map.disks[CACHE]
        self.change(world, with_disks(web='["manual"]'))
        heir = replace(svirt(vm_context(world.policy, world.label_map, SHOP)), categories=frozenset(range(1024)))
        assert set(pair) <= heir.categories
        for write in (False, True):
            assert not world.disks.may_open("/disks/cache.raw", heir, write=write)

    def test_a_file_that_cannot_be_withdrawn_is_told_of_and_forgotten(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        del world.disks.paths[CACHE]
        self.change(world, with_disks(web='["manual"]'))
        assert [subject for kind, subject, _ in world.entries if kind == "disk.not-withdrawn"] == [CACHE]
        world.disks.paths[CACHE] = "/disks/cache.raw"
        self.change(world, POLICY)
        assert state(world, CACHE) is DiskState.OTHER

    def test_other_types_of_a_disk_are_in_the_audit_log(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        both = replace(POLICY.resource_labels[CACHE], types=frozenset({RED, BLUE}))
        self.change(world, replace(POLICY, resource_labels={**POLICY.resource_labels, CACHE: both}))
        world.vms.start(WEB)
        (detail,) = [detail for kind, _, detail in world.entries if kind == "disk.retyped"]
        assert detail == {"from": [RED], "to": [RED, BLUE]}

    @pytest.mark.parametrize("change", ["gone", "pinned", "other pin"])
    def test_a_version_to_come_that_changes_the_disks_of_what_runs(self, world: VmWorld, change: str) -> None:
        """The host does not agree while a VM runs with them, and starts none meanwhile; by hand, it is stopped."""
        disk, following = {
            "gone": (CACHE, with_disks(web='["manual"]')),
            "pinned": (CACHE, changed(CACHE, sha256=sha256_of(b""))),
            "other pin": (BOOK, with_disks(manual=b"a new edition")),
        }[change]
        here = Running(host=ALPHA, tpm=world.host_tpm, vms={WEB: (RED,)})
        assert [sentence.split(":")[0] for sentence in violations(following, POLICY, here)] == [WEB]
        world.successor = following
        _, _, denied = world.vms.start_decisions(WEB)
        assert not denied.permitted
        assert disk in denied.reason
        with pytest.raises(Refused, match="is to come"):
            world.vms.start(WEB)
        world.successor = None
        world.vms.start(WEB)
        before, world.policy = world.policy, following
        world.label_map = allocate_for(following, ALPHA, world.label_map)
        assert world.vms.stop_forbidden(before) == (WEB,)

    def test_also_when_the_daemon_ended_between_the_two(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.policy = with_disks(manual=b"a new edition")
        assert world.vms.stop_forbidden() == (WEB,)


class TestWhatRuns:
    def test_what_is_resumed_has_its_disks_and_nothing_else(self, world: VmWorld) -> None:
        world.vms.start(SHOP)
        world.vms.quarantine(SHOP, "a test", ports_down=world.hub.detach)
        world.hypervisor.attach(SHOP, VmDisk(path="/disks/cache.raw", read_only=False))
        assert world.vms.enforce_labels() == (), "it does nothing, and may be looked at"
        with pytest.raises(NotTrusted, match="other disks"):
            world.vms.start(SHOP)
        assert world.domain(SHOP) is None

    def test_what_is_resumed_has_the_pinned_content(self, world: VmWorld) -> None:
        world.vms.start(SHOP)
        world.vms.suspend(SHOP, "a test")
        world.disks.files["/disks/manual.raw"].content = MANUAL + b"!"
        with pytest.raises(NotTrusted, match="pinned"):
            world.vms.start(SHOP)
        assert world.state(SHOP) is DomainState.PAUSED

    def test_a_vm_whose_own_disk_is_another_is_destroyed(self, world: VmWorld) -> None:
        report = world.vms.start(SHOP)
        world.vms.stop(SHOP)
        world.hypervisor.start_paused(
            VmSpec(
                name=SHOP,
                uuid=report.uuid,
                context=vm_context(POLICY, world.label_map, SHOP),
                disk=str(world.images.fresh_overlay(WEB, "app", world.policy.images["app"].sha256)),
                interfaces=report.interfaces,
                disks=report.disks,
            )
        )
        assert world.vms.enforce_labels() == (SHOP,)

    def test_a_disk_attached_by_hand_is_the_end_of_the_vm(self, world: VmWorld) -> None:
        world.vms.start(SHOP)
        assert world.vms.enforce_labels() == ()
        world.hypervisor.attach(SHOP, VmDisk(path="/disks/cache.raw", read_only=True))
        assert world.vms.enforce_labels() == (SHOP,)
        assert world.domain(SHOP) is None
        (detail,) = [detail for kind, _, detail in world.entries if kind == "vm.other-disks"]
        assert "/disks/cache.raw" in detail["found"]

    def test_a_version_that_takes_a_disk_away_stops_the_vm(self, world: VmWorld) -> None:
        world.vms.start(SHOP)
        world.policy = with_disks(shop="[]")
        assert world.vms.stop_forbidden(POLICY) == (SHOP,)

    def test_a_disk_that_was_written_may_be_pinned(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.policy = changed(CACHE, sha256=sha256_of(b""))
        assert world.vms.stop_forbidden(POLICY) == (WEB,)
        assert world.vms.start(WEB).disks[0].read_only
        found = label(world, CACHE)
        assert found is not None
        assert found.type == "virt_content_t"
        assert world.disks.denials == []
        world.policy = POLICY
        world.vms.stop(WEB)
        assert not world.vms.start(WEB).disks[0].read_only

    def test_statuses(self, world: VmWorld) -> None:
        assert (state(world, CACHE), state(world, BOOK)) == (DiskState.NEW, DiskState.NEW)
        world.vms.start(WEB)
        cache, manual = world.vms.disks.statuses()
        assert (cache.state, cache.users, cache.types, cache.pinned) == (DiskState.READY, (WEB,), (RED,), False)
        assert (manual.state, manual.users, manual.types, manual.pinned) == (
            DiskState.READY,
            (SHOP, WEB),
            (RED, BLUE),
            True,
        )


CONTEXTS = st.builds(
    SelinuxContext,
    user=st.sampled_from(["system_u", "unconfined_u"]),
    role=st.just("object_r"),
    type=st.sampled_from(["virt_image_t", "virt_content_t", "svirt_image_t", "user_home_t"]),
    categories=st.sampled_from([frozenset(), frozenset({700, 701}), frozenset({702, 703})]),
)
FILES = st.builds(DiskFile, identity=st.sampled_from(["one", "two"]), label=st.none() | CONTEXTS)


@given(file=FILES, noted=st.none() | st.sampled_from(["one", "two"]), pinned=st.booleans())
def test_a_file_that_is_somebody_else_s_never_becomes_a_disk(
    file: DiskFile, noted: str | None, *, pinned: bool
) -> None:
    wanted = LABEL_MAP.disk_context(CACHE, pinned=pinned)
    found = standing(file, wanted, noted, pinned=pinned)
    if found is DiskState.OTHER:
        return
    label = file.label
    assert label is not None
    assert label.user == "system_u"
    assert label.categories in (frozenset(), wanted.categories), "neither another disk's nor a VM's"
    assert label.type in ("virt_image_t", "virt_content_t", "svirt_image_t")
    assert (found is DiskState.READY) == (label == wanted)
    if not pinned:
        assert noted in (None, file.identity), "not the file that the disk was"
        assert noted is not None or label.type == "virt_image_t", "no label of a disk that nobody noted"
