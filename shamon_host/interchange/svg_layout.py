"""Where everything of a flow graph goes in a picture, in four layers from left to right:

conflict sets | types, in a lane for each organisation | labels of one organisation, in its lane | labels of several

Information flows are drawn between types and labels, conflicts between conflict sets and types or owners. Lines bend
only in the channels between the layers. One that has to pass the third layer gets a place of its own among its boxes
(a dummy of Sugiyama's layered drawings), so it runs behind none of them.
"""

from shamon_host.interchange.flow_graph import FlowGraph
from shamon_host.interchange.svg_columns import set_columns
from shamon_host.interchange.svg_lines import conflict_lines, flow_lines
from shamon_host.interchange.svg_parts import Parts
from shamon_host.interchange.svg_rows import place_rows
from shamon_host.interchange.svg_shapes import Picture


def layout(graph: FlowGraph) -> Picture:
    """Place a graph. Every owner and Chinese Wall type that it names is in it."""
    parts = Parts(graph)
    columns = set_columns(parts)
    rows = place_rows(parts, columns)
    return Picture(
        width=columns.width,
        height=rows.bottom,
        frames=tuple(rows.frames),
        lines=(*conflict_lines(parts, columns, rows), *flow_lines(parts, columns, rows)),
        boxes=(
            *parts.types.values(),
            *parts.walls.values(),
            *parts.labels.values(),
            *parts.conflicts.values(),
        ),
    )
