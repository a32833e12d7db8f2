"""What `doctor` knows when it judges a link: the kernel at two moments; what the daemon says of peer, policy, VMs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.links.desired import bridge_name
from shamon_host.links.model import KernelState
from shamon_host.links.observation import Observation
from shamon_host.links.path_report import Part, Stage, Verdict

MAX_VMS = 50
"""Followed at once."""
_LONGEST = 1000
"""Characters of a text: a peer's words may be in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFacts:
    """What this host holds of the peer."""

    state: AdmissionState
    reason: str = ""
    lease_s: float = 0.0
    """Left of its lease."""
    failed_claim: str = ""
    """The first claim of its last result that does not pass, in words."""
    clears: str = ""
    """What brings that claim back."""
    last_error: str = ""
    """Why the last handshake with it failed; "" when it did not."""
    refuses_us: tuple[str, ...] = ()
    """Why it does not trust this host, in its words."""
    offered: frozenset[TypeName] | None = None
    """What it offered in the last handshake that was confirmed, by this host's names; None when there was none since
    the daemon started."""

    @property
    def admitted(self) -> bool:
        return self.state is AdmissionState.ADMITTED and self.lease_s > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VmFacts:
    """A VM of this host that has an interface for the type, running or not."""

    name: VmName
    state: str
    """As the hypervisor says; `absent` where it knows no such domain."""
    quarantined: str = ""
    """Why; empty when it is not."""
    labelled: bool = True
    """It runs under the label that is its own."""
    taps: tuple[str, ...] = ()
    """Those of its interfaces that are for the type."""

    @property
    def exchanges(self) -> bool:
        """It runs, and belongs in the bridge of the type."""
        return self.state == "running" and not self.quarantined and self.labelled

    def __str__(self) -> str:
        if self.quarantined:
            return f"{self.name} is in quarantine: {self.quarantined}"
        if not self.labelled:
            return f"{self.name} does not run under its own label"
        return f"{self.name} is {self.state}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """`before` and `after`: two looks, `interval_s` apart; what is there is judged by the second one."""

    host: HostName
    peer: HostName
    type: TypeName
    vm: VmName | None
    denied: str
    """Why the two hosts may not carry the type, as the reference monitor says; "" when they may. Admission is not in
    it."""
    label_map: LabelMap
    vms: tuple[VmFacts, ...]
    of_peer: PeerFacts
    before: Observation
    after: Observation
    wall_s: float
    interval_s: float

    @property
    def bridge(self) -> str:
        """Of the type; "" where the label map lacks it."""
        category = self.label_map.types.get(self.type)
        return "" if category is None else bridge_name(category)

    @property
    def state(self) -> KernelState | None:
        return self.after.state

    @property
    def exchanging(self) -> tuple[VmFacts, ...]:
        """The VMs whose frames are followed, at most MAX_VMS of them."""
        return tuple(vm for vm in self.vms if vm.exchanges and self.vm in (None, vm.name))[:MAX_VMS]

    @property
    def not_followed(self) -> int:
        """VMs that run and are left out, as they are too many."""
        return sum(vm.exchanges for vm in self.vms) - len(self.exchanging) if self.vm is None else 0

    def stage(self, part: Part, name: str, looked_at: str, verdict: Verdict, found: str, **more: Any) -> Stage:
        """A stage of this host. `more`: `expected`, `remedy`, `moved`. Texts are cut where they are too long."""
        texts = {key: more.pop(key, "")[:_LONGEST] for key in ("expected", "remedy")}
        return Stage(
            host=self.host,
            part=part,
            name=name,
            looked_at=looked_at[:_LONGEST],
            verdict=verdict,
            found=found[:_LONGEST],
            **texts,
            **more,
        )

    def unread(self, part: Part, name: str, looked_at: str) -> Stage:
        """It could not be looked at."""
        found = f"it could not be read: {self.after.unread}" if self.after.unread else "it could not be read"
        return self.stage(part, name, looked_at, Verdict.UNKNOWN, found)

    def traffic_of(self, device: str, **counters: str) -> dict[str, int]:
        """By how much a device's counters rose: the field of `Traffic` under the name to show."""
        before, after = (
            (look.traffic or {}).get(device) for look in (self.before, self.after)
        )  # a device that was made, or made anew, in between begins at 0
        if after is None:
            return {}
        return {
            name: max(0, getattr(after, field) - (getattr(before, field) if before else 0))
            for name, field in counters.items()
        }


def rose(before: Mapping[str, int] | None, after: Mapping[str, int] | None) -> dict[str, int]:
    """Counters that rose, and by how much; from 0 on where they were set back in between."""
    known = before or {}
    risen = {
        name: count - known.get(name, count) if count >= known.get(name, count) else count
        for name, count in (after or {}).items()
    }
    return {name: by for name, by in risen.items() if by > 0}
