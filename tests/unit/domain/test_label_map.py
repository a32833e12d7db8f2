"""The label map: categories that are unique, stable for as long as a name is in the policy, and late to return."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.daemon.policy_versions import label_map_document, label_map_from
from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.label_map import EMPTY, TYPE_CATEGORIES, VM_CATEGORIES, LabelMap, allocate
from shamon_host.domain.labels import SelinuxContext, TypeName, VmName
from tests.unit.domain.values import BLUE, DB, RED, WEB

TYPES = st.sets(st.sampled_from([TypeName(f"org/t{number}") for number in range(12)]))
DISKS = st.sets(st.sampled_from([f"vm{number}" for number in range(12)]))
VMS = st.sets(st.sampled_from([VmName(f"vm{number}") for number in range(12)]))


@settings(deadline=None)
@given(steps=st.lists(st.tuples(TYPES, VMS), max_size=8))
def test_every_name_has_its_own_and_keeps_it(steps: list[tuple[set[TypeName], set[VmName]]]) -> None:
    current = EMPTY
    for types, vms in steps:
        following = allocate(current, types, vms)
        assert set(following.types) == types
        assert set(following.vms) == vms
        categories = [*following.types.values(), *(one for pair in following.vms.values() for one in pair)]
        assert len(set(categories)) == len(categories)
        assert set(following.types.values()) <= set(TYPE_CATEGORIES)
        assert {one for pair in following.vms.values() for one in pair} <= set(VM_CATEGORIES)
        for name in types & set(current.types):
            assert following.types[name] == current.types[name]
        for vm in vms & set(current.vms):
            assert following.vms[vm] == current.vms[vm]
        assert allocate(following, types, vms) == following
        current = following


@settings(deadline=None)
@given(steps=st.lists(st.tuples(VMS, DISKS), max_size=8))
def test_vms_and_disks_never_have_the_same_categories(steps: list[tuple[set[VmName], set[str]]]) -> None:
    """Also where a VM and a disk have the same name, and over restarts."""
    current = EMPTY
    for vms, disks in steps:
        following = label_map_from(label_map_document(allocate(current, [], vms, disks)))
        assert (set(following.vms), set(following.disks)) == (vms, disks)
        pairs = [*following.vms.values(), *following.disks.values()]
        assert len({one for pair in pairs for one in pair}) == 2 * len(pairs)
        assert {one for pair in pairs for one in pair} <= set(VM_CATEGORIES)
        kept = {name: pair for name, pair in current.disks.items() if name in disks}
        assert kept.items() <= following.disks.items()
        current = following


def test_a_vm_has_the_categories_of_its_disks() -> None:
    label_map = allocate(EMPTY, [RED], [WEB, DB], ["books"])
    assert label_map.disks == {"books": (516, 517)}
    assert str(label_map.vm_context(WEB, [RED], ["books"])) == "system_u:system_r:svirt_t:s0:c1,c514.c517"
    assert str(label_map.disk_context("books", pinned=True)) == "system_u:object_r:virt_content_t:s0:c516,c517"
    assert str(label_map.disk_context("books", pinned=False)) == "system_u:object_r:svirt_image_t:s0:c516,c517"


@settings(deadline=None)
@given(steps=st.lists(st.tuples(TYPES, VMS), min_size=1, max_size=12), data=st.data())
def test_what_went_last_comes_back_last(steps: list[tuple[set[TypeName], set[VmName]]], data: st.DataObject) -> None:
    """Wherever the search stands, and however often it went round: a number that nobody had comes first, then the one
    that has been free for longest. Restarts in between change nothing."""
    current = LabelMap(
        types={},
        vms={},
        next_category=data.draw(st.integers(TYPE_CATEGORIES.start, TYPE_CATEGORIES.stop - 1)),
        retired=tuple(range(20, TYPE_CATEGORIES.stop)),
    )
    freed: dict[int, int] = dict.fromkeys(range(20, TYPE_CATEGORIES.stop), -1)
    for turn, (types, vms) in enumerate(steps):
        following = label_map_from(label_map_document(allocate(current, types, vms)))
        gone = set(current.types.values()) - set(following.types.values())
        fresh = set(following.types.values()) - set(current.types.values())
        free = set(TYPE_CATEGORIES) - set(following.types.values())
        freed |= dict.fromkeys(gone, turn)
        assert max((freed.get(one, -2) for one in fresh), default=-3) <= min(freed.get(one, -2) for one in free)
        for one in fresh:
            freed.pop(one, None)
        assert set(following.retired) == set(freed)
        current = following


def test_a_category_that_was_just_freed_where_the_search_stands_is_passed_over() -> None:
    """The search went round once; the type whose category it stands at goes."""
    current = LabelMap(types={RED: 1, BLUE: 2}, vms={}, next_category=1)
    current = allocate(current, [BLUE], [])
    assert current.retired == (1,)
    green = TypeName("org/green")
    assert allocate(current, [BLUE, green], []).types[green] == 3


def test_a_freed_category_is_the_last_to_be_given_out_again() -> None:
    freed = allocate(EMPTY, [RED], []).types[RED]
    current = allocate(allocate(EMPTY, [RED], []), [], [])
    given_out = []
    for number in range(len(TYPE_CATEGORIES)):
        name = TypeName(f"org/t{number}")
        current = allocate(current, [name], [])
        given_out.append(current.types[name])
    assert given_out.index(freed) == len(TYPE_CATEGORIES) - 1


def test_a_freed_pair_is_the_last_to_be_given_out_again() -> None:
    """What still runs under the context of a VM that is gone meets no new VM soon."""
    current = allocate(EMPTY, [], [DB, WEB])
    freed = current.vms[WEB]
    current = allocate(current, [], [DB])
    given_out = []
    for number in range(len(VM_CATEGORIES) // 2 - 1):
        name = VmName(f"vm{number}")
        current = allocate(current, [], [DB, name])
        given_out.append(current.vms[name])
    assert given_out.index(freed) == len(given_out) - 1
    assert current.vms[DB] not in given_out


def test_too_many_are_refused() -> None:
    with pytest.raises(BackendFailed, match="no category left"):
        allocate(EMPTY, [TypeName(f"org/t{number}") for number in range(512)], [])
    with pytest.raises(BackendFailed, match="no categories left"):
        allocate(EMPTY, [], [VmName(f"vm{number}") for number in range(257)])


def test_contexts() -> None:
    label_map = LabelMap(types={RED: 1, BLUE: 2}, vms={WEB: (512, 513), DB: (514, 515)})
    assert str(label_map.link_context(RED)) == "system_u:object_r:shamon_link_t:s0:c1"
    assert str(label_map.spd_context(BLUE)) == "system_u:object_r:shamon_spd_t:s0:c2"
    assert str(label_map.vm_context(WEB, [RED, BLUE])) == "system_u:system_r:svirt_t:s0:c1,c2,c512,c513"
    assert label_map.vm_context(WEB, [RED]).categories.isdisjoint({514, 515})
    assert label_map.type_of(label_map.link_context(BLUE)) == BLUE
    assert label_map.type_of(SelinuxContext(user="u", role="r", type="t", categories=frozenset({1, 2}))) is None
    with pytest.raises(KeyError):
        label_map.link_context(TypeName("no/such"))


def test_the_first_pairs_are_the_first_ones() -> None:
    assert allocate(EMPTY, [], [DB, WEB]).vms == {DB: (512, 513), WEB: (514, 515)}
