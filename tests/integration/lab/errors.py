"""What goes wrong in the lab itself."""

from shamon_host.domain.errors import ShamonError


class LabError(ShamonError):
    """A host did not boot, a command failed, a VM did not answer: with the last words that say why."""
