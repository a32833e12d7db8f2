"""Arithmetic of leases. All times are CLOCK_BOOTTIME seconds of the side that computes.

Each side grants a lease in the handshake, both take the shorter one and count it from their own start of the
handshake, that is from before the Evidence was made. The gate (an nft set element with a timeout) closes a margin
earlier; SA hard lifetimes are the backstop, in whole seconds, for what the gate does not cover.
"""

import math

from shamon_host.domain.errors import BadInput, Refused

MIN_LEASE_S = 1.0
MAX_LEASE_S = 24 * 3600.0
MIN_GATE_S = 0.05
"""A gate shorter than this is not opened: a timeout that rounds to 0 would never end."""


def checked_lease_s(lease_s: float) -> float:
    """Return a lease that was granted, if it is one. Raises BadInput on NaN, and on what is too short or too long."""
    if not math.isfinite(lease_s) or not MIN_LEASE_S <= lease_s <= MAX_LEASE_S:
        raise BadInput("bad lease", expected=f"{MIN_LEASE_S:g} to {MAX_LEASE_S:g} seconds", found=str(lease_s))
    return lease_s


def lease_end_s(started_s: float, lease_s: float) -> float:
    """When a lease ends that counts from `started_s`. Raises BadInput."""
    return started_s + checked_lease_s(lease_s)


def gate_seconds(started_s: float, lease_s: float, margin_s: float, now_s: float) -> float:
    """How long the gate may be open from `now_s` on. Raises Refused when nothing worth opening it is left."""
    left_s = lease_end_s(started_s, lease_s) - max(margin_s, 0.0) - now_s
    # A start that lies ahead of now would lengthen the lease.
    left_s = min(left_s, lease_s - max(margin_s, 0.0))
    if not left_s >= MIN_GATE_S:
        raise Refused(
            "nothing is left of the lease",
            expected=f"more than the margin of {margin_s:g} s",
            found=f"{left_s + margin_s:.3f} s",
        )
    return left_s


def sa_lifetime_s(started_s: float, lease_s: float, now_s: float) -> int:
    """Hard lifetime of an SA added at `now_s`: what is left of the lease, rounded up to whole seconds.

    Rounded up because the gate, which is exact, closes first. Raises Refused when the lease is over.
    """
    left_s = min(lease_end_s(started_s, lease_s) - now_s, lease_s)
    if not left_s > 0:
        raise Refused("the lease is over", found=f"{-left_s:.3f} s ago")
    return math.ceil(left_s)
