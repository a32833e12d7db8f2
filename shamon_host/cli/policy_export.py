"""`shamon policy export`, `shamon policy schema`."""

from typing import Any


def add_parsers(actions: Any) -> None:
    """Add these commands to those of `shamon policy`."""
