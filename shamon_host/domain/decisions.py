"""sHype's two rules, asked of a policy by the names of labels, and answered out of its cache.

may_send           simple type enforcement between two VMs, one way
may_use            simple type enforcement between a VM and a resource
conflict_with      Chinese Wall between a label and what runs
"""

from collections.abc import Iterable

from shamon_host.domain import chinese_wall, ste
from shamon_host.domain.chinese_wall import Conflict
from shamon_host.domain.labels import ResourceLabel, TypeName, VmLabel
from shamon_host.domain.policy import Policy


def may_send(policy: Policy, sender: VmLabel, receiver: VmLabel) -> frozenset[TypeName]:
    """The types through which frames may go from VMs with one label to VMs with the other. Empty: none may."""
    return policy.decisions.remember((sender, receiver), lambda: ste.may_send(sender, receiver))


def may_use(policy: Policy, label: VmLabel, resource: ResourceLabel) -> frozenset[TypeName]:
    """The types through which VMs with the label may use the resource. Empty: they may not."""
    return policy.decisions.remember((label, resource), lambda: ste.may_use(label, resource))


def conflict_with(policy: Policy, label: VmLabel, running: Iterable[VmLabel]) -> Conflict | None:
    """What would be brought together if something with the label started beside what runs, or None."""
    others = frozenset(running)
    return policy.decisions.remember((label, others), lambda: chinese_wall.conflicts(policy, label, others))
