"""What this host has to remember of the boot that it is in, across restarts of the daemon: whether anybody admitted it
since, and, at the next boot, whether its VMs' disks can be trusted after this one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shamon_host.daemon.store import Store
from shamon_host.domain.labels import HostName

_KIND, _SESSION, _REFUSED = "host", "session", "refused"


@dataclass(kw_only=True)
class BootSession:
    """Durable: see `Store`, which says what is raised, too."""

    store: Store
    boot_id: str
    admitted: bool = field(init=False, default=False)
    """Some peer and this host have admitted each other since the boot (`HostEntry.starting`)."""
    _document: dict[str, Any] = field(init=False, default_factory=dict)

    def take_up(self) -> None:
        """At the start of the daemon: go on with what an earlier run of it left."""
        self._document = self.store.get(_KIND, _SESSION) or {}
        if self._was_begun:  # what it was admitted for may go on
            self.admitted = bool(self._document["admitted"])

    @property
    def _was_begun(self) -> bool:
        return self._document.get("boot_id") == self.boot_id

    @property
    def is_new(self) -> bool:
        """Whether no earlier run of the daemon in this boot has come to `keep`: `begin` is to follow `take_up`."""
        return not self._was_begun or bool(self._document.get("restores"))

    def begin(self) -> None:
        """The host was booted since the daemon ran last: see whether that boot can be trusted; an earlier run of the
        daemon in this boot may have seen already."""
        if self._was_begun:
            return
        refused = self.store.get(_KIND, _REFUSED)
        document = {
            "boot_id": self.boot_id,
            "restores": True,
            "watched_to_the_end": False,
            "admitted": False,
            "replace": not self._document.get("watched_to_the_end") or refused is not None,
            "reason": f"refused by {refused['by']}"
            if refused
            else "this daemon did not watch the last boot to its end",
        }
        self._keep(document)

    @property
    def replaces_vms(self) -> bool:
        """Whether VMs start from clean images in this boot, as the one before cannot be trusted."""
        return bool(self._document["replace"])

    @property
    def reason(self) -> str:
        """Why it cannot, in words."""
        return str(self._document["reason"])

    def forget_refusal(self) -> None:
        """What was refused in the boot before is dealt with: `begin` has it."""
        self.store.delete(_KIND, _REFUSED)

    def keep(self) -> None:
        """What should run runs: the next start of the daemon goes on from here."""
        self._keep({**self._document, "restores": False})

    def note_admitted(self) -> bool:
        """Some peer and this host have admitted each other. True iff for the first time in this boot."""
        if self.admitted:
            return False
        self.admitted = True
        self._keep({**self._document, "admitted": True})
        return True

    def note_refused(self, by: HostName, failures: Sequence[str]) -> None:
        """A peer does not trust this host, so nobody should trust what its VMs' disks hold after this boot."""
        self.store.put(_KIND, _REFUSED, {"by": by, "failures": list(failures)})

    def end(self, *, watched: bool) -> None:
        """The daemon stops. `watched`: because the host goes down, so that it watched this boot to its end."""
        self._keep({**self._document, "watched_to_the_end": watched})

    def _keep(self, document: dict[str, Any]) -> None:
        self.store.put(_KIND, _SESSION, document)
        self._document = document
