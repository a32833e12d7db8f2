"""Which filters of taps to set and to take away, in the two steps of a plan: narrow what is there, then make it right.

`narrow` goes before any port leaves its bridge, `settle` after that and before any tap enters one. So a tap on its way
between bridges, or whose plan breaks off, has at most what it had before and what it shall have, and one that comes
has its filter before its first frame. Pure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from shamon_host.links.desired import DesiredState
from shamon_host.links.model import ClearTapFilter, KernelState, Operation, SetTapFilter
from shamon_host.links.tap_filter import TapFilter, shut

WINDOW_TOLERANCE_S = 2.0
"""nft takes and tells whole seconds, both rounded down, and time passes between two readings."""


def narrow(desired: DesiredState, actual: KernelState) -> list[Operation]:
    """Filters that must let less through, or are not known any more: those let nothing through until `settle`."""
    return [
        SetTapFilter(filter=narrower)
        for device, narrower in _narrowed(desired, actual)
        if device not in actual.filters or _differs(narrower, actual.filters[device])
    ]


def settle(desired: DesiredState, actual: KernelState) -> list[Operation]:
    """Filters that may let more through, after `narrow`; and those nobody wants, of taps that are off or known."""
    narrowed = dict(_narrowed(desired, actual))
    wanted: Mapping[str, TapFilter] = desired.filters or {}
    attached = {port for name, bridge in actual.bridges.items() if name in desired.bridges for port in bridge.ports}
    operations: list[Operation] = []
    if desired.filters is not None:
        operations += [
            ClearTapFilter(device=device)
            for device in sorted({*actual.filters, *actual.changed_filters} - set(wanted))
            # Where taps are not known, one that is attached may be wanted off its bridge.
            if desired.taps is not None or device not in attached
        ]
    return operations + [
        SetTapFilter(filter=wanted[device]) for device in sorted(wanted) if _differs(wanted[device], narrowed[device])
    ]


def _narrowed(desired: DesiredState, actual: KernelState) -> Iterator[tuple[str, TapFilter]]:
    """What each wanted filter is after `narrow`: no more than is wanted and than what is there lets through."""
    for device, wanted in sorted((desired.filters or {}).items()):
        if device in actual.changed_filters:
            yield device, shut(device)
        elif device in actual.filters:
            found = actual.filters[device]
            both = found.narrowed_by(wanted)
            # Windows that are the same but for the readings' tolerance stay as they are.
            as_it_is = both.open_s == found.open_s or _window_differs(both, found)
            yield device, both if as_it_is else replace(both, open_s=found.open_s)
        else:
            yield device, wanted


def _differs(wanted: TapFilter, found: TapFilter) -> bool:
    return wanted.without_window() != found.without_window() or _window_differs(wanted, found)


def _window_differs(wanted: TapFilter, found: TapFilter) -> bool:
    if wanted.open_s is None or found.open_s is None:
        return wanted.open_s is not found.open_s
    if wanted.open_s == 0:
        return found.open_s > 0
    return abs(wanted.open_s - found.open_s) > WINDOW_TOLERANCE_S
