"""Labels of VMs on Xen: which FLASK type stands for a label, and which labels may exchange information.

A type depends on the label's name alone, so all hosts with Xen have the same contexts, and need no map of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shamon_host.domain.labels import UNLABELLED, FlaskContext, TypeName, VmLabel

MAC_DOMAIN = "shamon_mac_t"
"""The domain with the network backends: it carries frames between labelled VMs as the policy says."""
UNLABELLED_TYPE = "shamon_unlabelled_t"
"""Of VMs without a label, and of whatever is started under a label that the hypervisor's policy does not know."""
_SPELT = str.maketrans({"-": "_", "_": "U", ".": "D"})
"""Names are in lower case, so that the capitals keep different names different."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partners:
    """The labels that one label may exchange information with, by name, itself included where its VMs may."""

    both_ways: frozenset[str]
    sends: frozenset[str]
    """It may send to them, and they may not answer."""
    receives: frozenset[str]
    """They may send to it, and it may not answer."""


def flask_type(label: str) -> str:
    """The domain type of VMs with a label. It depends on the label's name alone, and no two labels have the same."""
    return UNLABELLED_TYPE if label == UNLABELLED.name else f"shamon_vm_{label.translate(_SPELT)}_t"


def flask_context(label: str) -> FlaskContext:
    """The context of VMs with a label."""
    return FlaskContext(user="system_u", role="system_r", type=flask_type(label))


def seclabel(label: str) -> str:
    """What `seclabel` in the configuration of a domain has to be for VMs with a label."""
    return str(flask_context(label))


def partners_of(labels: Mapping[str, VmLabel]) -> dict[str, Partners]:
    """Label → whom its VMs may exchange information with, as `ste.may_send` decides."""
    readers: dict[TypeName, set[str]] = {}
    writers: dict[TypeName, set[str]] = {}
    for name, label in labels.items():
        for each in label.reads:
            readers.setdefault(each, set()).add(name)
        for each in label.writes:
            writers.setdefault(each, set()).add(name)
    found = {}
    for name, label in labels.items():
        to = frozenset[str]().union(*(readers.get(each, ()) for each in label.writes))
        of = frozenset[str]().union(*(writers.get(each, ()) for each in label.reads))
        found[name] = Partners(both_ways=to & of, sends=to - of, receives=of - to)
    return found
