"""Refusals of a peer that the daemon treats in their own way (all others are plain `Refused`, in the peer's words), and
failed connections in words.
"""

from shamon_host.domain.errors import Refused


class Busy(Refused):
    """Another handshake between the same two hosts is under way or took over: wait for it, or try again."""


class RefusedByPeer(Refused):
    """The peer appraised this host's Evidence and does not trust it. Names the failing claims, in the peer's words."""

    def __init__(self, peer: str, failures: tuple[str, ...]) -> None:
        super().__init__(
            f"{peer} does not trust this host",
            found="; ".join(failures) or "no reason given",
            remedy="See the claims named here on this host; they are checked again on every period.",
        )
        self.failures = failures


def cause_in_words(error: BaseException) -> str:
    """What went wrong with a connection, without addresses that are named already."""
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    return str(cause)[:200] or type(error).__name__
