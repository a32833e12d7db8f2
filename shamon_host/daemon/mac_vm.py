"""The MAC VM of this host, in the profile `vm`: started before anything labelled, kept as it should be, set up.

It is a VM of the policy like any other, with the label of those that share nothing, and pinned whole: image, kernel,
initial RAM disk, command line. What it has beside others is its wiring: the control wire, the network, and an interface
in the bridge of each type that this host may carry.

Whoever has it replaced does so here, under one lock: the watchers, because it does not run or answer; `vm_attestation`,
because it failed; people. One in quarantine stays there until it is replaced or released.
"""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import Any

from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.config import MacVmConfig
from shamon_host.daemon.mac_vm_backends import CONTROL_BRIDGE, CONTROL_TAP, MacVmBackends
from shamon_host.domain.errors import BackendFailed, BadInput, Refused, ShamonError
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import PinnedBoot, Policy
from shamon_host.hypervisor.mac_vm_report import ReportedMacVm, ReportedRuntime, RuntimeState, reason_in_report
from shamon_host.hypervisor.ports import DomainReport, DomainState, VmInterface
from shamon_host.hypervisor.vm_spec import interface_mac
from shamon_host.hypervisor.vm_states import VmStates
from shamon_host.hypervisor.vms import VmManager
from shamon_host.link_agent.setup import CONTROL_MAC, MacVmSetup, host_uplink
from shamon_host.links.desired import bridge_name

_NETWORK_TAP = "shmc-network"
WIRES = (CONTROL_TAP, _NETWORK_TAP)
"""Its taps that are in no bridge of a type."""
_NETWORK_INDEX = 1 << 16
"""Of the interface to the network, beside those numbered by the categories of their types."""
BOOT_LIMIT_S = 240.0
AGAIN_S = 20.0
"""Between two attempts to start one that cannot be started."""
ANSWER_LIMIT_S = 60.0
"""One that runs and does not answer for so long is started anew."""
_POLL_S = 1.0
_NOT_AS_IT_SHOULD = "it holds this host's links, and does not run or answer as it should"


@dataclass(kw_only=True)
class MacVm:
    """Synchronous. Raises ShamonError."""

    host: HostName
    backends: MacVmBackends
    policy: Callable[[], Policy]
    label_map: Callable[[], LabelMap]
    audit: AuditLog
    _failed: tuple[float, ShamonError] | None = field(default=None, init=False, repr=False)
    """When it could last not be started, and why."""
    _boot_id: str = field(default="", init=False, repr=False)
    """As of the last look."""
    _outdated_since_s: float | None = field(default=None, init=False, repr=False)
    """Since when the policy has it otherwise than it runs: another pin, or a TPM."""
    _was_away: bool = field(default=False, init=False, repr=False)
    """It could not be counted on at the last look, or was replaced since."""
    _owed: str = field(default="", init=False, repr=False)
    """Why it is to be replaced, as long as that has not come to its end."""
    wrong: tuple[str, ...] = field(default=(), init=False)
    """What is wrong with the wire to it, and could not be put right, as of the last look."""
    _ends: threading.Event = field(default_factory=threading.Event, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def name(self) -> VmName:
        """Raises BadInput where the policy has none."""
        named = self.policy().hosts[self.host].mac_vm
        if named is None:
            raise BadInput("the policy gives this host no MAC VM", where=f"hosts.{self.host}.mac_vm")
        return named

    def interfaces(self, vm: VmName) -> tuple[VmInterface, ...]:
        """Those of the MAC VM; none for another VM."""
        if vm != self.name:
            return ()
        return (
            VmInterface(device=CONTROL_TAP, bridge=CONTROL_BRIDGE, mac=CONTROL_MAC),
            VmInterface(device=_NETWORK_TAP, bridge=self.backends.config.bridge, mac=self._mac(_NETWORK_INDEX)),
            *(
                VmInterface(device=host_uplink(bridge), bridge=bridge, mac=mac)
                for bridge, mac in self._uplinks().items()
            ),
        )

    def setup(self) -> MacVmSetup:
        """What it is told. Raises BadInput."""
        config, entry = self.backends.config, self.policy().hosts[self.host]
        if str(ip_interface(config.address).ip) != entry.address:
            raise BadInput(
                "the MAC VM's address is not the host's",
                where="mac_vm.address",
                expected=f"{entry.address}, as the policy says, with its prefix length",
                found=config.address,
            )
        return MacVmSetup(
            network_mac=self._mac(_NETWORK_INDEX),
            address=config.address,
            gateway=config.gateway,
            port=entry.port,
            daemon_port=entry.port,
            uplinks=tuple(self._uplinks().items()),
        )

    def bring_about(self, vms: VmManager) -> bool:
        """Make the wire to it right; start it where it does not run as it should, or does not answer, and wait until it
        does; True where it was started since the last look, by this or by people, or is back. Raises Refused while it
        is in quarantine."""
        with self._lock:
            was_away, self._was_away = self._was_away, True  # unless this comes to its end
            self.keep_wire()
            owed = self._owed or vms.states.replacing(self.name) or ""
            if not owed:
                self._require_no_quarantine(vms.states)
            runs = not owed and self._runs(vms.states) and self._answers(vms.states, ANSWER_LIMIT_S)
            if not runs:
                self._require_patience()
                self._start(vms, owed or _NOT_AS_IT_SHOULD)
            before, self._boot_id = self._boot_id, self.backends.remote.boot_id()
            self._was_away = False
            is_new = was_away or not runs or before not in ("", self._boot_id)
            if is_new:
                self.audit.append("mac-vm.up", self.name, {"boot_id": self._boot_id})
            return is_new

    def replace(self, vms: VmManager, reason: str, *, in_service: bool = False) -> None:
        """Start a clean one in its place, out of a quarantine too, and wait until it answers. What fails is tried again
        by `bring_about`. Raises as `VmManager.replace`."""
        with self._lock:
            self.keep_wire()
            self._was_away, self._owed = True, "" if in_service else reason
            self._start(vms, reason, in_service=in_service)

    def keep_wire(self) -> None:
        """Nobody but this daemon speaks to the MAC VM, and that to nothing else: before anything is asked of it. Raises
        BackendFailed."""
        try:
            wrong = self.backends.make_control_wire(self.policy().hosts[self.host].port)
        except BackendFailed as error:
            self.wrong = (f"control wire: {error}",)
            raise
        self.wrong = ()
        if wrong:
            self.audit.append("mac-vm.control-wire", self.name, {"wrong": list(wrong)})

    def _start(self, vms: VmManager, reason: str, *, in_service: bool = False) -> None:
        before = vms.states.quarantine(self.name)
        try:
            self.backends.kernel.prepare([*self._uplinks()])
            vms.replace(self.name, reason, in_service=in_service)
            self.backends.remote.forget()
            if not self._answers(vms.states, BOOT_LIMIT_S):
                raise BackendFailed(
                    "the MAC VM was started and does not answer, or has ended",
                    where=self.name,
                    remedy="Its console says why it ended.",
                )
        except ShamonError as error:
            now = vms.states.quarantine(self.name)
            if now is not None and not now.is_same_as(before):
                self._owed = ""  # somebody put it in quarantine meanwhile, and that counts
            self._failed = self.backends.now_s(), error
            raise
        self._failed, self._owed = None, ""

    def _require_no_quarantine(self, states: VmStates) -> None:
        why = self.held_apart(states)
        if why:
            raise Refused(
                "the MAC VM is in quarantine: this host has no links",
                where=self.name,
                found=why,
                remedy=f"`shamon vm replace {self.name}` starts a clean one in its place.",
            )

    def _require_patience(self) -> None:
        """Two watchers ask again and again: one that cannot be started is not tried, and told, each time."""
        if self._failed is not None and self.backends.now_s() - self._failed[0] < AGAIN_S:
            raise self._failed[1]

    def status(self, states: VmStates) -> dict[str, Any]:
        """As people see it. `boot_id` is empty where it does not answer, and `wrong` says why."""
        report, remote = states.find(self.name), self.backends.remote
        boot_id, denials, wrong = "", list[str](), ""
        try:
            boot_id, denials = remote.boot_id(), list(remote.denials())
        except BackendFailed as error:
            wrong = str(error)
        return {
            "name": self.name,
            "state": report.state.value if report is not None else DomainState.SHUT_OFF.value,
            "boot_id": boot_id,
            "wrong": wrong,
            "denials": denials,
        }

    def reported(self, states: VmStates) -> ReportedMacVm | None:
        """What it was started from; None where it never was."""
        boot, image = states.booted(self.name), states.overlay_of(self.name)
        if boot is None or not image:
            return None
        pinned = PinnedBoot(kernel_sha256=boot.kernel, initrd_sha256=boot.initrd, cmdline=boot.cmdline)
        return ReportedMacVm(name=self.name, image_sha256=image, boot=pinned, runtime=self.runtime(states))

    def runtime(self, states: VmStates) -> ReportedRuntime | None:
        """Where it stands now; None where it need not be attested. One that passed by other Reference Values than are
        demanded now has not passed."""
        demand, leases = self.policy().attested(self.name), states.leases
        if demand is None:
            return None
        lease, state, reason = leases.of(self.name), RuntimeState.WAITING, ""
        if lease is not None and lease.failed:
            state, reason = RuntimeState.FAILED, reason_in_report(lease.failed)
        elif lease is not None and lease.holds(now_s=leases.boottime_s(), boot_id=leases.boot_id):
            state = RuntimeState.ATTESTED if lease.reference == demand.sha256 else state
        return ReportedRuntime(reference_sha256=demand.sha256, state=state, reason=reason)

    def held_apart(self, states: VmStates) -> str:
        """Why it is apart from this host's VMs: it is in quarantine; empty where it is not."""
        quarantine = states.quarantine(self.name)
        return quarantine.reason if quarantine is not None and quarantine.cuts_off else ""

    def _runs(self, states: VmStates) -> bool:
        report = states.find(self.name)
        return (
            report is not None
            and report.state is DomainState.RUNNING
            and report.context == states.context(self.name)
            and self._is_wired(report)
            and self._is_as_demanded(states, report)
        )

    def _is_as_demanded(self, states: VmStates, report: DomainReport) -> bool:
        """It was started from what the policy pins now, and has a TPM if it is to be attested. One of before a change
        of the policy is left for as long as that may still be told to the other hosts, through it."""
        image, found = self.policy().image_of(self.name), self.reported(states)
        pinned = found is not None and (found.image_sha256, found.boot) == (image.sha256, image.boot)
        if pinned and states.has_its_tpm(report):
            self._outdated_since_s = None
            return True
        now_s = self.backends.now_s()
        if self._outdated_since_s is None:
            self._outdated_since_s = now_s
        return now_s - self._outdated_since_s < self.policy().intervals.timeout_s

    def _is_wired(self, report: DomainReport) -> bool:
        return set(report.interfaces) == set(self.interfaces(self.name))

    async def end_with_this_task(self) -> None:
        """Nobody waits for the MAC VM any more once this is cancelled: a thread that does cannot be."""
        try:
            await asyncio.Event().wait()
        finally:
            self._ends.set()

    def _answers(self, states: VmStates, within_s: float) -> bool:
        """Wait for it while it is there. Raises BackendFailed where the daemon ends meanwhile."""
        backends = self.backends
        deadline = backends.now_s() + within_s
        while True:
            try:
                backends.remote.boot_id()
            except BackendFailed:
                if backends.now_s() > deadline or states.find(self.name) is None:
                    return False
                if self._ends.is_set():
                    raise BackendFailed("the daemon ends before the MAC VM answers", where=self.name) from None
                backends.pause(_POLL_S)
            else:
                return True

    def _uplinks(self) -> dict[str, str]:
        """Bridge → MAC address of the interface towards it."""
        types = self.label_map().types
        categories = sorted(types[name] for name in self.policy().hosts[self.host].types if name in types)
        return {bridge_name(category): self._mac(category) for category in categories}

    def _mac(self, index: int) -> str:
        return interface_mac(self.policy().coalition, self.host, self.name, index)


def require_own_profile(policy: Policy, host: HostName, config: MacVmConfig | None) -> None:
    """Policy and configuration of the host agree on who holds its links. Raises BadInput."""
    named = policy.hosts[host].mac_vm
    if (named is None) != (config is None):
        raise BadInput(
            "policy and configuration do not agree on who holds this host's links",
            where=f"hosts.{host}.mac_vm in the policy, mac_vm in the host's configuration",
            expected="both, or neither",
            found="the policy's alone" if config is None else "the configuration's alone",
        )
