"""How much memory things take, as Python counts what it allocates."""

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Taken:
    """Bytes."""

    held: int
    """By the result."""
    most: int
    """At any moment while it was made, the result included."""


def taken(make: Callable[[], object]) -> Taken:
    """What it takes to make something and to keep it."""
    gc.collect()
    tracemalloc.start()
    try:
        result = make()
        gc.collect()
        held, most = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return Taken(held, most)
