"""Clocks of this host, as the kernel has them."""

import ctypes
import os
import time
from datetime import UTC, datetime

from shamon_host.doctor.facts import ClockFacts
from shamon_host.doctor.look import Look

_TIMEX_BYTES = 256
"""More than struct timex has (include/uapi/linux/timex.h)."""
_LONG = ctypes.sizeof(ctypes.c_long)
_MAXERROR_AT = 3 * _LONG
_TIME_ERROR = 5
"""What adjtimex returns while nothing disciplines the clock (STA_UNSYNC)."""


def read_clock() -> ClockFacts:
    synchronised, max_error_s = _adjtimex()
    return ClockFacts(
        now=datetime.now(UTC),
        synchronised=synchronised,
        max_error_s=max_error_s,
        boottime_s=time.clock_gettime(time.CLOCK_BOOTTIME),
        monotonic_s=time.clock_gettime(time.CLOCK_MONOTONIC),
    )


def _adjtimex() -> tuple[Look[bool], float]:
    """Whether something keeps the clock right, and how far it may be off; asks and sets nothing (modes 0)."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError) as error:
        return Look(unread=str(error)), 0.0
    if state < 0:
        return Look(unread=os.strerror(ctypes.get_errno())), 0.0
    microseconds = ctypes.c_long.from_buffer(buffer, _MAXERROR_AT).value
    return Look(state != _TIME_ERROR), microseconds / 1e6
