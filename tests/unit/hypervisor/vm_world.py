"""One host's VMs in memory: a policy, a hub for its bridges, and a `VmManager` on the fakes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shamon_host.domain import label_map as label_maps
from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName, VmContext, VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.results import TpmKind
from shamon_host.hypervisor.ports import DomainReport, DomainState
from shamon_host.hypervisor.vm_disks import VmDisks
from shamon_host.hypervisor.vm_leases import VmLeases
from shamon_host.hypervisor.vm_spec import VmSettings
from shamon_host.hypervisor.vm_states import VmStates, VmStatus
from shamon_host.hypervisor.vms import VmManager
from shamon_host.testing.disks import MemoryDisks
from shamon_host.testing.hypervisor import MemoryHypervisor
from shamon_host.testing.images import MemoryImages, sha256_of

ALPHA, BETA = HostName("alpha"), HostName("beta")
WEB, SHOP, PROBE, GATE, DB = (VmName(name) for name in ("web", "shop", "probe", "gate", "db"))
RED, BLUE, BLACK = TypeName("acme/red"), TypeName("rival/blue"), TypeName("audit/black")
IMAGE = b"a clean disk image"
ADDRESSES = {
    WEB: ("10.9.0.1", "fd00:9::1"),
    SHOP: ("10.9.0.4", "fd00:9::4"),
    PROBE: ("10.9.0.5", "fd00:9::5"),
    GATE: ("10.9.0.6", "fd00:9::6"),
    "peer": ("10.9.0.9", "fd00:9::9"),
}
POLICY_TEXT = f"""
types = ["{RED}", "{BLUE}", "{BLACK}"]
coalition = {{name = "unit", version = 1}}
labels.red.types = ["{RED}"]
labels.blue.types = ["{BLUE}"]
labels.black.types = ["{BLACK}"]
labels.both.types = ["{RED}", "{BLUE}"]
conflicts.audit = {{types = ["{RED}", "{BLACK}"]}}
hosts.alpha = {{address = "192.0.2.1", types = ["{RED}", "{BLUE}", "{BLACK}"]}}
hosts.beta = {{address = "192.0.2.2", types = ["{RED}"]}}
images.app.sha256 = "{sha256_of(IMAGE)}"
vms.web = {{label = "red", image = "app", host = "alpha"}}
vms.shop = {{label = "blue", image = "app", host = "alpha"}}
vms.probe = {{label = "black", image = "app", host = "alpha"}}
vms.gate = {{label = "both", image = "app", host = "alpha"}}
vms.db = {{label = "red", image = "app", host = "beta"}}
"""
POLICY = parse_policy(POLICY_TEXT.encode(), source="policy.toml")
LABEL_MAP = label_maps.allocate(label_maps.EMPTY, POLICY.types, POLICY.vms)


MANUAL = b"the manual that everybody reads"


def with_disks(*, web: str = '["cache", "manual"]', shop: str = '["manual"]', manual: bytes = MANUAL) -> Policy:
    """web (red) writes `cache`; web and shop (blue) read `manual`, whose content is pinned."""
    text = POLICY_TEXT.replace('vms.web = {label = "red",', f'vms.web = {{label = "red", resources = {web},')
    text = text.replace('vms.shop = {label = "blue",', f'vms.shop = {{label = "blue", resources = {shop},')
    text += f'resources.cache.types = ["{RED}"]\n'
    text += f'resources.manual = {{types = ["{RED}", "{BLUE}"], sha256 = "{sha256_of(manual)}"}}\n'
    return parse_policy(text.encode(), source="policy.toml")


def context_of(vm: VmName, policy: Policy = POLICY) -> SelinuxContext:
    """The context that the label map gives to a VM."""
    return LABEL_MAP.vm_context(vm, policy.label_of(vm).types)


def sha256_of_path(path: str) -> str:
    """Of a kernel or an initrd, which are nowhere: as if each had its path as its content."""
    return sha256_of(path.encode())


def svirt(context: VmContext | None) -> SelinuxContext:
    """A context of a VM on a host with QEMU, where it is one."""
    assert isinstance(context, SelinuxContext)
    return context


@dataclass(kw_only=True)
class Hub:
    """Bridges that repeat each frame to every other port. `TapSwitch`."""

    bridges: dict[str, list[str]] = field(default_factory=dict)
    taps: dict[str, Callable[[bytes], None]] = field(default_factory=dict)

    def plug_tap(self, interface: str, bridge: str, receive: Callable[[bytes], None]) -> None:
        if bridge not in self.bridges:
            raise BackendFailed("no such bridge", where=bridge)
        self.taps[interface] = receive
        self.bridges[bridge].append(interface)

    def unplug_tap(self, interface: str) -> None:
        self.detach(interface)
        self.taps.pop(interface, None)

    def detach(self, interface: str) -> None:
        """Take a tap off its bridge; the machine keeps it."""
        for ports in self.bridges.values():
            if interface in ports:
                ports.remove(interface)

    def send_from_tap(self, interface: str, frame: bytes) -> None:
        for ports in self.bridges.values():
            if interface in ports:
                for other in [port for port in ports if port != interface]:
                    self.taps[other](frame)


@dataclass(kw_only=True)
class MemoryDocuments:
    """`ports.Documents`."""

    documents: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        return self.documents.get((kind, key))

    def put(self, kind: str, key: str, document: Mapping[str, Any]) -> None:
        self.documents[kind, key] = dict(document)

    def delete(self, kind: str, key: str) -> None:
        self.documents.pop((kind, key), None)

    def items(self, kind: str) -> Sequence[tuple[str, dict[str, Any]]]:
        return [(key, document) for (other, key), document in sorted(self.documents.items()) if other == kind]


@dataclass(kw_only=True)
class VmWorld:
    """Host alpha. `selinux_enforcing`, `admitted`, `policy`, `successor` and `label_map` may be changed at any time;
    `entries` is its audit log."""

    now_s: float = 100.0
    """CLOCK_BOOTTIME."""
    selinux_enforcing: bool = True
    admitted: bool = True
    host_tpm: TpmKind = TpmKind.HARDWARE
    policy: Policy = POLICY
    successor: Policy | None = None
    label_map: LabelMap = LABEL_MAP
    hub: Hub = field(default_factory=Hub)
    images: MemoryImages = field(default_factory=lambda: MemoryImages(clean={"app": IMAGE}))
    disks: MemoryDisks = field(default_factory=MemoryDisks)
    documents: MemoryDocuments = field(default_factory=MemoryDocuments)
    entries: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    hypervisor: MemoryHypervisor = field(init=False)
    vms: VmManager = field(init=False)

    def __post_init__(self) -> None:
        self.hypervisor = MemoryHypervisor(
            switch=self.hub,
            addresses=ADDRESSES,
            enforcing=lambda: self.selinux_enforcing,
            disk_exists=lambda path: path in self.images.overlays,
            files=self.disks,
        )
        self.vms = VmManager(
            states=VmStates(
                host=ALPHA,
                hypervisor=self.hypervisor,
                documents=self.documents,
                policy=lambda: self.policy,
                label_map=lambda: self.label_map,
                leases=VmLeases(documents=self.documents, boottime_s=lambda: self.now_s, boot_id="boot 1"),
            ),
            images=self.images,
            disks=VmDisks(
                host=ALPHA,
                disks=self.disks,
                documents=self.documents,
                audit=self._audit,
                policy=lambda: self.policy,
                label_map=lambda: self.label_map,
            ),
            audit=self._audit,
            ensure_bridge=self._bridge,
            detach_port=self.hub.detach,
            digest=sha256_of_path,
            host_tpm=self.host_tpm,
            admitted=lambda: self.admitted,
            successor=lambda: self.successor,
            settings={WEB: VmSettings(memory_mib=256, kernel="/vmlinux", initrd="/initrd", cmdline="quiet")},
        )

    def domain(self, name: VmName) -> DomainReport | None:
        return next((report for report in self.hypervisor.domains() if report.name == name), None)

    def state(self, name: VmName) -> DomainState | None:
        report = self.domain(name)
        return report.state if report else None

    def status(self, name: VmName) -> VmStatus:
        return next(status for status in self.vms.states.statuses() if status.name == name)

    def kinds(self, name: VmName) -> list[str]:
        """What the audit log has about a VM, in order."""
        return [kind for kind, subject, _ in self.entries if subject == name]

    def write_marker(self, name: VmName, text: str) -> None:
        path = self.images.overlay(name)
        assert path is not None
        self.images.overlays[path].written = text

    def marker(self, name: VmName) -> str:
        path = self.images.overlay(name)
        assert path is not None
        return self.images.overlays[path].written

    def reboot(self) -> None:
        self.hypervisor.power_off()

    def _audit(self, kind: str, subject: str, detail: Mapping[str, Any]) -> None:
        self.entries.append((kind, subject, dict(detail)))

    def _bridge(self, name: TypeName) -> str:
        bridge = f"br-{name.rpartition('/')[2]}"
        self.hub.bridges.setdefault(bridge, [])
        return bridge
