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

from shamon_host.domain.errors import BadInput
from shamon_host.domain.flask_labels import MAC_DOMAIN, Partners, partners_of, seclabel
from shamon_host.domain.flask_rules import Base, FlaskModule
from shamon_host.domain.labels import UNLABELLED
from shamon_host.domain.policy import Policy
from shamon_host.interchange import flask_rules

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_WIDTH = 100


def flask_source(policy: Policy, *, toolstack: str = "dom0_t", trusted: Collection[str] = ("xenstore_t",)) -> str:
    """FLASK policy source, ASCII, equal for equal policies.

    `toolstack`: the base policy's type of the domain that builds and manages guests and holds their disks. `trusted`:
    its other types that every guest has to do with. Of each, the base policy has a type `..._channel` too. Raises
    BadInput for what cannot be a type's name.
    """
    module = FlaskModule.of(policy.vm_labels, _base(toolstack, trusted))
    return _source(
        module,
        _header(policy, module.base),
        _names(policy),
        _one_way(partners_of(policy.vm_labels)),
    )


def flask_base_source(*, toolstack: str = "dom0_t", trusted: Collection[str] = ("xenstore_t",)) -> str:
    """The module of no coalition: guests have nothing to do with each other. For the policy that Xen boots with, in its
    measured image; a host's daemon puts its coalition's module in the place of this one. Raises as `flask_source`."""
    module = FlaskModule.of({}, _base(toolstack, trusted))
    return _source(module, _base_header(module.base))


def _base(toolstack: str, trusted: Collection[str]) -> Base:
    for name in (toolstack, *trusted):
        if not _IDENTIFIER.fullmatch(name):
            raise BadInput("bad FLASK type", expected="letters, digits and '_'", found=repr(name[:80]))
    return Base(toolstack=toolstack, trusted=tuple(dict.fromkeys((toolstack, *sorted(trusted)))))


def _source(module: FlaskModule, *comments: Iterable[str]) -> str:
    sections = (
        *comments,
        flask_rules.declarations(module),
        *flask_rules.allowed(module),
        flask_rules.assertions(module),
    )
    return "\n".join("\n".join(section) + "\n" for section in sections)


# Comments


def _header(policy: Policy, base: Base) -> Iterator[str]:
    yield f"# Coalition {policy.coalition}, version {policy.version}, as FLASK policy for Xen 4.17."
    yield f"# Policy digest {policy.digest}"
    yield from _how_to_use("Made by `shamon policy export`; changes belong into the policy file.", base)
    yield "#"
    yield from _comment(
        "Not in here, for Xen has no word for it: conflict sets, overlays, levels and who may use which resource. The "
        "monitor decides about them before a domain is started, and the toolstack attaches what it permits."
    )


def _base_header(base: Base) -> Iterator[str]:
    yield "# Domains of no coalition, as FLASK policy for Xen 4.17: each is alone."
    yield from _how_to_use("What Xen boots with, until a coalition's module takes the place of this one.", base)


def _how_to_use(what: str, base: Base) -> Iterator[str]:
    yield from _comment(
        f"{what} Put it into Xen's "
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
