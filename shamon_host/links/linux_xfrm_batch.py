"""Many SAs or SPD entries to the kernel in a few datagrams, and found again in the cheaper of two ways.

`pyxfrm.client` deletes many at once; adding many, and knowing of each deletion whether there was anything, is here.
"""

import errno
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from shamon_host import pyxfrm
from shamon_host.pyxfrm.client import Xfrm
from shamon_host.pyxfrm.constants import Message
from shamon_host.pyxfrm.errors import XfrmError
from shamon_host.pyxfrm.policy_codec import encode_policy, encode_policy_id
from shamon_host.pyxfrm.sa_codec import encode_sa
from shamon_host.pyxfrm.transport import Channel

READ_PER_REQUEST = 4
"""A dump reads about so many objects in the time that one request for one of them takes."""
_FEW = 4
"""So few are asked for one by one without counting what there is."""

_T = TypeVar("_T")


class XfrmBatch:
    """One socket for requests that go together; safe to share between threads. Each call returns None for what was
    done, or its error, and raises XfrmError if the kernel does not answer."""

    def __init__(self) -> None:
        self._channel = Channel()

    def close(self) -> None:
        self._channel.close()

    def add_sas(self, sas: Sequence[pyxfrm.SecurityAssociation]) -> list[XfrmError | None]:
        """EEXIST where there is one of the id, also a larval one."""
        return self._send(Message.NEWSA, encode_sa, sas, "add SA")

    def key_larval_sas(self, sas: Sequence[pyxfrm.SecurityAssociation]) -> list[XfrmError | None]:
        """Give larval SAs their keys. ESRCH where there is none of the id."""
        return self._send(Message.UPDSA, encode_sa, sas, "give a larval SA its key")

    def put_policies(self, policies: Sequence[pyxfrm.Policy]) -> list[XfrmError | None]:
        """Each in the place of the one with its selector, direction and security context."""
        return self._send(Message.UPDPOLICY, encode_policy, policies, "add policy")

    def delete_policies(self, policy_ids: Sequence[pyxfrm.PolicyId]) -> list[XfrmError | None]:
        """ENOENT where there is none."""
        return self._send(Message.DELPOLICY, encode_policy_id, policy_ids, "delete policy")

    def _send(
        self, kind: Message, encode: Callable[[_T], bytes], objects: Sequence[_T], operation: str
    ) -> list[XfrmError | None]:
        """What cannot be encoded has that for its error, and is not sent."""
        outcomes: list[XfrmError | None] = []
        bodies: list[tuple[int, bytes]] = []
        for place, one in enumerate(objects):
            outcomes.append(None)
            try:
                bodies.append((place, encode(one)))
            except XfrmError as error:
                outcomes[place] = error
        answers = self._channel.batch([(kind, body, operation) for _, body in bodies])
        for (place, _), answer in zip(bodies, answers, strict=True):
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
