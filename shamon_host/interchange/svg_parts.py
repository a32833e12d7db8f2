"""What has to be placed in a picture: the boxes, and which of them belong into one lane."""

from dataclasses import dataclass, field

from shamon_host.interchange.flow_graph import Direction, Flow, FlowGraph
from shamon_host.interchange.svg_boxes import Row, conflict_box, label_box, rows_of, type_box, wall_box

WALLS = "Further Chinese Wall types"
"""The lane of those that are neither types nor owners. No organisation can have such a name."""
_ORDER = tuple((direction, release) for direction in Direction for release in (False, True))

Port = tuple[Direction, bool]
"""Lines of one kind end at one place of a box: which way information goes, and whether it is a release."""
Bundle = tuple[str, Port]
"""All lines of one kind that begin at one type."""


def bundle_of(flow: Flow) -> Bundle:
    """The bundle that the line of a flow is in."""
    return flow.type, (flow.direction, flow.release)


@dataclass(slots=True, kw_only=True)
class Lane:
    """What an organisation owns, from top to bottom."""

    name: str
    rows: list[Row]
    labels: list[str] = field(default_factory=list)
    """Keys of the labels that join types of this lane alone."""
    bundles: list[Bundle] = field(default_factory=list)
    """Those with lines to labels of several organisations."""


class Parts:
    """The boxes of a graph, without places, and its lanes."""

    def __init__(self, graph: FlowGraph) -> None:
        self.graph = graph
        self.flows_of: dict[str, list[Flow]] = {each.key: [] for each in graph.labels}
        """Key of a label → its flows."""
        ports: dict[str, set[Port]] = {}
        for flow in graph.flows:
            self.flows_of[flow.label].append(flow)
            for node in (f"type {flow.type}", f"label {flow.label}"):
                ports.setdefault(node, set()).add((flow.direction, flow.release))
        self._ports = {node: [port for port in _ORDER if port in there] for node, there in ports.items()}
        self.types = {each.name: type_box(each, len(self.type_ports(each.name))) for each in graph.types}
        self.labels = {each.key: label_box(each, len(self.label_ports(each.key))) for each in graph.labels}
        self.walls = {wall: wall_box(wall) for wall in graph.walls}
        self.conflicts = {each.name: conflict_box(each) for each in graph.conflicts}
        self.shared: list[str] = []
        """Keys of the labels that join types of several organisations, or none."""
        self.labels_beside: dict[str, list[str]] = {}
        """Type → keys of the labels in its lane that it has lines to."""
        self.lanes = self._lanes()

    def type_ports(self, name: str) -> list[Port]:
        """The kinds of lines that begin at a type, from top to bottom."""
        return self._ports.get(f"type {name}", [])

    def label_ports(self, key: str) -> list[Port]:
        """The kinds of lines that end at a label, in no order that says anything about their places."""
        return self._ports.get(f"label {key}", [])

    def type_port(self, bundle: Bundle) -> float:
        """The height at which a bundle begins, once its type has its place."""
        name, port = bundle
        ports = self.type_ports(name)
        return self.types[name].port(ports.index(port), len(ports))

    def _lanes(self) -> list[Lane]:
        lanes = {name: Lane(name=name, rows=rows) for name, rows in rows_of(self.graph).items()}
        lane_of = {row.name: lane for lane in lanes.values() for row in lane.rows if not row.is_owner}
        for key, flows in self.flows_of.items():
            touched = {lane_of[flow.type].name for flow in flows}
            if len(touched) == 1:
                lanes[touched.pop()].labels.append(key)
                for flow in flows:
                    self.labels_beside.setdefault(flow.type, []).append(key)
                continue
            self.shared.append(key)
            for flow in flows:
                bundle, bundles = bundle_of(flow), lane_of[flow.type].bundles
                if bundle not in bundles:
                    bundles.append(bundle)
        if self.walls:
            rows = [Row(name=wall, level=0, is_owner=False) for wall in self.walls]
            lanes[WALLS] = Lane(name=WALLS, rows=rows)
        return list(lanes.values())
