"""What a picture is made of, with places in pixels: frames around owners, boxes with their text, and lines.

Text is measured here, without fonts: names are in a fixed-width one, all of which have about the same width, so a box
that is wide enough by this measure is wide enough on every screen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

NAME_PX, SMALL_PX = 12, 10
"""Sizes of the text of names, and of what stands below them."""
CHARACTER_EM = 0.62
"""Width of a character of a fixed-width font: 0.60 in Courier, DejaVu Sans Mono and Liberation Mono, 0.55 in others."""
LANE_PX, DEPARTMENT_PX = 14, 11
LONGEST_NAME, LONGEST_SMALL, LONGEST_OWNER = 34, 40, 34
NOT_DECLARED = " (not declared)"
FRAME_PADDING_X = 12
_PADDING_X, _PADDING_Y = 10, 7
_NAME_LINE, _SMALL_LINE = 15, 13
_PORT_DISTANCE = 9


class BoxStyle(StrEnum):
    """What a box stands for; the names of its classes in the style sheet."""

    TYPE = "type"
    LABEL = "label"
    DOWNGRADER = "downgrader"
    RESOURCE = "resource"
    WALL = "wall"
    CONFLICT = "conflict"
    DEPARTMENT = "department"
    """In the legend alone; in the picture departments are frames."""


class LineStyle(StrEnum):
    FLOW = "flow"
    ONE_WAY = "oneway"
    RELEASE = "release"
    CONFLICT = "apart"


class FrameStyle(StrEnum):
    ORGANISATION = "lane"
    DEPARTMENT = "department"


class Point(NamedTuple):
    x: float
    y: float


@dataclass(slots=True, kw_only=True)
class Box:
    """A box with a name and smaller lines below it. `title` is what a reader hears or sees on pointing at it."""

    style: BoxStyle
    name: str
    small: tuple[str, ...] = ()
    title: str
    ports: int = 1
    """The most lines that end at one side of it at different heights."""
    x: float = 0
    y: float = 0
    width: float = field(init=False)
    height: float = field(init=False)

    def __post_init__(self) -> None:
        self.name = fitted(self.name, LONGEST_NAME)
        self.small = tuple(fitted(line, LONGEST_SMALL) for line in self.small)
        widths = [text_width(self.name, NAME_PX), *(text_width(line, SMALL_PX) for line in self.small)]
        self.width = max(widths) + 2 * _PADDING_X
        lines = _NAME_LINE + _SMALL_LINE * len(self.small) + 2 * _PADDING_Y
        self.height = max(lines, _PORT_DISTANCE * (self.ports + 1))

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def text_left(self) -> float:
        """Where the lines of its text begin."""
        return self.x + _PADDING_X

    def baselines(self) -> tuple[float, ...]:
        """Where the lines of its text stand: the name first, all of them in the middle of the box."""
        text = _NAME_LINE + _SMALL_LINE * len(self.small)
        first = self.y + (self.height - text) / 2 + _NAME_LINE - 3.5
        return (first, *(first + _SMALL_LINE * (number + 1) for number in range(len(self.small))))

    def port(self, number: int, of: int) -> float:
        """The height at which line `number` of `of` ends, from 0."""
        return self.y + self.height * (number + 1) / (of + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame around what an owner owns, its name at the top left."""

    style: FrameStyle
    heading: str
    title: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line through points: level where two have the same height, else an S-curve that begins and ends level.

    Points come from left to right. `tip_start`, `tip_end`: whether it ends in an arrow there.
    """

    style: LineStyle
    points: Sequence[Point]
    title: str
    tip_start: bool = False
    tip_end: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Frames are drawn first, then lines, then boxes."""

    width: float
    height: float
    frames: tuple[Frame, ...]
    lines: tuple[Line, ...]
    boxes: tuple[Box, ...]


def text_width(text: str, size_px: float) -> float:
    """Pixels that a text in a fixed-width font takes at most."""
    return len(text) * size_px * CHARACTER_EM


def fitted(text: str, longest: int) -> str:
    """The text, shortened in its middle to `longest` characters."""
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def placed(wanted: Sequence[float], heights: Sequence[float], *, top: float, gap: float) -> list[float]:
    """The tops of boxes in one column, in their order and `gap` apart, not above `top`, near to where they are wanted.

    `wanted`: where each would have its middle. The sum of the squares of the distances is the least that there is
    (isotonic regression, pool adjacent violators).
    """
    offsets, offset = [], 0.0
    for height in heights:
        offsets.append(offset)
        offset += height + gap
    pools: list[tuple[float, int]] = []
    for middle, height, above in zip(wanted, heights, offsets, strict=True):
        value, size = middle - height / 2 - above, 1
        while pools and pools[-1][0] > value:
            other, count = pools.pop()
            value, size = (value * size + other * count) / (size + count), size + count
        pools.append((value, size))
    starts = [max(top, value) for value, size in pools for _ in range(size)]
    return [start + above for start, above in zip(starts, offsets, strict=True)]
