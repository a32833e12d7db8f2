"""Many SAs or SPD entries to the kernel in a few datagrams, and found again in the cheaper of two ways."""

import errno
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shamon_host import pyxfrm
from shamon_host.pyxfrm import requests
from shamon_host.pyxfrm.batch import Batch
from shamon_host.pyxfrm.client import Xfrm
from shamon_host.pyxfrm.errors import XfrmError

READ_PER_REQUEST = 4
"""A dump reads about so many objects in the time that one request for one of them takes."""
_FEW = 4
"""So few are asked for one by one without counting what there is."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class XfrmBatch:
    """Requests that go together. Each call returns, for each object, None if that was done, or its error: one that
    fails, or that no message has room for, does not stop the others."""

    xfrm: Xfrm

    def add_sas(self, sas: Sequence[pyxfrm.SecurityAssociation]) -> list[XfrmError | None]:
        """EEXIST where there is one of the id, also a larval one."""
        return self._send(requests.add_sa, sas)

    def key_larval_sas(self, sas: Sequence[pyxfrm.SecurityAssociation]) -> list[XfrmError | None]:
        """Give larval SAs their keys. ESRCH where there is none of the id."""
        return self._send(requests.update_sa, sas)

    def put_policies(self, policies: Sequence[pyxfrm.Policy]) -> list[XfrmError | None]:
        """Each in the place of the one with its selector, direction and security context."""
        return self._send(requests.update_policy, policies)

    def delete_policies(self, policy_ids: Sequence[pyxfrm.PolicyId]) -> list[XfrmError | None]:
        """ENOENT where there is none."""
        return self._send(requests.delete_policy, policy_ids)

    def _send(self, request: Callable[[_T], requests.Request[None]], objects: Sequence[_T]) -> list[XfrmError | None]:
        outcomes: list[XfrmError | None] = [None] * len(objects)
        sent: dict[int, requests.Request[None]] = {}
        for place, one in enumerate(objects):
            try:
                sent[place] = request(one)
            except XfrmError as error:
                outcomes[place] = error
        answers = self.xfrm.run(Batch(requests=list(sent.values())))
        for place, answer in zip(sent, answers.errors, strict=True):
            outcomes[place] = answer
        return outcomes


def find_sas(xfrm: Xfrm, ids: Collection[pyxfrm.SaId]) -> dict[pyxfrm.SaId, pyxfrm.SecurityAssociation]:
    """Those that are there, larval ones too. Raises XfrmError."""
    if len(ids) > _FEW and len(ids) * READ_PER_REQUEST >= xfrm.counts().sas:
        wanted = frozenset(ids)
        return {sa.id: sa for sa in xfrm.dump_sas() if sa.id in wanted}
    return _one_by_one(ids, xfrm.get_sa)


def find_policies(xfrm: Xfrm, ids: Collection[pyxfrm.PolicyId]) -> dict[pyxfrm.PolicyId, pyxfrm.Policy]:
    """Those that are there, by selector, direction and security context. Raises XfrmError."""
    if len(ids) > _FEW:
        counts = xfrm.counts()
        if len(ids) * READ_PER_REQUEST >= counts.policies_in + counts.policies_out + counts.policies_fwd:
            wanted = frozenset(ids)
            return {policy.id: policy for policy in xfrm.dump_policies() if policy.id in wanted}
    return _one_by_one(ids, xfrm.get_policy)


_Id = TypeVar("_Id")
_Object = TypeVar("_Object")


def _one_by_one(ids: Collection[_Id], get: Callable[[_Id], _Object]) -> dict[_Id, _Object]:
    found: dict[_Id, _Object] = {}
    for one in ids:
        try:
            found[one] = get(one)
        except XfrmError as error:
            if error.errno not in (errno.ESRCH, errno.ENOENT):
                raise
    return found
