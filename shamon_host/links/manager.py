"""`LinkManager`: the links of one host over their life. The daemon calls it; it plans, audits, applies and reads back.

A handshake asks for ports and SPIs (`offer`), then installs the receiving side, then the sending side and the gate;
what it supersedes goes. A peer that fails is closed in one pass. `reconcile` compares the kernel with what is wanted at
any time, after a restart too. Keys only pass through.
"""

from shamon_host.links.link_ending import LinkEnding
from shamon_host.links.link_opening import LinkOpening
from shamon_host.links.link_passages import LinkPassages
from shamon_host.links.link_upkeep import LinkUpkeep


class LinkManager(LinkOpening, LinkEnding, LinkUpkeep, LinkPassages):
    """See the module, and those of its parts. Synchronous, and safe to call from any thread. Raises BackendFailed,
    Refused, BadInput."""
