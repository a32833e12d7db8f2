"""The FLASK module as source, section by section: types, what `domain.flask_rules` allows them, and what nobody may
allow them.
"""

from collections.abc import Iterable, Iterator, Sequence

from shamon_host.domain.flask_labels import MAC_DOMAIN
from shamon_host.domain.flask_rules import COPY, SHARE, FlaskModule, Rule, channel_type, own_type

_WIDTH = 100
_SHARE = f"{{ {' '.join(SHARE)} }}"
_CONTROL = "{ domain domain2 hvm mmu shadow security }"
"""Classes whose permissions give one domain power over another."""
_MEANINGS = {
    "shamon_domain": "every domain of the coalition, the MAC domain too",
    "shamon_guest": "VMs, labelled or not",
    "shamon_labelled": "VMs with a label",
    "shamon_self": "what a domain is to itself",
    "shamon_channel": "their ends of event channels",
    "shamon_labelled_channel": "those of VMs with a label",
}


def declarations(module: FlaskModule) -> Iterator[str]:
    """Attributes and types. A domain has three: its own, what it is to itself, and its ends of event channels."""
    yield from _heading("Types")
    attributes = module.attributes()
    for attribute in attributes:
        yield f"# {_MEANINGS[attribute]}"
        yield f"attribute {attribute};"
    held: dict[str, list[str]] = {}
    for attribute, types in attributes.items():
        for name in types:
            held.setdefault(name, []).append(attribute)
    for name in module.domains:
        own, channel = own_type(name), channel_type(name)
        yield f"type {', '.join((name, 'domain_type', *held[name]))};"
        yield f"type {', '.join((own, 'domain_type', 'domain_self_type', *held[own]))};"
        yield f"type {', '.join((channel, 'event_type', *held[channel]))};"
        yield f"type_transition {name} {name}:domain {own};"
        yield f"type_transition {name} domain_type:event {channel};"
    yield "role system_r types { shamon_domain shamon_self };"


def allowed(module: FlaskModule) -> Iterator[tuple[str, ...]]:
    """The rules, a tuple of lines for each section."""
    for section in module.sections():
        yield (*_heading(section.title), *map(_allow, section.rules))


def _allow(rule: Rule) -> str:
    return f"allow {_braced(rule.sources)} {_braced(rule.targets)}:{rule.object_class} {_braced(rule.permissions)};"


def assertions(module: FlaskModule) -> Iterator[str]:
    """What must not exist, whoever allows it: checkpolicy refuses a policy in which it does."""
    base, unlabelled = module.base, module.unlabelled
    channels = [channel_type(name) for name in base.trusted]
    yield from _heading("What must not exist")
    yield "# pages and event channels between VMs, but where the labels may communicate"
    for guest in (*module.guests, unlabelled):
        name, partners = guest.type, guest.partners
        reached = [*base.trusted, *([MAC_DOMAIN] if guest != unlabelled else [])]
        own, channel = own_type(name), channel_type(name)
        yield f"neverallow {name} {_all_but('domain_type', [own, *reached, *partners])}:grant *;"
        yield f"neverallow {name} {_braced(reached)}:grant ~{COPY};"
        yield f"neverallow {channel} {_all_but('domain_type', [own, *reached, *partners])}:event bind;"
        yield f"neverallow {name} {_all_but('event_type', [channel])}:event *;"
        yield f"neverallow {name} {_all_but('shamon_self', [own])}:{_CONTROL} *;"
    yield "# even there, nothing but the use of pages that were offered"
    yield f"neverallow shamon_guest ~shamon_self:grant ~{_SHARE};"
    yield "# the same with domains that are not of the coalition"
    outside = _all_but("domain_type", ["shamon_domain", *base.trusted])
    outside_channels = _all_but("event_type", ["shamon_channel", *channels])
    yield f"neverallow {outside} shamon_domain:grant *;"
    yield f"neverallow {outside_channels} shamon_domain:event bind;"
    yield f"neverallow {_all_but('domain_type', ['shamon_domain', *base.trusted])} shamon_channel:event *;"
    yield f"neverallow {MAC_DOMAIN} {unlabelled.type}:grant *;"
    yield f"neverallow {channel_type(MAC_DOMAIN)} {unlabelled.type}:event bind;"
    yield "# power over another domain, the hypervisor, its policy or a device"
    yield f"neverallow shamon_guest ~shamon_self:{_CONTROL} *;"
    yield f"neverallow {_all_but('domain_type', base.trusted)} shamon_domain:{_CONTROL} *;"
    yield "neverallow shamon_guest *:resource *;"
    yield "neverallow shamon_guest *:xen ~writeconsole;"
    yield "neverallow shamon_guest *:xen2 ~pmu_use;"
    yield "# Argo, which goes past all of this"
    yield "neverallow shamon_domain *:argo *;"
    yield "neverallow * shamon_domain:argo *;"


def _braced(names: Sequence[str]) -> str:
    """One type, or a set of them."""
    return names[0] if len(names) == 1 else _set(names)


def _all_but(attribute: str, names: Iterable[str]) -> str:
    return _set([attribute, *(f"-{name}" for name in names)])


def _set(words: Sequence[str]) -> str:
    """In several lines where it is long."""
    lines, line = [], ""
    for word in words:
        if line and len(line) + 1 + len(word) > _WIDTH - 4:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    lines.append(line)
    if len(lines) == 1:
        return f"{{ {line} }}"
    return "{\n" + "".join(f"    {each}\n" for each in lines) + "}"


def _heading(text: str) -> tuple[str, ...]:
    return ("#" * 80, f"# {text}", "#" * 80)
