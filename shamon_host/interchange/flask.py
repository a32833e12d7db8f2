"""The policy as FLASK source for the Xen hypervisor: which domains may share pages and event channels, checked by Xen.

The text is a module of the base policy that Xen 4.17 ships in `tools/flask/policy`: type enforcement rules without
macros, to be put before the users of a monolithic policy. It adds types, gives them what a guest needs, and says by
`neverallow` what no other module may give them; checkpolicy refuses the whole policy otherwise.

Grants and event channels carry information both ways whoever sets them up, so two labels get them only if each may
send to the other. Labels between which information goes one way get none: their frames pass through the MAC domain,
which knows the direction. What Xen has no word for (conflict sets, overlays, levels) stays with the monitor.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import UNLABELLED, TypeName, VmLabel
from shamon_host.domain.policy import Policy
from shamon_host.interchange import flask_rules
from shamon_host.interchange.flask_rules import MAC_DOMAIN, Base, Guest

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SPELT = str.maketrans({"-": "_", "_": "U", ".": "D"})
"""Names are in lower case, so that the capitals keep different names different."""
_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Partners:
    """The labels that one label may exchange information with, by name, itself included where its VMs may."""

    both_ways: frozenset[str]
    sends: frozenset[str]
    """It may send to them, and they may not answer."""
    receives: frozenset[str]
    """They may send to it, and it may not answer."""


def flask_source(policy: Policy, *, toolstack: str = "dom0_t", trusted: Collection[str] = ("xenstore_t",)) -> str:
    """FLASK policy source, ASCII, equal for equal policies.

    `toolstack`: the base policy's type of the domain that builds and manages guests and holds their disks. `trusted`:
    its other types that every guest has to do with. Of each, the base policy has a type `..._channel` too. Raises
    BadInput for what cannot be a type's name.
    """
    for name in (toolstack, *trusted):
        if not _IDENTIFIER.fullmatch(name):
            raise BadInput("bad FLASK type", expected="letters, digits and '_'", found=repr(name[:80]))
    base = Base(toolstack=toolstack, trusted=tuple(dict.fromkeys((toolstack, *sorted(trusted)))))
    partners = partners_of(policy.vm_labels)
    guests = [
        Guest(type=flask_type(name), partners=tuple(flask_type(other) for other in sorted(partners[name].both_ways)))
        for name in sorted(policy.vm_labels)
    ]
    unlabelled = Guest(type=flask_type(UNLABELLED.name), partners=())
    sections = (
        _header(policy, base),
        _names(policy),
        _one_way(partners),
        flask_rules.declarations(guests, unlabelled),
        flask_rules.own_rules(guests, unlabelled),
        flask_rules.toolstack_rules(base),
        flask_rules.mac_rules(),
        flask_rules.communication(guests),
        flask_rules.assertions(guests, unlabelled, base),
    )
    return "\n".join("\n".join(section) + "\n" for section in sections)


def flask_type(label: str) -> str:
    """The domain type of VMs with a label. It depends on the label's name alone, and no two labels have the same."""
    return "shamon_unlabelled_t" if label == UNLABELLED.name else f"shamon_vm_{label.translate(_SPELT)}_t"


def seclabel(label: str) -> str:
    """What `seclabel` in the configuration of a domain has to be for VMs with a label."""
    return f"system_u:system_r:{flask_type(label)}"


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


# Comments


def _header(policy: Policy, base: Base) -> Iterator[str]:
    yield f"# Coalition {policy.coalition}, version {policy.version}, as FLASK policy for Xen 4.17."
    yield f"# Policy digest {policy.digest}"
    yield from _comment(
        "Made by `shamon policy export`; changes belong into the policy file. Put it into Xen's "
        "tools/flask/policy/modules as shamon.te, and `shamon = on` at the end of modules.conf. It needs the types "
        f"{', '.join(base.trusted)} and {', '.join(f'{name}_channel' for name in base.trusted)} of the base policy."
    )
    yield "#"
    yield from _comment(
        "Argo: the module guest_features of the base policy lets every domain send to every other one by Argo. That "
        "is refused below. Switch it off (`guest_features = off`; what guests need of it is in here), or write "
        "{ domain_type -shamon_domain } for domain_type in its two rules about argo."
    )
    yield "#"
    yield from _comment(
        "Not in here, for Xen has no word for it: conflict sets, overlays, levels and who may use which resource. The "
        "monitor decides about them before a domain is started, and the toolstack attaches what it permits."
    )
    yield "#"
    yield from _comment(
        f"A domain without a seclabel gets the label of the initial SID domU. Let that be {seclabel(UNLABELLED.name)} "
        "(policy/initial_sids), and it is isolated too."
    )


def _names(policy: Policy) -> Iterator[str]:
    yield from _heading("Names")
    yield "# label -> seclabel, then its VMs"
    vms: dict[str, list[str]] = {}
    for vm, entry in sorted(policy.vms.items()):
        vms.setdefault(entry.label, []).append(f"{vm} on {entry.host}")
    for name in (*sorted(policy.vm_labels), UNLABELLED.name):
        yield f"#   {name} -> {seclabel(name)}"
        yield from _comment(", ".join(vms.get(name, ())), indent="#       ")
    yield f"# the domain that carries frames between VMs -> system_u:system_r:{MAC_DOMAIN}"


def _one_way(partners: Mapping[str, Partners]) -> Iterator[str]:
    one_way = [(name, each.sends) for name, each in sorted(partners.items()) if each.sends]
    if not one_way:
        return
    yield from _heading("One way")
    yield from _comment(
        "Information goes from these labels to those behind the arrow and never back. A grant or an event channel goes "
        "back too, so they get neither; frames pass through the MAC domain."
    )
    for name, to in one_way:
        yield from _comment(f"{name} -> {', '.join(sorted(to))}", indent="#   ")


def _heading(text: str) -> Iterable[str]:
    return (f"# {text}", "#")


def _comment(text: str, indent: str = "# ") -> Iterator[str]:
    """Lines of a comment. Words are never broken: a name has to be found again."""
    line = ""
    for word in text.split():
        if line and len(indent) + len(line) + 1 + len(word) > _WIDTH:
            yield indent + line
            line = word
        else:
            line = f"{line} {word}" if line else word
    if line:
        yield indent + line
