"""What a host does with its own VMs when a peer that carried their types fails: keep, suspend or replace them.

A peer whose Evidence was bad may have sent anything to our VMs until it was cut off, so the action is carried out
even if the peer comes back clean before the delay is over. A peer that merely fell silent may come back in time, and
then nothing happens. Pure; `reactions` carries it out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.policy import FailureAction, Policy

_STRENGTH = {FailureAction.KEEP: 0, FailureAction.SUSPEND: 1, FailureAction.REPLACE: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingAction:
    """An action on one VM, due at `due_s` on CLOCK_BOOTTIME."""

    vm: VmName
    action: FailureAction
    peer: HostName
    due_s: float
    definite: bool
    """The peer's Evidence was bad (True), or it only fell silent (False)."""
    reason: str

    @property
    def key(self) -> str:
        """Each VM has at most one action for each peer."""
        return f"{self.vm} {self.peer}"

    def to_document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "PendingAction":
        """What `to_document` made, out of this host's own store."""
        return cls(**{**document, "action": FailureAction(document["action"])})


def actions_for(
    policy: Policy,
    *,
    running: Iterable[VmName],
    carried: frozenset[TypeName],
    peer: HostName,
    now_s: float,
    definite: bool,
    reason: str,
) -> tuple[PendingAction, ...]:
    """The actions on the VMs in `running` that share a type with `carried`, the types of the links to `peer`.

    The strongest action of the shared types counts; `keep` yields nothing.
    """
    pending = []
    for name in sorted(running):
        shared = policy.label_of(name).types & carried
        action = max(
            (policy.definitions[shared_type].on_failure for shared_type in shared),
            key=_STRENGTH.__getitem__,
            default=FailureAction.KEEP,
        )
        if action is not FailureAction.KEEP:
            pending.append(
                PendingAction(
                    vm=name,
                    action=action,
                    peer=peer,
                    due_s=now_s + policy.intervals.action_delay_s,
                    definite=definite,
                    reason=reason,
                )
            )
    return tuple(pending)


def merge(pending: Iterable[PendingAction], new: Iterable[PendingAction]) -> tuple[PendingAction, ...]:
    """One action for each VM and peer: the stronger one, a definite one before another, the earlier when equal.

    Actions for different peers stand beside each other: one peer's return takes nothing from what another one did.
    """
    chosen: dict[str, PendingAction] = {}
    for item in (*pending, *new):
        present = chosen.get(item.key)
        if present is None or _rank(item) > _rank(present):
            chosen[item.key] = item
    return tuple(chosen.values())


def without_silent(pending: Iterable[PendingAction], peer: HostName) -> tuple[PendingAction, ...]:
    """Drop what was pending only because `peer` was silent: it is back."""
    return tuple(item for item in pending if item.peer != peer or item.definite)


def made_definite(pending: Iterable[PendingAction], peer: HostName, reason: str) -> tuple[PendingAction, ...]:
    """`peer`, which had only been silent, now showed bad Evidence: what is pending stays, whether it comes back."""
    return tuple(
        replace(item, definite=True, reason=reason) if item.peer == peer and not item.definite else item
        for item in pending
    )


def _rank(item: PendingAction) -> tuple[int, bool, float]:
    return _STRENGTH[item.action], item.definite, -item.due_s
