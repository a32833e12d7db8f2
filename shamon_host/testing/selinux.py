"""SELinux of one host in memory: the store of modules, the policy loaded from it, labels of processes and files.

What the loaded policy answers is evaluated from the modules' own text (`testing.cil`), over a small policy beneath that
has the domains and rules of Debian's which bear on links.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from shamon_host.domain.errors import BackendFailed
from shamon_host.selinux import LINK_MODULE, PRIORITY, PolicyModule, shipped_module
from shamon_host.selinux.file_labels import expected_type
from shamon_host.selinux.ports import AccessVector, InstalledModule, SelinuxStatus
from shamon_host.testing.cil import Context, Policy

BASE = """
(type init_t) (type kernel_t) (type sshd_t) (type virtd_t) (type svirt_t) (type unconfined_t) (type sysadm_t)
(typeattribute domain) (typeattributeset domain (init_t kernel_t sshd_t virtd_t svirt_t unconfined_t sysadm_t))
(typeattribute any) (typeattributeset any (all))
(type netif_t) (type node_t) (type unlabeled_t) (type usr_t) (type etc_t) (type security_t) (type shadow_t)
(allow unlabeled_t netif_t (netif (ingress)))
(allow unlabeled_t node_t (node (recvfrom)))
(allow sshd_t netif_t (netif (ingress egress)))
(allow sshd_t node_t (node (recvfrom sendto)))
(allow unconfined_t any (association (setcontext sendto recvfrom polmatch)))
(allow unconfined_t any (udp_socket (create bind connect)))
(allow unconfined_t any (file (open read write relabelfrom relabelto)))
(allow unconfined_t any (process (ptrace transition)))
"""
_INITIAL = {"unlabeled": "unlabeled_t", "netif": "netif_t", "node": "node_t"}


@dataclass(kw_only=True)
class MemorySelinuxKernel:
    """`selinux.ports.KernelSelinux`. `fails`: how it fails when it is asked, as where SELinux is off."""

    enforcing: bool = True
    flags: dict[str, bool] = field(
        default_factory=lambda: {"mls": True, "policy_capabilities/network_peer_controls": True, "checkreqprot": False}
    )
    booleans: dict[str, bool] = field(default_factory=lambda: {"allow_ptrace": False})
    fails: str = ""
    policy_loads: int = 0
    questions: int = 0
    """How many access decisions were asked for."""
    _policy: Policy = field(default_factory=Policy)

    def load(self, texts: Sequence[str]) -> None:
        """Load the policy that is made of these beside the base. Raises ValueError for what cannot be read."""
        policy = Policy()
        for text in (BASE, *texts):
            policy.add(text)
        self._policy = policy
        self.policy_loads += 1

    def status(self) -> SelinuxStatus:
        self._answer()
        return SelinuxStatus(enforcing=self.enforcing, policy_loads=self.policy_loads, deny_unknown=False)

    def flag(self, name: str) -> bool:
        self._answer()
        return self.flags[name]

    def boolean(self, name: str) -> bool | None:
        self._answer()
        return self.booleans.get(name)

    def is_valid(self, context: str) -> bool:
        self._answer()
        try:
            return Context.parse(context).type in self._policy.declared
        except ValueError:
            return False

    def initial_context(self, name: str) -> str:
        self._answer()
        return f"system_u:object_r:{_INITIAL[name]}:s0"

    def access(self, source: str, target: str, object_class: str) -> AccessVector:
        self._answer()
        self.questions += 1
        for context in (source, target):
            if not self.is_valid(context):
                raise BackendFailed("the loaded policy does not know the context", where=context)
        subject = Context.parse(source)
        return AccessVector(
            allowed=self._policy.allowed(subject, Context.parse(target), object_class),
            permissive=subject.type in self._policy.permissive,
        )

    def _answer(self) -> None:
        if self.fails:
            raise BackendFailed("SELinux cannot be asked", found=self.fails)


@dataclass(kw_only=True)
class MemoryModuleStore:
    """`selinux.ports.ModuleStore` of a kernel in memory."""

    kernel: MemorySelinuxKernel
    modules: dict[tuple[str, int], PolicyModule] = field(default_factory=dict)
    changes: list[tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    """Names installed and removed, for each transaction."""
    configured: str = "default"
    disabled: set[str] = field(default_factory=set)
    refuses: set[bytes] = field(default_factory=set)
    """Texts that do not build."""

    def __post_init__(self) -> None:
        self._load()

    def policy_type(self) -> str:
        return self.configured

    def installed(self) -> tuple[InstalledModule, ...]:
        return tuple(
            InstalledModule(name=name, priority=priority, checksum=module.checksum, enabled=name not in self.disabled)
            for (name, priority), module in sorted(self.modules.items())
        )

    def extract(self, name: str) -> PolicyModule:
        try:
            return self.modules[name, PRIORITY]
        except KeyError:
            raise BackendFailed("no such module", where=name) from None

    def change(self, install: Sequence[PolicyModule], remove: Collection[str]) -> None:
        if any(module.text in self.refuses for module in install):
            raise BackendFailed("semodule failed", found="Failed to build policy")
        self.changes.append((tuple(module.name for module in install), tuple(remove)))
        for name in remove:
            if (name, PRIORITY) not in self.modules:
                raise BackendFailed("semodule failed", found=f"no module {name}")
            del self.modules[name, PRIORITY]
        for module in install:
            self.modules[module.name, PRIORITY] = module
        self._load()

    def _load(self) -> None:
        highest = {name: module for (name, _), module in sorted(self.modules.items(), key=lambda item: item[0][1])}
        self.kernel.load([module.text.decode() for module in highest.values()])


@dataclass(kw_only=True)
class MemoryLabelledHost:
    """`selinux.ports.LabelledHost`."""

    kernel: MemorySelinuxKernel
    running: dict[int, str] = field(
        default_factory=lambda: {
            1: "system_u:system_r:init_t:s0",
            2: "system_u:system_r:kernel_t:s0",
            400: "system_u:system_r:sshd_t:s0-s0:c0.c1023",
            900: "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023",
        }
    )
    daemon: set[int] = field(default_factory=set)
    labels: dict[str, str] = field(
        default_factory=lambda: dict.fromkeys(
            (
                "/opt/shamon/bin/shamon",
                "/etc/shamon",
                "/etc/shamon/host.toml",
                "/etc/shamon/host.key",
                "/var/lib/shamon",
            ),
            "system_u:object_r:usr_t:s0",
        )
    )
    restored: int = 0

    def processes(self) -> Mapping[int, str]:
        return dict(self.running)

    def daemon_processes(self) -> Collection[int]:
        return set(self.daemon)

    def files(self) -> Mapping[str, str]:
        return dict(self.labels)

    def restore_files(self) -> str:
        """By the file contexts of what is loaded."""
        self.restored += 1
        for path in self.labels:
            context = f"system_u:object_r:{expected_type(path)}:s0"
            self.labels[path] = context if self.kernel.is_valid(context) else "system_u:object_r:etc_t:s0"
        return f"{len(self.labels)} files"


@dataclass(kw_only=True)
class MemorySelinuxHost:
    """One host with all of it, Shamon's module loaded or not."""

    kernel: MemorySelinuxKernel = field(default_factory=MemorySelinuxKernel)
    store: MemoryModuleStore = field(init=False)
    labels: MemoryLabelledHost = field(init=False)
    objects: list[str] = field(default_factory=list)
    """Labelled xfrm objects, in words."""

    def __post_init__(self) -> None:
        self.store = MemoryModuleStore(kernel=self.kernel)
        self.labels = MemoryLabelledHost(kernel=self.kernel)

    def with_module(self) -> "MemorySelinuxHost":
        """Installed and labelled, as it should be."""
        self.store.change([shipped_module(LINK_MODULE)], [])
        self.labels.restore_files()
        return self
