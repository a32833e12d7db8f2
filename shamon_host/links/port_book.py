"""`PortBook`: which local port each pair of peer and type has on this host, for good."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import islice

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.link_records import Documents, malformed, number
from shamon_host.links.model import PORT_BLOCK

_KIND = "link-port"
"""One document for each port, by its number."""
_ALL_IN_ONE = ("links", "ports")
"""Where they were in one document, which is taken over once."""

_Pair = tuple[HostName, TypeName]


@dataclass(kw_only=True)
class PortBook:
    """The port of a pair that has no link now is given to another pair only when no port is free.

    Read at the first question, and then kept in memory: nobody else writes these documents."""

    documents: Documents
    _ports: dict[_Pair, int] | None = field(init=False, default=None, repr=False)

    def ports(
        self, peer: HostName, names: Iterable[TypeName], *, in_use: Callable[[], Collection[int]]
    ) -> dict[TypeName, int]:
        """The port of each of the peer's types; a type that has none gets one. `in_use`: those of links that are there.

        Raises BackendFailed when every port is in use; then none is given."""
        if self._ports is None:
            self._ports = self._load()
        known = self._ports
        wanted = {(peer, name): known.get((peer, name)) for name in names}
        missing = [pair for pair, port in wanted.items() if port is None]
        if missing:
            taken = set(known.values())
            chosen = list(islice((port for port in PORT_BLOCK if port not in taken), len(missing)))
            dropped: list[_Pair] = []
            if len(chosen) < len(missing):
                held = frozenset(in_use())
                idle = (pair for pair, port in known.items() if port not in held and pair not in wanted)
                dropped = list(islice(idle, len(missing) - len(chosen)))
                chosen += [known[pair] for pair in dropped]
            if len(chosen) < len(missing):
                raise BackendFailed("no ports left for links", expected=f"at most {len(PORT_BLOCK)} links")
            given = dict(zip(missing, chosen, strict=True))
            self.documents.change({(_KIND, str(port)): _document(pair) for pair, port in given.items()})
            for pair in dropped:
                del known[pair]
            known.update(given)
        return {name: known[peer, name] for _, name in wanted}

    def _load(self) -> dict[_Pair, int]:
        ports: dict[_Pair, int] = {}
        for key, document in self.documents.items(_KIND):
            try:
                pair = (HostName(_text(document["peer"])), TypeName(_text(document["type"])))
                port = int(key)
            except (KeyError, TypeError, ValueError) as error:
                raise malformed(_KIND, key, error) from None
            if port not in PORT_BLOCK or pair in ports:
                raise malformed(_KIND, key, "the pair has another port, or this is none of the block")
            ports[pair] = port
        earlier = self.documents.get(*_ALL_IN_ONE)
        if earlier is not None:
            ports |= {pair: port for pair, port in _from_one(earlier).items() if pair not in ports}
            _demand_unique(ports)
            self.documents.change(
                {_ALL_IN_ONE: None, **{(_KIND, str(port)): _document(pair) for pair, port in ports.items()}}
            )
        return ports


def _from_one(document: dict[str, object]) -> dict[_Pair, int]:
    try:
        entries = document["ports"]
        if not isinstance(entries, list):
            raise TypeError("no list")
        ports = {(HostName(_text(peer)), TypeName(_text(name))): number(port) for peer, name, port in entries}
    except (KeyError, TypeError, ValueError) as error:
        raise malformed(*_ALL_IN_ONE, error) from None
    if not set(ports.values()) <= set(PORT_BLOCK):
        raise malformed(*_ALL_IN_ONE, "ports outside the block")
    _demand_unique(ports)
    return ports


def _demand_unique(ports: dict[_Pair, int]) -> None:
    if len(set(ports.values())) != len(ports):
        raise malformed(*_ALL_IN_ONE, "one port for two pairs")


def _document(pair: _Pair) -> dict[str, str]:
    peer, name = pair
    return {"peer": peer, "type": name}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"not a name: {value!r:.40}")
    return value
