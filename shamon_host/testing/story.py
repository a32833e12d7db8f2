"""The story of a coalition, step by step, each step checked. Played in memory by `shamon demo`, in the lab by
`make lab`, with the same daemon and the same steps.

alpha, beta and gamma form a coalition; labelled VMs talk over labelled links and no other way; wrong software on beta
is noticed, beta is cut off and comes back clean; alpha's daemon dies and nothing is left open.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shamon_host.domain.errors import ShamonError
from shamon_host.testing.story_report import Observer, StepFailed, StepReport, StoryReport
from shamon_host.testing.world import BootVariant, Fault, Host, World

_ASK_TIMES = 5
_LABELS = (":svirt_t:", ":shamon_vm_")
"""Of VMs on QEMU and on Xen, in their contexts."""
RED, BLUE = "acme/red", "rival/blue"
DEFINITE = (Fault.PROGRAM, Fault.MODULE, Fault.PERMISSIVE, Fault.OLD_EVIDENCE)
"""Faults that show as bad Evidence; after the others a peer is only silent, and may come back in time."""


@dataclass(kw_only=True)
class Story:
    """One telling of the story in one world."""

    world: World
    observer: Observer = field(default_factory=Observer)
    _figures: dict[str, float] = field(default_factory=dict)
    _fault_record: int = 0
    """Number of alpha's last audit record before the last fault."""

    async def play(self) -> StoryReport:
        """Every step in order. A step that fails ends the story: what follows stands on it."""
        reports: list[StepReport] = []
        for name, step in self.steps():
            self.observer.begins(name)
            started = time.perf_counter()
            try:
                detail, ok = dict(await step()), True
            except ShamonError as error:
                detail, ok = {"error": str(error)}, False
            report = StepReport(name=name, ok=ok, elapsed_ms=(time.perf_counter() - started) * 1000, detail=detail)
            reports.append(report)
            self.observer.ended(report)
            if not ok:
                break
        return StoryReport(steps=tuple(reports), figures=dict(self._figures))

    def steps(self) -> Sequence[tuple[str, Callable[[], Awaitable[Mapping[str, Any]]]]]:
        """Names of the steps and what they do."""
        steps: list[tuple[str, Callable[[], Awaitable[Mapping[str, Any]]]]] = [
            ("a coalition is founded and its hosts are enrolled", self.world.prepare),
            ("alpha and beta attest each other and are admitted", self.mutual_admission),
            ("gamma's boot differs and it is refused", self.wrong_boot_refused),
            ("gamma boots as it should and is admitted", self.right_boot_admitted),
            ("VMs start under their labels, one in conflict is refused", self.labelled_vms),
            ("the red link comes up by itself, and a blue one beside it", self.links_come_up),
            ("web reaches db; spy reaches neither, nor the host", self.types_stay_apart),
            ("the wire shows only ESP, also while policies are flushed", self.only_esp),
            ("an SA of the wrong category is refused by the kernel", self.wrong_category),
        ]
        for fault in self.world.faults:
            steps.append((f"{_FAULT_NAMES[fault]}: beta is cut off", partial(self.cut_off, fault)))
            steps.append(("beta boots clean, replaces its VMs and is back", partial(self.recovery, fault)))
        steps += [
            ("alpha's daemon is killed: traffic goes on until the gate closes", self.killed_daemon),
            ("alpha's daemon is back and everything converges", self.restarted_daemon),
            ("stopping the unit closes all at once", self.stopped_unit),
        ]
        return steps

    # 1

    async def mutual_admission(self) -> Mapping[str, Any]:
        await self.alpha.boot()
        await self.beta.boot()
        took = await self._until_admitted(self.alpha, self.beta)
        peer = await self._peer(self.alpha, "beta")
        await self._figures_of(self.alpha)
        return {"seconds": round(took, 1), "claims": peer["claims"], "tpm": peer["tpm"]}

    async def wrong_boot_refused(self) -> Mapping[str, Any]:
        await self.gamma.boot(BootVariant.WRONG)
        reasons = {}
        for host in (self.alpha, self.beta):

            async def refused(host: Host = host) -> bool:
                peer = await self._peer(host, "gamma")
                return bool(peer["state"] == "suspended" and "PCR" in peer["reason"])

            await self.world.until(refused, within_s=4 * self.world.timing.lease_s, what=f"{host.name} refuses gamma")
            reasons[host.name] = (await self._peer(host, "gamma"))["reason"]
        for name, reason in reasons.items():
            self._check("event" in reason, f"{name} names the event that differs", reason)
        return {"reasons": reasons}

    async def right_boot_admitted(self) -> Mapping[str, Any]:
        await self.gamma.boot()
        await self._until_admitted(self.alpha, self.gamma)
        await self._until_admitted(self.beta, self.gamma)
        return {"admitted": ["alpha", "beta", "gamma"]}

    # 2

    async def labelled_vms(self) -> Mapping[str, Any]:
        contexts = {}
        for host, vm in ((self.alpha, "web"), (self.beta, "db"), (self.beta, "spy")):
            contexts[vm] = await self._start(host, vm)
        refused = await self.alpha.ask("vm", "start", "probe")
        words = str(refused.value["error"]["what"]) if refused.exit_code else "it started"
        self._check(refused.exit_code == 1 and "conflict" in words.lower(), "the VM in conflict is refused", words)
        self._check((await self._vm(self.alpha, "probe"))["state"] == "absent", "it does not run", words)
        return {"contexts": contexts, "refused": words}

    # 3

    async def links_come_up(self) -> Mapping[str, Any]:
        took = await self._until_link(self.alpha, "beta", RED)
        await self._start(self.alpha, "shop")
        await self._until_link(self.alpha, "beta", BLUE)
        await self._until_link(self.beta, "alpha", BLUE)
        links = await self._rows(self.alpha, "links")
        return {"red_after_s": round(took, 1), "links": links}

    async def types_stay_apart(self) -> Mapping[str, Any]:
        address4, address6 = self.world.vm_addresses["db"]
        web, spy = self.alpha.guest("web"), self.beta.guest("spy")
        await self.world.until(lambda: web.reaches(address4), within_s=60, what="web reaches db by IPv4")
        await self.world.until(lambda: web.reaches(address6), within_s=60, what="web reaches db by IPv6")
        shop4 = self.world.vm_addresses["shop"][0]
        await self.world.until(lambda: spy.reaches(shop4), within_s=60, what="spy reaches shop, of its own type")
        denied = []
        for vm in ("web", "db"):
            for address in self.world.vm_addresses[vm]:
                self._check(not await spy.reaches(address), f"spy does not reach {vm}", address)
                denied.append(f"{vm} {address}")
            self._check(not await spy.resolves(self.world.vm_addresses[vm][0]), f"spy gets no ARP answer of {vm}", vm)
        for address in self.beta.own_addresses:
            self._check(not await spy.reaches(address), "spy does not reach its host", address)
            denied.append(f"host {address}")
        return {"reached": f"web to db at {address4} and {address6}", "denied": denied}

    async def only_esp(self) -> Mapping[str, Any]:
        address = self.world.vm_addresses["db"][0]
        web = self.alpha.guest("web")
        mark = self.world.mark_wire()
        await self._reach("web", self.alpha, "db")
        tally = self.world.wire_since(mark)
        self._check(tally.esp > 0 and tally.clear == 0, "only ESP is on the wire", str(tally))
        mark = self.world.mark_wire()
        await self.alpha.flush_policies()
        for _ in range(3):
            await web.reaches(address)
        flushed = self.world.wire_since(mark)
        self._check(flushed.clear == 0, "no clear frame after the SPD was flushed", str(flushed))
        await self.world.until(
            lambda: web.reaches(address), within_s=4 * self.world.timing.lease_s, what="the SPD is repaired"
        )
        return {"esp_frames": tally.esp, "clear_frames": tally.clear, "clear_after_flush": flushed.clear}

    async def wrong_category(self) -> Mapping[str, Any]:
        rose = await self.alpha.refuses_wrong_category("beta")
        self._check(rose.get("XfrmInPolBlock", 0) > 0, "XfrmInPolBlock rose", str(dict(rose)))
        self._check(rose.get("avc", 0) > 0, "the kernel logged a denial", str(dict(rose)))
        await self._reach("web", self.alpha, "db")
        return dict(rose)

    # 4

    async def cut_off(self, fault: Fault) -> Mapping[str, Any]:
        await self._reach("web", self.alpha, "db")
        await self.beta.guest("db").write_marker(f"written before {fault}")
        self._fault_record = after = await self._audit_end(self.alpha)
        gamma_lease = (await self._peer(self.alpha, "gamma"))["state"]
        trace = await self.beta.inflict(fault)

        async def gone() -> bool:
            peer = await self._peer(self.alpha, "beta")
            return bool(peer["state"] == "suspended") and (await self.alpha.objects("beta")).nothing

        took = await self.world.until(
            gone, within_s=self.world.timing.lease_s + 2 * self.world.timing.period_s + 30, what="alpha cuts beta off"
        )
        reason = (await self._peer(self.alpha, "beta"))["reason"]
        for needle in trace.needles:
            self._check(needle in reason, f"the reason names {needle}", reason)
        suspended = await self._audit_since(self.alpha, after, "peer.suspend", "beta")
        exposures = [record["detail"]["exposure_s"] for record in suspended if "exposure_s" in record["detail"]]
        self._check(bool(exposures), "the exposure is in the audit log", str(suspended))
        limit = self.world.timing.lease_s + 5
        self._check(exposures[0] <= limit, "cut off at the lease at the latest", f"{exposures[0]} s")
        web = self.alpha.guest("web")
        if await self._running(self.alpha, "web"):
            self._check(not await web.reaches(self.world.vm_addresses["db"][0]), "web no longer reaches db", "it does")
        gamma = await self._peer(self.alpha, "gamma")
        self._check(gamma["state"] == gamma_lease == "admitted", "gamma stays admitted", str(gamma))
        await self._figures_of(self.alpha)
        return {"seconds": round(took, 1), "reason": reason, "exposure_s": exposures[0]}

    # 5

    async def recovery(self, fault: Fault) -> Mapping[str, Any]:
        await self.beta.boot()
        await self._until_admitted(self.alpha, self.beta)
        if fault in DEFINITE:
            await self.world.until(
                self._web_was_replaced,
                within_s=4 * self.world.timing.lease_s,
                what="alpha replaces web, as red demands",
            )
        self._check(await self.beta.overlay_is_clean("db"), "db stands on the pinned image", "it does not")
        vm = await self._vm(self.beta, "db")
        self._check(vm["state"] == "running" and bool(vm["context"]), "db runs under its label", str(vm))
        marker = await self.beta.guest("db").read_marker()
        self._check(marker == "", "the marker written before is gone", marker)
        await self.world.until(
            lambda: self._running(self.alpha, "web"), within_s=4 * self.world.timing.lease_s, what="web runs again"
        )
        await self._until_link(self.alpha, "beta", RED)
        await self._reach("web", self.alpha, "db")
        replaced = await self._audit_since(self.beta, 0, "vm.replace", "db")
        self._check(bool(replaced), "beta replaced db", "no vm.replace in its audit log")
        return {"db_context": vm["context"], "replaced": replaced[-1]["detail"]["reason"]}

    # 6

    async def killed_daemon(self) -> Mapping[str, Any]:
        await self._reach("web", self.alpha, "db")
        web, address = self.alpha.guest("web"), self.world.vm_addresses["db"][0]
        await self.alpha.kill_daemon()
        # Not at the first try, where the machine is busy: a frame is lost, or late.
        await self.world.until(lambda: web.reaches(address), within_s=10, what="traffic goes on after kill -9")
        await self.alpha.step_clock(-3600)
        self._check(
            await web.reaches(address) or not (await self.alpha.objects("beta")).gate_open,
            "traffic goes on with the clock stepped back",
            "it does not",
        )

        async def stopped() -> bool:
            return not await web.reaches(address)

        took = await self.world.until(
            stopped, within_s=self.world.timing.lease_s + 30, what="the gate closes by itself"
        )
        self._check(not (await self.alpha.objects("beta")).gate_open, "the gate is closed", "it is open")
        await self.alpha.step_clock(3600)
        return {"stopped_after_s": round(took, 1), "lease_s": self.world.timing.lease_s}

    async def restarted_daemon(self) -> Mapping[str, Any]:
        await self.alpha.start_daemon()
        await self._until_admitted(self.alpha, self.beta)
        await self._until_link(self.alpha, "beta", RED)
        await self._reach("web", self.alpha, "db")
        objects = await self.alpha.objects("beta")
        links = [link for link in await self._rows(self.alpha, "links") if link["peer"] == "beta"]
        self._check(objects.devices == len(links), "no device is left over", f"{objects} for {len(links)} links")
        self._check(objects.spd_entries == 2 * len(links), "no SPD entry is left over", str(objects))
        return {"links": len(links), "devices": objects.devices, "sas": objects.sas}

    async def stopped_unit(self) -> Mapping[str, Any]:
        mark = self.world.mark_wire()
        await self.alpha.stop_daemon()
        objects = {peer: await self.alpha.objects(peer) for peer in ("beta", "gamma")}
        for peer, left in objects.items():
            self._check(left.nothing, f"nothing is left of {peer}", str(left))
        reached = await self.alpha.guest("web").reaches(self.world.vm_addresses["db"][0])
        self._check(not reached, "web no longer reaches db", "it does")
        tally = self.world.wire_since(mark)
        self._check(tally.clear == 0, "nothing goes in clear", str(tally))
        return {"left": 0, "clear_frames": tally.clear}

    async def _web_was_replaced(self) -> bool:
        """Since the last fault, and it runs again."""
        replaced = await self._audit_since(self.alpha, self._fault_record, "vm.replace", "web")
        return bool(replaced) and await self._running(self.alpha, "web")

    # What the steps share

    @property
    def alpha(self) -> Host:
        return self.world.hosts["alpha"]

    @property
    def beta(self) -> Host:
        return self.world.hosts["beta"]

    @property
    def gamma(self) -> Host:
        return self.world.hosts["gamma"]

    def _check(self, holds: bool, expected: str, found: str) -> None:
        if not holds:
            raise StepFailed("the story does not hold", expected=expected, found=found[:1000])

    async def _reach(self, name: str, host: Host, target: str) -> None:
        guest, address = host.guest(name), self.world.vm_addresses[target][0]
        await self.world.until(
            lambda: guest.reaches(address), within_s=2 * self.world.timing.lease_s, what=f"{name} reaches {target}"
        )

    async def _start(self, host: Host, vm: str) -> str:
        result = await host.ask("vm", "start", vm)
        self._check(result.exit_code == 0, f"{vm} starts on {host.name}", str(result.value))
        status = await self._vm(host, vm)
        self._check(
            status["state"] == "running" and any(each in status["context"] for each in _LABELS),
            f"{vm} runs under its label",
            str(status),
        )
        return str(status["context"])

    async def _until_admitted(self, first: Host, second: Host) -> float:
        async def admitted() -> bool:
            states = [(await self._peer(host, peer.name))["state"] for host, peer in ((first, second), (second, first))]
            return states == ["admitted", "admitted"]

        return await self.world.until(
            admitted, within_s=4 * self.world.timing.lease_s, what=f"{first.name} and {second.name} admit each other"
        )

    async def _until_link(self, host: Host, peer: str, type_name: str) -> float:
        async def up() -> bool:
            links = await self._rows(host, "links")
            return any(link["peer"] == peer and link["type"] == type_name and link["state"] == "up" for link in links)

        return await self.world.until(
            up, within_s=4 * self.world.timing.lease_s, what=f"the {type_name} link to {peer} is up"
        )

    async def _rows(self, host: Host, what: str) -> Any:
        """What a listing command gives; asked again where the daemon could not answer just then."""
        result = await host.ask(what)
        for _ in range(_ASK_TIMES - 1):
            if result.exit_code == 0:
                break
            await self.world.wait(1)
            result = await host.ask(what)
        self._check(result.exit_code == 0, f"`shamon {what}` answers on {host.name}", str(result.value))
        return result.value

    async def _peer(self, host: Host, peer: str) -> Any:
        rows = await self._rows(host, "peers")
        return next(row for row in rows if row["host"] == peer)

    async def _vm(self, host: Host, vm: str) -> Any:
        rows = await self._rows(host, "vms")
        return next(row for row in rows if row["name"] == vm)

    async def _running(self, host: Host, vm: str) -> bool:
        return bool((await self._vm(host, vm))["state"] == "running")

    async def _audit_records(self, host: Host, after: int) -> list[Any]:
        records: list[Any] = []
        while batch := (await host.ask("audit", "--after", str(after), "--limit", "1000")).value:
            records += batch
            after = batch[-1]["sequence"]
        return records

    async def _audit_end(self, host: Host) -> int:
        records = await self._audit_records(host, 0)
        return int(records[-1]["sequence"]) if records else 0

    async def _audit_since(self, host: Host, after: int, kind: str, subject: str) -> list[Any]:
        records = await self._audit_records(host, after)
        return [record for record in records if record["kind"] == kind and record["subject"] == subject]

    async def _figures_of(self, host: Host) -> None:
        figures = (await host.ask("status")).value["figures"]
        self._figures.update({name: figure["median"] for name, figure in figures.items()})


_FAULT_NAMES = {
    Fault.PROGRAM: "an unknown program runs on beta",
    Fault.MODULE: "an unknown kernel module is loaded on beta",
    Fault.PERMISSIVE: "SELinux is switched off on beta",
    Fault.DAEMON_STOPPED: "beta's daemon is stopped",
    Fault.DAEMON_KILLED: "beta's daemon is killed",
    Fault.OLD_EVIDENCE: "beta answers with old Evidence",
}
