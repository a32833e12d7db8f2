"""Whether the kernel's SELinux is fit for labelled objects of links: asked before each is made.

The mode is read every time, from the kernel's status page. What the policy answers is asked once for each policy that
is loaded: a load, a removed module, a domain made permissive, a changed boolean count the page's number up.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from shamon_host.domain.errors import BackendFailed
from shamon_host.selinux.link_conditions import link_findings, missing, own_domain
from shamon_host.selinux.ports import KernelSelinux
from shamon_host.selinux.selinuxfs import SelinuxFs

_OWN = Path("/proc/self/attr/current")
_NAMED = 4
"""How many of the things that are missing an error names: without the module it is all of them."""
_REMEDY = "Run `shamon selinux check` on this host; `shamon selinux install` loads Shamon's modules."
_TRIES = 3


def own_context() -> str:
    """The context of this process. Raises BackendFailed."""
    try:
        return _OWN.read_text(encoding="ascii").strip("\0\n ")
    except (OSError, UnicodeDecodeError) as error:
        raise BackendFailed("this process's own context cannot be read", where=str(_OWN), found=str(error)) from None


class LinkConditions:
    """The conditions of `selinux.link_conditions` on one kernel. Thread-safe."""

    def __init__(self, kernel: KernelSelinux, own: Callable[[], str] = own_context) -> None:
        self._kernel, self._own = kernel, own
        self._lock = threading.Lock()
        self._missing: tuple[str, ...] = ()
        self._missing_of: int | None = None

    def enforcing(self) -> bool:
        """False also where SELinux is off or cannot be asked."""
        try:
            return self._kernel.status().enforcing
        except BackendFailed:
            return False

    def missing(self) -> tuple[str, ...]:
        """What the loaded policy lacks, in words; () when it is fit. What cannot be asked is lacking."""
        try:
            return self._current()
        except BackendFailed as error:
            return (str(error),)

    def demand(self, where: str) -> None:
        """Raises BackendFailed unless SELinux enforces, with a policy that is fit."""
        if not self.enforcing():
            raise BackendFailed("SELinux is not enforcing: nothing labelled is made", where=where, expected="enforcing")
        if lacking := self.missing():
            raise BackendFailed(
                "the loaded SELinux policy is not fit for links: nothing labelled is made", where=where,
                found="; ".join(lacking[:_NAMED])[:1000], remedy=_REMEDY,
            )  # fmt: skip

    def _current(self) -> tuple[str, ...]:
        with self._lock:
            for _ in range(_TRIES):
                loads = self._kernel.status().policy_loads
                if loads == self._missing_of:
                    return self._missing
                own = self._own()
                found = missing((own_domain(own), *link_findings(self._kernel, own=own, domains=())))
                if self._kernel.status().policy_loads == loads:  # else another policy answered some of it
                    self._missing, self._missing_of = found, loads
                    return found
        raise BackendFailed("SELinux's policy does not come to rest", found=f"{_TRIES} loads while it was asked")


LINK_CONDITIONS = LinkConditions(SelinuxFs())
"""Of this host's kernel; nothing is read before it is asked."""
