"""Many changes in few messages to the kernel: `Batch` gathers them, `Xfrm.run` or `AsyncXfrm.run` sends them."""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from . import requests
from .association import SaId, SecurityAssociation
from .errors import XfrmError
from .policy import Policy, PolicyId
from .requests import Request

_Id = TypeVar("_Id", SaId, PolicyId)


@dataclass(kw_only=True)
class Batch:
    """Changes in the order in which they are to be made. Encoded as they come, so a value that the kernel has no room
    for raises XfrmError here, and nothing of it is sent."""

    requests: list[Request[None]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.requests)

    def add_sa(self, sa: SecurityAssociation) -> None:
        self.requests.append(requests.add_sa(sa))

    def update_sa(self, sa: SecurityAssociation) -> None:
        self.requests.append(requests.update_sa(sa))

    def delete_sa(self, sa_id: SaId) -> None:
        self.requests.append(requests.delete_sa(sa_id))

    def add_policy(self, policy: Policy) -> None:
        self.requests.append(requests.add_policy(policy))

    def update_policy(self, policy: Policy) -> None:
        self.requests.append(requests.update_policy(policy))

    def delete_policy(self, policy_id: PolicyId) -> None:
        self.requests.append(requests.delete_policy(policy_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What became of each request of a batch, in its order: None for done, else the error.

    Not a transaction: one that fails does not stop the others. Errors with ENOBUFS or ETIMEDOUT mean that it is not
    known whether it was carried out, with ECANCELED that it was not sent.
    """

    errors: Sequence[XfrmError | None]

    @property
    def failures(self) -> Iterator[tuple[int, XfrmError]]:
        """(place in the batch, error) of each that failed."""
        return ((place, error) for place, error in enumerate(self.errors) if error is not None)

    @property
    def done(self) -> int:
        """How many were carried out."""
        return sum(error is None for error in self.errors)

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        for _place, error in self.failures:
            raise error


def still_there(wanted: Sequence[_Id], outcomes: Sequence[XfrmError | None]) -> dict[_Id, XfrmError]:
    """Those whose deletion failed though they were there."""
    return {
        one: error
        for one, error in zip(wanted, outcomes, strict=True)
        if error is not None and error.errno not in (errno.ESRCH, errno.ENOENT)
    }
