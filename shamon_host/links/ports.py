"""What links need of a kernel.

Real: `linux_kernel` (pyxfrm, L2TP and bridges over netlink, nft), `linux_passage_streams`. In memory:
`shamon_host.testing.kernel`, `shamon_host.testing.passage_streams`. Contract suite:
`shamon_host.testing.contracts.kernel`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import SelinuxContext
from shamon_host.domain.streams import Stream
from shamon_host.links.model import KernelState, Operation, Passage


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquireEvent:
    """XFRM_MSG_ACQUIRE: a packet of this host found no SA. `context` is that of its socket."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    context: SelinuxContext | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireEvent:
    """XFRM_MSG_EXPIRE of an SA."""

    destination: str
    spi: int
    hard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedEvent:
    """Something of ours was changed (SPD flushed, port or rule removed), perhaps by somebody else: look."""

    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a network device counted since it was made. Received by a tap is what its VM sent, received by a link's
    device what came from the peer. `up`: it is switched on."""

    up: bool
    rx_packets: int = 0
    tx_packets: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0
    """What could not be sent: of a link's device, what IPsec or the guard refused."""


KernelEvent = AcquireEvent | ExpireEvent | ChangedEvent


class LinkKernel(Protocol):
    """The part of a kernel that carries links. Synchronous; raises BackendFailed."""

    def read(self) -> KernelState: ...

    def apply(self, operations: Sequence[Operation]) -> None:
        """Carry out in order, reading back each; stop at the first that fails and raise BackendFailed naming it.

        Operations of one kind that stand next to each other may go together (`batches`): of those, the others are
        done when one fails. Nothing that stands behind them is."""
        ...

    def attempt(self, operations: Sequence[Operation]) -> tuple[BackendFailed, ...]:
        """Carry out in order, each whatever becomes of the others, which is the way down. Returns what failed, each
        naming its operation."""
        ...

    def allocate_spi(self, *, source: str, destination: str) -> int:
        """Reserve an inbound SPI (XFRM_MSG_ALLOCSPI), 0x100 or above, for an SA from `source` to `destination`."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Refusals: `/proc/net/xfrm_stat` names (XfrmInPolBlock, XfrmInTmplMismatch, ...), and `guard_out`, `guard_in`,
        `gate_out`, `gate_in`: packets that the nft rules dropped; `host_in`, `host_out`, `host_forward`: those between
        types' bridges and the host, or through it; `spoofed TAP`: frames of a VM's that were not its own."""
        ...

    def traffic(self) -> Mapping[str, Traffic]:
        """Of every bridge of a type, link device and VM's tap that is there, by name."""
        ...

    def subscribe(self, event: Callable[[KernelEvent], None]) -> None:
        """Call `event`, in the event loop's thread, for each."""
        ...

    def close(self) -> None:
        """Let go of handles. Kernel objects and sockets in the FD store stay."""
        ...


class PassageListener(Protocol):
    def accept(self, timeout_s: float) -> Stream:
        """The next connection through the passage. Raises BackendFailed where none comes in time."""
        ...

    def close(self) -> None: ...


class PassageStreams(Protocol):
    """Streams through a passage that is open on both hosts. Synchronous."""

    def listen(self, passage: Passage) -> PassageListener:
        """As the host that takes a VM. Raises BackendFailed."""
        ...

    def connect(self, passage: Passage, timeout_s: float) -> Stream:
        """As the host that gives it. Raises BackendFailed."""
        ...
