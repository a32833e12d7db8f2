"""The flow graph as one SVG file that needs nothing else: no program to make it, no font, script or network to show it.

Every text of the policy is escaped, and the file is ASCII. Each shape has a title, for screen readers and pointers.
"""

from itertools import chain

from shamon_host.interchange.flow_graph import FlowGraph, LabelKind
from shamon_host.interchange.svg_columns import MARGIN
from shamon_host.interchange.svg_draw import STYLE, drawn_box, drawn_frame, drawn_line, drawn_text, escaped
from shamon_host.interchange.svg_layout import layout
from shamon_host.interchange.svg_legend import WIDTH as LEGEND_WIDTH
from shamon_host.interchange.svg_legend import legend
from shamon_host.interchange.svg_shapes import fitted

_HEADING_PX, _SUMMARY_PX = 19, 12
_PLAIN_EM, _BOLD_EM = 0.6, 0.7
"""The mean width of a character in the widest of common proportional fonts, at most."""
_LONGEST_HEADING = 60


def svg_text(graph: FlowGraph) -> str:
    """An SVG document, ASCII, with everything of the graph in it."""
    picture = layout(graph)
    heading, summary = f"Coalition {graph.coalition}, version {graph.version}", _summary(graph)
    shown = fitted(heading, _LONGEST_HEADING)
    texts = (LEGEND_WIDTH, _HEADING_PX * _BOLD_EM * len(shown), _SUMMARY_PX * _PLAIN_EM * len(summary))
    width = max(picture.width, 2 * MARGIN + max(texts))
    explained = legend(graph, left=MARGIN, top=picture.height, width=width - 2 * MARGIN)
    height = picture.height + explained.height + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-labelledby="title description">',
        f'<title id="title">{escaped(heading)}</title>',
        f'<desc id="description">{escaped(summary)}</desc>',
        f"<style>\n{STYLE}\n</style>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        drawn_text(MARGIN, 38, shown, size=_HEADING_PX, bold=True, plain=True),
        drawn_text(MARGIN, 60, summary, size=_SUMMARY_PX, plain=True),
        *chain.from_iterable(map(drawn_frame, picture.frames)),
        *chain.from_iterable(map(drawn_line, picture.lines)),
        *chain.from_iterable(map(drawn_box, picture.boxes)),
        *explained.lines,
        "</svg>",
    ]
    return "\n".join(lines).encode("ascii", "xmlcharrefreplace").decode() + "\n"


def _summary(graph: FlowGraph) -> str:
    resources = sum(each.kind is not LabelKind.VM for each in graph.labels)
    counts = [(len(graph.types), "type"), (len(graph.labels) - resources, "label")]
    counts += [(resources, "resource of several types")] if resources else []
    counts += [(len(graph.conflicts), "conflict set")]
    text = ", ".join(f"{count} {kind if count == 1 else _plural(kind)}" for count, kind in counts)
    if graph.unlabelled:
        count = len(graph.unlabelled)
        text += f"; {count} unlabelled VM{' shares' if count == 1 else 's share'} with nobody"
    return text


def _plural(kind: str) -> str:
    return kind.replace("resource", "resources") if kind.startswith("resource") else f"{kind}s"
