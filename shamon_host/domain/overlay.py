"""Overlays: what an application or a tenant takes away from what the coalition permits to VMs of one label.

An overlay can only narrow: every part of it is a limit, and where several overlays are about one label all of them
hold. `composition` turns them into what a VM's interface may do.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import VmName
from shamon_host.domain.time_windows import TimeWindow

MAX_PEERS, MAX_PORTS = 4096, 1024
MAX_RATE_BYTES_S = 10**10
"""What the filter of one tap can hold (`links.tap_filter`): a policy that asks for more could not be enforced."""
_PORT = re.compile(r"(?P<protocol>tcp|udp)/(?P<port>[1-9][0-9]{0,4})")


class Transport(StrEnum):
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PortLimit:
    """One permitted port, whichever end has it."""

    transport: Transport
    port: int

    def __str__(self) -> str:
        return f"{self.transport}/{self.port}"


def parse_port(text: str) -> PortLimit:
    """`tcp/443`. Raises BadInput."""
    match = _PORT.fullmatch(text)
    if not match or int(match["port"]) > 65535:
        raise BadInput("bad port", expected="tcp/PORT or udp/PORT, 1 to 65535", found=repr(text[:40]))
    return PortLimit(transport=Transport(match["protocol"]), port=int(match["port"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """Limits on every VM with `label`. None: no limit of this kind."""

    name: str
    label: str
    peers: frozenset[VmName] | None = None
    """VMs with which they may exchange frames."""
    ports: frozenset[PortLimit] | None = None
    times: frozenset[TimeWindow] | None = None
    """When they may exchange frames at all, in UTC."""
    rate_bytes_s: int | None = None
    """How much each interface may send, in bytes a second."""
