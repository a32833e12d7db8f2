"""SELinux as far as links meet it: contexts that are valid, decisions of the shipped policy, the log of denials."""

from dataclasses import dataclass, field
from enum import StrEnum

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import SelinuxContext

LINK_TYPE, SPD_TYPE = "shamon_link_t", "shamon_spd_t"


class SelinuxMode(StrEnum):
    ENFORCING = "enforcing"
    PERMISSIVE = "permissive"
    """Denials are logged and nothing is denied."""
    DISABLED = "disabled"
    """From boot on: contexts are dropped without an error."""


@dataclass(kw_only=True)
class MemorySelinux:
    """The mode, which only a boot takes to or from DISABLED, and the denials."""

    mode: SelinuxMode = SelinuxMode.ENFORCING
    module: bool = True
    """Shamon's module is loaded."""
    permissive: set[str] = field(default_factory=set)
    """Domains that are permissive."""
    avc: list[str] = field(default_factory=list)

    def set_enforcing(self, enforcing: bool) -> None:
        """`setenforce`. Raises ValueError where SELinux is off: no kernel switches it on."""
        if self.mode is SelinuxMode.DISABLED:
            raise ValueError("SELinux is disabled: only a boot with it enables it")
        self.mode = SelinuxMode.ENFORCING if enforcing else SelinuxMode.PERMISSIVE

    def missing(self) -> tuple[str, ...]:
        """What the adapter of a real kernel would find missing in the loaded policy."""
        if self.mode is SelinuxMode.DISABLED:
            return ("SELinux cannot be asked",)
        if not self.module:
            return (f"{LINK_TYPE} is known: expected yes, found no",)
        return tuple(f"{name} enforces: expected yes, found no" for name in sorted(self.permissive))

    def demand_fit(self) -> None:
        """As the adapter does before it makes anything labelled. Raises BackendFailed."""
        if self.mode is not SelinuxMode.ENFORCING:
            raise BackendFailed("SELinux is not enforcing: nothing labelled is made", expected="enforcing")
        if lacking := self.missing():
            raise BackendFailed("the loaded SELinux policy is not fit for links", found="; ".join(lacking))

    def keep(self, context: SelinuxContext | None, *types: str) -> SelinuxContext | None:
        """What the kernel keeps of a context that an object is given: nothing where SELinux is off.

        Raises BackendFailed (EINVAL) for a context that the loaded policy does not know."""
        if self.mode is SelinuxMode.DISABLED or context is None:
            return None
        if not self.module or context.type not in types or context.sensitivity != 0:
            raise BackendFailed("the kernel refuses the context", where="setcontext", found=str(context))
        return context

    def permits(self, permission: str, source: SelinuxContext | None, target: SelinuxContext) -> bool:
        """`association polmatch` and `sendto` of the shipped policy: a link's own type, and equal categories."""
        if self.mode is SelinuxMode.DISABLED:
            return True
        wanted = SPD_TYPE if permission == "polmatch" else LINK_TYPE
        of_link = source is not None and source.type == LINK_TYPE and target.type == wanted
        if self.module and of_link and source is not None and source.categories == target.categories:
            return True
        allowed = self.mode is SelinuxMode.PERMISSIVE or (source is not None and source.type in self.permissive)
        self.avc.append(
            f"avc:  denied  {{ {permission} }} scontext={source or 'system_u:object_r:unlabeled_t:s0'} "
            f"tcontext={target} tclass=association permissive={int(allowed)}"
        )
        return allowed
