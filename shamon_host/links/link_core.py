"""`LinkCore`: what the parts of `LinkManager` share: the book, the kernel as it should be, and the lock around both.

Its state is for the parts alone (`link_opening`, `link_ending`, `link_upkeep`), which touch it only while they hold
the lock. A reading of the kernel is theirs for as long as they hold it, too: none is kept.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.convergence import Audit, Convergence
from shamon_host.links.desired import DesiredLink, DesiredState, canonical_address
from shamon_host.links.link_book import LinkBook, unchanged
from shamon_host.links.link_records import Documents
from shamon_host.links.model import KernelState
from shamon_host.links.ports import LinkKernel
from shamon_host.links.rekeying import GRACE_S
from shamon_host.links.sa_limits import RekeyAfter
from shamon_host.links.tap_ports import TapPorts
from shamon_host.links.told_filters import ToldFilters


@dataclass(kw_only=True)
class LinkCore:
    """See the module."""

    host: HostName
    address: str
    """This host's own underlay address."""
    kernel: LinkKernel
    documents: Documents
    label_map: Callable[[], LabelMap]
    audit: Audit
    boottime_s: Callable[[], float]
    boot_id: str
    grace_s: float = GRACE_S
    rekey_after: Callable[[], RekeyAfter] = RekeyAfter
    cut_off: Callable[[HostName], bool] = lambda _: False
    """Whether an earlier run of the daemon decided to cut the peer off after it admitted it last; it may have died
    before it did."""
    no_links_because: str = field(init=False, default="")
    """Why SELinux of this host lets it carry no type, as last read; "" when it does."""
    book: LinkBook = field(init=False, repr=False)
    ports: TapPorts = field(init=False, repr=False)
    convergence: Convergence = field(init=False, repr=False)
    taps: dict[str, TypeName] = field(init=False, default_factory=dict, repr=False)
    """VMs' taps and their types, as last told."""
    filters: ToldFilters = field(init=False, default_factory=ToldFilters, repr=False)
    ensured: set[TypeName] = field(init=False, default_factory=set, repr=False)
    """Types whose bridge was asked for by a VM that is not yet seen running."""
    passages: dict[tuple[HostName, TypeName], bool] = field(init=False, default_factory=dict, repr=False)
    """Peer and type of each passage that a move needs now → whether this host gives the VM away. Of this run of the
    daemon alone: the next one closes what it finds."""
    want_rekey: frozenset[HostName] = field(init=False, default=frozenset(), repr=False)
    reserved: dict[HostName, set[int]] = field(init=False, default_factory=dict, repr=False)
    """SPIs that were offered and neither installed nor given back, some of them to a handshake that was cancelled."""
    lock: threading.RLock = field(init=False, default_factory=threading.RLock, repr=False)
    _held: int = field(init=False, default=0, repr=False)
    _adopted: bool = field(init=False, default=False, repr=False)

    def __post_init__(self) -> None:
        self.address = canonical_address(self.address)
        self.book = LinkBook(
            address=self.address, documents=self.documents, label_map=self.label_map, boot_id=self.boot_id
        )
        self.ports = TapPorts(kernel=self.kernel)
        self.convergence = Convergence(kernel=self.kernel, ports=self.ports, audit=self.audit, host=self.host)

    @contextmanager
    def held(self) -> Iterator[None]:
        """No port comes or goes meanwhile, but by this thread; and but for one that `detach_port` takes off: that stays
        off, whatever is looked at here."""
        with self.lock:
            if not self._held:
                self.ports.look_anew()
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1

    def read(self) -> KernelState:
        """Read the kernel; the first time, keep what an earlier run of the daemon left and may go on."""
        state = self.kernel.read()
        self.no_links_because = state.no_links_because
        if not self._adopted:
            changed = []
            for record in self.book.records:
                cut_off = self.cut_off(record.peer)
                kept = frozenset() if cut_off else self.book.adoptable(record, state, self.boottime_s())
                dropped = sorted(set(record.links) - kept)
                detail = {"kept": sorted(kept), "dropped": dropped, "cut_off": cut_off}
                self.audit("link.adopt", record.peer, detail)
                if dropped:
                    changed.append(record.only(kept))
            self.book.remember(*changed)
            self._adopted = True
        return state

    def wanted(
        self,
        found: KernelState,
        now_s: float,
        *,
        taps: Mapping[str, TypeName] | None = None,
        with_keys: Callable[[DesiredLink], DesiredLink] = unchanged,
        opening: Mapping[str, float] | None = None,
    ) -> DesiredState:
        """What is wanted of the whole kernel, where this is what it holds; see `LinkBook.desired`."""
        return self.book.desired(
            found,
            now_s,
            carried_by_vms={*(name for tap, name in self.taps.items() if not self.ports.is_off(tap)), *self.ensured},
            taps=taps,
            filters=self.filters.at(now_s),
            with_keys=with_keys,
            opening=opening,
            passages=self.passages,
        )

    def links_wanted(self, found: KernelState) -> DesiredState:
        """The same of what peers have agreed on alone."""
        return self.book.desired(found, self.boottime_s(), carried_by_vms=(), taps=None)

    def converge(
        self,
        state: KernelState,
        *,
        taps: Mapping[str, TypeName] | None = None,
        with_keys: Callable[[DesiredLink], DesiredLink] = unchanged,
    ) -> KernelState:
        """Make the kernel, read as `state`, hold what is wanted; return it as last read. Raises BackendFailed."""
        return self.convergence.converge(
            self.wanted(state, self.boottime_s(), taps=taps, with_keys=with_keys),
            state,
            lambda found: self.wanted(found, self.boottime_s(), taps=taps),
        )

    def add(
        self,
        state: KernelState,
        *,
        with_keys: Callable[[DesiredLink], DesiredLink] = unchanged,
        opening: Mapping[str, float] | None = None,
    ) -> None:
        """The same, not read again where there is only something to add; see `Convergence.add`."""
        self.convergence.add(
            self.wanted(state, self.boottime_s(), with_keys=with_keys, opening=opening),
            state,
            lambda found: self.wanted(found, self.boottime_s()),
        )
