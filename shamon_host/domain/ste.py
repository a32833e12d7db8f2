"""Simple type enforcement (sHype): who may communicate, who may use what. The monitor asks here.

Two VMs may exchange frames, and a VM may use a resource, if and only if their labels share a type; where a label only
reads or only writes a type, information goes one way. A host carries a VM only if its own management label holds every
type of the VM's label.
"""

from collections.abc import Iterable

from shamon_host.domain.labels import ResourceKind, ResourceLabel, TypeName, VmLabel


def may_send(sender: VmLabel, receiver: VmLabel) -> frozenset[TypeName]:
    """The types through which frames may go from one VM to another. Empty: none may."""
    return sender.writes & receiver.reads


def may_use(label: VmLabel, resource: ResourceLabel) -> frozenset[TypeName]:
    """The types through which a VM may use a resource. Empty: it may not. Who uses a disk reads it."""
    if resource.inaccessible:
        return frozenset()
    return (label.reads if resource.kind is ResourceKind.DISK else label.types) & resource.types


def may_write(label: VmLabel, resource: ResourceLabel) -> frozenset[TypeName]:
    """The types through which a VM may write what it may use. Empty: it gets it read-only."""
    return frozenset() if resource.pinned else may_use(label, resource) & label.writes


def lacking_types(needed: Iterable[TypeName], held: Iterable[TypeName]) -> frozenset[TypeName]:
    """The types that `held` would have to gain to hold all of `needed`. Empty: it holds them all."""
    return frozenset(needed) - frozenset(held)


def listed(types: Iterable[TypeName]) -> str:
    """Types as people read them: sorted, with commas; `none` for no types."""
    return ", ".join(sorted(types)) or "none"
