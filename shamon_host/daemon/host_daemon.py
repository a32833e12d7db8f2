"""One host's whole program over its ports: start, run, stop. `composition` builds it with real backends.

Starting: the guard and what the kernel already holds first, then the VMs (replaced by clean ones where this host's
last boot cannot be trusted), and only then does it ask its peers for admission. Stopping closes all links, unless the
service manager says that it is half of a restart. A daemon that is killed leaves the gate, which closes by itself.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from shamon_host.attestation.attester import Attester
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.coalition_host import CoalitionHost, Suspension
from shamon_host.daemon.figures import Figures
from shamon_host.daemon.peer_schedule import PeerSchedule
from shamon_host.daemon.ports import Backends, StopReason
from shamon_host.daemon.reactions import Reactions
from shamon_host.daemon.references import ReferenceSource
from shamon_host.daemon.store import Store
from shamon_host.daemon.watchers import Watchers
from shamon_host.domain import label_map as label_maps
from shamon_host.domain import monitor
from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.errors import BadInput
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
    host: CoalitionHost = field(init=False)
    handshaker: Handshaker = field(init=False)
    service: PeerService = field(init=False)
    schedule: PeerSchedule = field(init=False)
    reactions: Reactions = field(init=False)
    watchers: Watchers = field(init=False)

    def __post_init__(self) -> None:
        if self.name not in self.policy.hosts:
            raise BadInput(
                "this host is not in the policy", expected=", ".join(sorted(self.policy.hosts)), found=self.name
            )
        backends = self.backends
        label_map = self._label_map()
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
            host=self.host, handshaker=handshaker, store=self.store, clock=backends.clock, blocking=backends.blocking
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
        self._install_policy()
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
            await blocking(lambda: self.host.vms.restore(replace=replace, reason=reason))
            self.store.delete("host", "refused")
        self.store.put("host", "session", {"boot_id": self.backends.boot_id, "watched_to_the_end": False})

    async def run(self) -> None:
        """Attest and watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.watchers.run(), name="watchers")
            group.create_task(self.schedule.run(), name="schedule")

    async def stop(self) -> None:
        """The end of the unit: close every link at once, unless this is half of a restart."""
        self.reactions.close()
        await self.handshaker.close()
        reason = await self.backends.blocking(self.backends.service_manager.stop_reason)
        if reason is StopReason.RESTART:
            self.audit.append("daemon.stop", self.name, {"reason": reason, "links": "kept until their leases end"})
            return
        self.audit.append("daemon.stop", self.name, {"reason": reason, "links": "closed"})
        await self.backends.blocking(self.host.links.close_all)
        # Only a daemon that watched until the host went down vouches for the VMs' disks at the next boot.
        watched = reason is StopReason.SHUTDOWN
        self.store.put("host", "session", {"boot_id": self.backends.boot_id, "watched_to_the_end": watched})

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

    def _label_map(self) -> LabelMap:
        document = self.store.get("host", "label-map")
        current = label_maps.EMPTY
        if document:
            current = LabelMap(
                types={TypeName(name): category for name, category in document["types"].items()},
                vms={VmName(name): (low, high) for name, (low, high) in document["vms"].items()},
                next_category=document["next_category"],
            )
        wanted = label_maps.allocate(current, self.policy.types, self.policy.vms)
        decision = monitor.labelmap_install(self.policy, wanted)
        if wanted != current:
            self.audit.append(decision.check, self.name, decision.as_detail())
        decision.enforce()
        self.store.put(
            "host",
            "label-map",
            {
                "types": dict(wanted.types),
                "vms": {name: list(pair) for name, pair in wanted.vms.items()},
                "next_category": wanted.next_category,
            },
        )
        return wanted

    def _on_suspended(self, event: Suspension) -> None:
        self.reactions.suspended(event)

    def _on_hint(self, about: HostName) -> None:
        self.schedule.wake(about)

    def _on_admitted(self, peer: HostName) -> None:
        self.schedule.admitted(peer)
        self.reactions.admitted(peer)
