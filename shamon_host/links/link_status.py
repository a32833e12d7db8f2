"""The links as people see them: one row each, out of what is wanted and what the kernel holds."""

from collections.abc import Iterable, Mapping
from typing import Any

from shamon_host.links.agreed import words_of
from shamon_host.links.desired import DesiredState
from shamon_host.links.model import KernelState, SaId
from shamon_host.links.planner import missing_sas


def status_rows(desired: DesiredState, state: KernelState) -> tuple[dict[str, Any], ...]:
    """By peer and type. `state` is `up`, `opening` (the sending side is not installed yet) or `broken` (an SA, the
    gate, the tunnel or its place in the bridge is missing). SPIs in hexadecimal, `gate_s` in seconds."""
    missing = {(link.peer, link.type) for link in missing_sas(desired, state)}
    packets = {sa.id: sa.packets for sa in state.sas}
    rows = []
    for link in sorted(desired.links, key=lambda link: (link.peer, link.type)):
        bridge = state.bridges.get(link.bridge)
        whole = link.tunnel in state.tunnels and bridge is not None and bridge.ports.get(link.device) is True
        broken = not whole or (link.peer, link.type) in missing
        rows.append(
            {
                "peer": link.peer,
                "type": link.type,
                "state": "opening" if not link.attached else "broken" if broken else "up",
                "local_port": link.local_port,
                "peer_port": link.peer_port,
                "device": link.device,
                "bridge": link.bridge,
                "context": str(link.link_context),
                "gate_s": round(state.gate.get(link.remote, 0.0), 1),
                "in_spis": words_of(link.in_spis),
                "out_spis": words_of(link.out_spis),
                "packets_in": _count(packets, link.local, link.in_spis),
                "packets_out": _count(packets, link.remote, link.out_spis),
            }
        )
    return tuple(rows)


def _count(packets: Mapping[SaId, int], destination: str, spis: Iterable[int]) -> int:
    return sum(packets.get(SaId(destination=destination, spi=spi), 0) for spi in spis)
