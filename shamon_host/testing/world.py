"""What the story needs of a world: hosts, guests and a wire. In memory (`memory_world`) or the lab's nested VMs.

Both worlds run the same daemon, are driven by the same story (`story`), and are asked through the same API.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


class BootVariant(StrEnum):
    GOOD = "good"
    WRONG = "wrong"
    """The same image with another kernel command line."""


class Fault(StrEnum):
    """What goes wrong on a host. The first three leave a trace in IMA's log; the others leave only silence."""

    PROGRAM = "program"
    """An unknown ELF program runs."""
    MODULE = "module"
    """A kernel module that no Reference Value knows is loaded."""
    PERMISSIVE = "permissive"
    """`setenforce 0`, then 1, then 0 again."""
    DAEMON_STOPPED = "daemon-stopped"
    DAEMON_KILLED = "daemon-killed"
    OLD_EVIDENCE = "old-evidence"
    """The daemon answers with Evidence from before the program ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTrace:
    """What a peer must name: `needles` all occur in the reason that it gives."""

    needles: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What `shamon ... --json` gave: exit code and JSON value (an `error` object when the code is not 0)."""

    exit_code: int
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerObjects:
    """What a host's kernel holds for one peer, counted by looking at the kernel, not by asking the daemon."""

    gate_open: bool
    sas: int
    spd_entries: int
    devices: int

    @property
    def nothing(self) -> bool:
        return not (self.gate_open or self.sas or self.spd_entries or self.devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class WireTally:
    """Frames between hosts since a mark: ESP (or fragments of it), and clear frames of the link port block."""

    esp: int
    clear: int


class Guest(Protocol):
    """A VM, asked from inside."""

    async def reaches(self, address: str) -> bool:
        """ICMP echo, IPv4 or IPv6."""
        ...

    async def resolves(self, address: str) -> bool:
        """ARP."""
        ...

    async def write_marker(self, text: str) -> None:
        """Leave `text` on the VM's own disk."""
        ...

    async def read_marker(self) -> str:
        """What is on the disk; empty when nothing was written."""
        ...


class Host(Protocol):
    """A host of the coalition."""

    @property
    def name(self) -> str: ...

    async def boot(self, variant: BootVariant = BootVariant.GOOD) -> None:
        """Boot, or boot again, and wait until the daemon answers."""
        ...

    async def ask(self, *arguments: str) -> CommandResult:
        """Run `shamon ARGUMENTS --json` on the host: status, peers, vms, links, audit, attest, vm ACTION NAME."""
        ...

    async def inflict(self, fault: Fault) -> FaultTrace: ...

    async def kill_daemon(self) -> None:
        """`kill -9`; the service manager does not start it again until `start_daemon`."""
        ...

    async def start_daemon(self) -> None: ...

    async def stop_daemon(self) -> None:
        """Stop the unit."""
        ...

    async def step_clock(self, seconds: float) -> None:
        """Step the wall clock."""
        ...

    async def objects(self, peer: str) -> PeerObjects: ...

    async def flush_policies(self) -> None:
        """Flush the SPD by hand."""
        ...

    async def refuses_wrong_category(self, peer: str) -> Mapping[str, int]:
        """Send a packet of a link through an SA of another category to this host: the counters and AVCs that rose."""
        ...

    async def overlay_is_clean(self, vm: str) -> bool:
        """The digest of the image that the VM's overlay stands on equals the pin."""
        ...

    def guest(self, vm: str) -> Guest: ...

    @property
    def own_addresses(self) -> Sequence[str]:
        """Addresses of the host itself, IPv4 and IPv6."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The intervals of a world's policy, in seconds; see `domain.policy.Intervals`."""

    period_s: float
    lease_s: float
    margin_s: float
    timeout_s: float
    action_delay_s: float


class World(Protocol):
    """Everything. Hosts are enrolled, and Reference Values are recorded from a known-good boot, by `prepare`."""

    @property
    def hosts(self) -> Mapping[str, Host]: ...

    @property
    def vm_addresses(self) -> Mapping[str, tuple[str, str]]:
        """VM → its IPv4 and IPv6 address."""
        ...

    @property
    def faults(self) -> Sequence[Fault]:
        """Those that this run of the story plays."""
        ...

    @property
    def timing(self) -> Timing: ...

    async def prepare(self) -> Mapping[str, Any]:
        """Coalition, enrolment, Reference Values. Returns what to tell of it."""
        ...

    async def until(self, condition: Callable[[], Awaitable[bool]], *, within_s: float, what: str) -> float:
        """Wait until the condition holds; return the seconds it took. Raises StepFailed."""
        ...

    async def wait(self, seconds: float) -> None: ...

    def mark_wire(self) -> int: ...

    def wire_since(self, mark: int) -> WireTally: ...
