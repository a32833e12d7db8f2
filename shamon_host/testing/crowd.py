"""A coalition of many hosts in memory, each of them whole, without VMs: for what only shows with many peers."""

from collections import Counter
from types import TracebackType
from typing import Self

from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.policy_file import parse_policy
from shamon_host.testing.memory_host import Enrolment, MemoryHost
from shamon_host.testing.network import MemoryNetwork
from shamon_host.testing.story_report import StepFailed
from shamon_host.testing.wire import MemoryWire

_HEAD = """
[coalition]
name = "crowd"
version = 1

[types."acme/red"]

[labels.red]
types = ["acme/red"]

[intervals]
period_s = {period_s}
lease_s = {lease_s}
margin_s = 1.0
timeout_s = 5.0

[demands]
allow_software_tpm = true
"""
_HOST = """
[hosts.{name}]
address = "10.1.{high}.{low}"
port = 7443
types = ["acme/red"]
"""


class Crowd:
    """`size` hosts named h000, h001, ...; a context manager, so that no daemon is left running."""

    def __init__(self, size: int, *, period_s: float = 10.0, lease_s: float = 30.0, latency_s: float = 0.0) -> None:
        self.period_s = period_s
        names = [f"h{number:03}" for number in range(size)]
        text = _HEAD.format(period_s=period_s, lease_s=lease_s) + "".join(
            _HOST.format(name=name, high=1 + number // 200, low=1 + number % 200) for number, name in enumerate(names)
        )
        wire, network = MemoryWire(), MemoryNetwork(latency_s=latency_s)
        enrolment = Enrolment(policy=parse_policy(text.encode(), source="the crowd's policy"))
        self.hosts = {name: MemoryHost(name=name, wire=wire, network=network, enrolment=enrolment) for name in names}
        for host in self.hosts.values():
            enrolment.enrol(host)
        enrolment.reference = self.hosts[names[0]].record_reference()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts.values():
            await host.power_off()

    def quotes(self) -> Counter[str]:
        """How many TPM2_Quote commands each host's TPM has carried out."""
        return Counter({name: host.machine.tpm.quotes for name, host in self.hosts.items()})

    def require_all_admitted(self) -> None:
        """Raises StepFailed where one host does not admit another."""
        for name, host in self.hosts.items():
            states = host.daemon.admissions.peers.values() if host.daemon is not None else ()
            lacking = [peer.host for peer in states if peer.state is not AdmissionState.ADMITTED]
            if lacking or len(states) != len(self.hosts) - 1:
                raise StepFailed(f"{name} does not admit all", expected="every other host", found=", ".join(lacking))
