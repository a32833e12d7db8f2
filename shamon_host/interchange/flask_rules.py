"""The rules of the FLASK module, section by section: what guests get, and what nobody may give them.

Classes and permissions are those of Xen 4.17, `xen/xsm/flask/policy/access_vectors`, whose comments say what each is
asked for. Everything is denied that no rule allows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MAC_DOMAIN = "shamon_mac_t"
"""The domain with the network backends: it carries frames between labelled VMs as the policy says."""
_WIDTH = 100

_SHARE = "{ map_read map_write copy unmap }"
"""Of class grant: use pages that another domain has offered."""
_OWN_CHANNEL = "{ create send status }"
_CONTROL = "{ domain domain2 hvm mmu shadow security }"
"""Classes whose permissions give one domain power over another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """The domain type of a label, and those with which it communicates; itself among them if its VMs may."""

    type: str
    partners: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What of the base policy has to do with guests; the toolstack is one of the trusted types."""

    toolstack: str
    trusted: tuple[str, ...]


def declarations(guests: Sequence[Guest], unlabelled: Guest) -> Iterator[str]:
    """Attributes and types. A domain has three: its own, what it is to itself, and its ends of event channels."""
    yield from _heading("Types")
    for attribute, meaning in (
        ("shamon_domain", "every domain of the coalition, the MAC domain too"),
        ("shamon_guest", "VMs, labelled or not"),
        ("shamon_labelled", "VMs with a label"),
        ("shamon_self", "what a domain is to itself"),
        ("shamon_channel", "their ends of event channels"),
        ("shamon_labelled_channel", "those of VMs with a label"),
    ):
        yield f"# {meaning}"
        yield f"attribute {attribute};"
    for guest in guests:
        yield from _declared(guest.type, "shamon_guest, shamon_labelled", ", shamon_labelled_channel")
    yield from _declared(unlabelled.type, "shamon_guest")
    yield from _declared(MAC_DOMAIN)
    yield "role system_r types { shamon_domain shamon_self };"


def _declared(name: str, attributes: str = "", channel_attributes: str = "") -> Iterator[str]:
    yield f"type {', '.join(each for each in (name, 'domain_type', 'shamon_domain', attributes) if each)};"
    yield f"type {name}_self, domain_type, domain_self_type, shamon_self;"
    yield f"type {name}_channel, event_type, shamon_channel{channel_attributes};"
    yield f"type_transition {name} {name}:domain {name}_self;"
    yield f"type_transition {name} domain_type:event {name}_channel;"


def own_rules(guests: Sequence[Guest], unlabelled: Guest) -> Iterator[str]:
    """What a domain does with itself: no other domain has the type `..._self`."""
    yield from _heading("What every domain may do with itself")
    for name in (*(guest.type for guest in guests), unlabelled.type, MAC_DOMAIN):
        own = f"{name}_self"
        yield f"allow {name} {own}:grant {{ query setup map_read map_write copy unmap }};"
        yield f"allow {name} {own}:mmu {{ adjust physmap map_read map_write stat pinpage updatemp mmuext_op }};"
        yield f"allow {name} {own}:hvm {{ getparam setparam }};"
        yield f"allow {name} {own}:domain2 get_vnumainfo;"
        yield f"allow {name} {name}_channel:event {_OWN_CHANNEL};"
        yield f"allow {name}_channel {own}:event bind;"
    yield "# questions to the hypervisor that every kernel asks"
    yield (
        "allow shamon_domain xen_t:version { xen_extraversion xen_compile_info xen_capabilities xen_changeset "
        "xen_pagesize xen_guest_handle };"
    )


def toolstack_rules(base: Base) -> Iterator[str]:
    """The toolstack builds and manages every domain, and is the backend of its console and disks."""
    tools = base.toolstack
    yield from _heading("The toolstack")
    yield f"allow {tools} shamon_domain:domain {{"
    yield "    create max_vcpus setdomainmaxmem setaddrsize getaddrsize getdomaininfo hypercall setvcpucontext"
    yield "    getvcpucontext getvcpuinfo getscheduler setaffinity getaffinity settime setdomainhandle set_misc_info"
    yield "    getpagingmempool setpagingmempool getpodtarget setpodtarget pause unpause resume trigger shutdown"
    yield "    destroy"
    yield "};"
    yield f"allow {tools} shamon_domain:domain2 {{"
    yield "    set_cpu_policy get_cpu_policy settsc setscheduler setclaim set_vnumainfo get_vnumainfo cacheflush"
    yield "    psr_cmt_op psr_alloc soft_reset resource_map"
    yield "};"
    yield f"allow {tools} shamon_domain:hvm {{ getparam setparam hvmctl sethvmc gethvmc altp2mhvm dm }};"
    yield f"allow {tools} shamon_domain:mmu {{"
    yield "    map_read map_write adjust memorymap physmap pinpage mmuext_op updatemp stat pageinfo"
    yield "};"
    yield f"allow {tools} shamon_domain:shadow enable;"
    yield f"allow {tools} shamon_domain:security check_context;"
    yield f"allow {tools} shamon_domain:grant {{ setup query map_read map_write copy unmap }};"
    yield f"allow {tools} shamon_channel:event create;"
    yield f"allow {tools} {tools}_channel:event {_OWN_CHANNEL};"
    yield f"allow {tools}_channel shamon_domain:event bind;"
    yield f"allow shamon_channel {tools}:event bind;"


def mac_rules() -> Iterator[str]:
    """The MAC domain is the network backend of labelled VMs: it uses their pages, never they its."""
    yield from _heading("The MAC domain and the frames of labelled VMs")
    yield f"allow {MAC_DOMAIN} shamon_labelled:grant {_SHARE};"
    yield f"allow {MAC_DOMAIN}_channel shamon_labelled:event bind;"
    yield f"allow shamon_labelled_channel {MAC_DOMAIN}:event bind;"


def communication(guests: Iterable[Guest]) -> Iterator[str]:
    """Pages and event channels between VMs whose labels may send to each other."""
    yield from _heading("Labels that may communicate, both ways")
    for guest in guests:
        if guest.partners:
            yield f"allow {guest.type} {_braced(guest.partners)}:grant {_SHARE};"
            yield f"allow {guest.type}_channel {_braced(guest.partners)}:event bind;"


def assertions(guests: Sequence[Guest], unlabelled: Guest, base: Base) -> Iterator[str]:
    """What must not exist, whoever allows it: checkpolicy refuses a policy in which it does."""
    channels = [f"{name}_channel" for name in base.trusted]
    yield from _heading("What must not exist")
    yield "# pages and event channels between VMs, but where the labels may communicate"
    for guest in (*guests, unlabelled):
        name, partners = guest.type, guest.partners
        reached = [*base.trusted, *([MAC_DOMAIN] if guest is not unlabelled else [])]
        own = f"{name}_self"
        yield f"neverallow {name} {_all_but('domain_type', [own, *partners])}:grant *;"
        yield f"neverallow {name}_channel {_all_but('domain_type', [own, *reached, *partners])}:event bind;"
        yield f"neverallow {name} {_all_but('event_type', [f'{name}_channel'])}:event *;"
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
    yield f"neverallow {MAC_DOMAIN}_channel {unlabelled.type}:event bind;"
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
