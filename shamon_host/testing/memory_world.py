"""The story's world in memory: hosts on one wire, on virtual time. See `world` and `memory_host`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import TracebackType
from typing import Any, Self

from shamon_host.domain.policy import HypervisorKind, Policy
from shamon_host.domain.policy_file import parse_policy
from shamon_host.testing.images import sha256_of
from shamon_host.testing.memory_host import (
    CLEAN_IMAGE,
    MAC_VM_FILES,
    MAC_VM_IMAGE,
    MAC_VM_SETTINGS,
    Enrolment,
    MemoryHost,
    mac_vm_reference,
)
from shamon_host.testing.network import MemoryNetwork
from shamon_host.testing.story_policy import HOST_ADDRESSES, VM_ADDRESSES, MacVmPins, story_policy
from shamon_host.testing.story_report import StepFailed
from shamon_host.testing.wire import MemoryWire
from shamon_host.testing.world import Fault, Timing, WireTally

MEMORY_TIMING = Timing(period_s=10, lease_s=30, margin_s=1, timeout_s=5, action_delay_s=15)
_POLL_S = 0.5
MAC_VM_PINS = MacVmPins(
    image_sha256=sha256_of(MAC_VM_IMAGE),
    kernel_sha256=sha256_of(MAC_VM_FILES[MAC_VM_SETTINGS.kernel]),
    initrd_sha256=sha256_of(MAC_VM_FILES[MAC_VM_SETTINGS.initrd]),
    cmdline=MAC_VM_SETTINGS.cmdline,
)


def attested_pins() -> MacVmPins:
    """The same, for MAC VMs that are attested."""
    return replace(MAC_VM_PINS, reference_sha256=mac_vm_reference().digest)


@cache
def _policy(timing: Timing, hypervisors: tuple[HypervisorKind, ...], mac_vms: bool) -> Policy:
    kinds = dict(zip(HOST_ADDRESSES, hypervisors, strict=False))
    pins = attested_pins() if mac_vms else None
    text = story_policy(image_sha256=sha256_of(CLEAN_IMAGE), timing=timing, hypervisors=kinds, mac_vm=pins)
    return parse_policy(text.encode(), source="the story's policy")


class MemoryWorld:
    """`world.World` in memory; a context manager, so that no daemon is left running."""

    def __init__(
        self,
        *,
        faults: Sequence[Fault] = tuple(Fault),
        timing: Timing = MEMORY_TIMING,
        hypervisors: Sequence[HypervisorKind] = (),
        mac_vms: bool = False,
        policy: Policy | None = None,
    ) -> None:
        """`hypervisors`: of alpha, beta and gamma, in this order; QEMU for the rest. `mac_vms`: what
        holds their links is a VM of its own on each, attested where that has a TPM. `policy`: another than the
        story's."""
        self.faults = faults
        self.timing = timing
        self.vm_addresses: Mapping[str, tuple[str, str]] = VM_ADDRESSES
        self.wire = MemoryWire()
        self.network = MemoryNetwork()
        self.policy = policy or _policy(timing, tuple(hypervisors), mac_vms)
        self.enrolment = Enrolment(policy=self.policy)
        if "mac" in self.policy.guests:
            self.enrolment.guests["mac"] = mac_vm_reference()
        self.hosts: Mapping[str, MemoryHost] = {
            name: MemoryHost(name=name, wire=self.wire, network=self.network, enrolment=self.enrolment)
            for name in HOST_ADDRESSES
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts.values():
            await host.power_off()

    async def prepare(self) -> Mapping[str, Any]:
        """Enrol every host's AK; record Reference Values on a known-good boot of alpha, good for all."""
        for host in self.hosts.values():
            self.enrolment.enrol(host)
        reference = self.hosts["alpha"].record_reference()
        self.enrolment.reference = reference
        return {"hosts": sorted(self.hosts), "reference": reference.digest[:16]}

    async def until(self, condition: Callable[[], Awaitable[bool]], *, within_s: float, what: str) -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not await condition():
            if loop.time() - started > within_s:
                raise StepFailed("waited in vain", expected=what, found=f"not within {within_s:.0f} s")
            await asyncio.sleep(_POLL_S)
        return loop.time() - started

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def mark_wire(self) -> int:
        return self.wire.mark()

    def wire_since(self, mark: int) -> WireTally:
        packets = self.wire.since(mark)
        return WireTally(
            esp=sum(packet.is_esp for packet in packets), clear=sum(packet.is_clear_link for packet in packets)
        )
