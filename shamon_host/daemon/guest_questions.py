"""What this host answers its VMs: signed results about the hosts that enforce a type of theirs.

Who asks is said by the kernel, as an address on vsock that one VM has. A VM learns of hosts with which it may share a
type, and of no other; an address that is no VM's of the policy is refused.
"""

from dataclasses import dataclass, field
from functools import partial

from shamon_host.attestation.guest_messages import HostsRequest, encode_refusal, read_request
from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.ports import Blocking, Clock
from shamon_host.daemon.result_history import ResultHistory
from shamon_host.domain.budget import Budget
from shamon_host.domain.errors import BadInput, Refused, ShamonError
from shamon_host.domain.labels import HostName, VmName
from shamon_host.hypervisor.vm_states import VmStates
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.guest_hosts import MAX_HOSTS, ToldHost, encode_hosts
from shamon_host.peer.result_envelope import sign_result
from shamon_host.peer.signed_record import PrivateKey

_BURST, _EVERY_S = 5, 2.0


@dataclass(kw_only=True)
class GuestAnswers:
    """`daemon.ports.GuestQuestions`."""

    name: HostName
    enforced: EnforcedPolicy
    states: VmStates
    admissions: Admissions
    history: ResultHistory
    registry: PeerRegistry
    clock: Clock
    blocking: Blocking
    key: PrivateKey = field(repr=False)
    _budget: Budget = field(default_factory=lambda: Budget(burst=_BURST, every_s=_EVERY_S), repr=False)

    async def answer(self, cid: int, request: bytes) -> bytes:
        try:
            asks = f"vsock {cid}"
            if not self._budget.take(asks, self.clock.boottime_s()):  # before anything is done for who asks
                raise Refused("asked too often", where=asks, expected=f"once in {_EVERY_S:g} seconds")
            vm = await self._who(cid)
            question = read_request(request)
            if not isinstance(question, HostsRequest):
                raise BadInput("a host is asked about other hosts, and about nothing else")
            return await self.blocking(lambda: self._hosts(vm, question))
        except ShamonError as error:
            return encode_refusal(str(error))

    async def _who(self, cid: int) -> VmName:
        """The VM that runs at this address. Raises Refused, BackendFailed."""
        for vm in self.enforced.policy.vms_of(self.name):
            if self.states.cid(vm) == cid:
                domain = await self.blocking(partial(self.states.find, vm))
                if domain is not None and domain.cid == cid:
                    return vm
        raise Refused("no VM of the policy runs at this address", where=f"vsock {cid}")

    def _hosts(self, vm: VmName, question: HostsRequest) -> bytes:
        """Raises ShamonError."""
        policy, record = self.enforced.policy, self.registry.record(self.name)
        if record is None or not record.envelope:
            raise Refused("this host has no record of the coalition's CA to show", where=self.name)
        types = policy.label_of(vm).types
        others = [(host, types & policy.hosts[host].types) for host in sorted(self.admissions.peers)]
        told = [
            ToldHost(
                host=host,
                state=self.admissions.peers[host].state,
                types=tuple(sorted(shared)),
                result=self._result(host),
            )
            for host, shared in others
            if shared
        ]
        if len(told) > MAX_HOSTS:
            raise Refused("more hosts enforce its types than fit into an answer", expected=f"at most {MAX_HOSTS}")
        return encode_hosts(told, verifier=self.name, vm=vm, nonce=question.nonce, record=record.envelope, key=self.key)

    def _result(self, host: HostName) -> bytes:
        """The last result about a host, signed; empty where there is none."""
        runs = self.history.runs(host, limit=1)
        return sign_result(runs[0].last, self.key) if runs else b""
