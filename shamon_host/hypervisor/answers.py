"""Calls that a machine has to answer, which one that a guest took over need not do: each is waited for so long.

libvirt waits for the answer of a machine's monitor without end. Whoever asks holds all VMs of the host meanwhile, so
that is waited for a moment alone, and the call goes on in a thread of its own. A machine that does not answer in time
is destroyed, for which its monitor is not needed: it may be one that is to stand still.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from shamon_host.domain.errors import BackendFailed, ShamonError
from shamon_host.domain.labels import VmName
from shamon_host.hypervisor.ports import Audit, Hypervisor

_T = TypeVar("_T")


class Unanswered(BackendFailed):
    """A machine has not answered in time. What it was asked may still come about."""


def _asked(call: Callable[[], _T]) -> Future[_T]:
    """The call goes on in a thread of its own, which nobody waits for at the end of the program."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  it is raised where somebody waits
            future.set_exception(error)

    threading.Thread(target=run, name="asks a machine", daemon=True).start()
    return future


def _is_over(asked: Future[_T], within_s: float) -> bool:
    return bool(wait([asked], within_s).done)


def answered(call: Callable[[], _T], within_s: float, *, where: str) -> _T:
    """What a call returns. Raises what it raises, and Unanswered where it has not ended in time."""
    asked = _asked(call)
    if _is_over(asked, within_s):
        return asked.result()
    raise Unanswered("the machine does not answer its monitor", where=where, found=f"nothing within {within_s:.0f} s")


@dataclass(kw_only=True)
class Answers:
    """Machines that are told to stand still or to go on. Part of `vms.VmManager`; whoever calls holds its lock."""

    hypervisor: Hypervisor
    audit: Audit
    lock: threading.RLock
    answer_s: float = 3.0
    """For a machine that is in order; the lock is held that long."""
    patience_s: float = 20.0
    """Then it is destroyed. Less than the 30 s after which libvirt refuses a second question."""
    _silent: dict[VmName, Future[None]] = field(default_factory=dict, repr=False)
    """What a machine has not answered yet."""

    def suspend(self, name: VmName) -> None:
        """Raises BackendFailed; Unanswered where the machine is not heard of yet, and destroyed if it never is."""
        self._ask(name, self.hypervisor.suspend)

    def resume(self, name: VmName) -> None:
        """Raises as `suspend` does."""
        self._ask(name, self.hypervisor.resume)

    def _ask(self, name: VmName, call: Callable[[VmName], None]) -> None:
        if name in self._silent:
            raise self._unanswered(name)
        asked = _asked(partial(call, name))
        if _is_over(asked, self.answer_s):
            return asked.result()
        self._silent[name] = asked
        threading.Thread(target=self._watch, args=(name, asked), name="waits for a machine", daemon=True).start()
        raise self._unanswered(name)

    def _watch(self, name: VmName, asked: Future[None]) -> None:
        wait([asked], self.patience_s)
        with self.lock:
            del self._silent[name]
            if asked.done():
                return  # whoever enforces what is to be looks at what became of it
            try:
                self.audit("vm.stop", name, {"reason": "it does not answer its monitor"})
                self.hypervisor.destroy(name)
            except ShamonError as error:
                self.audit("vm.not-destroyed", name, {"reason": str(error)})

    def _unanswered(self, name: VmName) -> Unanswered:
        return Unanswered(
            "the machine of the VM does not answer its monitor",
            where=name,
            remedy=f"It is destroyed where it has not within {self.patience_s:.0f} s; ask again if it has.",
        )
