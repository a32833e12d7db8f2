"""The coalition's policy as a value. `policy_file` reads it from TOML; `monitor` decides with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from shamon_host.domain.labels import HostName, ResourceLabel, TypeName, VmLabel, VmName


class FailureAction(StrEnum):
    """What a host does with its own VMs of a type when a peer that carries the type fails."""

    KEEP = "keep"
    """They go on; only the links go down."""
    SUSPEND = "suspend"
    """They are suspended until a passing peer is back."""
    REPLACE = "replace"
    """They are replaced by clean ones at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEntry:
    """A host of the coalition. `types` is its management label: it runs only VMs whose types are a subset."""

    name: HostName
    address: str
    """Underlay address, IPv4 or IPv6, of links and of the peer service."""
    port: int
    """TCP port of the peer service."""
    types: frozenset[TypeName]


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedImage:
    """A clean disk image: VMs run on a fresh overlay above it. `sha256` is lower-case hexadecimal."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VmEntry:
    """A VM of the coalition: its label, the image it is made from and the host it belongs to."""

    name: VmName
    label: str
    image: str
    host: HostName
    resources: tuple[str, ...] = ()
    """Names of resource labels that it uses beside its own disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """All in seconds. period < lease; `margin_s` is taken off the agreed lease before it reaches the gate."""

    period_s: float = 30.0
    lease_s: float = 90.0
    margin_s: float = 2.0
    timeout_s: float = 20.0
    """How long one handshake may take."""
    action_delay_s: float = 0.0
    """How long after a peer failed its failure actions are applied to this host's own VMs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What Evidence must show, beyond the claims that are always demanded."""

    allow_software_tpm: bool = False
    empty_pcrs: tuple[int, ...] = (12, 13)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """Which policy a host enforces, without what it says: enough to decide whether another may take its place."""

    coalition: str
    version: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One version of the coalition's policy. All references inside resolve (policy_file sees to it)."""

    coalition: str
    version: int
    parent: str | None
    """SHA-256 digest, hexadecimal, of the version before, or None for the first."""
    types: frozenset[TypeName]
    vm_labels: Mapping[str, VmLabel]
    resource_labels: Mapping[str, ResourceLabel]
    conflict_sets: Mapping[str, frozenset[TypeName]]
    hosts: Mapping[HostName, HostEntry]
    images: Mapping[str, PinnedImage]
    vms: Mapping[VmName, VmEntry]
    failure_actions: Mapping[TypeName, FailureAction]
    intervals: Intervals
    demands: Demands
    digest: str
    """SHA-256 over the canonical form, hexadecimal."""

    @property
    def which(self) -> PolicyVersion:
        return PolicyVersion(coalition=self.coalition, version=self.version, digest=self.digest)
