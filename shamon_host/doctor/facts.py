"""What `shamon doctor` knows of a host when it judges: values only, read by the `*_reading` modules beside this one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from shamon_host.attestation.event_log import EventLog
from shamon_host.daemon.config import HostConfig
from shamon_host.doctor.look import NOTHING, Look
from shamon_host.domain.policy import HostEntry, HypervisorKind, Policy
from shamon_host.domain.policy_sections import DEFAULT_PORT
from shamon_host.selinux.ports import SelinuxStatus
from shamon_host.selinux.questions import Finding as SelinuxAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """`config`: the kernel's build options as text. `modules`: loaded ones; absent where the kernel loads none at all.
    `load_list`: what /etc/modules-load.d asks for."""

    release: Look[str] = NOTHING
    config: Look[str] = NOTHING
    modules: Look[frozenset[str]] = NOTHING
    load_list: Look[frozenset[str]] = NOTHING
    cmdline: Look[str] = NOTHING
    lsm: Look[str] = NOTHING
    lockdown: Look[str] = NOTHING

    def option(self, name: str) -> str:
        """`y` or `m` of a build option; "" where it is off, or not known."""
        match = re.search(rf"^CONFIG_{re.escape(name)}=([ym])$", self.config.value or "", re.MULTILINE)
        return match[1] if match is not None else ""

    def loaded(self, module: str, option: str) -> bool:
        """The module is loaded, or in the kernel itself."""
        return module in (self.modules.value or frozenset()) or self.option(option) == "y"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImaSummary:
    """What of the IMA log bears on a host that is to join. `policies`: digests of the policy files that were loaded, as
    ALGORITHM:HEX, the last one last; `algorithms`: of files' digests; `states`: SELinux's, in order."""

    entries: int
    policies: tuple[str, ...] = ()
    algorithms: frozenset[str] = frozenset()
    states: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MacFacts:
    """`policy_file`: /etc/ima/ima-policy. `asked`: what the kernel's SELinux policy answers."""

    status: Look[SelinuxStatus] = NOTHING
    asked: Look[tuple[SelinuxAnswer, ...]] = NOTHING
    config: Look[str] = NOTHING
    ima: Look[ImaSummary] = NOTHING
    policy_file: Look[bytes] = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmAnswer:
    """What the TPM said when it was asked: its family (`2.0`), and whether it has a certificate of its EK."""

    family: str
    ek_certificate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmFacts:
    """`pcr_10`: of the SHA-256 bank, in hexadecimal. `units`: unit that extends PCRs → what its file is: `masked` or
    `there`; those that the host does not have are left out."""

    answer: Look[TpmAnswer] = NOTHING
    bank: Look[bool] = NOTHING
    pcr_10: Look[str] = NOTHING
    event_log: Look[EventLog] = NOTHING
    efi: Look[bool] = NOTHING
    secure_boot: Look[bytes] = NOTHING
    stub: Look[bool] = NOTHING
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Of libvirt: models of its security drivers, and kinds of domains (`kvm`, `qemu`, `xen`) that it can run."""

    security: frozenset[str]
    domains: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervisorFacts:
    """`kind`: Xen only where this kernel says that it runs on it. `networks`: libvirt's own that are active,
    `autostart`: that come up with it. `flask`: what Xen's toolstack says of FLASK."""

    kind: HypervisorKind = HypervisorKind.QEMU
    capabilities: Look[Capabilities] = NOTHING
    networks: Look[frozenset[str]] = NOTHING
    autostart: Look[frozenset[str]] = NOTHING
    qemu_conf: Look[str] = NOTHING
    flask: Look[str] = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class PortUser:
    """A socket that listens, or is bound. `owner`: `shamon`, `systemd` (which keeps link sockets while the daemon
    restarts), the words for another program, or "" where that cannot be seen."""

    port: int
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """`sysctls`: name of `network_state.SYSCTLS` → its value, as `network_state.sysctl_value` tells it. `chains`: the
    packet filter's hooks for packets to and from this host, without Shamon's own."""

    sysctls: Mapping[str, Look[str]] = field(default_factory=dict)
    listening: Look[tuple[PortUser, ...]] = NOTHING
    """At the TCP port of the peer service."""
    bound: Look[tuple[PortUser, ...]] = NOTHING
    """At UDP ports of the link block."""
    local_ports: Look[str] = NOTHING
    reserved_ports: Look[str] = NOTHING
    addresses: Look[frozenset[str]] = NOTHING
    chains: Look[tuple["FilterChain", ...]] = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterChain:
    """A chain of nft at the hook `input` or `output`. `drops`: one of its rules, or of a chain that it may go to, can
    drop; `esp`: a rule accepts and names it."""

    name: str
    hook: str
    policy: str
    rules: int
    drops: bool
    esp: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFacts:
    """`synchronised`: what the kernel says (adjtimex). Times in seconds."""

    now: datetime
    synchronised: Look[bool] = NOTHING
    max_error_s: float = 0.0
    boottime_s: float = 0.0
    monotonic_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """The host's TLS key: mode, owner, whether the TPM has sealed it, and the public half where it has not (DER)."""

    mode: int
    owner: int
    sealed: bool
    public: Look[bytes] = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySummary:
    """`hosts`: that are enrolled; `own_certificate`: SHA-256 of this host's, as the CA has it."""

    hosts: frozenset[str]
    own_certificate: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CoalitionFacts:
    """What lies below /etc/shamon. `references`: host of the policy → "" where its file is good, else a Look that says
    what is the matter; `images`: name → size in bytes."""

    config: Look[HostConfig] = NOTHING
    policy: Look[Policy] = NOTHING
    ca: Look[tuple[x509.Certificate, ...]] = NOTHING
    certificate: Look[tuple[x509.Certificate, ...]] = NOTHING
    key: Look[KeyFile] = NOTHING
    registry: Look[RegistrySummary] = NOTHING
    references: Mapping[str, Look[str]] = field(default_factory=dict)
    images: Mapping[str, Look[int]] = field(default_factory=dict)

    @property
    def own(self) -> HostEntry | None:
        """This host in the policy."""
        config, policy = self.config.value, self.policy.value
        return policy.hosts.get(config.name) if config is not None and policy is not None else None

    @property
    def peer_port(self) -> int:
        """TCP port of this host's peer service."""
        return self.own.port if self.own is not None else DEFAULT_PORT

    @property
    def begun(self) -> bool:
        """Something of a coalition lies here."""
        return any(not look.absent for look in (self.config, self.policy, self.ca, self.certificate, self.key))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFacts:
    """`disks`: path → free bytes. `unit`: the unit's file, `shipped`: that of this program. `running`: version of the
    daemon that answers."""

    disks: Mapping[str, Look[int]] = field(default_factory=dict)
    unit: Look[str] = NOTHING
    shipped: str = ""
    version: str = ""
    running: Look[str] = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """One look at one host."""

    kernel: KernelFacts = KernelFacts()
    mac: MacFacts = MacFacts()
    tpm: TpmFacts = TpmFacts()
    hypervisor: HypervisorFacts = HypervisorFacts()
    network: NetworkFacts = NetworkFacts()
    clock: ClockFacts
    coalition: CoalitionFacts = CoalitionFacts()
    program: ProgramFacts = ProgramFacts()

    @property
    def on_xen(self) -> bool:
        return self.hypervisor.kind is HypervisorKind.XEN
