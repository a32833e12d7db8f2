"""What the hypervisor of a host with Xen is asked about its FLASK policy, and what it must answer.

FLASK's policy can be asked and not read (`FLASK_ACCESS`, `xen/xsm/flask/flask_op.c`): one question is a source type, a
target type and a class, its answer the permissions. Answers must be exactly the policy's, neither more nor fewer.

Asked for:

- each ordered pair of the domain types that may run on the host (labels of its VMs, unlabelled, the MAC domain), itself
  too: every class by which one domain shares with another one or has power over it, and the channels of the one with
  the other;
- each of these types with what it is to itself and with its own end of channels;
- each of them with dom0, with Xen itself and its pages, security server and devices, and with what has lost its label;
- each other label of the coalition by itself, with its own end of channels: it is there, and under which name;
- dom0 with what has lost its label: it can be seen and ended, and no more.

With n labels at home that is 9 (n + 2)² + 37 (n + 2) + 2 questions and 2 for each further label: 1272 for eight labels,
at most 97 412 and those (`MAX_LABELS_AT_HOME`).

Not asked for: pairs with a label of which the host has no VM (no such domain runs here without the report showing it);
what dom0 may do to guests, as it is trusted; types of the base policy beside those above, for the same reason as labels
from elsewhere; `version`, which tells and gives nothing. Nor can this way show type transitions, constraints, and types
that are permissive: those are of the base policy in the measured image, unless somebody with dom0's power to load one
has changed them. The threat model says what follows from that.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from shamon_host.domain.errors import BadInput
from shamon_host.domain.flask_labels import MAC_DOMAIN, UNLABELLED_TYPE, flask_type
from shamon_host.domain.flask_rules import LOST, Access, FlaskModule, Question, access, channel_type, own_type
from shamon_host.domain.labels import UNLABELLED, HostName
from shamon_host.domain.policy import Policy

MAX_LABELS_AT_HOME = 100
"""How many labels the VMs of one host with Xen may have."""
BOOLEANS_ON: frozenset[str] = frozenset()
"""Conditional parts of the base policy that are on: none."""
_TOLD = 4
"""Differences that people are told of; more are not even put into words."""
_BETWEEN = ("grant", "mmu", "argo", "domain", "domain2", "hvm", "shadow")
_ITSELF = (*_BETWEEN, "security")
_OUTSIDE = (
    *(("dom0_t", each) for each in ("grant", "mmu", "argo", "domain", "domain2", "hvm", "shadow")),
    *(("xen_t", each) for each in ("xen", "xen2", "mmu", "resource", "argo")),
    ("security_t", "security"),
    *((each, "mmu") for each in ("domio_t", "domxen_t")),
    *((each, "resource") for each in ("device_t", "irq_t", "ioport_t", "iomem_t")),
    *((LOST, each) for each in ("grant", "mmu", "domain")),
)
"""Target → class, from each guest: what a guest could do to everything that is no guest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedFlask:
    """`access`: every question, with exactly what must be allowed, often nothing."""

    access: Access
    booleans_on: frozenset[str] = BOOLEANS_ON


def expected_flask(policy: Policy, host: HostName) -> ExpectedFlask:
    """What the hypervisor of a host must say under a policy, and by its keys what to ask; computed once.

    Raises BadInput for a host whose VMs have more than MAX_LABELS_AT_HOME labels.
    """
    return policy.decisions.remember(("flask", host), lambda: _of_host(policy, host))


def labels_at_home(policy: Policy, host: HostName) -> frozenset[str]:
    """The labels, without `unlabelled`, that VMs have which are a host's or may be moved to it."""
    return frozenset(policy.vms[vm].label for vm in policy.possible_on(host)) - {UNLABELLED.name}


def _of_host(policy: Policy, host: HostName) -> ExpectedFlask:
    at_home = labels_at_home(policy, host)
    if len(at_home) > MAX_LABELS_AT_HOME:
        raise BadInput(
            "the VMs of a host with Xen have too many labels",
            where=f"hosts.{host}",
            expected=f"at most {MAX_LABELS_AT_HOME}",
            found=str(len(at_home)),
            remedy="Give some of its VMs to other hosts.",
        )
    module = FlaskModule.of(policy.vm_labels)
    domains = (*(flask_type(name) for name in sorted(at_home)), UNLABELLED_TYPE, MAC_DOMAIN)
    elsewhere = (flask_type(name) for name in sorted(policy.vm_labels.keys() - at_home))
    return _expected(module, (*_questions(domains), *_there(elsewhere)))


def expected_without_policy() -> ExpectedFlask:
    """The same of the policy that Xen boots with (`interchange.flask.flask_base_source`)."""
    return _expected(FlaskModule.of({}), tuple(_questions((UNLABELLED_TYPE, MAC_DOMAIN))))


def flask_differences(
    expected: ExpectedFlask, *, enforcing: bool, booleans: Mapping[str, bool], answers: Access
) -> Iterator[str]:
    """Everything in which a hypervisor's answers are not those expected, in words. No answer is as one of nothing."""
    if not enforcing:
        yield "FLASK is permissive"
    for name, is_on in sorted(booleans.items()):
        if is_on and name not in expected.booleans_on:
            yield f"the boolean {name} is on"
    for name in sorted(name for name in expected.booleans_on if not booleans.get(name)):
        yield f"the boolean {name} is off"
    yield from access_differences(expected, answers)


def access_differences(expected: ExpectedFlask, answers: Access) -> Iterator[str]:
    """Those that loading the policy would do away with."""
    nothing: frozenset[str] = frozenset()

    def both(question: Question) -> tuple[frozenset[str], frozenset[str]]:
        return expected.access.get(question, nothing), answers.get(question, nothing)

    differing = {each for each in expected.access.keys() | answers.keys() if len(set(both(each))) > 1}
    for question in sorted(differing):
        wanted, found = both(question)
        source, target, object_class = question
        if found - wanted:
            yield f"{source} may {_words(found - wanted)} {target} ({object_class}), more than the policy says"
        if wanted - found:
            yield f"{source} may not {_words(wanted - found)} {target} ({object_class}), as the policy says"


def some(differences: Iterable[str]) -> str:
    """The first of them, and whether there are more."""
    first = list(islice(differences, _TOLD + 1))
    return "; ".join(first[:_TOLD]) + ("; and more" if len(first) > _TOLD else "")


def _words(permissions: frozenset[str]) -> str:
    return ", ".join(sorted(permissions))


def _expected(module: FlaskModule, questions: tuple[Question, ...]) -> ExpectedFlask:
    allowed, nothing = access(module), frozenset[str]()
    return ExpectedFlask(access={question: allowed.get(question, nothing) for question in questions})


def _questions(domains: tuple[str, ...]) -> Iterator[Question]:
    for one in domains:
        yield from ((one, own_type(one), each) for each in _ITSELF)
        yield channel_type(one), own_type(one), "event"
        for other in domains:
            yield from ((one, other, each) for each in _BETWEEN)
            yield channel_type(one), other, "event"
            yield one, channel_type(other), "event"
        yield from ((one, target, each) for target, each in _OUTSIDE)
        yield channel_type(one), "dom0_t", "event"
        yield one, channel_type("dom0_t"), "event"
        yield "dom0_t", one, "argo"
        yield from ((LOST, one, each) for each in ("grant", "mmu", "domain"))
    yield from (("dom0_t", LOST, each) for each in ("domain", "grant"))


def _there(types: Iterator[str]) -> Iterator[Question]:
    for name in types:
        yield name, own_type(name), "grant"
        yield name, channel_type(name), "event"
