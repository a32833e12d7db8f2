"""The lines of a picture whose boxes have their places: conflicts on the left, information flow on the right."""

from collections.abc import Iterator, Sequence

from shamon_host.interchange.flow_graph import Direction, Flow
from shamon_host.interchange.svg_columns import Columns
from shamon_host.interchange.svg_parts import Bundle, Parts, Port, bundle_of
from shamon_host.interchange.svg_rows import Rows
from shamon_host.interchange.svg_shapes import Line, LineStyle, Point

_WAYS = {
    Direction.BOTH: "receives from and sends to",
    Direction.IN: "only receives from",
    Direction.OUT: "only sends to",
}


def conflict_lines(parts: Parts, columns: Columns, rows: Rows) -> Iterator[Line]:
    """From each conflict set to the lanes of its members, and from there to each member once, level."""
    reached: dict[str, Point] = {}
    for each in parts.graph.conflicts:
        box = parts.conflicts[each.name]
        start = Point(box.right, box.y + box.height / 2)
        for member in each.members:
            edge = reached[member] = Point(columns.lane_left, rows.marks[member].y)
            yield Line(style=LineStyle.CONFLICT, points=[start, edge], title=f"{each.name}: {member}")
    for member, edge in reached.items():
        if rows.marks[member] != edge:
            yield Line(style=LineStyle.CONFLICT, points=[edge, rows.marks[member]], title=f"in conflict sets: {member}")


def flow_lines(parts: Parts, columns: Columns, rows: Rows) -> Iterator[Line]:
    """From each type to its labels. What goes to labels of several organisations is one line as far as their lane."""
    for bundle, y in rows.bundles.items():
        name, port = bundle
        points = [*_start(parts, columns, bundle), Point(columns.labels_left, y), Point(columns.lane_right, y)]
        title = f"{name}: a label of several organisations {_WAYS[port[0]]} it"
        yield _line(port, points, title, start=port[0] is not Direction.IN)
    shared = set(parts.shared)
    for key, flows in parts.flows_of.items():
        ends = _ends(parts, key, flows)
        for flow in flows:
            bundle, end = bundle_of(flow), ends[flow.direction, flow.release]
            tip = flow.direction is not Direction.OUT
            if key in shared:
                points = [Point(columns.lane_right, rows.bundles[bundle]), end]
                yield _line(bundle[1], points, _title(parts, flow), end=tip)
            else:
                points = [*_start(parts, columns, bundle), end]
                back = flow.direction is not Direction.IN
                yield _line(bundle[1], points, _title(parts, flow), start=back, end=tip)


def _start(parts: Parts, columns: Columns, bundle: Bundle) -> Sequence[Point]:
    y = parts.type_port(bundle)
    return (Point(columns.types_right, y), Point(columns.first_channel, y))


def _ends(parts: Parts, key: str, flows: Sequence[Flow]) -> dict[Port, Point]:
    """Where the kinds of lines end at a label: those from above over those from below, so that they need not cross."""
    heights: dict[Port, list[float]] = {}
    for flow in flows:
        heights.setdefault((flow.direction, flow.release), []).append(parts.type_port(bundle_of(flow)))
    box = parts.labels[key]
    order = sorted(parts.label_ports(key), key=lambda port: sum(heights[port]) / len(heights[port]))
    return {port: Point(box.x, box.port(number, len(order))) for number, port in enumerate(order)}


def _line(port: Port, points: Sequence[Point], title: str, *, start: bool = False, end: bool = False) -> Line:
    direction, release = port
    style = LineStyle.RELEASE if release else LineStyle.FLOW if direction is Direction.BOTH else LineStyle.ONE_WAY
    return Line(style=style, points=points, title=title, tip_start=start, tip_end=end)


def _title(parts: Parts, flow: Flow) -> str:
    label = parts.labels[flow.label].title.partition("\n")[0]
    return f"{label} {_WAYS[flow.direction]} {flow.type}" + (", as its downgrader" if flow.release else "")
