"""The attested handshake, as the daemon uses it: `Handshaker` starts, `PeerService` answers, `Busy` means wait.

Two hosts that TLS has shown to each other exchange hellos (`messages`), which become the transcript (`key_schedule`);
each appraises Evidence that was quoted over it, tells its verdict and its lease, and a MAC on either side confirms all
of it. Only then are there keys and links. `initiator` and `responder` are the two sides, `party` what they share,
`sessions` whose turn it is.
"""

from shamon_host.peer.errors import Busy, RefusedByPeer
from shamon_host.peer.initiator import Handshaker
from shamon_host.peer.responder import PeerService

__all__ = ["Busy", "Handshaker", "PeerService", "RefusedByPeer"]
