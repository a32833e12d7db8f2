"""`MemoryMacVm`: the MAC VM of one host in memory: a kernel of its own on the wire, which lives as long as its domain.

Behind `link_agent.ports.MacVmKernel` as the daemon asks it, each value as it would cross the control wire; behind
`hypervisor.Appliance` as its hypervisor starts and ends it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.hypervisor.ports import VmInterface
from shamon_host.link_agent.frames import CALLS
from shamon_host.link_agent.setup import MacVmSetup, uplink
from shamon_host.link_agent.values import from_json, to_json
from shamon_host.links.model import BRIDGE_PREFIX, KernelState, Operation
from shamon_host.links.ports import ChangedEvent, KernelEvent, Traffic
from shamon_host.testing.kernel import MemoryKernel


class MemoryMacVm:
    """See the module. `kernel`: its own, with the host's address on the wire."""

    setup: Callable[[], MacVmSetup]

    def __init__(self, kernel: MemoryKernel) -> None:
        self.kernel = kernel
        self.runs = False
        self.hangs = False
        """It runs, and its agent answers nobody."""
        self.paused = False
        self.boots = 0
        self._plugged: list[str] = []
        self._listeners: list[Callable[[KernelEvent], None]] = []

    # What its hypervisor does

    def plug(self, interface: VmInterface, send: Callable[[bytes], None]) -> Callable[[bytes], None] | None:
        """Its half of a bridge gets the other end; None for the control wire and the network, which no bridge of the
        host in memory stands for."""
        if not interface.bridge.startswith(BRIDGE_PREFIX):
            return None
        device = uplink(interface.bridge)
        self.kernel.add_tap(device, send)
        self._plugged.append(device)
        return lambda frame: self._arrives(device, frame)

    def start(self) -> None:
        """It boots, at once, or runs on."""
        self.paused = False
        if not self.runs:
            self.runs, self.hangs = True, False
            self.boots += 1
            self._tell("the MAC VM is listened to")

    def pause(self) -> None:
        """It stands still, with what its kernel holds."""
        self.paused = True

    def end(self) -> None:
        """It is gone, with everything that its kernel held."""
        for device in self._plugged:
            self.kernel.unplug_tap(device)
        self._plugged.clear()
        self.runs = False
        self.kernel.reboot()
        self._tell("the MAC VM is not listened to")

    def _arrives(self, device: str, frame: bytes) -> None:
        if self.runs and not self.paused:
            self.kernel.send_from_tap(device, frame)

    # What the daemon asks

    def boot_id(self) -> str:
        self._require()
        return f"mac-vm-{self.boots}"

    def forget(self) -> None:
        """There is nothing to forget: each call goes to the VM that runs."""

    def denials(self) -> tuple[str, ...]:
        self._require()
        return tuple(self.kernel.avc)

    def read(self) -> KernelState:
        self._require()
        state: KernelState = _crossed(KernelState, self.kernel.read())
        return state

    def apply(self, operations: Sequence[Operation]) -> None:
        self._require()
        self.kernel.apply(_crossed(CALLS["apply"].takes, tuple(operations)))

    def attempt(self, operations: Sequence[Operation]) -> tuple[BackendFailed, ...]:
        try:
            self._require()
        except BackendFailed as error:
            return (error,)
        return self.kernel.attempt(_crossed(CALLS["attempt"].takes, tuple(operations)))

    def allocate_spi(self, *, source: str, destination: str) -> int:
        self._require()
        return self.kernel.allocate_spi(source=source, destination=destination)

    def counters(self) -> Mapping[str, int]:
        self._require()
        return self.kernel.counters()

    def traffic(self) -> Mapping[str, Traffic]:
        self._require()
        return self.kernel.traffic()

    def subscribe(self, event: Callable[[KernelEvent], None]) -> None:
        self._listeners.append(event)
        self.kernel.subscribe(event)

    def close(self) -> None:
        """The daemon lets go of it; it goes on."""
        self._listeners.clear()
        self.kernel.close()

    def _require(self) -> None:
        if not self.runs or self.hangs or self.paused:
            raise BackendFailed("the MAC VM does not answer", where="control wire")
        lacking = [bridge for bridge, _ in self.setup().uplinks if uplink(bridge) not in self._plugged]
        if lacking:
            raise BackendFailed("no interface, or several, with this MAC address", where=uplink(lacking[0]))

    def _tell(self, what: str) -> None:
        for event in tuple(self._listeners):
            event(ChangedEvent(what=what))


class MemoryControlWire:
    """The wire to it, of which the daemon sees what somebody did to it."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.stays_wrong = False
        """Whatever the daemon does."""

    def make(self, _port: int) -> list[str]:
        """`MacVmBackends.make_control_wire`."""
        found = list(self.wrong)
        if found and self.stays_wrong:
            raise BackendFailed("the control wire reads back otherwise", where="shcontrol", found="; ".join(found))
        self.wrong.clear()
        return found


def _crossed(kind: Any, value: Any) -> Any:
    """Raises BackendFailed for what cannot cross."""
    try:
        return from_json(kind, to_json(value))
    except BadInput as error:
        raise BackendFailed("the MAC VM does not answer", where="control wire", found=str(error)) from error
