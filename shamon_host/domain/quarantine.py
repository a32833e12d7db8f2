"""How far a quarantine goes: the grades, from a note to the end of the VM's domain.

A label has the grade of its VMs, a VM may have a stronger one, and whoever asks for a quarantine a stronger one still.
Nobody on this way asks for less than what stands before.
"""

from enum import StrEnum


class Grade(StrEnum):
    """In order: each does what those before it do."""

    NOTE = "note"
    """It is written down, and shown; the VM goes on as it is."""
    PORTS_DOWN = "ports-down"
    """It runs, and its taps are in no bridge."""
    SUSPEND = "suspend"
    """It is suspended, memory and disk as they are."""
    DESTROY = "destroy"
    """Its domain is destroyed, and its disk gone, or moved aside where that was asked for."""

    @property
    def cuts_off(self) -> bool:
        """Whether such a VM exchanges nothing with anybody."""
        return self is not Grade.NOTE

    def is_weaker_than(self, other: "Grade") -> bool:
        return _ORDER.index(self) < _ORDER.index(other)


_ORDER = tuple(Grade)
