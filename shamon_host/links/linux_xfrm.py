"""SAs and SPD entries of links in the kernel: added, read back, removed, many at a time.

A label that the kernel dropped or changed ends the operation: the object is removed at once and BackendFailed says so.
What an entry is, `linux_spd` decides.
"""

import errno
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import ip_address

from shamon_host import pyxfrm
from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.linux_labelled_socket import demand_enforcing
from shamon_host.links.linux_spd import (
    entry_from_policy,
    entry_to_policy,
    is_links_sa,
    policy_key,
    sa_from_kernel,
    sa_id_to_kernel,
    sa_out_of_reach,
    sa_to_kernel,
    socket_policy_in_words,
)
from shamon_host.links.linux_xfrm_batch import XfrmBatch, find_policies, find_sas
from shamon_host.links.model import Direction, SaId, SecurityAssociation, SpdEntry
from shamon_host.pyxfrm.client import Xfrm

Outcome = BackendFailed | None
"""Of one of many: done, or why not."""
_NAMED = 5
"""So many of the SAs that could not be removed are told."""


class LinkXfrm:
    """The links' share of SAD and SPD. `expect` is told each change before it is made, as the kernel will report it.

    What takes several objects goes on after one that fails, and returns an outcome for each, in order. Raises
    BackendFailed when the kernel cannot be asked at all."""

    def __init__(self, expect: Callable[[object], None]) -> None:
        try:
            self._xfrm = Xfrm()
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        self._batch = XfrmBatch(self._xfrm)
        self._expect = expect
        self._reserved: set[pyxfrm.SaId] = set()
        """Larval SAs of `allocate_spi`, as far as this run of the daemon knows."""

    def close(self) -> None:
        self._xfrm.close()

    def read_sas(self) -> tuple[frozenset[SecurityAssociation], tuple[str, ...]]:
        """Those of links, and in words those that no operation can remove."""
        try:
            found = self._xfrm.dump_sas(is_links_sa)
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        out_of_reach = tuple(filter(None, map(sa_out_of_reach, found)))
        return frozenset(sa_from_kernel(sa) for sa in found if not sa_out_of_reach(sa)), out_of_reach

    def read_spd(self) -> tuple[frozenset[SpdEntry], tuple[str, ...]]:
        """Entries of links and in their way, and in words policies of single sockets, which nobody else can remove."""
        policies = self._policies()
        entries = frozenset(entry for entry in map(entry_from_policy, policies) if entry is not None)
        return entries, tuple(filter(None, map(socket_policy_in_words, policies)))

    def add_sas(self, sas: Sequence[SecurityAssociation]) -> list[Outcome]:
        """One that has its id already is a failure: a key is installed once."""
        demand_enforcing("SAs of links")
        outcomes: list[Outcome] = [None] * len(sas)
        wanted: dict[int, pyxfrm.SecurityAssociation] = {}
        for place, sa in enumerate(sas):
            try:
                wanted[place] = _checked_sa(sa)
            except BackendFailed as error:
                outcomes[place] = error
        try:
            for place, failure in self._add_sas(wanted).items():
                outcomes[place] = failure
            added = {place: sa for place, sa in wanted.items() if outcomes[place] is None}
            found = find_sas(self._xfrm, [sa.id for sa in added.values()])
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        wrong = {place: found.get(sa.id) for place, sa in added.items() if found.get(sa.id) != sa}
        for place, other in wrong.items():
            outcomes[place] = BackendFailed(
                "the SA that was read back is not the one that was added; it was removed", where=_where(sas[place]),
                expected=str(sas[place].context),
                found="no label" if other is None else other.security_context or "no label",
            )  # fmt: skip
        self.delete_sas([sas[place].id for place in wrong])
        return outcomes

    def _add_sas(self, wanted: Mapping[int, pyxfrm.SecurityAssociation]) -> dict[int, BackendFailed]:
        """Give larval SAs their keys, add the others; returns what failed. Raises XfrmError."""
        ids = {sa.id for sa in wanted.values()}
        larval = self._larval(ids & self._reserved)
        self._reserved -= ids
        for sa_id in ids:
            self._expect(("sa", sa_id))
        errors = self._send_sas(wanted, larval)
        # A reservation that an earlier run of the daemon made shows only now.
        again = {place: wanted[place] for place, error in errors.items() if error.errno == errno.EEXIST}
        late = self._larval({sa.id for sa in again.values()} - larval)
        again = {place: sa for place, sa in again.items() if sa.id in late}
        errors = {place: error for place, error in errors.items() if place not in again}
        errors |= self._send_sas(again, late)
        return {
            place: BackendFailed(
                "there is an SA with this SPI already, and a key is installed once", where=str(wanted[place].id)
            )
            if error.errno == errno.EEXIST
            else _failed(error)
            for place, error in errors.items()
        }

    def _send_sas(
        self, wanted: Mapping[int, pyxfrm.SecurityAssociation], larval: Collection[pyxfrm.SaId]
    ) -> dict[int, pyxfrm.XfrmError]:
        errors: dict[int, pyxfrm.XfrmError] = {}
        for is_larval, send in ((True, self._batch.key_larval_sas), (False, self._batch.add_sas)):
            places = [place for place, sa in wanted.items() if (sa.id in larval) is is_larval]
            outcomes = send([wanted[place] for place in places])
            errors |= {place: error for place, error in zip(places, outcomes, strict=True) if error is not None}
        return errors

    def delete_sas(self, sa_ids: Iterable[SaId]) -> None:
        """Raises BackendFailed naming those that are left; one that is gone already is none of them."""
        wanted = [sa_id_to_kernel(sa_id) for sa_id in sa_ids]
        if not wanted:
            return
        self._reserved.difference_update(wanted)
        for sa_id in wanted:
            self._expect(("delete sa", sa_id))
        try:
            failures = self._xfrm.delete_sas(wanted)
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        if failures:
            named = "; ".join(f"{sa_id}: {error.name}" for sa_id, error in list(failures.items())[:_NAMED])
            raise BackendFailed(
                f"the kernel kept {len(failures)} of {len(wanted)} SAs", where="delete SAs", found=named
            )

    def add_entries(self, entries: Sequence[SpdEntry]) -> list[Outcome]:
        """Each takes the place of the one with its selector, direction and label."""
        unfit = _unfit_for_labels() if any(entry.context is not None for entry in entries) else None
        outcomes: list[Outcome] = [None] * len(entries)
        wanted: dict[int, pyxfrm.Policy] = {}
        for place, entry in enumerate(entries):
            try:
                wanted[place] = _checked_entry(entry, unfit)
            except BackendFailed as error:
                outcomes[place] = error
        for policy in wanted.values():
            self._expect(("policy", policy_key(policy)))
        try:
            answers = self._batch.put_policies(list(wanted.values()))
            for place, answer in zip(wanted, answers, strict=True):
                outcomes[place] = None if answer is None else _failed(answer)
            # Of several with one selector the last is there.
            added = {wanted[place].id: place for place in wanted if outcomes[place] is None}
            found = find_policies(self._xfrm, list(added))
            wrong = {place: found.get(one) for one, place in added.items() if found.get(one) != wanted[place]}
            self._delete_policies([other for other in wrong.values() if other is not None])
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        for place, other in wrong.items():
            outcomes[place] = BackendFailed(
                "the SPD entry that was read back is not the one that was added; it was removed",
                where=f"SPD entry {wanted[place].id}",
                expected=str(entries[place].context or "no label"),
                found="no label" if other is None else other.security_context or "no label",
            )
        return outcomes

    def delete_entries(self, entries: Sequence[SpdEntry]) -> list[Outcome]:
        """Whatever reads as one of them. Entries of links are found by their selector and label, which no two policies
        share; what remains, and all others, among all policies, and removed by the kernel's number for it."""
        outcomes: list[Outcome] = [None] * len(entries)
        labelled: dict[int, pyxfrm.Policy] = {}
        elsewhere = set(range(len(entries)))
        for place, entry in enumerate(entries):
            try:
                if not entry.foreign and entry.context is not None:
                    labelled[place] = entry_to_policy(entry)
            except (pyxfrm.XfrmError, BadInput, ValueError) as error:
                outcomes[place] = BackendFailed("this SPD entry cannot be", where="delete SPD entry", found=str(error))
                elsewhere.discard(place)
        for policy in labelled.values():
            self._expect(("delete policy", policy_key(policy)))
        try:
            answers = self._batch.delete_policies([policy.id for policy in labelled.values()])
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        elsewhere -= {place for place, error in zip(labelled, answers, strict=True) if error is None}
        if elsewhere:
            self._delete_as_read({place: entries[place] for place in elsewhere}, outcomes)
        self.choose_routes_anew(
            {entry.family for entry in entries if entry.foreign and entry.direction is Direction.OUT}
        )
        return outcomes

    def choose_routes_anew(self, families: Collection[int] = (4, 6)) -> None:
        """Sockets keep the route that they found under an entry that is gone, and the guard would drop all that they
        send. What makes the kernel forget it is an entry that is put in (xfrm_policy_insert), not one that goes: one of
        the guard's is put in once more. Raises BackendFailed."""
        blocks = {block.family: block for block in BLOCK_ENTRIES if block.direction is Direction.OUT}
        for failure in filter(None, self.add_entries([blocks[family] for family in sorted(families)])):
            raise failure

    def _delete_as_read(self, entries: Mapping[int, SpdEntry], outcomes: list[Outcome]) -> None:
        wanted = frozenset(entries.values())
        read = ((policy, entry_from_policy(policy)) for policy in self._policies())
        found = {policy.index_id: (policy, entry) for policy, entry in read if entry in wanted}
        try:
            failures = self._delete_policies([policy for policy, _ in found.values()])
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        left = {found[policy_id][1]: error for policy_id, error in failures.items()}
        for place, entry in entries.items():
            if entry in left:
                outcomes[place] = _failed(left[entry])

    def _delete_policies(self, policies: Sequence[pyxfrm.Policy]) -> dict[pyxfrm.PolicyId, pyxfrm.XfrmError]:
        """By index. Raises XfrmError."""
        for policy in policies:
            self._expect(("delete policy", policy_key(policy)))
        return self._xfrm.delete_policies([policy.index_id for policy in policies])

    def allocate_spi(self, *, source: str, destination: str) -> int:
        """Reserve an SPI. Raises BackendFailed."""
        try:
            sa = self._xfrm.allocate_spi(source=ip_address(source), destination=ip_address(destination))
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        self._reserved.add(sa.id)
        return sa.spi

    def _larval(self, ids: Collection[pyxfrm.SaId]) -> set[pyxfrm.SaId]:
        """Those that are larval SAs. Raises XfrmError."""
        return {sa_id for sa_id, sa in find_sas(self._xfrm, ids).items() if sa.larval} if ids else set()

    def _policies(self) -> tuple[pyxfrm.Policy, ...]:
        try:
            return self._xfrm.dump_policies()
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None


def _checked_sa(sa: SecurityAssociation) -> pyxfrm.SecurityAssociation:
    """Raises BackendFailed for what no link may have; none names a key."""
    if sa.context is None or sa.key is None:
        raise BackendFailed("an SA of a link needs a label and a key", where=_where(sa))
    try:
        return sa_to_kernel(sa)
    except (pyxfrm.XfrmError, BadInput, ValueError) as error:
        raise BackendFailed("this SA cannot be", where=_where(sa), found=str(error)[:300]) from None


def _unfit_for_labels() -> BackendFailed | None:
    """Why nothing labelled may be made now."""
    try:
        demand_enforcing("SPD entries of links")
    except BackendFailed as error:
        return error
    return None


def _checked_entry(entry: SpdEntry, unfit: BackendFailed | None) -> pyxfrm.Policy:
    """Raises BackendFailed; `unfit` for one with a label."""
    if entry.foreign:
        raise BackendFailed("this SPD entry is none of ours", where="add SPD entry", found=entry.foreign)
    try:
        wanted = entry_to_policy(entry)
    except (pyxfrm.XfrmError, BadInput, ValueError) as error:
        raise BackendFailed("this SPD entry cannot be", where="add SPD entry", found=str(error)[:300]) from None
    if entry.context is not None and unfit is not None:
        raise unfit
    if entry.context is None and not entry.block:
        raise BackendFailed("an SPD entry without a label can only block", where=f"SPD entry {wanted.id}")
    return wanted


def _where(sa: SecurityAssociation) -> str:
    return f"SA to {sa.destination} spi {sa.spi:#010x}"


def _failed(error: pyxfrm.XfrmError) -> BackendFailed:
    return BackendFailed("the kernel refused", where=error.operation, found=f"{error.name}: {error.detail}")
