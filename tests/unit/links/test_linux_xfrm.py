"""Many SAs and SPD entries against a kernel that is played here: what is asked of it, and what is made of its answers.

The contract suites run on the real one, in a lab host.
"""

import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

from shamon_host import pyxfrm
from shamon_host.domain.errors import BackendFailed
from shamon_host.links import linux_xfrm
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.linux_spd import entry_to_policy, sa_id_to_kernel
from shamon_host.links.linux_xfrm import LinkXfrm
from shamon_host.links.model import SaId, SecurityAssociation
from shamon_host.pyxfrm.errors import XfrmError
from tests.unit.links.test_planner import a_link

LINK = a_link(0, 7)
CONTEXT = str(LINK.link_context)


class PlayedKernel:
    """SAD and SPD, as `Xfrm` and `XfrmBatch` reach them. `requests`: what was asked, by name."""

    def __init__(self) -> None:
        self.sas: dict[pyxfrm.SaId, pyxfrm.SecurityAssociation] = {}
        self.policies: dict[pyxfrm.PolicyId, pyxfrm.Policy] = {}
        self.requests: list[str] = []
        self.stubborn: set[pyxfrm.SaId] = set()
        """SAs that cannot be deleted."""
        self.drops_labels = False
        self.others = 0
        """Further SAs and policies, of no concern here."""
        self._index = 8

    def close(self) -> None:
        self.requests.append("close")

    def counts(self) -> SimpleNamespace:
        return SimpleNamespace(
            sas=len(self.sas) + self.others,
            policies_in=len(self.policies) + self.others,
            policies_out=0,
            policies_fwd=0,
        )

    # SAs

    def allocate(self, spi: int) -> None:
        sa = _larval(spi)
        self.sas[sa.id] = sa

    def allocate_spi(self, *, source: pyxfrm.Address, destination: pyxfrm.Address) -> pyxfrm.SecurityAssociation:
        sa = replace(_larval(0x8000 + len(self.sas)), source=source, destination=destination)
        self.sas[sa.id] = sa
        return sa

    def add_sas(self, sas: Sequence[pyxfrm.SecurityAssociation]) -> list[XfrmError | None]:
        return self._each("add", sas, lambda sa: errno.EEXIST if sa.id in self.sas else self._store(sa))

    def key_larval_sas(self, sas: Sequence[pyxfrm.SecurityAssociation]) -> list[XfrmError | None]:
        def give(sa: pyxfrm.SecurityAssociation) -> int:
            assert self.sas[sa.id].larval, "the limits of an SA in use were changed"
            return self._store(sa)

        return self._each("key", sas, lambda sa: give(sa) if sa.id in self.sas else errno.ESRCH)

    def delete_sas(self, ids: Iterable[pyxfrm.SaId]) -> dict[pyxfrm.SaId, XfrmError]:
        wanted = list(ids)
        self.requests.append(f"delete {len(wanted)}")
        for sa_id in set(wanted) - self.stubborn:
            self.sas.pop(sa_id, None)
        return {sa_id: _error(errno.EBUSY) for sa_id in wanted if sa_id in self.stubborn}

    def get_sa(self, sa_id: pyxfrm.SaId) -> pyxfrm.SecurityAssociation:
        self.requests.append("get")
        if sa_id not in self.sas:
            raise _error(errno.ESRCH)
        return self.sas[sa_id]

    def dump_sas(
        self, where: Callable[[pyxfrm.SecurityAssociation], bool] = lambda _: True
    ) -> tuple[pyxfrm.SecurityAssociation, ...]:
        self.requests.append("dump")
        return tuple(sa for sa in self.sas.values() if where(sa))

    def _store(self, sa: pyxfrm.SecurityAssociation) -> int:
        self.sas[sa.id] = replace(sa, security_context=None) if self.drops_labels else sa
        return 0

    # Policies

    def put_policies(self, policies: Sequence[pyxfrm.Policy]) -> list[XfrmError | None]:
        def put(policy: pyxfrm.Policy) -> int:
            self._index += 8
            stored = replace(policy, index=self._index)
            stored = replace(stored, security_context=None) if self.drops_labels else stored
            self.policies[stored.id] = stored
            return 0

        return self._each("put", policies, put)

    def drop_policies(self, ids: Sequence[pyxfrm.PolicyId]) -> list[XfrmError | None]:
        return self._each("drop", ids, lambda one: 0 if self.policies.pop(one, None) else errno.ENOENT)

    def delete_policies(self, ids: Iterable[pyxfrm.PolicyId]) -> dict[pyxfrm.PolicyId, XfrmError]:
        by_index = {policy.index: policy.id for policy in self.policies.values()}
        for policy_id in ids:
            self.policies.pop(by_index[policy_id.index])
        return {}

    def get_policy(self, policy_id: pyxfrm.PolicyId) -> pyxfrm.Policy:
        self.requests.append("get")
        if policy_id not in self.policies:
            raise _error(errno.ENOENT)
        return self.policies[policy_id]

    def dump_policies(self) -> tuple[pyxfrm.Policy, ...]:
        self.requests.append("dump")
        return tuple(self.policies.values())

    def _each(self, verb: str, objects: Sequence[object], act: Callable[..., int]) -> list[XfrmError | None]:
        if objects:
            self.requests.append(f"{verb} {len(objects)}")
        return [_error(code) if (code := act(one)) else None for one in objects]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> PlayedKernel:
    kernel = PlayedKernel()
    batch = SimpleNamespace(
        add_sas=kernel.add_sas,
        key_larval_sas=kernel.key_larval_sas,
        put_policies=kernel.put_policies,
        delete_policies=kernel.drop_policies,
    )
    monkeypatch.setattr(linux_xfrm, "Xfrm", lambda: kernel)
    monkeypatch.setattr(linux_xfrm, "XfrmBatch", lambda _: batch)
    monkeypatch.setattr(linux_xfrm, "demand_enforcing", lambda _: None)
    return kernel


@pytest.fixture
def announced() -> list[object]:
    return []


@pytest.fixture
def xfrm(played: PlayedKernel, announced: list[object]) -> LinkXfrm:
    return LinkXfrm(announced.append)


def _larval(spi: int) -> pyxfrm.SecurityAssociation:
    sa_id = sa_id_to_kernel(SaId(destination=LINK.local, spi=spi))
    source = sa_id_to_kernel(SaId(destination=LINK.remote, spi=spi)).destination
    return pyxfrm.SecurityAssociation(source=source, destination=sa_id.destination, spi=spi)


def _error(code: int) -> XfrmError:
    return XfrmError(operation="played", errno=code)


def _sas(count: int, *, inbound: bool = False, first: int = 0x1000) -> list[SecurityAssociation]:
    return [LINK.sa(inbound=inbound, spi=first + n, key=bytes(36), lifetime_s=60) for n in range(count)]


def _words(outcomes: Sequence[BackendFailed | None]) -> list[str]:
    return ["" if outcome is None else str(outcome) for outcome in outcomes]


def _refuse(where: str) -> None:
    raise BackendFailed("SELinux is not enforcing", where=where)


# SAs


def test_sending_sas_are_added_without_a_look_and_read_back_by_the_cheaper_way(
    played: PlayedKernel, xfrm: LinkXfrm
) -> None:
    assert xfrm.add_sas(_sas(2)) == [None, None]
    assert played.requests == ["add 2", "get", "get"]
    played.requests.clear()
    assert xfrm.add_sas(_sas(20, first=0x2000)) == [None] * 20
    assert played.requests == ["add 20", "dump"]
    played.requests.clear()
    played.others = 1000
    assert xfrm.add_sas(_sas(20, first=0x3000)) == [None] * 20
    assert played.requests == ["add 20", *["get"] * 20]


def test_reserved_spis_get_their_keys_those_of_an_earlier_run_too(played: PlayedKernel, xfrm: LinkXfrm) -> None:
    spi = xfrm.allocate_spi(source=LINK.remote, destination=LINK.local)
    played.allocate(0x4444)
    played.requests.clear()
    own, earlier = _sas(1, inbound=True, first=spi), _sas(1, inbound=True, first=0x4444)
    assert xfrm.add_sas([*own, *earlier]) == [None, None]
    assert played.requests == ["get", "key 1", "add 1", "get", "key 1", "get", "get"]
    assert not any(sa.larval for sa in played.sas.values())


def test_a_reservation_that_expired_is_no_hindrance(played: PlayedKernel, xfrm: LinkXfrm) -> None:
    spi = xfrm.allocate_spi(source=LINK.remote, destination=LINK.local)
    played.sas.clear()
    assert xfrm.add_sas(_sas(1, inbound=True, first=spi)) == [None]


def test_an_sa_that_is_there_is_left_as_it_is_and_named(played: PlayedKernel, xfrm: LinkXfrm) -> None:
    xfrm.add_sas(_sas(1))
    before = dict(played.sas)
    first, second, third = _words(xfrm.add_sas([replace(sa, hard_lifetime_s=600) for sa in _sas(3)]))
    assert "a key is installed once" in first
    assert "0x00001000" in first
    assert (second, third) == ("", "")
    assert {sa_id: played.sas[sa_id] for sa_id in before} == before


def test_an_sa_whose_label_was_dropped_is_removed_and_the_others_stay(played: PlayedKernel, xfrm: LinkXfrm) -> None:
    played.drops_labels = True
    (outcome,) = _words(xfrm.add_sas(_sas(1)))
    assert "read back" in outcome
    assert "no label" in outcome
    assert not played.sas


def test_what_no_kernel_has_room_for_fails_alone(played: PlayedKernel, xfrm: LinkXfrm) -> None:
    good, *bad = _sas(4)
    bad[0] = replace(bad[0], source="nowhere")
    bad[1] = replace(bad[1], key=None)
    bad[2] = replace(bad[2], spi=1 << 32)
    outcomes = _words(xfrm.add_sas([good, *bad]))
    assert [bool(outcome) for outcome in outcomes] == [False, True, True, True]
    assert [sa.spi for sa in played.sas.values()] == [good.spi]


def test_no_sa_without_selinux(played: PlayedKernel, xfrm: LinkXfrm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux_xfrm, "demand_enforcing", _refuse)
    with pytest.raises(BackendFailed, match="not enforcing"):
        xfrm.add_sas(_sas(2))
    assert played.requests == []


def test_many_sas_are_deleted_in_one_go_and_what_stays_is_named(played: PlayedKernel, xfrm: LinkXfrm) -> None:
    sas = _sas(50)
    xfrm.add_sas(sas)
    played.stubborn = {sa_id_to_kernel(sas[4].id)}
    played.requests.clear()
    with pytest.raises(BackendFailed, match=r"kept 1 of 50 SAs.*0x00001004"):
        xfrm.delete_sas([sa.id for sa in sas])
    assert played.requests == ["delete 50"]
    assert [sa.spi for sa in played.sas.values()] == [0x1004]
    xfrm.delete_sas([])
    assert played.requests == ["delete 50"]


def test_every_change_is_announced(xfrm: LinkXfrm, announced: list[object]) -> None:
    sas = _sas(3)
    xfrm.add_sas(sas)
    xfrm.delete_sas([sa.id for sa in sas])
    for kind in ("sa", "delete sa"):
        assert {(kind, sa_id_to_kernel(sa.id)) for sa in sas} <= set(announced)


# SPD entries


def test_entries_go_in_and_out_by_selector_and_label(played: PlayedKernel, xfrm: LinkXfrm) -> None:
    entries = [*LINK.spd_entries, *BLOCK_ENTRIES]
    assert xfrm.add_entries(entries) == [None] * len(entries)
    assert played.requests == [f"put {len(entries)}", "dump"]
    assert xfrm.read_spd()[0] == set(entries)
    played.requests.clear()
    assert xfrm.delete_entries(LINK.spd_entries) == [None, None]
    assert played.requests == ["drop 2"]
    assert xfrm.read_spd()[0] == set(BLOCK_ENTRIES)


def test_what_is_not_found_by_its_label_is_looked_for(played: PlayedKernel, xfrm: LinkXfrm) -> None:
    played.requests.clear()
    assert xfrm.delete_entries([LINK.spd_entries[0], BLOCK_ENTRIES[0]]) == [None, None]
    assert played.requests == ["drop 1", "dump"]


def test_a_block_entry_goes_as_it_reads(played: PlayedKernel, xfrm: LinkXfrm) -> None:
    """Not by its selector: ours may stand there by now."""
    xfrm.add_entries([BLOCK_ENTRIES[0]])
    assert xfrm.delete_entries([replace(BLOCK_ENTRIES[0], priority=17)]) == [None]
    assert xfrm.read_spd()[0] == {BLOCK_ENTRIES[0]}
    xfrm.delete_entries([BLOCK_ENTRIES[0]])
    assert not played.policies


@pytest.mark.parametrize("direction", ["out", "in"])
def test_after_a_foreign_entry_for_what_goes_out_sockets_look_for_their_routes_anew(
    played: PlayedKernel, xfrm: LinkXfrm, direction: str
) -> None:
    """An entry that is put in makes the kernel forget the routes that they found under it."""
    xfrm.add_entries([*LINK.spd_entries, *BLOCK_ENTRIES])
    (ours,) = [entry for entry in LINK.spd_entries if entry.direction == direction]
    strange = replace(entry_to_policy(ours), security_context=None, priority=1, index=4000)
    played.policies[strange.id] = strange
    (found,) = [entry for entry in xfrm.read_spd()[0] if entry.foreign]
    played.requests.clear()
    assert xfrm.delete_entries([found]) == [None]
    assert ("put 1" in played.requests) is (direction == "out")
    assert xfrm.read_spd()[0] == {*LINK.spd_entries, *BLOCK_ENTRIES}


def test_of_entries_with_one_selector_the_last_stays(played: PlayedKernel, xfrm: LinkXfrm) -> None:
    assert xfrm.add_entries([replace(BLOCK_ENTRIES[0], priority=17), BLOCK_ENTRIES[0]]) == [None, None]
    assert xfrm.read_spd()[0] == {BLOCK_ENTRIES[0]}


def test_an_entry_whose_label_was_dropped_is_removed(played: PlayedKernel, xfrm: LinkXfrm) -> None:
    played.drops_labels = True
    outcomes = _words(xfrm.add_entries([*LINK.spd_entries, BLOCK_ENTRIES[0]]))
    assert ["read back" in outcome for outcome in outcomes] == [True, True, False]


def test_without_selinux_only_what_blocks_is_added(
    played: PlayedKernel, xfrm: LinkXfrm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linux_xfrm, "demand_enforcing", _refuse)
    bare = replace(LINK.spd_entries[0], context=None)
    foreign = replace(BLOCK_ENTRIES[1], foreign="block in")
    labelled, block, unlabelled, strange = _words(
        xfrm.add_entries([LINK.spd_entries[0], BLOCK_ENTRIES[0], bare, foreign])
    )
    assert "not enforcing" in labelled
    assert block == ""
    assert "only block" in unlabelled
    assert "none of ours" in strange
    assert len(played.policies) == 1
