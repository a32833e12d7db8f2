"""The lab's own error, which always says what was waited for or run, and where to look."""


class LabError(Exception):
    """Something in the lab did not come about: a host did not boot, a command failed, a time limit passed."""
