"""The story's world in the lab: real hosts, real kernels, a recorded wire. See `shamon_host.testing.world`.

The harness is synchronous; the story awaits it, one thing at a time.
"""

import asyncio
import hashlib
import json
import shlex
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shamon_host.domain.policy import HypervisorKind
from shamon_host.testing.story_policy import HOST_ADDRESSES, VM_ADDRESSES
from shamon_host.testing.story_report import StepFailed
from shamon_host.testing.world import (
    BootVariant,
    CommandResult,
    Fault,
    FaultTrace,
    PeerObjects,
    Timing,
    WireTally,
)
from tests.integration.lab.coalition import SHAMON, Coalition
from tests.integration.lab.console import VmConsole
from tests.integration.lab.errors import LabError
from tests.integration.lab.frames import Kind
from tests.integration.lab.host import BootImage, LabHost
from tests.integration.lab.lab import Lab
from tests.integration.lab.link_objects import flush_policies, peer_objects, send_through_wrong_category

_PORT_BLOCK = (16384, 32767)
_MOST_APART = 4096
_POLL_S = 1.0
_IMAGES = {BootVariant.GOOD: BootImage.RIGHT, BootVariant.WRONG: BootImage.OTHER}
_UNKNOWN_PROGRAM = "/usr/local/bin/unknown"
_UNKNOWN_MODULE = "/usr/lib/modules/stranger.ko"  # insmod runs in kmod_t, which may not look into /root
_STAY_DEAD = "/run/systemd/system/shamon.service.d/stay-dead.conf"
LAB_TIMING = Timing(period_s=15, lease_s=60, margin_s=3, timeout_s=30, action_delay_s=45)


class LabGuest:
    """An application VM, asked over its serial console."""

    def __init__(self, host: LabHost, vm: str) -> None:
        self._console = VmConsole(host, vm)

    async def reaches(self, address: str) -> bool:
        try:
            return self._console.reaches(address, timeout_s=1)
        except LabError:
            return False

    async def resolves(self, address: str) -> bool:
        return self._console.sees_by_arp(address)

    async def write_marker(self, text: str) -> None:
        self._console.wait_ready()
        self._console.write_marker(text)

    async def read_marker(self) -> str:
        self._console.wait_ready()
        return self._console.marker() or ""


class LabStoryHost:
    """A host of the story."""

    def __init__(self, world: "LabWorld", host: LabHost) -> None:
        self.name = host.name
        self.machine = host
        self._world = world
        self._untouched = False
        """Booted by `prepare`, and nothing was done to it since."""

    async def boot(self, variant: BootVariant = BootVariant.GOOD) -> None:
        image = _IMAGES[variant]
        if self._untouched and image is self._world.coalition.running_image(self.name):
            self._untouched = False
        else:
            self._untouched = False
            self.machine.reboot(image)
        self.machine.run("systemctl enable --now shamon.service", timeout_s=240)
        await self._until_answers()

    def prepared(self) -> None:
        """`prepare` booted this host."""
        self._untouched = True

    async def ask(self, *arguments: str) -> CommandResult:
        command = shlex.join([SHAMON, *arguments, "--json"])
        result = self.machine.run(command, check=False, timeout_s=300)
        try:
            return CommandResult(exit_code=result.status, value=json.loads(result.stdout))
        except ValueError:
            raise StepFailed(
                "the command gave no JSON",
                where=f"{self.name}: {command}",
                found=(result.stdout + result.stderr)[-500:],
            ) from None

    async def inflict(self, fault: Fault) -> FaultTrace:
        match fault:
            case Fault.PROGRAM:
                return FaultTrace(needles=(_UNKNOWN_PROGRAM, await self._run_unknown_program()))
            case Fault.MODULE:
                content = (self._world.lab.images / "stranger.ko").read_bytes()
                self.machine.put(_UNKNOWN_MODULE, content)
                self.machine.run(f"insmod {_UNKNOWN_MODULE}")
                return FaultTrace(needles=(_UNKNOWN_MODULE, hashlib.sha256(content).hexdigest()))
            case Fault.PERMISSIVE:
                self.machine.run("setenforce 0; setenforce 1; setenforce 0")
                return FaultTrace(needles=("enforcing",))
            case Fault.DAEMON_STOPPED:
                await self.stop_daemon()
                await self._run_unknown_program()
                return FaultTrace(needles=())
            case Fault.DAEMON_KILLED:
                await self.kill_daemon()
                await self._run_unknown_program()
                return FaultTrace(needles=())
            case Fault.OLD_EVIDENCE:
                await self.stop_daemon()
                self.machine.put("/root/rogue.py", Path(__file__).with_name("rogue_daemon.py"))
                self.machine.run(
                    "systemd-run --unit=rogue --property=Restart=no /opt/shamon/bin/python /root/rogue.py", timeout_s=60
                )
                await self._world.wait(2 * self._world.timing.period_s)  # it attests, with what it then repeats
                await self._run_unknown_program()
                return FaultTrace(needles=("binding",))

    async def kill_daemon(self) -> None:
        self.machine.put(_STAY_DEAD, "[Service]\nRestartSec=3600\n")
        self.machine.run("systemctl daemon-reload; kill -9 $(systemctl show -P MainPID shamon.service)")

    async def start_daemon(self) -> None:
        self.machine.run(f"rm -f {_STAY_DEAD}; systemctl daemon-reload; systemctl start shamon.service", timeout_s=240)
        await self._until_answers()

    async def stop_daemon(self) -> None:
        self.machine.run("systemctl stop shamon.service", timeout_s=120)

    async def step_clock(self, seconds: float) -> None:
        self.machine.run(f"date -s @$(($(date +%s) + {int(seconds)})) > /dev/null")

    async def objects(self, peer: str) -> PeerObjects:
        return peer_objects(self.machine, HOST_ADDRESSES[peer])

    async def flush_policies(self) -> None:
        flush_policies(self.machine)

    async def refuses_wrong_category(self, peer: str) -> Mapping[str, int]:
        return send_through_wrong_category(
            sender=self._world.lab.host(peer), receiver=self.machine, guests=self._world.guests_between(peer, self.name)
        )

    async def overlay_is_clean(self, vm: str) -> bool:
        if self.machine.platform is HypervisorKind.XEN:
            return self._copy_is_clean(vm)
        overlay = f"/var/lib/libvirt/images/shamon/{vm}.qcow2"
        text = self.machine.run(f"qemu-img info --output=json --force-share {overlay}", timeout_s=120).stdout
        base = json.loads(text)["backing-filename"]
        digest = self.machine.run(f"sha256sum {shlex.quote(base)}", timeout_s=120).stdout.split()[0]
        return digest == self._world.coalition.image_sha256

    def _copy_is_clean(self, vm: str) -> bool:
        """A copy that a guest has mounted differs from the image in its superblock, and in no file's content."""
        copy, image = f"/var/lib/libvirt/images/shamon/{vm}.raw", "/var/lib/libvirt/images/app/disk.raw"
        digest = self.machine.run(f"sha256sum {image}", timeout_s=120).stdout.split()[0]
        bytes_apart = int(self.machine.run(f"cmp -l {image} {copy} | wc -l", timeout_s=120).stdout)
        return digest == self._world.coalition.image_sha256 and bytes_apart < _MOST_APART

    def guest(self, vm: str) -> LabGuest:
        return LabGuest(self.machine, vm)

    @property
    def own_addresses(self) -> Sequence[str]:
        return (self.machine.ipv4, self.machine.ipv6, "fe80::1")

    async def _run_unknown_program(self) -> str:
        """A program that no Reference Value knows; its digest."""
        self.machine.run(f"cp /bin/true {_UNKNOWN_PROGRAM}; date +%N >> {_UNKNOWN_PROGRAM}")
        self.machine.run(_UNKNOWN_PROGRAM, check=False)
        return hashlib.sha256(self.machine.get(_UNKNOWN_PROGRAM)).hexdigest()

    async def _until_answers(self) -> None:
        async def answers() -> bool:
            return (await self.ask("status")).exit_code == 0

        await self._world.until(answers, within_s=180, what=f"the daemon of {self.name} answers")


class LabWorld:
    """`shamon_host.testing.world.World` in the lab. `faults` are those that this run plays."""

    def __init__(
        self, lab: Lab, *, faults: Sequence[Fault], timing: Timing = LAB_TIMING, mac_vms: bool = False
    ) -> None:
        self.lab = lab
        self.faults = faults
        self.timing = timing
        self.vm_addresses: Mapping[str, tuple[str, str]] = VM_ADDRESSES
        self.coalition = Coalition(lab, timing=timing, mac_vms=mac_vms)
        self.hosts: Mapping[str, LabStoryHost] = {name: LabStoryHost(self, lab.host(name)) for name in HOST_ADDRESSES}

    async def prepare(self) -> Mapping[str, Any]:
        told = self.coalition.found({"gamma": BootImage.OTHER})
        for host in self.hosts.values():
            host.prepared()
        return told

    async def until(self, condition: Callable[[], Awaitable[bool]], *, within_s: float, what: str) -> float:
        started = time.monotonic()
        while not await condition():
            if time.monotonic() - started > within_s:
                raise StepFailed("waited in vain", expected=what, found=f"not within {within_s:.0f} s")
            await asyncio.sleep(_POLL_S)
        return time.monotonic() - started

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def mark_wire(self) -> int:
        return self.lab.wire.mark()

    def wire_since(self, mark: int) -> WireTally:
        frames = self.lab.wire.since(mark)
        return WireTally(
            esp=sum(frame.kind is Kind.ESP for frame in frames),
            clear=sum(frame.kind is not Kind.TCP and frame.touches_port(*_PORT_BLOCK) for frame in frames),
        )

    def guests_between(self, sender: str, receiver: str) -> tuple[VmConsole, str]:
        """A red VM of `sender`, and the address of a red VM of `receiver`."""
        red = {"alpha": "web", "beta": "db"}
        return VmConsole(self.lab.host(sender), red[sender]), VM_ADDRESSES[red[receiver]][0]
