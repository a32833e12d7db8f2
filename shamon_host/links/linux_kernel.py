"""`LinuxLinkKernel`: the real kernel behind `links.ports.LinkKernel`.

It joins what the modules beside it do each for one part of the kernel: `linux_spd` (SAs and SPD entries), `linux_l2tp`
(tunnels over labelled sockets), `linux_bridges`, `linux_nft` (guard and gate). Only the composition root imports it.
"""

from collections.abc import Callable, Mapping, Sequence

from shamon_host.links.model import KernelState, Operation
from shamon_host.links.ports import KernelEvent


class LinuxLinkKernel:
    """See `links.ports.LinkKernel`."""

    def read(self) -> KernelState:
        raise NotImplementedError

    def apply(self, operations: Sequence[Operation]) -> None:
        raise NotImplementedError

    def allocate_spi(self, *, source: str, destination: str) -> int:
        raise NotImplementedError

    def counters(self) -> Mapping[str, int]:
        raise NotImplementedError

    def subscribe(self, event: Callable[[KernelEvent], None]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
