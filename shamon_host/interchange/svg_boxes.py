"""The boxes of a picture and what they say, and in which order the types of an organisation stand."""

from collections.abc import Mapping
from dataclasses import dataclass

from shamon_host.interchange.flow_graph import Conflict, FlowGraph, LabelKind, LabelNode, TypeNode
from shamon_host.interchange.svg_shapes import Box, BoxStyle

DEEPEST = 6
"""Departments that are nested more deeply are not indented further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a lane: a type or a wall, or a department, which the rows that are deeper than it belong to."""

    name: str
    level: int
    """How many departments are around it; a department counts itself."""
    is_owner: bool

    @property
    def depth(self) -> int:
        return min(self.level, DEEPEST)

    def ends(self, department: "Row") -> bool:
        """Whether this row is outside of a department that was open before it."""
        return self.level < department.level + self.is_owner


def rows_of(graph: FlowGraph) -> Mapping[str, list[Row]]:
    """Organisation → its types and departments from top to bottom, those of departments behind its own."""
    below: dict[str | None, list[str]] = {}
    for owner in graph.owners:
        below.setdefault(owner.above, []).append(owner.name)
    types: dict[str, list[str]] = {}
    for each in graph.types:
        types.setdefault(each.owner, []).append(each.name)
    found = {}
    for organisation in below.get(None, ()):
        rows: list[Row] = []
        waiting = [(organisation, 0)]
        while waiting:
            whose, level = waiting.pop()
            if level:
                rows.append(Row(name=whose, level=level, is_owner=True))
            rows += [Row(name=name, level=level, is_owner=False) for name in types.get(whose, ())]
            waiting += [(name, level + 1) for name in reversed(below.get(whose, []))]
        found[organisation] = rows
    return found


def type_box(each: TypeNode, ports: int) -> Box:
    levels = [f"C{each.confidentiality}"] if each.confidentiality else []
    levels += [f"I{each.integrity}"] if each.integrity else []
    tpm = ["hardware TPM"] if each.hardware_tpm else []
    facts = [f"confidentiality {each.confidentiality}", f"integrity {each.integrity}", *tpm]
    return Box(
        style=BoxStyle.TYPE,
        name=each.name,
        small=(", ".join([*levels, *tpm]),) if levels or tpm else (),
        title=f"type {each.name}\n{', '.join(facts)}\nowner {each.owner}",
        ports=ports,
    )


def label_box(each: LabelNode, ports: int) -> Box:
    style = BoxStyle.RESOURCE if each.kind is not LabelKind.VM else BoxStyle.LABEL
    small = [each.kind.value] if each.kind is not LabelKind.VM else []
    if each.downgrades:
        style, small = BoxStyle.DOWNGRADER, ["downgrader"]
    if each.walls:
        small.append(f"wall {', '.join(each.walls)}")
    title = f"{each.kind.value} {each.name}"
    if each.kind is LabelKind.VM:
        title += f"\nVMs: {', '.join(each.vms) or 'none'}"
    if each.walls:
        title += f"\nfurther Chinese Wall types: {', '.join(each.walls)}"
    if each.downgrades:
        title += "\nwhat passes through it between types that name it as their downgrader counts as the target's own"
    return Box(style=style, name=each.name, small=tuple(small), title=title, ports=ports)


def wall_box(name: str) -> Box:
    return Box(style=BoxStyle.WALL, name=name, title=f"Chinese Wall type {name}")


def conflict_box(each: Conflict) -> Box:
    members = f"of {', '.join(each.members)} at most one on a host at a time"
    if each.apart:
        return Box(style=BoxStyle.CONFLICT, name="apart", title=f"{each.name}: {members}")
    return Box(style=BoxStyle.CONFLICT, name=each.name, title=f"conflict set {each.name}: {members}")
