"""Simple type enforcement (sHype): who may communicate, who may use what. The monitor asks here.

Two VMs may exchange frames, and a VM may use a resource, if and only if their labels share a type; where a label only
reads or only writes a type, information goes one way. A host carries a VM only if its own management label holds every
type of the VM's label.
"""

from collections.abc import Iterable

from shamon_host.domain.labels import ResourceLabel, TypeName, VmLabel


def shared_types(one: Iterable[TypeName], other: Iterable[TypeName]) -> frozenset[TypeName]:
    """The types that both have: what the two may communicate through. Empty: they may not."""
    return frozenset(one) & frozenset(other)


def may_send(sender: VmLabel, receiver: VmLabel) -> frozenset[TypeName]:
    """The types through which frames may go from one VM to another. Empty: none may."""
    return sender.writes & receiver.reads


def may_use(label: VmLabel, resource: ResourceLabel) -> frozenset[TypeName]:
    """The types through which a VM may use a resource. Empty: it may not."""
    return frozenset() if resource.inaccessible else label.types & resource.types


def lacking_types(needed: Iterable[TypeName], held: Iterable[TypeName]) -> frozenset[TypeName]:
    """The types that `held` would have to gain to hold all of `needed`. Empty: it holds them all."""
    return frozenset(needed) - frozenset(held)


def listed(types: Iterable[TypeName]) -> str:
    """Types as people read them: sorted, with commas; `none` for no types."""
    return ", ".join(sorted(types)) or "none"
