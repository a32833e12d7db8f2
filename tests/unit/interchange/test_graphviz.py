"""The DOT text is well-formed whatever is in it, and Graphviz reads the graph out of it again."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from shamon_host.domain.policy import Policy
from shamon_host.interchange.flow_graph import Direction, FlowGraph, flow_graph
from shamon_host.interchange.graphviz import dot_text
from tests.examples import examples
from tests.unit.domain.generated import policies
from tests.unit.domain.policy_text import FINANCE_TEXT, parse
from tests.unit.interchange.graphs import empty_graph, hostile_graph, long_names_graph
from tests.unit.interchange.policies import big_document, policy_of

FINANCE = flow_graph(parse(FINANCE_TEXT))
DOT = shutil.which("dot") or ""
needs_dot = pytest.mark.skipif(not DOT, reason="dot is not installed (Debian: graphviz)")
_WAYS = {"both": Direction.BOTH, "forward": Direction.IN, "back": Direction.OUT}
_STRING = r'"(?:[^"\\]|\\.)*"'


def run_dot(text: str, *options: str) -> str:
    """What `dot` makes of it."""
    result = subprocess.run([DOT, *options], input=text, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def read(graph: FlowGraph) -> dict[str, Any]:
    read_back: dict[str, Any] = json.loads(run_dot(dot_text(graph), "-Tdot_json"))
    return read_back


GRAPHS: Sequence[FlowGraph] = (FINANCE, hostile_graph(), long_names_graph(), empty_graph())


@pytest.mark.parametrize("graph", GRAPHS)
def test_names_are_in_strings_and_nowhere_else(graph: FlowGraph) -> None:
    outside = re.sub(_STRING, "S", dot_text(graph))
    assert re.fullmatch(r"[A-Za-z0-9_\s{}\[\]=,;>.-]*", outside)
    assert outside.count("{") == outside.count("}")


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(policies())
def test_braces_match_whatever_the_owners_are(policy: Policy) -> None:
    depth = 0
    for each in re.sub(_STRING, "S", dot_text(flow_graph(policy))):
        depth += {"{": 1, "}": -1}.get(each, 0)
        assert depth >= 0
    assert depth == 0


@needs_dot
@pytest.mark.parametrize("graph", GRAPHS)
def test_graphviz_reads_the_same_graph(graph: FlowGraph) -> None:
    document = read(graph)
    objects = document.get("objects", [])
    nodes = {each["_gvid"]: each["name"] for each in objects if not each["name"].startswith("cluster ")}
    shown = {each["name"]: each.get("label") for each in objects}
    edges = [(nodes[each["tail"]], nodes[each["head"]], each["dir"]) for each in document.get("edges", [])]
    flows = {(tail, head, _WAYS[way]) for tail, head, way in edges if way != "none"}
    escaped = {flow: (_escaped(f"type {flow.type}"), _escaped(f"label {flow.label}")) for flow in graph.flows}
    assert flows == {(*escaped[flow], flow.direction) for flow in graph.flows}
    assert len([way for _, _, way in edges if way == "none"]) == sum(len(each.members) for each in graph.conflicts)
    for each in graph.types:
        assert shown[_escaped(f"type {each.name}")] == _escaped(each.name)


def _escaped(text: str) -> str:
    """As Graphviz keeps a string: it takes away the escapes of quotes alone."""
    return text.replace("\\", "\\\\").replace("&", "&amp;")


@needs_dot
def test_departments_are_clusters_in_clusters() -> None:
    clusters = {each["name"]: each for each in read(FINANCE)["objects"] if each["name"].startswith("cluster ")}
    numbers = {name: each["_gvid"] for name, each in clusters.items()}
    assert clusters["cluster bank"]["subgraphs"] == [numbers["cluster bank/markets"]]
    assert clusters["cluster bank/markets"]["subgraphs"] == [numbers["cluster bank/trading"]]


@needs_dot
@pytest.mark.parametrize(
    "graph", [*GRAPHS, flow_graph(policy_of(big_document(organisations=3, types=12)))], ids=lambda graph: ""
)
def test_graphviz_draws_it(graph: FlowGraph) -> None:
    assert "</svg>" in run_dot(dot_text(graph), "-Tsvg")
