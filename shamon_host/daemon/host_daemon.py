"""One host's whole program over its ports: start, run, stop. `composition` builds it with real backends.

Starting: the guard and what the kernel already holds first, then the VMs (replaced by clean ones where this host's
last boot cannot be trusted), and only then does it ask its peers for admission. Stopping closes all links, unless the
service manager says that it is half of a restart. A daemon that is killed leaves the gate, which closes by itself.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from shamon_host.attestation.attester import Attester
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.background import Background
from shamon_host.daemon.coalition_host import CoalitionHost
from shamon_host.daemon.figures import Figures
from shamon_host.daemon.peer_schedule import PeerSchedule
from shamon_host.daemon.ports import Backends, StopReason
from shamon_host.daemon.reactions import Reactions
from shamon_host.daemon.references import ReferenceSource
from shamon_host.daemon.store import Store
from shamon_host.daemon.suspension import Suspension
from shamon_host.daemon.watchers import Watchers
from shamon_host.domain import label_map as label_maps
from shamon_host.domain import monitor
from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.policy import Policy, PolicyVersion
from shamon_host.hypervisor.vms import VmManager, VmSettings
from shamon_host.links.manager import LinkManager
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.handshake import Handshaker, PeerService


@dataclass(kw_only=True)
class HostDaemon:
    """Everything of one host, wired. `service` is what the peer transport hands incoming messages to."""

    name: HostName
    policy: Policy
    registry: PeerRegistry
    references: ReferenceSource
    store: Store
    audit: AuditLog
    backends: Backends
    vm_settings: Mapping[VmName, VmSettings] = field(default_factory=dict)
    figures: Figures = field(default_factory=Figures)
    background: Background = field(init=False, default_factory=Background)
    host: CoalitionHost = field(init=False)
    handshaker: Handshaker = field(init=False)
    service: PeerService = field(init=False)
    schedule: PeerSchedule = field(init=False)
    reactions: Reactions = field(init=False)
    watchers: Watchers = field(init=False)
    _label_map: LabelMap = field(init=False, repr=False)
    _started: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        if self.name not in self.policy.hosts:
            raise BadInput(
                "this host is not in the policy", expected=", ".join(sorted(self.policy.hosts)), found=self.name
            )
        backends = self.backends
        self._label_map = label_map = self._allocated()
        links = LinkManager(
            host=self.name,
            address=self.policy.hosts[self.name].address,
            kernel=backends.kernel,
            documents=self.store,
            label_map=lambda: label_map,
            audit=self.audit.append,
            boottime_s=backends.clock.boottime_s,
            boot_id=backends.boot_id,
        )
        vms = VmManager(
            host=self.name,
            hypervisor=backends.hypervisor,
            images=backends.images,
            documents=self.store,
            audit=self.audit.append,
            policy=lambda: self.policy,
            label_map=lambda: label_map,
            ensure_bridge=links.ensure_bridge,
            settings=self.vm_settings,
        )
        self.host = CoalitionHost(
            name=self.name,
            policy=self.policy,
            label_map=label_map,
            registry=self.registry,
            references=self.references,
            store=self.store,
            audit=self.audit,
            clock=backends.clock,
            blocking=backends.blocking,
            attester=Attester(tpm=backends.tpm, logs=backends.logs, blocking=backends.blocking),
            links=links,
            vms=vms,
            figures=self.figures,
            background=self.background,
            on_suspended=self._on_suspended,
            on_admitted=self._on_admitted,
            on_hint=self._on_hint,
        )
        self.handshaker = handshaker = Handshaker(
            name=self.name,
            host=self.host,
            directory=self.registry,
            transport=backends.transport,
            boottime_s=backends.clock.boottime_s,
            timeout_s=self.policy.intervals.timeout_s,
        )
        self.schedule = PeerSchedule(host=self.host, handshaker=handshaker, clock=backends.clock, figures=self.figures)
        self.service = PeerService(handshaker=handshaker, hinted=self.host.hinted)
        self.reactions = Reactions(
            host=self.host,
            handshaker=handshaker,
            store=self.store,
            clock=backends.clock,
            blocking=backends.blocking,
            boot_id=backends.boot_id,
            background=self.background,
        )
        self.watchers = Watchers(
            host=self.host,
            logs=backends.logs,
            clock=backends.clock,
            blocking=backends.blocking,
            wake=self.schedule.wake,
            wake_all=self.schedule.wake_all,
        )

    async def start(self) -> None:
        """Bring kernel and VMs to the desired state. Asks no peer for anything yet. Raises ShamonError."""
        self.audit.append("daemon.start", self.name, {"boot_id": self.backends.boot_id})
        blocking = self.backends.blocking
        await blocking(self._require_own_tpm)
        self._install_policy()
        self._install_label_map()
        await blocking(self.host.vms.enforce_labels)
        await blocking(self.host.reconcile_links)
        for peer, state in self.host.peers.items():
            if state.state is AdmissionState.EXPELLED:
                await self.host.close_expelled(peer)
        session = self.store.get("host", "session") or {}
        rebooted = session.get("boot_id") != self.backends.boot_id
        if rebooted:
            refused = self.store.get("host", "refused")
            replace = not session.get("watched_to_the_end") or refused is not None
            reason = f"refused by {refused['by']}" if refused else "this daemon did not watch the last boot to its end"
            started = await blocking(lambda: self.host.vms.restore(replace=replace, reason=reason))
            if replace:
                self.reactions.forget(started)
            self.store.delete("host", "refused")
        self.store.put("host", "session", {"boot_id": self.backends.boot_id, "watched_to_the_end": False})
        await self.reactions.restore()
        self._started = True

    async def run(self) -> None:
        """Attest and watch until cancelled.

        Raises an ExceptionGroup when a part fails for good: a decision that cannot be written down, or a mistake in
        this program. Whoever runs the daemon stops it then, which closes every link.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self.background.run(), name="background")
            group.create_task(self.watchers.run(), name="watchers")
            group.create_task(self.schedule.run(), name="schedule")

    async def stop(self) -> None:
        """The end of the unit: close every link at once, unless this is half of a restart. Raises ShamonError, but
        closes what it can."""
        blocking = self.backends.blocking
        await self.background.close()
        await self.handshaker.close()
        await self.host.close()
        reason = await blocking(self.backends.service_manager.stop_reason)
        restarts = reason is StopReason.RESTART
        try:
            words = "kept until their leases end" if restarts else "closed"
            self.audit.append("daemon.stop", self.name, {"reason": reason, "links": words})
        finally:
            if not restarts:
                await blocking(self.host.links.close_all)
        if not restarts and self._started:
            # Only a daemon that watched until the host went down vouches for the VMs' disks at the next boot.
            watched = reason is StopReason.SHUTDOWN
            self.store.put("host", "session", {"boot_id": self.backends.boot_id, "watched_to_the_end": watched})

    def _require_own_tpm(self) -> None:
        """Without TPM and log this host has nothing to prove itself with. Raises BackendFailed, NotTrusted."""
        enrolled, found = self.registry.enrolled(self.name), self.backends.tpm.ak_public()
        if found != enrolled.ak_public:
            raise NotTrusted(
                "this host's TPM has another Attestation Key than the enrolled one",
                where=self.name,
                expected=f"AK {enrolled.ak_name.hex()}",
                found=f"AK {TpmPublic.parse(found).name.hex()}",
                remedy="Enrol this host again, on every host, if its TPM was changed or cleared.",
            )
        self.backends.logs.measurement_count()

    def _install_policy(self) -> None:
        """Enforce the policy given, if it is the first, the one in force, or its successor. Raises Refused."""
        document = self.store.get("host", "policy")
        current = PolicyVersion(**document) if document else None
        if current is None or current.digest == self.policy.digest:
            decision = monitor.policy_install(self.policy, current)
        else:
            decision = monitor.policy_update(self.policy, current)
        self.audit.append(decision.check, self.name, decision.as_detail())
        decision.enforce()
        self.store.put("host", "policy", asdict(self.policy.which))

    def _allocated(self) -> LabelMap:
        """The label map for this policy, which keeps what the stored one gave. Nothing is stored yet."""
        document = self.store.get("host", "label-map")
        current = label_maps.EMPTY
        if document:
            current = LabelMap(
                types={TypeName(name): category for name, category in document["types"].items()},
                vms={VmName(name): (low, high) for name, (low, high) in document["vms"].items()},
                next_category=document["next_category"],
            )
        return label_maps.allocate(current, self.policy.types, self.policy.vms)

    def _install_label_map(self) -> None:
        """Decide on the label map if it is another than the stored one, and store it. Raises Refused."""
        wanted = self._label_map
        document = {
            "types": dict(wanted.types),
            "vms": {name: list(pair) for name, pair in wanted.vms.items()},
            "next_category": wanted.next_category,
        }
        if document != self.store.get("host", "label-map"):
            decision = monitor.labelmap_install(self.policy, wanted)
            self.audit.append(decision.check, self.name, decision.as_detail())
            decision.enforce()
            self.store.put("host", "label-map", document)

    def _on_suspended(self, event: Suspension) -> None:
        self.reactions.suspended(event)

    def _on_hint(self, about: HostName) -> None:
        self.schedule.wake(about)

    def _on_admitted(self, peer: HostName) -> None:
        self.schedule.admitted(peer)
        self.reactions.admitted(peer)
