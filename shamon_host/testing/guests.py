"""The agents in the VMs of a hypervisor in memory: the program that runs in real ones, over the machines' own TPMs.

A VM that does not run, or whose agent was silenced, answers nothing. `tamper` is what a compromised agent does: it sees
the request and the honest answer, and gives another one.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from shamon_host.attestation.guest_messages import MAX_ANSWER_BYTES, MAX_REQUEST_BYTES
from shamon_host.daemon.ports import GuestQuestions
from shamon_host.domain.errors import BadInput, Unreachable
from shamon_host.guest_agent.answering import Answering
from shamon_host.testing.hypervisor import MemoryHypervisor


@dataclass(kw_only=True)
class MemoryGuests:
    """`daemon.ports.Guests`."""

    hypervisor: MemoryHypervisor
    silent: set[int] = field(default_factory=set)
    """Addresses of VMs whose agent does not answer."""
    tamper: Callable[[int, bytes, bytes], bytes] = lambda _cid, _request, answer: answer
    asked: list[int] = field(default_factory=list)
    """Whom the host has asked."""
    _questions: GuestQuestions | None = None
    _asking: set[int] = field(default_factory=set)
    """VMs whose question is being answered."""

    async def ask(self, cid: int, request: bytes, *, timeout_s: float) -> bytes:
        self.asked.append(cid)
        machine = self.hypervisor.running_at(cid)
        if machine is None or cid in self.silent:
            raise Unreachable(
                "the agent in the VM does not answer", where=f"vsock {cid}", expected=f"in {timeout_s:g} s"
            )
        answer = self.tamper(cid, request, Answering(tpm=machine.tpm, logs=machine.logs).answer(request))
        if len(answer) > MAX_ANSWER_BYTES:
            raise BadInput("the message of a VM is too long", expected=f"at most {MAX_ANSWER_BYTES} bytes")
        return answer

    @contextlib.asynccontextmanager
    async def served(self, questions: GuestQuestions) -> AsyncIterator[None]:
        self._questions = questions
        try:
            yield
        finally:
            self._questions = None

    async def ask_host(self, cid: int, request: bytes) -> bytes:
        """What a program in the VM at this address is answered. Raises Unreachable."""
        if self._questions is None or len(request) > MAX_REQUEST_BYTES or cid in self._asking:
            raise Unreachable("the host does not answer on vsock")
        self._asking.add(cid)
        try:
            return await self._questions.answer(cid, request)
        finally:
            self._asking.discard(cid)
