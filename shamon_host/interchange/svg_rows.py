"""At which heights everything in a picture is, lane by lane, and the frames around it."""

from dataclasses import dataclass, field

from shamon_host.interchange.flow_graph import OwnerKind
from shamon_host.interchange.svg_boxes import Row
from shamon_host.interchange.svg_columns import Columns
from shamon_host.interchange.svg_parts import WALLS, Bundle, Lane, Parts, bundle_of
from shamon_host.interchange.svg_shapes import (
    LONGEST_OWNER,
    NOT_DECLARED,
    Box,
    Frame,
    FrameStyle,
    Point,
    fitted,
    placed,
)

TOP = 84
"""Room for the heading of the picture."""
_LANE_HEADING, _DEPARTMENT_HEADING = 34, 26
_LANE_GAP, _ROW_GAP, _BOX_GAP = 18, 12, 10
_LINE = 4
"""Height of the place of a bundle among the boxes that it passes."""


@dataclass(slots=True, kw_only=True)
class Rows:
    """What placing the boxes has given beside their places."""

    frames: list[Frame] = field(default_factory=list)
    marks: dict[str, Point] = field(default_factory=dict)
    """Type, owner or wall → where a line from the left ends; for owners, the edge of their frame beside their name."""
    bundles: dict[Bundle, float] = field(default_factory=dict)
    """The height at which a bundle passes the labels of its lane."""
    bottom: float = TOP


def place_rows(parts: Parts, columns: Columns) -> Rows:
    """Give every box its place. Its left edge is there already, but for types."""
    rows = Rows()
    for lane in parts.lanes:
        _place_lane(parts, columns, rows, lane)
    for name, box in (parts.walls | parts.types).items():
        rows.marks[name] = Point(box.x, box.y + box.height / 2)
    conflicts = {each.name: [rows.marks[name].y for name in each.members] for each in parts.graph.conflicts}
    _place_column(parts.conflicts, conflicts)
    shared = {key: [rows.bundles[bundle_of(flow)] for flow in parts.flows_of[key]] for key in parts.shared}
    _place_column(parts.labels, shared)
    boxes = [*parts.conflicts.values(), *parts.labels.values()]
    rows.bottom = max([rows.bottom, *(box.y + box.height + _LANE_GAP for box in boxes)])
    rows.frames.sort(key=lambda frame: (frame.y, frame.x))  # the outer ones before those in them
    return rows


def _place_lane(parts: Parts, columns: Columns, rows: Rows, lane: Lane) -> None:
    """A lane below those that are there: its types first, then labels and passing lines beside them."""
    top = rows.bottom
    content = top + _LANE_HEADING
    bottom = _place_types(parts, columns, rows, lane, content)
    items: list[tuple[float, float, str | Bundle]] = []
    for key in lane.labels:
        heights = [parts.type_port(bundle_of(flow)) for flow in parts.flows_of[key]]
        items.append((sum(heights) / len(heights), parts.labels[key].height, key))
    items += [(parts.type_port(bundle), _LINE, bundle) for bundle in lane.bundles]
    items.sort(key=lambda item: (item[0], isinstance(item[2], str), str(item[2])))
    starts = placed([item[0] for item in items], [item[1] for item in items], top=content, gap=_BOX_GAP)
    for (_, height, item), start in zip(items, starts, strict=True):
        if isinstance(item, str):
            parts.labels[item].y = start
        else:
            rows.bundles[item] = start + height / 2
        bottom = max(bottom, start + height + _ROW_GAP)
    rows.marks[lane.name] = Point(columns.lane_left, top + _LANE_HEADING / 2)
    rows.bottom = bottom + _LANE_GAP
    kinds = {owner.name: owner.kind for owner in parts.graph.owners}
    note = NOT_DECLARED if kinds.get(lane.name) is OwnerKind.ASSUMED else ""
    rows.frames.append(
        Frame(
            style=FrameStyle.ORGANISATION,
            heading=fitted(lane.name, LONGEST_OWNER) + note,
            title=lane.name if lane.name == WALLS else f"organisation {lane.name}{note}",
            x=columns.lane_left,
            y=top,
            width=columns.lane_right - columns.lane_left,
            height=bottom - top,
        )
    )


def _place_types(parts: Parts, columns: Columns, rows: Rows, lane: Lane, y: float) -> float:
    """Boxes and the frames of departments, from `y` down. Returns where they end."""
    around: list[tuple[Row, float]] = []
    for row in [*lane.rows, None]:
        while around and (row is None or row.ends(around[-1][0])):
            rows.frames.append(_department(columns, *around.pop(), bottom=y))
            y += _ROW_GAP
        if row is None:
            break
        if row.is_owner:
            rows.marks[row.name] = Point(columns.left_at(row.depth - 1), y + _DEPARTMENT_HEADING / 2)
            around.append((row, y))
            y += _DEPARTMENT_HEADING
            continue
        box = parts.types[row.name] if row.name in parts.types else parts.walls[row.name]
        room = max(box.height, _room(parts, lane, row.name) - _ROW_GAP)
        left = columns.left_at(row.depth)
        box.x, box.width, box.y = left, columns.types_right - left, y + (room - box.height) / 2
        y += room + _ROW_GAP
    return y


def _department(columns: Columns, row: Row, top: float, *, bottom: float) -> Frame:
    left = columns.left_at(row.depth - 1)
    return Frame(
        style=FrameStyle.DEPARTMENT,
        heading=fitted(row.name, LONGEST_OWNER),
        title=f"department {row.name}",
        x=left,
        y=top,
        width=columns.frame_right(row.depth) - left,
        height=bottom - top,
    )


def _room(parts: Parts, lane: Lane, name: str) -> float:
    """The height that a type's share of the labels and lines beside it takes."""
    labels = parts.labels_beside.get(name, ())
    room = sum((parts.labels[key].height + _BOX_GAP) / len(parts.flows_of[key]) for key in labels)
    return room + (_LINE + _BOX_GAP) * sum(bundle[0] == name for bundle in lane.bundles)


def _place_column(boxes: dict[str, Box], lines: dict[str, list[float]]) -> None:
    """Boxes outside of lanes, each near to the middle of the heights that it has lines to."""
    middles = {key: sum(heights) / len(heights) if heights else TOP for key, heights in lines.items()}
    order = sorted(middles, key=lambda key: (middles[key], key))
    starts = placed([middles[key] for key in order], [boxes[key].height for key in order], top=TOP, gap=_BOX_GAP)
    for key, start in zip(order, starts, strict=True):
        boxes[key].y = start
