"""The labelled SPD entries of links in the network state: type → its label here, and the ends of each entry.

There may be twenty thousand, and every Verifier reads them all, so what they have in common is said once. An entry that
has it not is told whole, elsewhere.
"""

from collections.abc import Iterable
from typing import Any

from shamon_host.domain.errors import BadInput
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import SelinuxContext, TypeName
from shamon_host.links.desired import EXACT_PORT
from shamon_host.links.model import LINK_PRIORITY, PORT_BLOCK, Direction, SpdEntry

_SPD_TYPE = "shamon_spd_t"
_DIRECTIONS = frozenset(direction.value for direction in Direction)


def links_document(entries: Iterable[SpdEntry], label_map: LabelMap) -> tuple[dict[str, Any], list[SpdEntry]]:
    """The entries that are each for one link of a type that the label map knows, as JSON; and the others."""
    types = {label_map.spd_context(name): name for name in label_map.types}
    links: dict[TypeName, list[list[Any]]] = {}
    others: list[SpdEntry] = []
    for entry in entries:
        name = None if entry.context is None else types.get(entry.context)
        if name is None or not _is_for_one_link(entry):
            others.append(entry)
            continue
        links.setdefault(name, []).append(
            [entry.direction.value, entry.source, entry.source_port, entry.destination, entry.destination_port]
        )
    document: dict[str, Any] = {
        name: {"context": str(label_map.spd_context(name)), "entries": sorted(ends)} for name, ends in links.items()
    }
    return document, others


def links_from_document(document: Any) -> None:
    """Judge a peer's. Raises BadInput naming what is wrong, or ValueError, TypeError, AttributeError for its shape."""
    contexts: set[SelinuxContext] = set()
    for name, item in document.items():
        where = str(name)[:80]
        if set(item) != {"context", "entries"}:
            raise BadInput("a type's links are malformed", where=where, expected="context, entries")
        context = SelinuxContext.parse(item["context"])
        if context.type != _SPD_TYPE or len(context.categories) != 1:
            raise BadInput("an SPD entry's label stands for no type", where=where, found=str(context))
        if context in contexts:
            raise BadInput("two types have one label", where=where, found=str(context))
        contexts.add(context)
        for ends in item["entries"]:
            if not _are_ends_of_a_link(ends):
                raise BadInput("a labelled SPD entry is not for one link alone", where=where, found=f"{ends!r:.80}")


def _is_for_one_link(entry: SpdEntry) -> bool:
    return (
        not entry.foreign
        and not entry.block
        and entry.priority == LINK_PRIORITY
        and (entry.source_port_mask, entry.destination_port_mask) == (EXACT_PORT, EXACT_PORT)
        and _are_ends_of_a_link(
            [entry.direction.value, entry.source, entry.source_port, entry.destination, entry.destination_port]
        )
    )


def _are_ends_of_a_link(ends: Any) -> bool:
    direction, source, source_port, destination, destination_port = ends
    return (
        isinstance(direction, str)
        and direction in _DIRECTIONS
        and all(isinstance(address, str) and address != "" for address in (source, destination))
        and all(type(port) is int and port in PORT_BLOCK for port in (source_port, destination_port))
    )
