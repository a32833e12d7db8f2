"""Which host owns a VM that is moved between hosts: a token for each move, the newest of which counts.

Without a token a VM is its home's, the host that the policy names (`Policy.host_of`). The host that owns it gives it
away by a token that it and the host that takes it have both signed (`peer.vm_token`); its number is one higher than
that of the token before. So at most one host may start the VM by the newest token there is, and who shows an older one
is seen to be behind.

    {"base": "9f86…", "coalition": "lab", "disk": "a3f1…", "generation": 1, "owner": "beta", "policy": "77c2…",
     "previous": "alpha", "runs": true, "size": 196624, "time": 1790000000, "vm": "web"}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shamon_host.domain.errors import NotTrusted
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import Policy

MAX_GENERATION = 1 << 53


@dataclass(frozen=True, slots=True, kw_only=True)
class VmToken:
    """One move of a VM: from then on `owner` owns it."""

    coalition: str
    vm: VmName
    generation: int
    """1 for the first move of the VM."""
    owner: HostName
    previous: HostName
    """Who owned it until then, and gives it away."""
    policy: str
    """Digest of the policy under which it moved, hexadecimal."""
    disk: str
    """SHA-256 of the VM's own disk as it was handed over, hexadecimal; empty where it had none yet."""
    size: int
    """Of that disk, in bytes."""
    base: str
    """SHA-256 of the clean image that the disk was made from, hexadecimal; empty where nobody noted it."""
    runs: bool
    """It ran when it was moved, or should have: its new owner starts it."""
    time: int
    """Seconds since the epoch, by the clock of the host that gives it away; for people."""

    def to_document(self) -> dict[str, Any]:
        """In JSON's types."""
        return {
            "coalition": self.coalition,
            "vm": self.vm,
            "generation": self.generation,
            "owner": self.owner,
            "previous": self.previous,
            "policy": self.policy,
            "disk": self.disk,
            "size": self.size,
            "base": self.base,
            "runs": self.runs,
            "time": self.time,
        }


def owners(tokens: Mapping[VmName, VmToken]) -> dict[VmName, HostName]:
    """VM → owner, for `Policy.placed`."""
    return {vm: token.owner for vm, token in tokens.items()}


def why_not_its_disk(base: str | None, *, has_disk: bool, pin: str, stands_alone: bool) -> str:
    """Why a host that has the pinned clean image alone cannot go on with a VM's disk; empty where it can.

    `base`: digest of the clean image that the disk was made from, "" where it has none yet, None where nobody knows.
    `stands_alone`: it needs no clean image below it.
    """
    if not has_disk:
        return "" if base == "" else "its disk is not there"
    if not base:
        return "nobody noted which clean image its disk was made from"
    if base != pin and not stands_alone:
        return "its disk stands on another clean image than the pinned one"
    return ""


def require_new(token: VmToken, policy: Policy, newest: VmToken | None) -> None:
    """Raises NotTrusted unless the token counts for a host that enforces `policy` and knows no newer one than `newest`.

    A token may be more than one ahead of `newest`: this host was away meanwhile. One that is next in line has to be
    given by the host that owned the VM until then.
    """
    problem = ""
    if token.coalition != policy.coalition:
        problem = f"it is of the coalition {token.coalition}"
    elif token.vm not in policy.vms:
        problem = "the policy knows no such VM"
    elif token.owner not in policy.hosts_for(token.vm):
        problem = f"the policy does not let it be moved to {token.owner}"
    elif token.owner == token.previous:
        problem = "nobody gives a VM to itself"
    elif newest is not None and token.generation <= newest.generation:
        problem = f"it is number {token.generation}, and number {newest.generation} is known"
    elif token.generation == (newest.generation if newest else 0) + 1:
        before = policy.placed(owners({token.vm: newest} if newest else {})).host_of(token.vm)
        if token.previous != before:
            problem = f"{token.previous} gives it away, and {before} owned it"
    if problem:
        raise NotTrusted("the token of the VM does not count", where=token.vm, found=problem)
