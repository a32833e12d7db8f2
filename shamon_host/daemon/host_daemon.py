"""One host's whole program over its ports: start, run, stop. `composition` builds it with real backends.

Starting: the guard and what the kernel already holds first, then the VMs (replaced by clean ones where this host's
last boot cannot be trusted), and only then does it ask its peers for admission. Where a MAC VM holds the links, which
may take minutes to boot, the daemon is ready before it, and VMs start behind it. Stopping closes all links, unless the
service manager says that it is half of a restart. A daemon that is killed leaves the gate, which closes by itself.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from shamon_host.attestation.attester import Attester
from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.background import Background
from shamon_host.daemon.coalition_host import CoalitionHost
from shamon_host.daemon.demands import Demands
from shamon_host.daemon.figures import Figures
from shamon_host.daemon.guest_memory import GuestMemory
from shamon_host.daemon.guest_questions import GuestAnswers
from shamon_host.daemon.guest_references import GuestReferenceSource
from shamon_host.daemon.link_types import LinkTypes
from shamon_host.daemon.live_arrivals import LiveArrivals
from shamon_host.daemon.live_departures import LiveDepartures
from shamon_host.daemon.membership import Members, stored_authorities, take_stored
from shamon_host.daemon.own_host import OwnHost
from shamon_host.daemon.peer_policies import PeerPolicies
from shamon_host.daemon.peer_schedule import PeerSchedule
from shamon_host.daemon.policy_changes import PolicyChanges
from shamon_host.daemon.policy_switch import PolicySwitch
from shamon_host.daemon.ports import Backends, StopReason
from shamon_host.daemon.reactions import Reactions
from shamon_host.daemon.references import ReferenceSource
from shamon_host.daemon.result_history import ResultHistory
from shamon_host.daemon.store import Store
from shamon_host.daemon.suspension import Suspension
from shamon_host.daemon.vm_arrivals import Arrivals
from shamon_host.daemon.vm_attestation import VmAttestation
from shamon_host.daemon.vm_departures import Departures
from shamon_host.daemon.watchers import Watchers
from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.errors import ShamonError
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import Policy, PolicyVersion
from shamon_host.domain.results import TpmKind
from shamon_host.domain.vm_tokens import VmToken
from shamon_host.hypervisor.vm_spec import VmSettings
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.handshake import Handshaker, PeerService
from shamon_host.peer.host_record import Authorities

_AGAIN_S = 10.0


@dataclass(kw_only=True)
class HostDaemon:
    """Everything of one host, wired. `service` is what the peer transport hands incoming messages to."""

    name: HostName
    policy_file: Policy
    """What the host was set up with; an update may have brought another one in force since."""
    policy_envelope: bytes = b""
    registry: PeerRegistry
    authorities: Authorities
    """Whose records of hosts count: the coalition's CA."""
    cas: tuple[bytes, ...] = ()
    """Behind this host's certificate: what tells who knows only an older CA of this one, DER."""
    references: ReferenceSource
    guest_references: GuestReferenceSource
    store: Store
    audit: AuditLog
    history: ResultHistory
    backends: Backends
    vm_settings: Mapping[VmName, VmSettings] = field(default_factory=dict)
    figures: Figures = field(default_factory=Figures)
    background: Background = field(init=False, default_factory=Background)
    own: OwnHost = field(init=False)
    policies: PeerPolicies = field(init=False)
    admissions: Admissions = field(init=False)
    host: CoalitionHost = field(init=False)
    handshaker: Handshaker = field(init=False)
    changes: PolicyChanges = field(init=False)
    members: Members = field(init=False)
    service: PeerService = field(init=False)
    schedule: PeerSchedule = field(init=False)
    reactions: Reactions = field(init=False)
    demands: Demands = field(init=False)
    departures: Departures = field(init=False)
    arrivals: Arrivals = field(init=False)
    watchers: Watchers = field(init=False)
    guest_answers: GuestAnswers = field(init=False)
    attestation: VmAttestation | None = field(init=False)
    """Of this host's VMs; None where they have no TPMs."""
    _started: bool = field(init=False, default=False)
    """What should run was started, if it could be."""
    _loop: asyncio.AbstractEventLoop = field(init=False, repr=False)

    def __post_init__(self) -> None:
        name, store, audit, backends = self.name, self.store, self.audit, self.backends
        clock, blocking = backends.clock, backends.blocking
        authorities = stored_authorities(self.authorities, store, clock.wall_s())
        take_stored(self.registry, store, authorities)
        self.own = own = OwnHost(
            name=name,
            policy_file=self.policy_file,
            policy_envelope=self.policy_envelope,
            registry=self.registry,
            store=store,
            audit=audit,
            backends=backends,
            vm_settings=self.vm_settings,
            measured=self.figures.add,
            moving=self._moving,
            standing_by=self._standing_by,
        )
        enforced, links, vms = own.enforced, own.links, own.vms
        self.policies = policies = PeerPolicies(
            enforced=enforced, store=store, audit=audit, wanted=self._on_unknown_policy
        )
        types = LinkTypes(name=name, enforced=enforced, policies=policies, vms=vms.states)
        self.admissions = admissions = Admissions(
            name=name,
            enforced=enforced,
            policies=policies,
            registry=self.registry,
            store=store,
            session=own.session,
            audit=audit,
            clock=clock,
            blocking=blocking,
            links=links,
            figures=self.figures,
            background=self.background,
            on_suspended=self._on_suspended,
            on_admitted=self._on_admitted,
            on_first_admitted=self._on_first_admitted,
        )
        self.host = CoalitionHost(
            name=name,
            enforced=enforced,
            policies=policies,
            registry=self.registry,
            references=self.references,
            store=store,
            session=own.session,
            audit=audit,
            history=self.history,
            clock=clock,
            blocking=blocking,
            attester=Attester(tpm=backends.tpm, logs=backends.logs, blocking=blocking),
            links=links,
            hypervisor=backends.hypervisor,
            xen=own.xen,
            types=types,
            admissions=admissions,
            owners=own.owners,
            mac_vm=lambda: own.mac_vm.reported(own.vms.states) if own.mac_vm is not None else None,
            figures=self.figures,
            on_moves=self._on_moves,
            on_hint=self._on_hint,
            on_handshake=self._on_handshake,
            heard=self._heard,
        )
        self.handshaker = handshaker = Handshaker(
            name=name,
            host=self.host,
            directory=self.registry,
            transport=backends.transport,
            boottime_s=clock.boottime_s,
            timeout=lambda: enforced.policy.intervals.timeout_s,
        )
        self.schedule = PeerSchedule(
            name=name,
            enforced=enforced,
            admissions=admissions,
            audit=audit,
            handshaker=handshaker,
            clock=clock,
            figures=self.figures,
        )
        self.changes = PolicyChanges(
            name=name,
            enforced=enforced,
            policies=policies,
            registry=self.registry,
            admissions=admissions,
            vms=vms,
            switch=PolicySwitch(
                name=name,
                enforced=enforced,
                admissions=admissions,
                vms=vms,
                xen=own.xen,
                reconciler=own.reconciler,
                audit=audit,
                blocking=blocking,
                on_dropped=self.host.forget,
            ),
            audit=audit,
            versions=enforced.versions,
            transport=backends.transport,
            clock=clock,
            blocking=blocking,
            key=backends.record_key,
            background=self.background,
            changed=self._on_policy_changed,
            wake=self.schedule.wake,
        )
        self.members = Members(
            name=name,
            enforced=enforced,
            registry=self.registry,
            admissions=admissions,
            store=store,
            audit=audit,
            clock=clock,
            blocking=blocking,
            background=self.background,
            authorities=authorities,
            own_cas=self.cas,
            transport=backends.transport,
            key=backends.record_key,
            wake=self.schedule.wake,
        )
        self.arrivals = Arrivals(
            name=name,
            enforced=enforced,
            admissions=admissions,
            owners=own.owners,
            vms=vms,
            store=store,
            audit=audit,
            clock=clock,
            blocking=blocking,
            key=backends.record_key,
            own_tpm=self._own_tpm,
            changed=self._on_moved,
            background=self.background,
            live=LiveArrivals(
                name=name,
                enforced=enforced,
                admissions=admissions,
                vms=vms,
                links=links,
                live=backends.live,
                streams=backends.passages,
                audit=audit,
                clock=clock,
                blocking=blocking,
                background=self.background,
                wake=self.schedule.wake,
                changed=self._on_moved,
            ),
        )
        self.departures = Departures(
            name=name,
            enforced=enforced,
            policies=policies,
            admissions=admissions,
            owners=own.owners,
            vms=vms,
            store=store,
            audit=audit,
            clock=clock,
            blocking=blocking,
            background=self.background,
            transport=backends.transport,
            key=backends.record_key,
            own_tpm=self._own_tpm,
            wake=self.schedule.wake,
            pending=self._is_pending,
            measured=self.figures.add,
            changed=self._on_moved,
            live=LiveDepartures(
                name=name,
                enforced=enforced,
                policies=policies,
                admissions=admissions,
                vms=vms,
                links=links,
                live=backends.live,
                streams=backends.passages,
                audit=audit,
                clock=clock,
                blocking=blocking,
                wake=self.schedule.wake,
            ),
        )
        self.service = PeerService(
            handshaker=handshaker,
            hinted=self.host.hinted,
            policies=self.changes,
            registry=self.members,
            moves=self.arrivals,
        )
        self.reactions = Reactions(
            name=name,
            enforced=enforced,
            admissions=admissions,
            vms=vms,
            audit=audit,
            handshaker=handshaker,
            store=store,
            clock=clock,
            blocking=blocking,
            boot_id=backends.boot_id,
            background=self.background,
        )
        self.demands = Demands(
            name=name,
            enforced=enforced,
            admissions=admissions,
            links=links,
            types=types,
            audit=audit,
            clock=clock,
            blocking=blocking,
            wake=self.schedule.wake,
            under_way=handshaker.sessions.under_way,
        )
        self.watchers = Watchers(
            name=name,
            enforced=enforced,
            admissions=admissions,
            links=links,
            types=types,
            reconciler=own.reconciler,
            vms=vms,
            xen=own.xen,
            on_enforced=self._on_enforced,
            audit=audit,
            logs=backends.logs,
            clock=clock,
            blocking=blocking,
            wake=self.schedule.wake,
            wake_all=self.schedule.wake_all,
            bring_mac_vm_about=own.bring_mac_vm_about,
            has_mac_vm=own.mac_vm is not None,
            mac_vm_runtime=lambda: own.mac_vm.runtime(own.vms.states) if own.mac_vm is not None else None,
            demands=self.demands,
        )
        self.attestation = None
        if backends.guests is not None:
            self.attestation = VmAttestation(
                name=name,
                enforced=enforced,
                vms=vms,
                references=self.guest_references,
                memory=GuestMemory(store=store),
                guests=backends.guests,
                reconciler=own.reconciler,
                detach_port=own.detach_port,
                replace=own.replace,
                audit=audit,
                clock=clock,
                blocking=blocking,
                background=self.background,
                measured=self.figures.add,
                changed=self.watchers.domains_changed,
            )
        self.guest_answers = GuestAnswers(
            name=name,
            enforced=enforced,
            states=vms.states,
            admissions=admissions,
            history=self.history,
            registry=self.registry,
            clock=clock,
            blocking=blocking,
            key=backends.record_key,
        )

    @property
    def policy(self) -> Policy:
        """The one in force now."""
        return self.own.enforced.policy

    async def start(self) -> None:
        """Bring kernel and VMs to the desired state. Asks no peer for anything yet. Raises ShamonError."""
        self._loop = asyncio.get_running_loop()
        self.audit.append("daemon.start", self.name, {"boot_id": self.backends.boot_id})
        await self.own.start()
        for peer, state in self.admissions.peers.items():
            if state.state is AdmissionState.EXPELLED:
                await self.admissions.close_expelled(peer)
        arrived, stay = await self.backends.blocking(self.arrivals.restore), self.departures.restore()
        session = self.own.session
        is_new = session.is_new
        if is_new:
            session.begin()
            session.forget_refusal()
        if self.own.mac_vm is None:
            await self._start_vms(arrived, stay, is_new=is_new)
        else:
            if is_new and session.replaces_vms:
                await self.backends.blocking(lambda: self.own.vms.replace_at_start(session.reason))
            self.background.spawn(self._start_vms_behind_mac_vm(arrived, stay, is_new=is_new), "VMs behind the MAC VM")
        await self.reactions.restore()
        await self.changes.restore()
        self._started = self.own.mac_vm is None

    async def run(self) -> None:
        """Attest and watch until cancelled.

        Raises an ExceptionGroup when a part fails for good: a decision that cannot be written down, or a mistake in
        this program. Whoever runs the daemon stops it then, which closes every link.
        """
        async with asyncio.TaskGroup() as group:
            if self.own.mac_vm is not None:
                group.create_task(self.own.mac_vm.end_with_this_task(), name="waiting for the MAC VM")
            group.create_task(self.background.run(), name="background")
            group.create_task(self.watchers.run(), name="watchers")
            group.create_task(self.schedule.run(), name="schedule")
            group.create_task(self.members.run(), name="members")
            if self.attestation is not None:
                group.create_task(self.attestation.run(), name="attestation of VMs")

    async def stop(self) -> None:
        """The end of the unit: close every link at once, unless this is half of a restart. Raises ShamonError, but
        closes what it can."""
        blocking = self.backends.blocking
        await self.background.close()
        await self.handshaker.close()
        await self.admissions.close()
        reason = await blocking(self.backends.service_manager.stop_reason)
        restarts = reason is StopReason.RESTART
        try:
            words = "kept until their leases end" if restarts else "closed"
            self.audit.append("daemon.stop", self.name, {"reason": reason, "links": words})
        finally:
            if not restarts:
                await blocking(self.own.links.close_all)
        if not restarts and self._started:
            # Only a daemon that watched until the host went down vouches for the VMs' disks at the next boot.
            self.own.session.end(watched=reason is StopReason.SHUTDOWN)

    def _moving(self, vm: VmName) -> str:
        return self.departures.why_not_to_be_started(vm) or self.arrivals.why_not_to_be_started(vm)

    def _standing_by(self) -> frozenset[VmName]:
        return self.arrivals.arriving() | self.departures.live.leaving()

    def _own_tpm(self) -> TpmKind:
        return self.registry.enrolled(self.name).tpm

    def _is_pending(self, vm: VmName) -> bool:
        return any(item.vm == vm for item in self.reactions.pending)

    def _on_moves(self, moves: Sequence[tuple[VmToken, bytes]]) -> None:
        """The handshake that brought them does not wait: a VM may start by them."""
        self.background.spawn(self.arrivals.learn(moves), "where VMs are", finish=True)

    def _on_moved(self) -> None:
        self.watchers.domains_changed()
        self.schedule.wake_all()

    def _on_unknown_policy(self, peer: HostName, which: PolicyVersion) -> None:
        """Called from any thread."""
        self._loop.call_soon_threadsafe(self.changes.learning.learn, peer, which)

    def _on_policy_changed(self) -> None:
        self.schedule.peers_changed()
        self.schedule.wake_all()
        self.watchers.domains_changed()

    def _on_suspended(self, event: Suspension) -> None:
        self.reactions.suspended(event)

    def _on_handshake(self, peer: HostName) -> None:
        self.schedule.begins(peer)

    def _heard(self) -> bool:
        return self.members.heard()

    def _on_hint(self, about: HostName) -> None:
        self.schedule.wake(about)

    async def _start_vms(self, arrived: Sequence[VmName], stay: Sequence[VmName], *, is_new: bool) -> None:
        """What should run and does not, what came, or was to go, when the last daemon ended, and what was begun.
        `is_new`: nothing was started in this boot, but by people while the MAC VM was waited for, and that clean where
        it has to be (`replace_at_start`). A MAC VM may have been started anew meanwhile, and a VM not, for want of it.
        """
        has_mac_vm = self.own.mac_vm is not None
        if is_new or has_mac_vm:
            await self._restore_vms(missing_only=has_mac_vm)
        if arrived:
            self.background.spawn(self._start_arrived(arrived), "VMs that came from other hosts")
        for vm in stay:
            self.background.spawn(self.departures.run_again(vm), f"{vm} runs again")
        self.own.session.keep()
        self.background.spawn(self._finish_vms(), "what was begun with VMs")

    async def _start_vms_behind_mac_vm(
        self, arrived: Sequence[VmName], stay: Sequence[VmName], *, is_new: bool
    ) -> None:
        """Once it answers, or could not be started: VMs without a port run without it."""
        await self.watchers.looked.wait()
        await self._start_vms(arrived, stay, is_new=is_new)
        self._started = True
        self.watchers.domains_changed()

    async def _restore_vms(self, *, missing_only: bool = False) -> None:
        """Start what should run, from clean images where the last boot cannot be trusted."""
        replace, reason = self.own.session.replaces_vms, self.own.session.reason
        started = await self.backends.blocking(
            lambda: self.own.vms.restore(replace=replace, reason=reason, missing_only=missing_only)
        )
        if replace:
            self.reactions.forget(started)

    async def _start_arrived(self, names: Sequence[VmName]) -> None:
        """VMs that an earlier run of this daemon had taken: on the disks that they have."""
        for name in names:
            try:
                await self.backends.blocking(partial(self.own.vms.start_again, name))
            except ShamonError as error:
                self.audit.append("vm.not-restored", name, {"reason": str(error)})
            await self.backends.blocking(partial(self.arrivals.started, name))
        self.watchers.domains_changed()

    async def _finish_vms(self) -> None:
        """Replacements that were cut short, and memory that was to be kept: it may take minutes."""
        told = ""
        while True:
            try:
                await self.backends.blocking(self.own.vms.finish)
            except ShamonError as error:
                if told != str(error):
                    told = str(error)
                    self.audit.append("vm.not-finished", self.name, {"reason": told})
                await self.backends.clock.sleep(_AGAIN_S)
            else:
                self.watchers.domains_changed()
                return

    def _on_first_admitted(self) -> None:
        """What this host may run only as a proven member may start now (`HostEntry.starting`)."""
        if self._started and self.policy.hosts[self.name].starting is not None:
            self.background.spawn(self._restore_vms(missing_only=True), "VMs of an admitted host")

    def _on_enforced(self) -> None:
        """What should run and could not, because labels bound nobody, or there was no MAC VM."""
        if self._started:  # else it is about to start
            self.background.spawn(self._restore_vms(missing_only=True), "VMs that may run again")

    def _on_admitted(self, peer: HostName) -> None:
        self.schedule.admitted(peer)
        self.demands.renewed(peer)
        self.reactions.admitted(peer)
