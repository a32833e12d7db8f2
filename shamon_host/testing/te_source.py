"""FLASK's type enforcement source, read and evaluated: which permissions its rules give, and which they forbid anybody
to give.

As much of checkpolicy's language as the FLASK export uses, and a base policy to compile it with: what it takes from
Xen's own (`tools/flask/policy` of 4.17), with the classes of the hypervisor that it names.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from shamon_host.domain.errors import BadInput

PERMISSIONS = {
    "xen": "readconsole writeconsole physinfo debug",
    "xen2": "resource_op pmu_ctrl pmu_use",
    "domain": (
        "setvcpucontext pause unpause resume create transition max_vcpus destroy setaffinity getaffinity getscheduler "
        "getdomaininfo getvcpuinfo getvcpucontext setdomainmaxmem setdomainhandle setdebugging hypercall settime "
        "set_target shutdown setaddrsize getaddrsize trigger getpodtarget setpodtarget set_misc_info "
        "set_virq_handler getpagingmempool setpagingmempool"
    ),
    "domain2": (
        "relabelfrom relabelto relabelself make_priv_for set_as_target set_cpu_policy gettsc settsc setscheduler "
        "setclaim cacheflush create_hardware_domain set_vnumainfo get_vnumainfo psr_cmt_op vm_event soft_reset "
        "mem_access mem_paging mem_sharing psr_alloc resource_map get_cpu_policy"
    ),
    "hvm": (
        "sethvmc gethvmc setparam getparam bind_irq hvmctl mem_sharing audit_p2m share_mem altp2mhvm altp2mhvm_op dm"
    ),
    "mmu": (
        "map_read map_write pageinfo adjust stat updatemp physmap pinpage memorymap remote_remap mmuext_op exchange "
        "target_hack"
    ),
    "resource": "add remove use use_iommu use_iommu_nointremap use_noiommu add_device remove_device setup",
    "shadow": "disable enable logdirty",
    "event": "bind send status create reset",
    "grant": "map_read map_write unmap transfer setup copy query",
    "security": "compute_av check_context load_policy setenforce setbool",
    "version": (
        "xen_extraversion xen_compile_info xen_capabilities xen_changeset xen_pagesize xen_guest_handle "
        "xen_commandline xen_build_id"
    ),
    "argo": "enable register_single_source register_any_source send",
}
BASE = """
attribute xen_type;
attribute domain_type;
attribute domain_self_type;
attribute resource_type;
attribute event_type;
type xen_t, xen_type;
type unlabeled_t, xen_type;
type security_t, xen_type;
type domio_t, xen_type;
type domxen_t, xen_type;
type device_t, resource_type;
type irq_t, resource_type;
type ioport_t, resource_type;
type iomem_t, resource_type;
type dom0_t, domain_type;
type dom0_t_channel, event_type;
type xenstore_t, domain_type;
type xenstore_t_channel, event_type;
type domU_t, domain_type;
type domU_t_channel, event_type;
role system_r;
role system_r types { xen_type dom0_t domU_t };
neverallow * ~domain_type:domain { create transition };
neverallow ~event_type *:event bind;
neverallow * ~event_type:event { create send status };
allow dom0_t dom0_t:domain getdomaininfo;
allow xenstore_t domain_type:domain getdomaininfo;
allow xenstore_t domain_type:grant { map_read map_write unmap };
allow xenstore_t_channel domain_type:event bind;
allow event_type xenstore_t:event bind;
allow domU_t domU_t:grant { map_read map_write copy unmap };
"""
SIDS = {"xen": "xen_t", "dom0": "dom0_t", "unlabeled": "unlabeled_t", "security": "security_t", "domU": "domU_t"}

Access = tuple[str, str, str, str]
"""Source type, target type, class, permission."""


@dataclass(slots=True, kw_only=True)
class Rules:
    """Types with their attributes, and what rules allow and forbid."""

    types: dict[str, set[str]] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)
    transitions: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """Source, target and class → the type that results."""
    allowed: set[Access] = field(default_factory=set)
    forbidden: set[Access] = field(default_factory=set)


def monolithic(source: str, *, mls: bool = False) -> str:
    """A whole policy with the module in it, as checkpolicy takes it."""
    level = ":s0" if mls else ""
    parts = [
        *(f"class {name}" for name in PERMISSIONS),
        *(f"sid {name}" for name in SIDS),
        *(f"class {name} {{ {permissions} }}" for name, permissions in PERMISSIONS.items()),
        *(("sensitivity s0;", "dominance { s0 }", "category c0;", "level s0:c0;") if mls else ()),
        *(("mlsconstrain domain create (l1 eq l2);",) if mls else ()),
        BASE,
        source,
        f"user system_u roles {{ system_r }}{' level s0 range s0' if mls else ''};",
        *(f"sid {name} system_u:system_r:{type_name}{level}" for name, type_name in SIDS.items()),
    ]
    return "\n".join(parts) + "\n"


def evaluated(source: str) -> Rules:
    """The rules of the base policy and a module. Raises BadInput for what checkpolicy would not read: every name in
    them is declared, every type once."""
    rules = Rules()
    statements = [_tokens(statement) for statement in re.sub(r"#.*", "", BASE + source).split(";")]
    for words in statements:
        match words:
            case ["attribute", name]:
                _require(name not in rules.attributes, f"{name} is declared twice")
                rules.attributes.add(name)
            case ["type", name, *attributes]:
                _require(name not in rules.types, f"{name} is declared twice")
                rules.types[name] = {each for each in attributes if each != ","}
            case _:
                pass
    for words in statements:
        if words and words[0] in ("allow", "neverallow"):
            found = rules.allowed if words[0] == "allow" else rules.forbidden
            found.update(_accesses(words[1:], rules))
        elif words and words[0] == "type_transition":
            sources, rest = _set(words[1:], rules.types, rules.attributes)
            targets, rest = _set(rest, rules.types, rules.attributes)
            _, class_name, result = rest
            _require(result in rules.types, f"{result} is not declared")
            for one in sources:
                rules.transitions |= {(one, other, class_name): result for other in targets}
        else:
            _require(not words or words[0] in ("attribute", "type", "role"), " ".join(words[:3]))
    for name, held in rules.types.items():
        _require(held <= rules.attributes, f"an attribute of {name} is not declared")
    return rules


def _tokens(statement: str) -> list[str]:
    return re.findall(r"[A-Za-z0-9_]+|[-~*{}:,]", statement)


def _accesses(words: list[str], rules: Rules) -> Iterator[Access]:
    sources, rest = _set(words, rules.types, rules.attributes)
    targets, rest = _set(rest, rules.types, rules.attributes)
    _require(rest[:1] == [":"], "a class is expected")
    classes, rest = _set(rest[1:], {name: set[str]() for name in PERMISSIONS}, set())
    for class_name in classes:
        there = {permission: set[str]() for permission in PERMISSIONS[class_name].split()}
        named, left = _set(rest, there, set(), skip_unknown=len(classes) > 1)
        _require(left == [], "a rule does not end")
        for source in sources:
            yield from ((source, target, class_name, each) for target in targets for each in named)


def _set(
    words: list[str], known: Mapping[str, set[str]], attributes: set[str], *, skip_unknown: bool = False
) -> tuple[set[str], list[str]]:
    """The names that a set stands for, and the words behind it."""

    def named(word: str) -> set[str]:
        if word in attributes:
            return {name for name, own in known.items() if word in own}
        _require(word in known or skip_unknown, f"{word} is not declared")
        return {word} & known.keys()

    match words:
        case ["*", *rest]:
            return set(known), rest
        case ["~", *rest]:
            inner, rest = _set(rest, known, attributes)
            return set(known) - inner, rest
        case ["{", *rest]:
            end = rest.index("}")
            given: set[str] = set()
            taken: set[str] = set()
            inside = iter(rest[:end])
            for word in inside:
                if word == "-":
                    taken |= named(next(inside))
                else:
                    given |= named(word)
            return given - taken, rest[end + 1 :]
        case [word, *rest]:
            return named(word), rest
        case _:
            raise BadInput("bad FLASK policy source", found="a rule ends too early")


def _require(holds: bool, found: str) -> None:
    if not holds:
        raise BadInput("bad FLASK policy source", found=found[:120])
