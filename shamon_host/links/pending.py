"""What a reconciliation would do now, in words, without doing it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.link_book import LinkBook
from shamon_host.links.model import KernelState
from shamon_host.links.planner import describe, missing_sas, plan
from shamon_host.links.tap_filter import TapFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Empty when the kernel holds what is wanted."""

    operations: tuple[str, ...] = ()
    """In the order in which they would be carried out."""
    handshakes: tuple[HostName, ...] = ()
    """Peers with a link that lacks an SA or an open gate: no operation brings those back, only a handshake does."""
    out_of_reach: tuple[str, ...] = ()
    """What is in the way, and goes by no operation."""

    @property
    def nothing(self) -> bool:
        return not (self.operations or self.handshakes or self.out_of_reach)


def pending(
    book: LinkBook,
    state: KernelState,
    now_s: float,
    *,
    ended: Collection[HostName],
    types: Collection[TypeName],
    taps: Mapping[str, TypeName],
    filters: Mapping[str, TapFilter],
    passages: Mapping[tuple[HostName, TypeName], bool] | None = None,
) -> Pending:
    """`ended`: peers whose links may not go on. `types`: those that need a bridge for VMs. Pure."""
    desired = book.desired(
        state, now_s, carried_by_vms=types, taps=taps, filters=filters, without=ended, passages=passages
    )
    return Pending(
        operations=tuple(describe(operation) for operation in plan(desired, state)),
        handshakes=tuple(sorted({link.peer for link in missing_sas(desired, state)})),
        out_of_reach=state.foreign,
    )
