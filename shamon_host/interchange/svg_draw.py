"""SVG of one shape at a time. Whatever is text is escaped here."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

from shamon_host.interchange.svg_shapes import (
    DEPARTMENT_PX,
    FRAME_PADDING_X,
    LANE_PX,
    NAME_PX,
    SMALL_PX,
    Box,
    BoxStyle,
    Frame,
    FrameStyle,
    Line,
    Point,
)

STYLE = """
text { font-family: "DejaVu Sans Mono", Menlo, Consolas, "Liberation Mono", monospace; fill: #1b2129 }
text.plain { font-family: "DejaVu Sans", Verdana, Helvetica, Arial, sans-serif }
.lane { fill: #f5f7f9; stroke: #c5ccd4 }
.department { fill: #ffffff; stroke: #9aa5b1; stroke-dasharray: 2 2 }
.type { fill: #e3eefa; stroke: #2f6299 }
.label { fill: #e9f5e6; stroke: #40803a }
.downgrader { fill: #fff1cc; stroke: #9a5b00; stroke-width: 2 }
.resource { fill: #f1ecf9; stroke: #6b4fa0 }
.wall { fill: #ffffff; stroke: #b3261e }
.conflict { fill: #fdf0ef; stroke: #b3261e; stroke-dasharray: 5 3 }
.line { fill: none; stroke-width: 1.5 }
.flow .line { stroke: #5a6b7c } .flow .tip { fill: #5a6b7c }
.oneway .line { stroke: #1565c0 } .oneway .tip { fill: #1565c0 }
.release .line { stroke: #b36b00; stroke-width: 2.2 } .release .tip { fill: #b36b00 }
.apart .line { stroke: #c62828; stroke-dasharray: 5 4 }
g:hover > .line { stroke-width: 3.5 }
""".strip()
_ROUND = {BoxStyle.LABEL: 13, BoxStyle.DOWNGRADER: 13, BoxStyle.TYPE: 2}
_TIP_LENGTH, _TIP_HALF = 8, 3.5


def escaped(text: str) -> str:
    """Text for an element; no attribute holds any. Control characters, which XML has not, become `?`."""
    visible = "".join(each if each.isprintable() or each == "\n" else "?" for each in text)
    return escape(visible)


def drawn_text(x: float, y: float, text: str, *, size: float, bold: bool = False, plain: bool = False) -> str:
    """One line of text; `y` is its baseline."""
    weight = ' font-weight="bold"' if bold else ""
    kind = ' class="plain"' if plain else ""
    return f'<text x="{_px(x)}" y="{_px(y)}" font-size="{size:g}"{weight}{kind}>{escaped(text)}</text>'


def drawn_frame(frame: Frame) -> Iterator[str]:
    """A frame with its heading."""
    yield f"<g><title>{escaped(frame.title)}</title>"
    yield _rectangle(frame, radius=6)
    if frame.style is FrameStyle.ORGANISATION:
        yield drawn_text(frame.x + FRAME_PADDING_X, frame.y + 22, frame.heading, size=LANE_PX, bold=True)
    else:
        yield drawn_text(frame.x + FRAME_PADDING_X, frame.y + 17, frame.heading, size=DEPARTMENT_PX)
    yield "</g>"


def drawn_box(box: Box) -> Iterator[str]:
    """A box with its text."""
    yield f"<g><title>{escaped(box.title)}</title>"
    yield _rectangle(box, radius=_ROUND.get(box.style, 4))
    sizes = [NAME_PX, *(SMALL_PX for _ in box.small)]
    for y, line, size in zip(box.baselines(), (box.name, *box.small), sizes, strict=True):
        if line:
            yield drawn_text(box.text_left, y, line, size=size)
    yield "</g>"


def drawn_line(line: Line) -> Iterator[str]:
    """A line with its tips, which point at its ends."""
    yield f'<g class="{line.style.value}"><title>{escaped(line.title)}</title>'
    yield f'<path class="line" d="{_path(line.points)}"/>'
    if line.tip_start:
        yield _tip(line.points[0], _TIP_LENGTH)
    if line.tip_end:
        yield _tip(line.points[-1], -_TIP_LENGTH)
    yield "</g>"


def _path(points: Sequence[Point]) -> str:
    path = f"M{_px(points[0].x)} {_px(points[0].y)}"
    for start, end in pairwise(points):
        if start == end:
            continue
        if start.y == end.y:
            path += f"H{_px(end.x)}"
        else:
            middle = _px((start.x + end.x) / 2)
            path += f"C{middle} {_px(start.y)} {middle} {_px(end.y)} {_px(end.x)} {_px(end.y)}"
    return path


def _tip(point: Point, back: float) -> str:
    x, y = point
    return f'<path class="tip" d="M{_px(x)} {_px(y)}l{_px(back)} {-_TIP_HALF:g}v{2 * _TIP_HALF:g}z"/>'


def _rectangle(shape: Box | Frame, *, radius: float) -> str:
    place = f'x="{_px(shape.x)}" y="{_px(shape.y)}" width="{_px(shape.width)}" height="{_px(shape.height)}"'
    return f'<rect class="{shape.style.value}" {place} rx="{radius:g}"/>'


def _px(value: float) -> str:
    """To a tenth of a pixel, without zeros that say nothing."""
    return f"{value:.1f}".removesuffix(".0")
