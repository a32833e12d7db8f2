"""The flow graph as DOT text for Graphviz: owners as clusters, types as boxes, labels as rounded boxes.

Everything that comes out of a policy is a quoted string, whatever is in it.
"""

from collections.abc import Iterator

from shamon_host.interchange.flow_graph import Conflict, Direction, Flow, FlowGraph, LabelKind, LabelNode, OwnerKind

_COLOURS = {"type": "#e3eefa", "label": "#e9f5e6", "downgrader": "#fff1cc", "resource": "#f1ecf9"}
_FLOW, _RELEASE, _CONFLICT = "#33506b", "#9a5b00", "#b3261e"
_SHAPES = {LabelKind.VM: "box", LabelKind.DISK: "cylinder", LabelKind.NETWORK: "hexagon"}


def dot_text(graph: FlowGraph) -> str:
    """A directed graph in the DOT language, UTF-8. Draw it with `dot -Tsvg`."""
    return "".join(f"{line}\n" for line in _lines(graph))


def quoted(text: str) -> str:
    """A string of DOT, shown as the text is where it is a label. A text has no control characters but line feeds."""
    for raw, escaped in (("\\", "\\\\"), ('"', '\\"'), ("&", "&amp;"), ("\n", "\\n")):
        text = text.replace(raw, escaped)
    return f'"{text}"'


def _lines(graph: FlowGraph) -> Iterator[str]:
    yield "digraph flows {"
    yield "  graph [rankdir=LR, compound=true, fontname=sans, labelloc=t, bgcolor=white, style=solid"
    yield f"    label={quoted(f'Coalition {graph.coalition}, version {graph.version}')}];"
    yield "  node [shape=box, style=filled, fontname=monospace, fontsize=11];"
    yield "  edge [fontname=sans, fontsize=9];"
    in_conflict = {member for conflict in graph.conflicts for member in conflict.members}
    yield from _clusters(graph, in_conflict)
    for wall in graph.walls:
        yield f"  {_id('wall', wall)} [label={quoted(wall)}, style=dashed, color={quoted(_CONFLICT)}];"
    for label in graph.labels:
        yield f"  {_id('label', label.key)} [{_label_attributes(label)}];"
    for flow in graph.flows:
        yield _edge(flow)
    places = {owner.name: "owner" for owner in graph.owners}
    places |= dict.fromkeys(graph.walls, "wall") | {each.name: "type" for each in graph.types}
    for conflict in graph.conflicts:
        yield from _conflict(conflict, places)
    yield "}"


def _clusters(graph: FlowGraph, in_conflict: set[str]) -> Iterator[str]:
    """Owners with their types, departments inside what they are part of. Without recursion: they may nest deeply."""
    below: dict[str | None, list[str]] = {}
    for owner in graph.owners:
        below.setdefault(owner.above, []).append(owner.name)
    kinds = {owner.name: owner.kind for owner in graph.owners}
    types: dict[str, list[str]] = {}
    for node in graph.types:
        types.setdefault(node.owner, []).append(node.name)
    waiting = [(name, 1) for name in reversed(below.get(None, []))]
    open_depth = 0
    while waiting:
        name, depth = waiting.pop()
        while open_depth >= depth:
            yield "  " * open_depth + "}"
            open_depth -= 1
        indent, open_depth = "  " * depth, depth
        note = " (not declared)" if kinds[name] is OwnerKind.ASSUMED else ""
        yield f"{indent}subgraph {quoted(f'cluster {name}')} {{"
        yield f"{indent}  label={quoted(name + note)}; bgcolor=whitesmoke;"
        if name in in_conflict or not types.get(name):  # Graphviz draws no edge to a cluster, and no empty one
            yield f"{indent}  {_id('owner', name)} [label={quoted('')}, shape=point, style=invis];"
        for each in types.get(name, ()):
            yield f"{indent}  {_id('type', each)} [label={quoted(each)}, fillcolor={quoted(_COLOURS['type'])}];"
        waiting += [(other, depth + 1) for other in reversed(below.get(name, []))]
    for depth in range(open_depth, 0, -1):
        yield "  " * depth + "}"


def _label_attributes(label: LabelNode) -> str:
    kind = "resource" if label.kind is not LabelKind.VM else "downgrader" if label.downgrades else "label"
    style = "rounded,filled" if label.kind is LabelKind.VM else "filled"
    text = f"{label.name}\ndowngrader" if label.downgrades else label.name
    return (
        f"label={quoted(text)}, shape={_SHAPES[label.kind]}, style={quoted(style)}, fillcolor={quoted(_COLOURS[kind])}"
    )


def _edge(flow: Flow) -> str:
    """Always from the type to the label, so that types are on one side; `dir` says which way information goes."""
    way = {Direction.BOTH: "both", Direction.IN: "forward", Direction.OUT: "back"}[flow.direction]
    more = ", penwidth=2" if flow.release else ""
    colour = quoted(_RELEASE if flow.release else _FLOW)
    return f"  {_id('type', flow.type)} -> {_id('label', flow.label)} [dir={way}, color={colour}{more}];"


def _conflict(conflict: Conflict, places: dict[str, str]) -> Iterator[str]:
    node, colour = _id("conflict", conflict.name), quoted(_CONFLICT)
    text = "apart" if conflict.apart else conflict.name
    yield f"  {node} [label={quoted(text)}, shape=octagon, style=dashed, color={colour}, fontcolor={colour}];"
    for member in conflict.members:
        other = _id(places[member], member)
        inside = f", lhead={quoted(f'cluster {member}')}" if places[member] == "owner" else ""
        yield f"  {node} -> {other} [dir=none, style=dashed, color={colour}{inside}];"


def _id(kind: str, name: str) -> str:
    return quoted(f"{kind} {name}")
