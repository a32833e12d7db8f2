"""The picture: nothing in it overlaps, lines run behind no box, and it is a file that does nothing but show."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from xml.etree.ElementTree import Element

import pytest
from defusedxml.ElementTree import fromstring
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shamon_host.domain.policy import Policy
from shamon_host.interchange.flow_graph import Direction, FlowGraph, flow_graph
from shamon_host.interchange.svg import svg_text
from shamon_host.interchange.svg_layout import layout
from shamon_host.interchange.svg_shapes import Box, Frame, FrameStyle, LineStyle, Point, fitted, placed
from tests.examples import examples
from tests.unit.domain.generated import policies
from tests.unit.domain.policy_text import FINANCE_TEXT, parse
from tests.unit.domain.values import POLICY
from tests.unit.interchange.graphs import HOSTILE, empty_graph, hostile_graph, long_names_graph
from tests.unit.interchange.policies import big_document, policy_of

SVG = "{http://www.w3.org/2000/svg}"
FINANCE = flow_graph(parse(FINANCE_TEXT))
SIZES = ((1, 2, 0), (3, 12, 8), (6, 60, 24), (2, 60, 90))
BIG = [
    flow_graph(policy_of(big_document(organisations=owners, types=types, labels_of_several=labels)))
    for owners, types, labels in SIZES
]
GRAPHS = [FINANCE, flow_graph(POLICY), hostile_graph(), long_names_graph(), empty_graph(), *BIG]
WIDEST_EM = 0.61
"""No common fixed-width font has wider characters (Courier New and Liberation Mono 0.600, DejaVu Sans Mono 0.602). Text
in another font is the program's own, of letters whose mean is less than what is taken here."""
any_graph = pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.coalition[:12])

Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def rectangle(shape: Box | Frame) -> Rectangle:
    return shape.x, shape.y, shape.x + shape.width, shape.y + shape.height


def heading(frame: Frame) -> Rectangle:
    """The room of a frame's heading."""
    size, below = (14, 22) if frame.style is FrameStyle.ORGANISATION else (11, 17)
    width = len(frame.heading) * size * WIDEST_EM
    return frame.x + 12, frame.y + below - 0.8 * size, frame.x + 12 + width, frame.y + below + 0.25 * size


def inside(inner: Rectangle, outer: Rectangle) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def texts(root: Element) -> Iterator[tuple[Element, Rectangle]]:
    """Each text with the room that it takes."""
    for each in root.iter(f"{SVG}text"):
        size, x, y = (float(each.attrib[name]) for name in ("font-size", "x", "y"))
        em = (0.7 if each.get("font-weight") else 0.6) if each.get("class") == "plain" else WIDEST_EM
        yield each, (x, y - 0.8 * size, x + len(each.text or "") * size * em, y + 0.25 * size)


def points_on(points: Sequence[Point]) -> Iterator[Point]:
    """Points on a line, close to each other."""
    for start, end in pairwise(points):
        for step in range(21):
            t = step / 20
            rise = 3 * t * t - 2 * t**3
            across = 1.5 * t * (1 - t) ** 2 + 1.5 * t * t * (1 - t) + t**3
            yield Point(start.x + (end.x - start.x) * across, start.y + (end.y - start.y) * rise)


def check_layout(graph: FlowGraph) -> None:
    picture = layout(graph)
    boxes = [rectangle(box) for box in picture.boxes]
    for one, other in combinations(boxes, 2):
        assert not overlap(one, other)
    whole = (0.0, 0.0, picture.width, picture.height)
    lanes = [rectangle(frame) for frame in picture.frames if frame.style is FrameStyle.ORGANISATION]
    for one, other in combinations(lanes, 2):
        assert not overlap(one, other)
    for each in (*boxes, *map(rectangle, picture.frames)):
        assert inside(each, whole)
    headings = list(map(heading, picture.frames))
    for line in picture.lines:
        assert all(one.x <= other.x for one, other in pairwise(line.points))
        for x, y in points_on(line.points):
            for left, top, right, bottom in (*boxes, *headings):
                assert not (left + 0.5 < x < right - 0.5 and top < y < bottom)


def check_document(graph: FlowGraph) -> Element:
    text = svg_text(graph)
    assert text.isascii()
    root: Element = fromstring(text)
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    rooms = list(texts(root))
    for _, room in rooms:
        assert inside(room, (0.0, 0.0, width, height))
    for (_, one), (_, other) in combinations(rooms, 2):
        assert not overlap(one, other)
    boxes = 0
    for group in root.iter(f"{SVG}g"):
        shapes = group.findall(f"{SVG}rect")
        for shape in shapes:
            left, top, wide, high = (float(shape.attrib[name]) for name in ("x", "y", "width", "height"))
            for _, room in texts(group):
                boxes += 1
                assert inside(room, (left, top, left + wide, top + high))
        assert group.find(f"{SVG}title") is not None
    assert boxes >= len(graph.types) + len(graph.labels) + len(graph.conflicts)
    return root


@any_graph
def test_boxes_do_not_overlap_and_lines_run_behind_none(graph: FlowGraph) -> None:
    check_layout(graph)


@any_graph
def test_text_stays_in_its_box_and_in_the_picture(graph: FlowGraph) -> None:
    check_document(graph)


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(policies())
def test_the_same_of_any_policy(policy: Policy) -> None:
    graph = flow_graph(policy)
    check_layout(graph)
    check_document(graph)


@any_graph
def test_it_only_shows(graph: FlowGraph) -> None:
    root = fromstring(svg_text(graph))
    assert {element.tag for element in root.iter()} <= {
        f"{SVG}{name}" for name in ("svg", "title", "desc", "style", "rect", "text", "g", "path")
    }
    attributes = {name for element in root.iter() for name in element.attrib}
    assert not any(name.startswith("on") or "href" in name for name in attributes)
    style = next(root.iter(f"{SVG}style")).text or ""
    assert not re.search(r"url|import|@|http", style)


def test_it_says_what_it_is() -> None:
    root = fromstring(svg_text(FINANCE))
    assert root.get("role") == "img"
    title, description = (root.find(f"{SVG}{name}") for name in ("title", "desc"))
    assert title is not None
    assert description is not None
    assert f"{title.get('id')} {description.get('id')}" == root.get("aria-labelledby")
    assert title.text == "Coalition finance, version 3"
    assert description.text == (
        "5 types, 5 labels, 1 resource of several types, 4 conflict sets; 1 unlabelled VM shares with nobody"
    )


@any_graph
def test_everything_is_there_with_a_title(graph: FlowGraph) -> None:
    root = fromstring(svg_text(graph))
    titles = Counter(each.text for each in root.iter(f"{SVG}title"))
    for each in graph.types:
        assert any(title and title.startswith(f"type {each.name}\n") for title in titles)
    for label in graph.labels:
        assert any(title and title.startswith(f"{label.kind.value} {label.name}") for title in titles)
    lines = [title for title in titles if title and ("receives" in title or "sends" in title)]
    for flow in graph.flows:
        assert any(flow.type in title for title in lines)
    for owner in graph.owners:
        kind = "department" if owner.above else "organisation"
        assert any(title and title.startswith(f"{kind} {owner.name}") for title in titles)


def test_lines_say_which_way_and_between_what() -> None:
    root = fromstring(svg_text(FINANCE))
    found = {}
    for group in root.iter(f"{SVG}g"):
        title = group.findtext(f"{SVG}title") or ""
        tips = len([path for path in group.findall(f"{SVG}path") if path.get("class") == "tip"])
        found[title] = (group.get("class"), tips)
    assert found["label auditor receives from and sends to audit/report"] == (LineStyle.FLOW, 2)
    assert found["label trader only receives from bank/mail"] == (LineStyle.ONE_WAY, 1)
    assert found["label archive only sends to audit/vault"] == (LineStyle.ONE_WAY, 0)  # its tip is at the type
    assert found["audit/vault: a label of several organisations only sends to it"] == (LineStyle.ONE_WAY, 1)
    assert found["label review only receives from bank/ledger, as its downgrader"] == (LineStyle.RELEASE, 1)
    assert found["competitors: bank/markets"] == (LineStyle.CONFLICT, 0)


@any_graph
def test_tips_are_at_the_edges_of_boxes(graph: FlowGraph) -> None:
    picture = layout(graph)

    def at_an_edge(point: Point, *, left: bool) -> bool:
        return any(
            abs((box.x if left else box.right) - point.x) < 0.01 and box.y < point.y < box.y + box.height
            for box in picture.boxes
        )

    for line in picture.lines:
        assert at_an_edge(line.points[-1], left=True) or not line.tip_end
        assert at_an_edge(line.points[0], left=False) or not line.tip_start
    ends = Counter(line.points[-1] for line in picture.lines if line.tip_end)
    assert bool(ends) is any(flow.direction is not Direction.OUT for flow in graph.flows)


def test_hostile_names_are_shown_as_they_are() -> None:
    root = check_document(hostile_graph())
    shown = {each.text for each in root.iter(f"{SVG}text")}
    assert HOSTILE[:10] in {(text or "")[:10] for text in shown}
    assert f"label {HOSTILE}" in {(each.text or "").partition("\n")[0] for each in root.iter(f"{SVG}title")}


def test_the_legend_has_what_is_there_and_nothing_else() -> None:
    def captions(graph: FlowGraph) -> str:
        return svg_text(graph).partition("Legend")[2]

    assert "downgrader" in captions(FINANCE)
    assert "only sends" in captions(FINANCE)
    for absent in ("downgrader", "only", "department", "further", "C, I"):
        assert absent not in captions(flow_graph(POLICY))


def test_the_same_graph_gives_the_same_picture() -> None:
    assert svg_text(FINANCE) == svg_text(flow_graph(parse(FINANCE_TEXT)))


@given(st.text(max_size=80), st.integers(3, 40))
def test_a_long_name_keeps_its_ends(text: str, longest: int) -> None:
    short = fitted(text, longest)
    if len(text) <= longest:
        assert short == text
    else:
        head, tail = short.split("…", 1) if "…" not in text else (short[: (longest - 1) // 2], "")
        assert len(short) == longest
        assert text.startswith(head)
        assert text.endswith(tail)


ITEMS = st.lists(st.tuples(st.floats(0, 1000), st.floats(1, 100)), max_size=12)


@given(ITEMS)
def test_boxes_of_a_column_are_apart_and_below_its_top(items: list[tuple[float, float]]) -> None:
    wanted, heights = [each[0] for each in items], [each[1] for each in items]
    tops = placed(wanted, heights, top=50, gap=10)
    assert all(top >= 50 - 1e-6 for top in tops)
    for (top, height), below in pairwise(zip(tops, heights, strict=True)):
        assert below[0] >= top + height + 10 - 1e-6


@given(ITEMS, st.lists(st.floats(-20, 20), min_size=12, max_size=12))
def test_no_other_places_are_nearer_to_what_is_wanted(items: list[tuple[float, float]], moves: list[float]) -> None:
    wanted, heights = [each[0] for each in items], [each[1] for each in items]

    def distance(tops: Sequence[float]) -> float:
        return sum((top + height / 2 - middle) ** 2 for top, height, middle in zip(tops, heights, wanted, strict=True))

    tops = placed(wanted, heights, top=50, gap=10)
    others = placed([middle + move for middle, move in zip(wanted, moves, strict=False)], heights, top=50, gap=10)
    assert distance(tops) <= distance(others) + 1e-3
