"""Refusals of a peer that the daemon treats in their own way. All others are plain `Refused`, in the peer's words."""

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
