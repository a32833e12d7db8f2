"""What is asked of SELinux in the kernel, and of the store that its policy is built from.

Real: `selinuxfs` and `semodule`. In memory: `shamon_host.testing.selinux`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shamon_host.selinux import PolicyModule


@dataclass(frozen=True, slots=True, kw_only=True)
class SelinuxStatus:
    """`/sys/fs/selinux/status` (struct selinux_kernel_status). `policy_loads` changes with each load of a policy and
    each change of a boolean."""

    enforcing: bool
    policy_loads: int
    deny_unknown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessVector:
    """What the loaded policy, its constraints included, allows a source to do to a target of one class."""

    allowed: frozenset[str]
    permissive: bool
    """The source is a permissive domain (SELINUX_AVD_FLAGS_PERMISSIVE): nothing is denied to it."""


class KernelSelinux(Protocol):
    """The security server of the running kernel. Contexts are texts. Raises BackendFailed where it cannot be asked."""

    def status(self) -> SelinuxStatus: ...

    def flag(self, name: str) -> bool:
        """`mls`, `checkreqprot`, `policy_capabilities/network_peer_controls`: a file that holds 0 or 1."""
        ...

    def boolean(self, name: str) -> bool | None:
        """The value in force of a boolean; None if the policy has none of this name."""
        ...

    def is_valid(self, context: str) -> bool:
        """The loaded policy knows the context."""
        ...

    def initial_context(self, name: str) -> str:
        """Of an initial SID: `unlabeled`, `netif`, `node`."""
        ...

    def access(self, source: str, target: str, object_class: str) -> AccessVector:
        """Raises BackendFailed also for a context or a class that the policy does not know."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModule:
    """A module in the store. `checksum`: SHA-256, lower-case hexadecimal. One that is not enabled does not count when
    the policy is built."""

    name: str
    priority: int
    checksum: str
    enabled: bool = True


class ModuleStore(Protocol):
    """The policy store of a host. Raises BackendFailed."""

    def policy_type(self) -> str:
        """Which policy the host is configured to load (SELINUXTYPE); "" for none."""
        ...

    def installed(self) -> tuple[InstalledModule, ...]:
        """All modules at every priority."""
        ...

    def extract(self, name: str) -> PolicyModule:
        """The module of this name at `PRIORITY`."""
        ...

    def change(self, install: Sequence[PolicyModule], remove: Collection[str]) -> None:
        """Install and remove at `PRIORITY`, build the policy and load it, in one transaction: all or nothing."""
        ...


class LabelledHost(Protocol):
    """Labels of processes and files of a host."""

    def processes(self) -> Mapping[int, str]:
        """Process id → context, of every process; without those that ended meanwhile."""
        ...

    def daemon_processes(self) -> Collection[int]:
        """Process ids in the daemon's unit."""
        ...

    def files(self) -> Mapping[str, str]:
        """Path → context ("" for none) of what the module labels, as far as it is there."""
        ...

    def restore_files(self) -> str:
        """Give every such file the label that its path has by the policy's file contexts; returns what was done."""
        ...
