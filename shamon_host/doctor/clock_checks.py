"""The clocks. Pure."""

from datetime import UTC, datetime

from shamon_host.doctor.facts import HostFacts
from shamon_host.doctor.findings import Finding, Say
from shamon_host.doctor.look import require_seen

_EARLIEST, _LATEST = datetime(2025, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_APART_S = 1.0
"""CLOCK_BOOTTIME and CLOCK_MONOTONIC are read one after the other."""


def clock_synchronised(say: Say, facts: HostFacts) -> Finding:
    clock = facts.clock
    require_seen(say, clock.synchronised, what="adjtimex")
    if not clock.synchronised.value:
        return say.warning(
            "nothing keeps the clock right",
            expected="a clock that is synchronised: certificates and policies end at a time of day",
            remedy="Install chrony or systemd-timesyncd, and let it reach a time server.",
        )
    return say.ok(f"synchronised, off by at most {clock.max_error_s:.3f} s")


def clock_sane(say: Say, facts: HostFacts) -> Finding:
    clock = facts.clock
    if not _EARLIEST <= clock.now <= _LATEST:
        return say.wrong(
            f"it is {clock.now:%Y-%m-%d %H:%M} UTC here",
            expected="a date of today",
            remedy="Set the clock (`date -s`, `hwclock -w`); an empty battery puts it back at each boot.",
        )
    if clock.boottime_s <= 0 or clock.boottime_s + _APART_S < clock.monotonic_s:
        return say.wrong(
            f"CLOCK_BOOTTIME is {clock.boottime_s:.0f} s, CLOCK_MONOTONIC {clock.monotonic_s:.0f} s",
            expected="boot time, which counts sleep, is never behind: leases run on it",
            remedy="Run the daemon outside of a time namespace.",
        )
    return say.ok(f"{clock.now:%Y-%m-%d %H:%M} UTC, {clock.boottime_s:.0f} s since the boot")
