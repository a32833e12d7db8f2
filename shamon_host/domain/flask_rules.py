"""What FLASK allows the VMs of a coalition on Xen, as data: `interchange.flask` renders it as policy source, `access`
evaluates it, so that what the hypervisor is given and what it is expected to answer have one source.

Classes and permissions are those of Xen 4.17, `xen/xsm/flask/policy/access_vectors`, whose comments say what each is
asked for. Everything is denied that no rule allows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from shamon_host.domain.flask_labels import MAC_DOMAIN, UNLABELLED_TYPE, flask_type, partners_of
from shamon_host.domain.labels import VmLabel

SHARE = ("map_read", "map_write", "copy", "unmap")
"""Of class grant: use pages that another domain has offered."""
COPY = "copy"
"""Of class grant: asked of the domain whose data is copied about the one that gets it, whoever copies (`gnttab_copy` of
Xen's grant_table.c). A back end copies frames out of a guest's pages, so the guest needs it, and gives nothing away."""
_OWN_CHANNEL = ("create", "send", "status")
LOST = "unlabeled_t"
"""Type of the base policy: what Xen makes of the label of a domain whose type the policy that is loaded next lacks."""

Question = tuple[str, str, str]
"""Source type, target type, class."""
Access = Mapping[Question, frozenset[str]]
"""Question → names of the permissions that are allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`allow sources targets:object_class permissions`. Sources and targets are types, or attributes of them."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    object_class: str
    permissions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Rules that belong together, for people."""

    title: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """The domain type of a label, and those with which it communicates; itself among them if its VMs may."""

    type: str
    partners: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What of the base policy has to do with guests; the toolstack is one of the trusted types."""

    toolstack: str = "dom0_t"
    trusted: tuple[str, ...] = ("dom0_t", "xenstore_t")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlaskModule:
    """The domain types of a coalition: of its labels, of what has no label, of the MAC domain."""

    guests: tuple[Guest, ...]
    base: Base

    @classmethod
    def of(cls, labels: Mapping[str, VmLabel], base: Base | None = None) -> Self:
        """For the labels of a policy; for none of them, a module in which every guest is alone."""
        partners = partners_of(labels)
        guests = tuple(
            Guest(type=flask_type(name), partners=tuple(map(flask_type, sorted(partners[name].both_ways))))
            for name in sorted(labels)
        )
        return cls(guests=guests, base=base or Base())

    @property
    def unlabelled(self) -> Guest:
        return Guest(type=UNLABELLED_TYPE, partners=())

    @property
    def domains(self) -> tuple[str, ...]:
        """Every domain type, the MAC domain's too."""
        return (*(guest.type for guest in self.guests), UNLABELLED_TYPE, MAC_DOMAIN)

    def attributes(self) -> dict[str, tuple[str, ...]]:
        """Attribute → the types that have it. A domain has three types: its own, what it is to itself, its ends of
        event channels."""
        labelled, domains = tuple(guest.type for guest in self.guests), self.domains
        return {
            "shamon_domain": domains,
            "shamon_guest": (*labelled, UNLABELLED_TYPE),
            "shamon_labelled": labelled,
            "shamon_self": tuple(map(own_type, domains)),
            "shamon_channel": tuple(map(channel_type, domains)),
            "shamon_labelled_channel": tuple(map(channel_type, labelled)),
        }

    def sections(self) -> tuple[Section, ...]:
        """Every rule that allows something."""
        return (
            Section(title="What every domain may do with itself", rules=tuple(self._own())),
            Section(title="The toolstack", rules=tuple(_toolstack(self.base.toolstack))),
            Section(title="The toolstack and what lost its label", rules=tuple(_lost(self.base.toolstack))),
            Section(title="The MAC domain and the frames of labelled VMs", rules=tuple(_mac_domain())),
            Section(title="Labels that may communicate, both ways", rules=tuple(self._communication())),
        )

    def _own(self) -> Iterator[Rule]:
        """No other domain has the type `..._self`."""
        for name in self.domains:
            own, channel = own_type(name), channel_type(name)
            yield _rule(name, own, "grant", "query", "setup", *SHARE)
            yield _rule(
                name,
                own,
                "mmu",
                *("adjust", "physmap", "map_read", "map_write", "stat", "pinpage", "updatemp", "mmuext_op"),
            )
            yield _rule(name, own, "hvm", "getparam", "setparam")
            yield _rule(name, own, "domain2", "get_vnumainfo")
            yield _rule(name, channel, "event", *_OWN_CHANNEL)
            yield _rule(channel, own, "event", "bind")
        questions = ("extraversion", "compile_info", "capabilities", "changeset", "pagesize", "guest_handle")
        yield _rule("shamon_domain", "xen_t", "version", *(f"xen_{each}" for each in questions))

    def _communication(self) -> Iterator[Rule]:
        """Pages and event channels between VMs whose labels may send to each other."""
        for guest in self.guests:
            if guest.partners:
                yield Rule(sources=(guest.type,), targets=guest.partners, object_class="grant", permissions=SHARE)
                yield Rule(
                    sources=(channel_type(guest.type),),
                    targets=guest.partners,
                    object_class="event",
                    permissions=("bind",),
                )


def own_type(domain: str) -> str:
    """What a domain of a type is to itself."""
    return f"{domain}_self"


def channel_type(domain: str) -> str:
    """The type of its ends of event channels."""
    return f"{domain}_channel"


def access(module: FlaskModule) -> dict[Question, frozenset[str]]:
    """What the rules allow, attributes resolved; what is not in here is denied."""
    attributes = module.attributes()
    found: dict[Question, frozenset[str]] = {}
    for section in module.sections():
        for rule in section.rules:
            permissions = frozenset(rule.permissions)
            targets = [each for name in rule.targets for each in attributes.get(name, (name,))]
            for source in (each for name in rule.sources for each in attributes.get(name, (name,))):
                for target in targets:
                    question = (source, target, rule.object_class)
                    found[question] = found.get(question, frozenset()) | permissions
    return found


def _rule(source: str, target: str, object_class: str, *permissions: str) -> Rule:
    return Rule(sources=(source,), targets=(target,), object_class=object_class, permissions=permissions)


def _toolstack(tools: str) -> Iterator[Rule]:
    """It builds and manages every domain, and is the backend of its console and disks."""
    channel = channel_type(tools)
    yield _rule(
        tools,
        "shamon_domain",
        "domain",
        *("create", "max_vcpus", "setdomainmaxmem", "setaddrsize", "getaddrsize", "getdomaininfo", "hypercall"),
        *("setvcpucontext", "getvcpucontext", "getvcpuinfo", "getscheduler", "setaffinity", "getaffinity", "settime"),
        *("setdomainhandle", "set_misc_info", "getpagingmempool", "setpagingmempool", "getpodtarget", "setpodtarget"),
        *("pause", "unpause", "resume", "trigger", "shutdown", "destroy"),
    )
    yield _rule(
        tools,
        "shamon_domain",
        "domain2",
        *("set_cpu_policy", "get_cpu_policy", "settsc", "setscheduler", "setclaim", "set_vnumainfo", "get_vnumainfo"),
        *("cacheflush", "psr_cmt_op", "psr_alloc", "soft_reset", "resource_map"),
    )
    yield _rule(
        tools, "shamon_domain", "hvm", "getparam", "setparam", "hvmctl", "sethvmc", "gethvmc", "altp2mhvm", "dm"
    )
    yield _rule(
        tools,
        "shamon_domain",
        "mmu",
        *("map_read", "map_write", "adjust", "memorymap", "physmap", "pinpage", "mmuext_op", "updatemp", "stat"),
        "pageinfo",
    )
    yield _rule(tools, "shamon_domain", "shadow", "enable")
    yield _rule(tools, "shamon_domain", "security", "check_context")
    yield _rule(tools, "shamon_domain", "grant", "setup", "query", *SHARE)
    yield _rule("shamon_domain", tools, "grant", COPY)
    yield _rule(tools, "shamon_channel", "event", "create")
    yield _rule(tools, channel, "event", *_OWN_CHANNEL)
    yield _rule(channel, "shamon_domain", "event", "bind")
    yield _rule("shamon_channel", tools, "event", "bind")


def _lost(tools: str) -> Iterator[Rule]:
    """What has lost its label can be seen, stopped and ended, and that is all.

    Where `getdomaininfo` is denied, the list of domains ends (`XEN_DOMCTL_getdomaininfo`): every later domain is hidden
    too. libxl's destroy (`libxl__destroy_domid`) asks for the other two, and backends for `unmap`: a page that they
    could not give back would keep the dead domain there.
    """
    yield _rule(tools, LOST, "domain", "getdomaininfo", "pause", "destroy")
    yield _rule(tools, LOST, "grant", "unmap")


def _mac_domain() -> Iterator[Rule]:
    """It is the network backend of labelled VMs: it uses their pages, never they its."""
    yield _rule(MAC_DOMAIN, "shamon_labelled", "grant", *SHARE)
    yield _rule("shamon_labelled", MAC_DOMAIN, "grant", COPY)
    yield _rule(channel_type(MAC_DOMAIN), "shamon_labelled", "event", "bind")
    yield _rule("shamon_labelled_channel", MAC_DOMAIN, "event", "bind")
