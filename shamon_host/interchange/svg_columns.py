"""Where the layers of a picture are, from left to right, in pixels:

conflict sets | lanes: types, then the labels of one organisation | labels of several organisations
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shamon_host.interchange.svg_parts import Parts
from shamon_host.interchange.svg_shapes import (
    DEPARTMENT_PX,
    FRAME_PADDING_X,
    LANE_PX,
    LONGEST_OWNER,
    NOT_DECLARED,
    Box,
    fitted,
    text_width,
)

MARGIN = 24
_INDENT, _PADDING = 12, 16
_LEAST_BOX, _LEAST_LANE = 120, 280


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Left and right edges. Lines bend in the three channels: before the lanes, behind the types, behind the lanes."""

    lane_left: float
    types_left: float
    """Of a type in no department."""
    types_right: float
    first_channel: float
    """Where the frames of departments have ended; lines to labels bend between here and `labels_left`."""
    labels_left: float
    labels_right: float
    lane_right: float
    shared_left: float
    width: float
    """Of the whole picture."""

    def left_at(self, depth: int) -> float:
        """The left edge of what is in so many departments."""
        return self.types_left + depth * _INDENT

    def frame_right(self, depth: int) -> float:
        """The right edge of the frame of a department that is the `depth`th around what is in it."""
        deepest = (self.first_channel - self.types_right) / _INDENT
        return self.types_right + _INDENT / 2 * (1 + deepest - depth)


def set_columns(parts: Parts) -> Columns:
    """Give every box but those of types its left edge and its width, and say where the columns are."""
    rows = [row for lane in parts.lanes for row in lane.rows]
    depth = max((row.depth for row in rows), default=0)
    departments = [_heading(row.name, DEPARTMENT_PX) for row in rows if row.is_owner]
    own = [parts.labels[key] for lane in parts.lanes for key in lane.labels]
    shared = [parts.labels[key] for key in parts.shared]
    conflicts = list(parts.conflicts.values())
    lane_left = MARGIN + (_widest(conflicts) + _channel(90, len(conflicts), 4, 220) if conflicts else 0)
    types_left = lane_left + _PADDING
    box_width = max([_LEAST_BOX, _widest([*parts.types.values(), *parts.walls.values()]), *departments])
    types_right = types_left + depth * _INDENT + box_width
    first_channel = types_right + depth * _INDENT
    busiest = max((sum(len(parts.flows_of[key]) for key in lane.labels) for lane in parts.lanes), default=0)
    labels_left = first_channel + _channel(110, busiest, 2, 260)
    labels_right = labels_left + _widest(own)
    headings = [_heading(lane.name, LANE_PX, NOT_DECLARED) for lane in parts.lanes]
    lane_right = max([labels_right + _PADDING, lane_left + _LEAST_LANE, *(lane_left + each for each in headings)])
    lines = sum(len(parts.flows_of[key]) for key in parts.shared)
    shared_left = lane_right + (_channel(130, lines, 4, 380) if shared else 0)
    _set(conflicts, MARGIN)
    _set(own, labels_left)
    _set(shared, shared_left)
    return Columns(
        lane_left=lane_left,
        types_left=types_left,
        types_right=types_right,
        first_channel=first_channel,
        labels_left=labels_left,
        labels_right=labels_right,
        lane_right=lane_right,
        shared_left=shared_left,
        width=shared_left + _widest(shared) + MARGIN,
    )


def _heading(name: str, size_px: float, note: str = "") -> float:
    """The width of a frame over which its heading does not reach."""
    return text_width(fitted(name, LONGEST_OWNER) + note, size_px) + 2 * FRAME_PADDING_X


def _channel(least: float, lines: int, each: float, most: float) -> float:
    return min(least + each * lines, most)


def _widest(boxes: Iterable[Box]) -> float:
    return max((box.width for box in boxes), default=0)


def _set(boxes: list[Box], left: float) -> None:
    width = _widest(boxes)
    for box in boxes:
        box.x, box.width = left, width
