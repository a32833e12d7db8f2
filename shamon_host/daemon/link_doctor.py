"""The daemon's part of `shamon link doctor`: it looks twice, with a pause, and hands what it knows to `links.doctor`.

Nothing is changed, and no peer is asked.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shamon_host.daemon.host_daemon import HostDaemon
from shamon_host.daemon.suspension import describe
from shamon_host.daemon.verdict_story import first_failing, what_clears
from shamon_host.domain import monitor
from shamon_host.domain.contexts import vm_context
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, TypeName, VmName, plain_name, type_name
from shamon_host.links.doctor import diagnose
from shamon_host.links.doctor_facts import Facts, PeerFacts, VmFacts

MAX_INTERVAL_S = 60.0
DEFAULT_INTERVAL_S = 1.0


@dataclass(kw_only=True)
class LinkDoctor:
    """Stateless; one for each request."""

    daemon: HostDaemon

    async def examine(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `GET /v1/link/doctor`: a report (`links.path_report`). Raises ShamonError."""
        daemon = self.daemon
        peer = HostName(plain_name(str(fields.get("peer", ""))[:80], "host name"))
        name = type_name(str(fields.get("type", ""))[:600])
        vm = VmName(plain_name(str(fields["vm"])[:80], "VM name")) if "vm" in fields else None
        interval_s = _interval(fields)
        if peer not in daemon.admissions.peers:
            raise BadInput(
                "the policy has no such other host",
                where=peer,
                expected=", ".join(sorted(daemon.admissions.peers)) or "a host of the policy",
            )
        blocking, clock, links = daemon.backends.blocking, daemon.backends.clock, daemon.own.links
        before = await blocking(lambda: links.examine(peer, name))
        await clock.sleep(interval_s)
        after = await blocking(lambda: links.examine(peer, name))
        vms = await blocking(lambda: self._vms(name))
        of_peer = await blocking(lambda: self._peer(peer))
        denied = await blocking(lambda: self._denied(peer, name))
        facts = Facts(
            host=daemon.name,
            peer=peer,
            type=name,
            vm=vm,
            denied=denied,
            label_map=daemon.own.enforced.label_map,
            vms=vms,
            of_peer=of_peer,
            before=before,
            after=after,
            wall_s=clock.wall_s(),
            interval_s=interval_s,
        )
        return diagnose(facts).to_document()

    def _vms(self, name: TypeName) -> tuple[VmFacts, ...]:
        """VMs of this host with an interface for the type."""
        vms, policy, label_map = self.daemon.own.vms.states, self.daemon.policy, self.daemon.own.enforced.label_map
        devices = vms.devices()
        found = []
        for status in vms.statuses():
            domain = status.domain
            taps = devices[status.name] if domain is None else [item.device for item in domain.interfaces]
            own = tuple(tap for tap, of in zip(taps, status.interfaces, strict=False) if of == name)
            if own:
                label = vm_context(policy, label_map, status.name)
                found.append(
                    VmFacts(
                        name=status.name,
                        state="absent" if domain is None else domain.state.value,
                        quarantined=status.cut_off,
                        labelled=domain is None or domain.context == label,
                        taps=own,
                    )
                )
        return tuple(found)

    def _peer(self, peer: HostName) -> PeerFacts:
        daemon = self.daemon
        state, now = daemon.admissions.peers[peer], daemon.backends.clock.boottime_s()
        runs = daemon.history.runs(peer, limit=1)
        claim = first_failing(runs[0].last.result) if runs and not runs[0].trusted else None
        return PeerFacts(
            state=state.state,
            reason=state.reason,
            lease_s=max(0.0, state.lease_until_s - now),
            failed_claim=describe(claim) if claim else "",
            clears=what_clears(claim, peer) if claim else "",
            last_error=daemon.schedule.unreachable.get(peer, ""),
            refuses_us=tuple(daemon.host.refusals.get(peer, ())),
            offered=daemon.admissions.offered.get(peer),
        )

    def _denied(self, peer: HostName, name: TypeName) -> str:
        """Why the two hosts may not carry the type, whatever becomes of the peer's admission; "" when they may."""
        policy = self.daemon.policy
        if name not in policy.types:
            return f"the policy knows no type {name}"
        for each in (self.daemon.name, peer):
            if name not in policy.hosts[each].types:
                return f"the label of {each} lacks {name}"
        state, shared = self.daemon.admissions.peers[peer], self.daemon.policies.shared(peer)
        now = self.daemon.backends.clock.boottime_s()
        if name not in shared.types or not state.counts_at(now):
            return shared.why_not(name)
        decision = monitor.link_open(
            policy,
            self.daemon.name,
            peer,
            name,
            state,
            shared=shared.types,
            local_tpm=self.daemon.registry.enrolled(self.daemon.name).tpm,
            now_s=now,
        )
        return "" if decision.permitted else f"{decision.check} denied by the rule {decision.rule}: {decision.reason}"


def _interval(fields: Mapping[str, Any]) -> float:
    value = fields.get("interval_s", DEFAULT_INTERVAL_S)
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds <= MAX_INTERVAL_S:
        raise BadInput("bad interval", expected=f"0 to {MAX_INTERVAL_S:.0f} seconds", found=repr(value)[:40])
    return seconds
