"""What takes links down straight from what is known of them, before anything is read. Pure.

A peer that failed may have hundreds of SAs among many thousands, and reading them all takes longer than removing its
own. So these go first, and a reading afterwards (`planner.teardown`) finds what nobody knew of.
"""

from collections.abc import Iterable

from shamon_host.links.desired import DesiredLink
from shamon_host.links.model import (
    CloseGate,
    DeleteSas,
    DeleteSpdEntry,
    DeleteTunnel,
    DetachPort,
    Operation,
)


def dismantling(addresses: Iterable[str], links: Iterable[DesiredLink]) -> tuple[Operation, ...]:
    """In the order of every way down: gates, ports off their bridges, SAs in one batch, tunnels, SPD entries."""
    by_port = sorted(links, key=lambda link: link.local_port)
    ids = {sa_id for link in by_port for sa_id in link.sa_ids}
    operations: list[Operation] = [CloseGate(address=address) for address in sorted(set(addresses))]
    operations += [DetachPort(interface=link.device) for link in by_port]
    if ids:
        operations.append(DeleteSas(ids=tuple(sorted(ids, key=lambda sa_id: (sa_id.destination, sa_id.spi)))))
    operations += [DeleteTunnel(local_port=link.local_port) for link in by_port]
    operations += [DeleteSpdEntry(entry=entry) for link in by_port for entry in link.spd_entries]
    return tuple(operations)
