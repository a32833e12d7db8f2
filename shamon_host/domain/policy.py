"""The coalition's policy as a value. `policy_file` reads it, `consistency` says whether it hangs together, `monitor`
decides with it, and `policy_form` has its canonical form.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Self

from shamon_host.domain.decision_cache import DecisionCache
from shamon_host.domain.guest_demand import GuestDemand
from shamon_host.domain.key_usage import REKEY_BYTES, REKEY_PACKETS
from shamon_host.domain.labels import UNLABELLED, HostName, ResourceKind, ResourceLabel, TypeName, VmLabel, VmName
from shamon_host.domain.overlay import Overlay
from shamon_host.domain.quarantine import Grade


class FailureAction(StrEnum):
    """What a host does with its own VMs of a type when a peer that carries the type fails."""

    KEEP = "keep"
    """They go on; only the links go down."""
    SUSPEND = "suspend"
    """They are suspended until a passing peer is back."""
    REPLACE = "replace"
    """They are replaced by clean ones at once."""


class TpmDemand(StrEnum):
    """Which hosts may carry a type."""

    ANY = "any"
    """Every host that is admitted."""
    HARDWARE = "hardware"
    """Only hosts with a hardware TPM."""


class HypervisorKind(StrEnum):
    """What a host runs its VMs with, hence what labels them."""

    QEMU = "qemu"
    """QEMU/KVM: sVirt, SELinux contexts of processes on the host."""
    XEN = "xen"
    """Xen with XSM: FLASK contexts of domains in the hypervisor."""


class Primary(StrEnum):
    """Which of sHype's two rules is named when both deny (ACM: the primary policy component)."""

    CHINESE_WALL = "chinese-wall"
    STE = "ste"


MAX_DEPTH = 32
"""How many owners, one above the other, a type may have; more are not looked at, and make the policy inconsistent."""
MAX_CONFLICT_SETS = 1 << 14
MAX_RESOURCES = 16
"""How many resources one VM may have."""
LEVELS = range(16)
"""Confidentiality and integrity levels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    """Who owns types. `key` names its own signing key, which must sign what changes about them."""

    name: str
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Department:
    """A part of an organisation or of another department, whose Chinese Wall types it inherits."""

    name: str
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """Who must sign a version: `threshold` of the keys with these names."""

    threshold: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeDefinition:
    """What a type means. Hosts with different policies compare it (`flows.meaning`)."""

    name: TypeName
    owner: str | None = None
    """Organisation or department; None where the policy declares no organisation for it."""
    on_failure: FailureAction = FailureAction.KEEP
    tpm: TpmDemand = TpmDemand.ANY
    confidentiality: int = 0
    integrity: int = 0
    apart: frozenset[str] = frozenset()
    """Chinese Wall types beside which it never runs."""
    downgraders: frozenset[str] = frozenset()
    """Labels through which the owner lets information leave or enter the type without a chain going on."""
    equivalent: frozenset[TypeName] = frozenset()
    """Types that mean the same, if they say so too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEntry:
    """A host of the coalition. `types` is its management label: it runs only VMs whose types are a subset."""

    name: HostName
    address: str
    """Underlay address, IPv4 or IPv6, of links and of the peer service."""
    port: int
    """TCP port of the peer service."""
    types: frozenset[TypeName]
    starting: frozenset[TypeName] | None = None
    """What it may run before any peer has admitted it in this boot; None: all of `types`."""
    hypervisor: HypervisorKind = HypervisorKind.QEMU
    mac_vm: VmName | None = None
    """The VM that holds its links (profile `vm`); None: the host itself does (profile `host`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedBoot:
    """What a VM is booted from beside its disk. Digests are lower-case hexadecimal."""

    kernel_sha256: str
    initrd_sha256: str
    cmdline: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedImage:
    """A clean disk image: VMs run on a fresh overlay above it. `sha256` is lower-case hexadecimal."""

    name: str
    sha256: str
    boot: PinnedBoot | None = None
    """None: kernel, initrd and command line are the host's own affair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmEntry:
    """A VM of the coalition: its label, the image it is made from and the host it belongs to."""

    name: VmName
    label: str
    image: str
    host: HostName
    """Its home: where it is unless it was moved."""
    may_move_to: frozenset[HostName] = frozenset()
    """Other hosts to which it may be moved."""
    resources: tuple[str, ...] = ()
    """Names of resource labels that it uses beside its own disk."""
    interfaces: tuple[TypeName, ...] | None = None
    """The type of each of its network interfaces; None: one for each type of its label, by name."""
    addresses: Mapping[TypeName, frozenset[str]] = field(default_factory=dict)
    """Type of an interface → the IP addresses that it has in it, and no other; where there is none, any."""
    quarantine: Grade | None = None
    """The least that a quarantine does to it; None: what its label says."""
    attest: str | None = None
    """What its host has to be shown by it (`Policy.guests`); None: it is not attested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """In seconds, and for keys in what they carry. period < lease; `margin_s` is taken off the agreed lease before it
    reaches the gate."""

    period_s: float = 30.0
    lease_s: float = 90.0
    margin_s: float = 2.0
    timeout_s: float = 20.0
    """How long one handshake may take."""
    action_delay_s: float = 0.0
    """How long after a peer failed its failure actions are applied to this host's own VMs."""
    rekey_bytes: int = REKEY_BYTES[-1]
    rekey_packets: int = REKEY_PACKETS[-1]
    """How much a link sends under one key before a handshake brings a new one, if the period did not (`key_usage`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What Evidence must show, beyond the claims that are always demanded."""

    allow_software_tpm: bool = False
    allow_sha1: bool = False
    """Believe quotes that an AK signs over SHA-1, as old TPMs do. Never PCRs of the SHA-1 bank."""
    empty_pcrs: tuple[int, ...] = (12, 13)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renames:
    """Old name → new name, from the version before to this one."""

    types: Mapping[TypeName, TypeName] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """Which policy a host enforces, without what it says."""

    coalition: str
    version: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One version of the coalition's policy. All references inside resolve (`consistency` sees to it)."""

    coalition: str
    version: int
    parent: str | None
    """SHA-256 digest, hexadecimal, of the version before, or None for the first."""
    expires_s: int | None = None
    """Seconds since the epoch from when on it counts no more; None: never."""
    primary: Primary = Primary.CHINESE_WALL
    signing: Signing | None = None
    """Who signs; None: the policy is unsigned, and changed by hand on each host."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Name → public key, base64 of a DER SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7)."""
    organisations: Mapping[str, Organisation] = field(default_factory=dict)
    departments: Mapping[str, Department] = field(default_factory=dict)
    walls: frozenset[str] = frozenset()
    """Chinese Wall types that are neither types nor owners of types."""
    definitions: Mapping[TypeName, TypeDefinition]
    vm_labels: Mapping[str, VmLabel]
    resource_labels: Mapping[str, ResourceLabel]
    conflict_sets: Mapping[str, frozenset[str]]
    """Chinese Wall types of which a host runs at most one at a time."""
    hosts: Mapping[HostName, HostEntry]
    images: Mapping[str, PinnedImage]
    vms: Mapping[VmName, VmEntry]
    guests: Mapping[str, GuestDemand] = field(default_factory=dict)
    overlays: Mapping[str, Overlay] = field(default_factory=dict)
    renames: Renames = field(default_factory=Renames)
    intervals: Intervals
    demands: Demands
    digest: str
    """SHA-256 over the canonical form, hexadecimal."""
    moved: Mapping[VmName, HostName] = field(default_factory=dict)
    """VM → the host that owns it by the newest token that is known (`vm_tokens`). Not part of what was signed: what a
    host knows beside it, so that whoever asks the policy where a VM is gets the answer of now."""

    @property
    def which(self) -> PolicyVersion:
        return PolicyVersion(coalition=self.coalition, version=self.version, digest=self.digest)

    @cached_property
    def types(self) -> frozenset[TypeName]:
        """The names of all types."""
        return frozenset(self.definitions)

    def label_of(self, vm: VmName) -> VmLabel:
        """The label of a VM. Raises KeyError for a VM or a label that is not there."""
        name = self.vms[vm].label
        return UNLABELLED if name == UNLABELLED.name else self.vm_labels[name]

    def quarantine_of(self, vm: VmName) -> Grade:
        """The least that a quarantine does to a VM. Raises KeyError as `label_of` does."""
        return self.vms[vm].quarantine or self.label_of(vm).quarantine

    def image_of(self, vm: VmName) -> PinnedImage:
        """The clean image that a VM's disk stands on. Raises KeyError for a VM or an image that is not there."""
        return self.images[self.vms[vm].image]

    def attested(self, vm: VmName) -> GuestDemand | None:
        """What a VM has to show before its ports are in their bridges; None: nothing. Raises KeyError for a VM or a
        demand that is not there."""
        name = self.vms[vm].attest
        return None if name is None else self.guests[name]

    def hypervisor_of(self, host: HostName) -> HypervisorKind:
        """What a host runs its VMs with; QEMU for a host that is not there."""
        return self.hosts[host].hypervisor if host in self.hosts else HypervisorKind.QEMU

    def is_mac_vm(self, vm: VmName) -> bool:
        """Whether a VM holds the links of its host. Raises KeyError for a VM that is not there."""
        host = self.hosts.get(self.vms[vm].host)
        return host is not None and host.mac_vm == vm

    def interfaces_of(self, vm: VmName) -> tuple[TypeName, ...]:
        """The type of each network interface of a VM, in order."""
        chosen = self.vms[vm].interfaces
        return tuple(sorted(self.label_of(vm).types)) if chosen is None else chosen

    def disks_of(self, vm: VmName) -> tuple[str, ...]:
        """The disks that a VM has beside its own, by name: its resources, without networks."""
        labels = self.resource_labels
        return tuple(name for name in sorted(self.vms[vm].resources) if labels[name].kind is ResourceKind.DISK)

    def disks_on(self, host: HostName) -> tuple[str, ...]:
        """The disks that VMs have beside their own which are a host's or may be moved there, by name."""
        return tuple(sorted({name for vm in self.possible_on(host) for name in self.disks_of(vm)}))

    def vms_of(self, host: HostName) -> tuple[VmName, ...]:
        """The VMs that a host owns now, by name."""
        return tuple(name for name in sorted(self.vms) if self.host_of(name) == host)

    def host_of(self, vm: VmName) -> HostName:
        """The one host that owns a VM now, and alone may start it: the one that it was moved to, for as long as the
        policy lets it be there, else its home. Raises KeyError for a VM that is not there."""
        moved = self.moved.get(vm)
        return moved if moved is not None and moved in self.vms[vm].may_move_to else self.vms[vm].host

    def hosts_for(self, vm: VmName) -> frozenset[HostName]:
        """The hosts that may own a VM: its home, and those that it may be moved to. Raises KeyError."""
        return self.vms[vm].may_move_to | {self.vms[vm].host}

    def possible_on(self, host: HostName) -> tuple[VmName, ...]:
        """The VMs that a host may own, now or once they were moved, by name: what it has categories for."""
        return tuple(
            name for name, entry in sorted(self.vms.items()) if entry.host == host or host in entry.may_move_to
        )

    def placed(self, moved: Mapping[VmName, HostName]) -> Self:
        """The same policy, by a host that knows of these VMs where they were moved to."""
        known = {vm: host for vm, host in sorted(moved.items()) if vm in self.vms and host != self.vms[vm].host}
        return self if known == dict(self.moved) else replace(self, moved=known)

    @cached_property
    def decisions(self) -> DecisionCache:
        """What was asked of this version already; see `decisions`."""
        return DecisionCache()

    # Chinese Wall types

    @cached_property
    def wall_names(self) -> frozenset[str]:
        """Everything that a conflict set may name."""
        return frozenset[str](self.types).union(self.organisations, self.departments, self.walls)

    def owners_of(self, name: TypeName) -> tuple[str, ...]:
        """The owner of a type, the department above it, and so on to the organisation: at most MAX_DEPTH."""
        definition = self.definitions.get(name)
        return () if definition is None or definition.owner is None else self._owners_from[definition.owner]

    @cached_property
    def _owners_from(self) -> Mapping[str, tuple[str, ...]]:
        """Owner of a type → itself and those above it: many types have the same ones."""
        firsts = {each.owner for each in self.definitions.values() if each.owner is not None}
        return {first: self._chain(first) for first in firsts}

    def _chain(self, first: str) -> tuple[str, ...]:
        owners: list[str] = []
        above: str | None = first
        while above is not None and above not in owners and len(owners) < MAX_DEPTH:
            owners.append(above)
            department = self.departments.get(above)
            above = department.of if department else None
        return tuple(owners)

    def organisation_of(self, name: TypeName) -> Organisation | None:
        """The organisation that a type belongs to in the end."""
        owners = self.owners_of(name)
        return self.organisations.get(owners[-1]) if owners else None

    @cached_property
    def _type_walls(self) -> Mapping[TypeName, frozenset[str]]:
        return {name: frozenset({name, *self.owners_of(name)}) for name in self.definitions}

    def walls_of(self, label: VmLabel) -> frozenset[str]:
        """All Chinese Wall types of a label: its own, its types, and who owns these, up to the organisation."""
        own = self._type_walls
        return label.walls.union(*[own.get(name) or (name,) for name in label.types])

    @cached_property
    def wall_sets(self) -> Mapping[str, frozenset[str]]:
        """Every conflict set by name, those that follow from `apart` in definitions of types too."""
        sets = dict(self.conflict_sets)
        for name, definition in sorted(self.definitions.items()):
            for wall in sorted(definition.apart):
                sets[f"{name} apart {wall}"] = frozenset({name, wall})
        return sets

    @cached_property
    def wall_bits(self) -> Mapping[str, int]:
        """Chinese Wall type → a bit for each conflict set that it is in: a bit that two have is a set they meet in."""
        bits: dict[str, int] = {}
        for number, members in enumerate(self.wall_sets.values()):
            for member in members:
                bits[member] = bits.get(member, 0) | 1 << number
        return bits
