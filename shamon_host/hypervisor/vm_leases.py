"""The leases of this host's VMs that are attested, as they are written down (`domain.guest_leases`).

A start writes a new one down before there is a domain; what comes of a question that was asked before counts for the
lease that it was asked for, and for no later one.
"""

import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from shamon_host.domain.guest_leases import GuestLease
from shamon_host.domain.labels import VmName
from shamon_host.hypervisor.ports import Documents

LEASE_DOCUMENTS = "vm-lease"


@dataclass(kw_only=True)
class VmLeases:
    """Thread-safe."""

    documents: Documents
    boottime_s: Callable[[], float]
    boot_id: str
    new_mark: Callable[[], str] = lambda: secrets.token_hex(8)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def of(self, name: VmName) -> GuestLease | None:
        """The VM's; None where it was not started since it is to be attested, or was stopped."""
        document = self.documents.get(LEASE_DOCUMENTS, name)
        return None if document is None else _lease_in(document)

    def holds(self, name: VmName) -> bool:
        """Whether a VM that has to be attested is, now."""
        lease = self.of(name)
        return lease is not None and lease.holds(now_s=self.boottime_s(), boot_id=self.boot_id)

    def begin(self, name: VmName, *, fresh: bool) -> GuestLease:
        """The VM is about to start: whatever was known of it is void."""
        lease = GuestLease(mark=self.new_mark(), boot_id=self.boot_id, since_s=self.boottime_s(), fresh=fresh)
        with self._lock:
            self._put(name, lease)
        return lease

    def settle(self, name: VmName, lease: GuestLease) -> bool:
        """Write down what has become of a lease; False, and nothing is written, where it is not the VM's any more."""
        with self._lock:
            now = self.of(name)
            if now is None or now.mark != lease.mark or now.failed:
                return False
            self._put(name, lease)
            return True

    def end(self, name: VmName) -> None:
        """The VM goes into quarantine: its ports are down, and why it failed, if it did, is remembered."""
        with self._lock:
            lease = self.of(name)
            if lease is not None:
                self._put(name, lease.ended())

    def forget(self, name: VmName) -> None:
        """The VM is stopped."""
        with self._lock:
            self.documents.delete(LEASE_DOCUMENTS, name)

    def _put(self, name: VmName, lease: GuestLease) -> None:
        self.documents.put(LEASE_DOCUMENTS, name, asdict(lease))


def _lease_in(document: dict[str, Any]) -> GuestLease:
    """What `_put` wrote, out of this host's own store."""
    return GuestLease(**document)
