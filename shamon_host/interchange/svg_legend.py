"""The legend of a picture: what its boxes and lines mean, those that are in it and no others."""

from collections.abc import Iterator
from dataclasses import dataclass

from shamon_host.interchange.flow_graph import Direction, FlowGraph, LabelKind, OwnerKind
from shamon_host.interchange.svg_draw import drawn_box, drawn_line, drawn_text
from shamon_host.interchange.svg_shapes import Box, BoxStyle, Line, LineStyle, Point

WIDTH = 410
"""Pixels of one column of the legend."""
_ROW, _SAMPLE, _GAP = 24, 44, 10
_HEADING = 34


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """SVG of the legend, and how high it is in pixels."""

    lines: tuple[str, ...]
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    caption: str
    sample: BoxStyle | LineStyle
    tip_start: bool = False
    tip_end: bool = False


def legend(graph: FlowGraph, *, left: float, top: float, width: float) -> Legend:
    """The legend of a graph below `top`, in as many columns as fit into `width`."""
    entries = tuple(_entries(graph))
    columns = max(1, min(3, int(width // WIDTH)))
    rows = -(-len(entries) // columns)
    lines = [drawn_text(left, top + 22, "Legend", size=13, bold=True, plain=True)]
    for number, entry in enumerate(entries):
        x = left + number // rows * WIDTH
        y = top + _HEADING + number % rows * _ROW + _ROW / 2
        lines += _sample(entry, x, y)
        lines.append(drawn_text(x + _SAMPLE + _GAP, y + 4, entry.caption, size=11, plain=True))
    return Legend(lines=tuple(lines), height=_HEADING + rows * _ROW)


def _sample(entry: _Entry, x: float, y: float) -> Iterator[str]:
    if isinstance(entry.sample, BoxStyle):
        box = Box(style=entry.sample, name="", title=entry.caption)
        box.x, box.y, box.width, box.height = x, y - 8, _SAMPLE, 16
        return drawn_box(box)
    points = [Point(x, y), Point(x + _SAMPLE, y)]
    line = Line(
        style=entry.sample, points=points, title=entry.caption, tip_start=entry.tip_start, tip_end=entry.tip_end
    )
    return drawn_line(line)


def _entries(graph: FlowGraph) -> Iterator[_Entry]:
    levels = any(each.confidentiality or each.integrity for each in graph.types)
    yield _Entry(
        caption="type" + ("; C, I: confidentiality, integrity above 0" if levels else ""), sample=BoxStyle.TYPE
    )
    directions = {flow.direction for flow in graph.flows}
    if any(each.kind is LabelKind.VM and not each.downgrades for each in graph.labels):
        yield _Entry(caption="label: what VMs wear", sample=BoxStyle.LABEL)
    if any(each.downgrades for each in graph.labels):
        yield _Entry(caption="downgrader: a label that the types' owners trust", sample=BoxStyle.DOWNGRADER)
        yield _Entry(
            caption="release: what comes out counts as the target's own", sample=LineStyle.RELEASE, tip_end=True
        )
    if any(each.kind is not LabelKind.VM for each in graph.labels):
        yield _Entry(caption="disk or network that several types may use", sample=BoxStyle.RESOURCE)
    if Direction.BOTH in directions:
        yield _Entry(
            caption="the label receives from the type and sends to it",
            sample=LineStyle.FLOW,
            tip_start=True,
            tip_end=True,
        )
    if Direction.IN in directions:
        yield _Entry(caption="the label only receives from the type", sample=LineStyle.ONE_WAY, tip_end=True)
    if Direction.OUT in directions:
        yield _Entry(caption="the label only sends to the type", sample=LineStyle.ONE_WAY, tip_start=True)
    if graph.conflicts:
        yield _Entry(caption="conflict set: a host runs at most one of these", sample=BoxStyle.CONFLICT)
        yield _Entry(caption="type or owner in a conflict set", sample=LineStyle.CONFLICT)
    if graph.walls:
        yield _Entry(caption="further Chinese Wall type, which labels may name", sample=BoxStyle.WALL)
    if any(owner.kind is OwnerKind.DEPARTMENT for owner in graph.owners):
        yield _Entry(caption="department of an organisation", sample=BoxStyle.DEPARTMENT)
