"""The graph that is drawn says what the policy permits: the same flows, owners and conflict sets."""

from dataclasses import replace
from itertools import product

from hypothesis import HealthCheck, given, settings

from shamon_host.domain.flows import RESOURCE, flow_system
from shamon_host.domain.policy import Policy
from shamon_host.interchange.flow_graph import Conflict, Direction, Flow, FlowGraph, LabelKind, OwnerKind, flow_graph
from tests.examples import examples
from tests.unit.domain.generated import policies
from tests.unit.domain.policy_text import FINANCE_TEXT, parse
from tests.unit.domain.values import POLICY

FINANCE = parse(FINANCE_TEXT)
GRAPH = flow_graph(FINANCE)


def edges(graph: FlowGraph, *, released: bool) -> set[tuple[str, str, str]]:
    """Type, label, other type: what goes through the label, as a release or not."""
    into = [(flow, flow.type) for flow in graph.flows if flow.direction is not Direction.OUT]
    out_of = [(flow, flow.type) for flow in graph.flows if flow.direction is not Direction.IN]
    return {
        (source, one.label, target)
        for (one, source), (other, target) in product(into, out_of)
        if one.label == other.label and source != target and (one.release and other.release) is released
    }


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(policies())
def test_its_edges_are_the_policys_flows(policy: Policy) -> None:
    graph, system = flow_graph(policy), flow_system(policy)
    chains: set[tuple[str, str, str]] = set()
    releases: set[tuple[str, str, str]] = set()
    for name, label in system.labels.items():
        split = system.split(label)
        for found, bundles in ((chains, split.chains), (releases, (split.releases,))):
            for sources, targets in bundles:
                found |= {(one, name, other) for one, other in product(sources, targets) if one != other}
    assert edges(graph, released=False) == chains
    assert edges(graph, released=True) == releases


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(policies())
def test_everything_has_a_place(policy: Policy) -> None:
    graph = flow_graph(policy)
    owners = {owner.name for owner in graph.owners}
    seen: set[str] = set()
    for owner in graph.owners:
        assert owner.above is None or owner.above in seen
        seen.add(owner.name)
    assert {each.name for each in graph.types} == policy.types
    assert {each.owner for each in graph.types} <= owners
    members = {member for conflict in graph.conflicts for member in conflict.members}
    assert members <= owners | policy.types | set(graph.walls)
    assert {each.key for each in graph.labels} >= policy.vm_labels.keys()
    assert {flow.label for flow in graph.flows} == {each.key for each in graph.labels}


def test_the_finance_policy() -> None:
    owners = {owner.name: (owner.kind, owner.above) for owner in GRAPH.owners}
    assert owners == {
        "audit": (OwnerKind.ORGANISATION, None),
        "bank": (OwnerKind.ORGANISATION, None),
        "rival": (OwnerKind.ORGANISATION, None),
        "bank/markets": (OwnerKind.DEPARTMENT, "bank"),
        "bank/trading": (OwnerKind.DEPARTMENT, "bank/markets"),
    }
    ledger = next(each for each in GRAPH.types if each.name == "bank/ledger")
    assert (ledger.owner, ledger.confidentiality, ledger.integrity, ledger.hardware_tpm) == ("bank/trading", 2, 1, True)
    assert [flow for flow in GRAPH.flows if flow.label == "archive"] == [
        Flow(type="audit/vault", label="archive", direction=Direction.OUT),
        Flow(type="bank/ledger", label="archive", direction=Direction.IN),
    ]
    assert Conflict(name="competitors", members=("bank/markets", "rival")) in GRAPH.conflicts
    assert Conflict(name="bank/ledger apart lobby", members=("bank/ledger", "lobby"), apart=True) in GRAPH.conflicts
    assert GRAPH.walls == ("board", "lobby")
    assert GRAPH.unlabelled == ("tools",)


def test_downgraders_and_what_they_release() -> None:
    labels = {each.key: each for each in GRAPH.labels}
    assert [key for key, each in labels.items() if each.downgrades] == ["review"]
    assert labels["review"].walls == ("board",)
    assert labels["review"].vms == ("reviewer",)
    assert {(flow.type, flow.direction) for flow in GRAPH.flows if flow.release} == {
        ("audit/report", Direction.BOTH),
        ("bank/ledger", Direction.IN),
    }


def test_one_type_alone_cannot_make_a_downgrader() -> None:
    report = FINANCE.definitions[next(name for name in FINANCE.types if name == "audit/report")]
    definitions = {**FINANCE.definitions, report.name: replace(report, downgraders=frozenset())}
    graph = flow_graph(replace(FINANCE, definitions=definitions))
    assert not any(each.downgrades for each in graph.labels)
    assert not any(flow.release for flow in graph.flows)


def test_resources_are_there_if_they_join_types() -> None:
    resources = {each.key: each.kind for each in GRAPH.labels if each.kind is not LabelKind.VM}
    assert resources == {f"{RESOURCE}press-disk": LabelKind.DISK}
    shared = [flow for flow in flow_graph(POLICY).flows if flow.label == f"{RESOURCE}shared-archive"]
    assert [flow.type for flow in shared] == ["acme/red", "rival/blue", "supplier/orders"]
    assert {flow.direction for flow in shared} == {Direction.BOTH}


def test_without_organisations_types_stand_with_the_first_part_of_their_name() -> None:
    graph = flow_graph(POLICY)
    assert {owner.name: owner.kind for owner in graph.owners} == dict.fromkeys(
        ("acme", "rival", "supplier"), OwnerKind.ASSUMED
    )
