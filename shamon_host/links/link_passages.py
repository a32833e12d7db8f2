"""Passages: for the time of a live migration, a way between the two daemons inside the labelled tunnel of a link.

One is wanted only by the run of the daemon that opened it, and only beside a link that both sides installed: with the
link, its lease or the daemon it goes, and whatever reconciles the kernel next removes what is left of it.
"""

from shamon_host.domain.errors import BackendFailed, Refused
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.link_core import LinkCore
from shamon_host.links.model import Passage


class LinkPassages(LinkCore):
    """See the module. Part of `LinkManager`."""

    def open_passage(self, peer: HostName, name: TypeName, *, gives: bool) -> Passage:
        """`gives`: this host gives a VM away over it. Raises Refused where there is no whole link of the type, or a
        move over it already; BackendFailed, and then nothing of it stays wanted."""
        with self.lock:
            record = self.book.get(peer)
            link = record.links.get(name) if record else None
            if record is None or link is None or not link.attached:
                raise Refused("there is no link of the type to the host", where=peer, expected=name)
            if (peer, name) in self.passages:
                raise Refused("another VM moves over this link", where=peer, found=name)
            self.passages[peer, name] = gives
            self.audit("link.open-passage", peer, {"type": name, "gives": gives})
            try:
                state = self.converge(self.read())
                wanted = self.wanted(state, self.boottime_s()).passages
                return next(each for each in wanted if each.local_port == link.local_port)
            except StopIteration:
                del self.passages[peer, name]
                raise Refused("there is no link of the type to the host", where=peer, expected=name) from None
            except BackendFailed:
                del self.passages[peer, name]
                raise

    def close_passage(self, peer: HostName, name: TypeName) -> None:
        """No error if there is none. Raises BackendFailed; it is not wanted any more then all the same."""
        with self.lock:
            if self.passages.pop((peer, name), None) is not None:
                self.audit("link.close-passage", peer, {"type": name})
                self.converge(self.read())
