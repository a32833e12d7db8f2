"""What one look at the kernel shows of a link, beside what is wanted of it: what `doctor` judges. Changes nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.desired import DesiredLink, DesiredState
from shamon_host.links.model import KernelState
from shamon_host.links.ports import LinkKernel, Traffic
from shamon_host.links.tap_filter import TapFilter

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """None is what could not be read; `unread` says why, in words."""

    state: KernelState | None = None
    counters: Mapping[str, int] | None = None
    traffic: Mapping[str, Traffic] | None = None
    unread: str = ""
    link: DesiredLink | None = None
    """None when none was agreed on, or none may be."""
    filters: Mapping[str, TapFilter] | None = None
    """What was last asked for, by tap; None when nothing is known of filters yet."""


def observe(
    kernel: LinkKernel, desired: Callable[[KernelState], DesiredState], peer: HostName, name: TypeName
) -> Observation:
    """Read the kernel once. `desired`: what is wanted where this is what it holds. Never raises BackendFailed."""
    reasons: list[str] = []
    state = _read(kernel.read, reasons)
    counters = _read(kernel.counters, reasons)
    traffic = _read(kernel.traffic, reasons)
    # What was agreed on does not depend on the kernel, but for SELinux.
    wanted = desired(state or KernelState(selinux_enforcing=True))
    return Observation(
        state=state,
        counters=counters,
        traffic=traffic,
        unread="; ".join(reasons),
        link=next((link for link in wanted.links if (link.peer, link.type) == (peer, name)), None),
        filters=wanted.filters,
    )


def _read(read: Callable[[], T], reasons: list[str]) -> T | None:
    try:
        return read()
    except BackendFailed as error:
        reasons.append(str(error)[:500])
        return None
