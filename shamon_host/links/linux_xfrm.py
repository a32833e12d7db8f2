"""SAs and SPD entries of links in the kernel: added, read back, removed.

A label that the kernel dropped or changed ends the operation: the object is removed at once and BackendFailed says so.
What an entry is, `linux_spd` decides.
"""

import errno
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from shamon_host import pyxfrm
from shamon_host.domain.errors import BackendFailed
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
from shamon_host.links.model import Direction, SaId, SecurityAssociation, SpdEntry
from shamon_host.pyxfrm.client import Xfrm


class LinkXfrm:
    """The links' share of SAD and SPD. `expect` is told each change before it is made, as the kernel will report it."""

    def __init__(self, expect: Callable[[object], None]) -> None:
        try:
            self._xfrm = Xfrm()
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        self._expect = expect

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

    def add_sa(self, sa: SecurityAssociation) -> None:
        """Raises BackendFailed too if there is an SA with this id: a key is installed once."""
        where = f"SA to {sa.destination} spi {sa.spi:#010x}"
        demand_enforcing(where)
        if sa.context is None or sa.key is None:
            raise BackendFailed("an SA of a link needs a label and a key", where=where)
        try:
            wanted = sa_to_kernel(sa)
            larval = self._larval(wanted.id)
            self._expect(("sa", wanted.id))
            if larval:
                self._xfrm.update_sa(wanted)
            else:
                self._xfrm.add_sa(wanted)
            found = self._xfrm.get_sa(wanted.id)
            if found == wanted:
                return
            self._expect(("delete sa", wanted.id))
            self._xfrm.delete_sa(wanted.id)
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        raise BackendFailed(
            "the SA that was read back is not the one that was added; it was removed", where=where,
            expected=str(sa.context), found=found.security_context or "no label",
        )  # fmt: skip

    def delete_sas(self, sa_ids: Sequence[SaId]) -> None:
        wanted = [sa_id_to_kernel(sa_id) for sa_id in sa_ids]
        for sa_id in wanted:
            self._expect(("delete sa", sa_id))
        try:
            failures = self._xfrm.delete_sas(wanted)
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        if failures:
            raise _failed(next(iter(failures.values())))

    def add_entry(self, entry: SpdEntry) -> None:
        if entry.foreign:
            raise BackendFailed("this SPD entry is none of ours", where="add SPD entry", found=entry.foreign)
        wanted = entry_to_policy(entry)
        where = f"SPD entry {wanted.id}"
        if entry.context is not None:
            demand_enforcing(where)
        elif not entry.block:
            raise BackendFailed("an SPD entry without a label can only block", where=where)
        try:
            self._expect(("policy", policy_key(wanted)))
            self._xfrm.update_policy(wanted)
            found = self._xfrm.get_policy(wanted.id)
            if found == wanted:
                return
            self._expect(("delete policy", policy_key(found)))
            self._xfrm.delete_policy(found.index_id)
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        raise BackendFailed(
            "the SPD entry that was read back is not the one that was added; it was removed", where=where,
            expected=str(entry.context or "no label"), found=found.security_context or "no label",
        )  # fmt: skip

    def delete_entry(self, entry: SpdEntry) -> None:
        """Whatever reads as this entry, by the kernel's number for it."""
        found = [policy for policy in self._policies() if entry_from_policy(policy) == entry]
        for policy in found:
            self._expect(("delete policy", policy_key(policy)))
        try:
            failures = self._xfrm.delete_policies([policy.index_id for policy in found])
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        if failures:
            raise _failed(next(iter(failures.values())))
        if entry.foreign and entry.direction is Direction.OUT:
            self._choose_routes_anew(entry.family)

    def _choose_routes_anew(self, family: int) -> None:
        """Sockets keep the route that they found under an entry that is gone, and the guard would drop all that they
        send. What makes the kernel forget it is an entry that is put in (xfrm_policy_insert), not one that goes: one of
        the guard's is put in once more."""
        for block in BLOCK_ENTRIES:
            if (block.direction, block.family) == (Direction.OUT, family):
                self.add_entry(block)
                return

    def allocate_spi(self, *, source: str, destination: str) -> int:
        """Reserve an SPI. Raises BackendFailed."""
        try:
            sa = self._xfrm.allocate_spi(source=ip_address(source), destination=ip_address(destination))
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None
        return sa.spi

    def _larval(self, sa_id: pyxfrm.SaId) -> bool:
        try:
            found = self._xfrm.get_sa(sa_id)
        except pyxfrm.XfrmError as error:
            if error.errno != errno.ESRCH:
                raise
            return False
        if not found.larval:
            raise BackendFailed("there is an SA with this SPI already, and a key is installed once", where=str(sa_id))
        return True

    def _policies(self) -> tuple[pyxfrm.Policy, ...]:
        try:
            return self._xfrm.dump_policies()
        except pyxfrm.XfrmError as error:
            raise _failed(error) from None


def _failed(error: pyxfrm.XfrmError) -> BackendFailed:
    return BackendFailed("the kernel refused", where=error.operation, found=f"{error.name}: {error.detail}")
