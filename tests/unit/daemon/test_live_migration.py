"""Live migration between two hosts: the VM runs on, with its memory, and is in one place at every moment, whoever fails
when."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from shamon_host.daemon.store import Store
from shamon_host.daemon.suspension import Suspension
from shamon_host.domain.errors import BackendFailed, Unreachable
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.hypervisor.answers import Unanswered
from shamon_host.hypervisor.durations import Laps
from shamon_host.hypervisor.ports import DomainState
from shamon_host.links.model import PASSAGE_SESSION
from shamon_host.peer.wire import VM_ABORT, VM_ACCEPT, VM_HAND, VM_JOIN, VM_PATHS, VM_RECEIVE
from shamon_host.testing.memory_host import MemoryHost
from shamon_host.testing.network import Deliver, Request, memory_identity
from tests.unit.daemon.daemon_world import ALPHA, BETA, GAMMA, ON_FAILURE, XEN, DaemonWorld, daemon, play, records
from tests.unit.daemon.test_migration import (
    CONFLICT,
    KINDS,
    MOVES,
    WEB,
    db_reaches_web,
    ended,
    live_of,
    migrate,
    owner,
    runs,
    where,
)
from tests.unit.daemon.test_reactions import AT_ONCE, SUSPEND

KEEP = (ON_FAILURE, 'on_failure = "keep"')
PARTS = ["attested", "prepared", "copied", "disk ended", "memory ended", "accepted", "given", "taken"]


async def migrate_live(world: DaemonWorld, source: MemoryHost, to: str, vm: str = "web") -> dict[str, Any]:
    begun = await source.ask("vm", "migrate", vm, to, "--live")
    if begun.exit_code:
        return dict(begun.value)
    return await ended(world, source, vm)


async def running(world: DaemonWorld, *hosts: str) -> None:
    """web runs on alpha, with something in its memory and on its disk."""
    await world.boot("alpha", "beta", *hosts)
    await world.start("alpha", "web")
    world.alpha.hypervisor.guest("web").note = "in memory"
    await world.alpha.guest("web").write_marker("on disk")
    await world.admitted("alpha", "beta", *hosts)


def is_whole(host: MemoryHost) -> bool:
    """web is there with its memory and its disk."""
    disk = host.images.overlays["/overlays/web.qcow2"].written
    return (host.hypervisor.guest("web").note, disk) == ("in memory", "on disk")


def nothing_is_left(world: DaemonWorld) -> bool:
    """No passage, no domain that waits, nothing under way."""
    hosts = [host for host in world.hosts.values() if host.daemon is not None]
    return not any(
        host.kernel.read().passages or host.hypervisor.waiting or any(daemon(host).store.items(kind) for kind in KINDS)
        for host in hosts
    )


def test_a_vm_moves_while_it_runs() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world, "gamma")
        mark = world.mark_wire()
        answer = await migrate_live(world, world.alpha, "beta")
        assert answer.get("step") == "it is running", answer
        assert list(answer["parts_ms"]) == PARTS
        running_ms = sum(answer["parts_ms"][part] for part in PARTS[:3])
        assert answer["downtime_ms"] == pytest.approx(sum(answer["parts_ms"].values()) - running_ms)
        assert answer["sent_bytes"] > 0
        tally = world.wire_since(mark)
        assert (tally.clear, tally.esp > 0) == (0, True)
        assert where(world) == ["beta"]
        assert is_whole(world.beta)
        assert world.alpha.images.overlay(WEB) is None
        await db_runs_and_reaches(world)
        await world.admitted("alpha", "beta", "gamma")
        assert {owner(host) for host in world.hosts.values()} == {"beta"}
        assert nothing_is_left(world)
        assert any(name.startswith("live migration: ") for name in (await world.alpha.ask("status")).value["figures"])

    play(test, MOVES)


async def db_runs_and_reaches(world: DaemonWorld) -> None:
    await world.start("beta", "db")
    await db_reaches_web(world)


def test_there_and_back_again() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world)
        assert (await migrate_live(world, world.alpha, "beta"))["step"] == "it is running"
        await world.admitted("alpha", "beta")
        await world.beta.guest("web").write_marker("on disk at beta")
        assert (await migrate_live(world, world.beta, "alpha"))["step"] == "it is running"
        assert where(world) == ["alpha"]
        assert world.alpha.hypervisor.guest("web").note == "in memory"
        assert world.alpha.images.overlays["/overlays/web.qcow2"].written == "on disk at beta"
        assert [detail["generation"] for detail in records(world.alpha, "vm.own")] == [2]
        await world.admitted("alpha", "beta")

    play(test, MOVES)


def test_while_it_waits_it_stands_still_and_its_host_is_trusted() -> None:
    """In each message, and in a handshake amid the move: one domain runs, the other one is suspended, and everybody may
    know."""

    async def test(world: DaemonWorld) -> None:
        await running(world, "gamma")
        seen: list[tuple[bool, bool]] = []

        async def tap(request: Request, deliver: Deliver) -> bytes:
            answer = await deliver(request)
            if request.path in (VM_RECEIVE, VM_JOIN):
                seen.append((runs(world.alpha), runs(world.beta)))
                assert where(world) == ["alpha", "beta"]
                daemon(world.gamma).schedule.wake_all()
                daemon(world.beta).watchers.domains_changed()
                await asyncio.sleep(3.0)
                assert where(world) == ["alpha", "beta"], "it is nobody's mistake"
                assert world.beta.daemon is not None
                refused = (await world.beta.ask("vm", "start", "web")).exit_code
                assert refused != 0, "it is not beta's yet"
                await world.admitted("alpha", "beta", "gamma")
            return answer

        world.network.tap = tap
        assert (await migrate_live(world, world.alpha, "beta"))["step"] == "it is running"
        assert seen == [(True, False)] * 2
        assert not records(world.gamma, "peer.suspend")

    play(test, MOVES)


# Refused


async def refused(world: DaemonWorld, to: str, words: str, *, runs_on: bool = True) -> None:
    """Refused for this reason; the VM is where it was, and was never stopped."""
    answer = await migrate_live(world, world.alpha, to)
    assert words in str(answer["error"]), answer
    await asyncio.sleep(15.0)
    assert where(world) == (["alpha"] if runs_on else [])
    assert owner(world.alpha) == "alpha"
    assert nothing_is_left(world)
    if runs_on:
        assert runs(world.alpha)
        assert is_whole(world.alpha)


def test_what_would_conflict_there_does_not_move() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world)
        await world.start("beta", "spy")
        await refused(world, "beta", "would run together on beta")

    play(test, MOVES, CONFLICT, KEEP)


def test_a_host_that_is_not_admitted_gets_nothing() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world)
        calls = world.count_calls(VM_RECEIVE)
        await refused(world, "gamma", "gamma is")
        assert calls == []

    play(test, MOVES, KEEP)


def test_a_vm_that_does_not_run_moves_otherwise() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world)
        await world.alpha.ask("vm", "stop", "web")
        await refused(world, "beta", "it does not run", runs_on=False)
        assert (await migrate(world, world.alpha, "beta"))["step"] == "it is stopped"

    play(test, MOVES)


def test_xen_sends_no_memory() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world)
        await refused(world, "beta", "only QEMU's VMs move while they run")

    here, there = (MOVES[0], MOVES[1].replace(', "gamma"', "")), ('192.0.2.2"', '192.0.2.2"\nhypervisor = "xen"')
    play(test, here, XEN, there)


def test_a_disk_on_another_clean_image_does_not_move() -> None:
    """Only what is beyond the clean image is sent."""

    async def test(world: DaemonWorld) -> None:
        await running(world)
        daemon(world.alpha).own.vms.states.note_overlay(WEB, "00" * 32)
        await refused(world, "beta", "another clean image")

    play(test, MOVES)


def test_another_clean_image_there_is_refused() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world)
        world.beta.images.clean["app"] = b"another image"
        await refused(world, "beta", "not the pinned one")

    play(test, MOVES, KEEP)


def test_what_starts_there_just_before_it_is_in_its_way() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world)
        live = daemon(world.beta).arrivals.live
        begin = live.begin

        async def beginning(*which: Any, **named: Any) -> None:
            await world.start("beta", "spy")
            await begin(*which, **named)

        live.begin = beginning  # type: ignore[method-assign]
        await refused(world, "beta", "(conflict set rivals) would run together on beta")

    play(test, MOVES, CONFLICT, KEEP)


# It fails on its way


async def beta_is_not_heard(request: Request, deliver: Deliver) -> bytes:
    """It accepts a VM, of which nobody hears, and does not hear that nothing comes of it."""
    if request.to == BETA and request.path == VM_ACCEPT:
        await deliver(request)
        raise Unreachable("the answer was lost", where=BETA)
    if request.to == BETA and request.path == VM_ABORT:
        raise Unreachable("no connection", where=BETA)
    return await deliver(request)


@pytest.mark.parametrize("dies", ["", "alpha", "beta"])
@pytest.mark.parametrize("live", [True, False])
def test_a_host_that_could_not_be_told_is_told_although_the_vm_moves_elsewhere(live: bool, dies: str) -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world, "gamma")

        world.network.tap = beta_is_not_heard
        move = migrate_live if live else migrate
        assert "the answer was lost" in str((await move(world, world.alpha, "beta"))["error"])
        assert (await move(world, world.alpha, "gamma"))["step"] == "it is running"
        if dies:
            await world.hosts[dies].kill_daemon()
            await world.hosts[dies].start_daemon()
        world.network.tap = None
        await world.admitted("alpha", "beta", "gamma")
        await asyncio.sleep(60.0)
        assert where(world) == ["gamma"]
        assert nothing_is_left(world)
        assert not world.beta.images.incoming

    play(test, MOVES, KEEP)


def test_each_of_several_hosts_that_could_not_be_told_is_told() -> None:
    """No token says that nothing comes of it: the VM stays."""

    async def test(world: DaemonWorld) -> None:
        await running(world, "gamma")

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == VM_ACCEPT:
                await deliver(request)
            if request.path in (VM_ACCEPT, VM_ABORT):
                raise Unreachable("no connection", where=request.to)
            return await deliver(request)

        world.network.tap = tap
        for to in ("beta", "gamma"):
            assert "no connection" in str((await migrate_live(world, world.alpha, to))["error"])
        assert where(world) == ["alpha", "beta", "gamma"]
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        world.network.tap = None
        await asyncio.sleep(30.0)
        assert where(world) == ["alpha"]
        assert is_whole(world.alpha)
        assert nothing_is_left(world)

    play(test, MOVES, KEEP)


@pytest.mark.parametrize("live", [True, False])
def test_a_newer_token_ends_what_was_waited_for(live: bool) -> None:
    """The host that gave the move up is gone, and cannot say so."""

    async def test(world: DaemonWorld) -> None:
        await running(world, "gamma")

        world.network.tap = beta_is_not_heard
        move = migrate_live if live else migrate
        await move(world, world.alpha, "beta")
        assert daemon(world.beta).store.items("vm-arrival")
        assert (await move(world, world.alpha, "gamma"))["step"] == "it is running"
        await world.admitted("beta", "gamma")
        await asyncio.sleep(60.0)
        assert owner(world.beta) == "gamma"
        assert not daemon(world.beta).store.items("vm-arrival")
        assert where(world) == ["gamma"]
        assert not world.beta.images.incoming

    play(test, MOVES, KEEP)


def test_an_end_that_the_other_host_could_not_carry_out_is_said_again() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world)
        destroy, failing = world.beta.hypervisor.destroy, [True]

        def fails(name: VmName) -> None:
            if failing:
                raise BackendFailed("libvirt failed")
            destroy(name)

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == VM_ACCEPT:
                await deliver(request)
                world.beta.hypervisor.destroy = fails  # type: ignore[method-assign]
                raise Unreachable("the answer was lost", where=BETA)
            return await deliver(request)

        world.network.tap = tap
        await migrate_live(world, world.alpha, "beta")
        await asyncio.sleep(5.0)
        assert where(world) == ["alpha", "beta"]
        failing.clear()
        await asyncio.sleep(15.0)
        assert where(world) == ["alpha"]
        assert nothing_is_left(world)

    play(test, MOVES, KEEP)


def test_what_is_given_up_while_it_is_accepted_is_not_accepted() -> None:
    """Whoever gives it up gets the lock first, when all of it was found to be there."""

    async def test(world: DaemonWorld) -> None:
        await running(world)
        arrivals = daemon(world.beta).arrivals
        finish = arrivals.live.finish

        def finishing(vm: VmName) -> None:
            finish(vm)
            [(_, document)] = arrivals.store.items("vm-arrival")
            lose = arrivals._lose(vm, bytes.fromhex(document["move"]), "alpha is not admitted any more")
            with pytest.raises(StopIteration):
                lose.send(None)

        arrivals.live.finish = finishing  # type: ignore[method-assign]
        await refused(world, "beta", "no such VM is on its way")

    play(test, MOVES)


def test_a_copy_that_fails_leaves_it_running() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world)

        async def tap(request: Request, deliver: Deliver) -> bytes:
            answer = await deliver(request)
            if request.path == VM_JOIN:
                send = live_of(world.alpha).send

                def failing(*arguments: Any, **named: Any) -> Any:
                    sending: Any = send(*arguments, **named)
                    sending.fails = "the disk is full"
                    return sending

                live_of(world.alpha).send = failing  # type: ignore[method-assign]
            return answer

        world.network.tap = tap
        await refused(world, "beta", "the disk is full")

    play(test, MOVES)


def test_what_this_program_did_not_expect_of_a_machine_ends_its_move_alone() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world)

        def send(*_arguments: Any, **_named: Any) -> Any:
            raise KeyError("node-name")

        live_of(world.alpha).send = send  # type: ignore[method-assign]
        await refused(world, "beta", "KeyError: 'node-name'")
        assert any("KeyError" in detail["reason"] for detail in records(world.alpha, "vm.stays"))
        assert world.alpha.failure() is None

    play(test, MOVES, KEEP)


def test_a_lease_that_ends_amid_the_copy_ends_the_move() -> None:
    """Nothing is given up by anybody else: the other host forgets it by itself."""

    async def test(world: DaemonWorld) -> None:
        await running(world)

        async def tap(request: Request, deliver: Deliver) -> bytes:
            answer = await deliver(request)
            if request.path == VM_JOIN:
                world.network.cut(ALPHA, BETA)
                send = live_of(world.alpha).send

                def endless(*arguments: Any, **named: Any) -> Any:
                    sending: Any = send(*arguments, **named)
                    sending.looks = -(10**6)
                    return sending

                live_of(world.alpha).send = endless  # type: ignore[method-assign]
            return answer

        world.network.tap = tap
        answer = await migrate_live(world, world.alpha, "beta")
        assert "not admitted" in str(answer["error"]), answer
        await asyncio.sleep(60.0)
        assert where(world) == ["alpha"]
        assert is_whole(world.alpha)
        assert runs(world.alpha)
        assert any("not admitted any more" in detail["reason"] for detail in records(world.beta, "vm.arrival-given-up"))
        world.network.heal(ALPHA, BETA)
        world.network.tap = None
        await world.admitted("alpha", "beta")
        await asyncio.sleep(30.0)
        assert nothing_is_left(world)

    play(test, MOVES, KEEP)


def test_streams_of_strangers_are_not_taken() -> None:
    """Whoever gets into the passage does not know the secret."""

    async def test(world: DaemonWorld) -> None:
        await running(world)

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == VM_RECEIVE:
                body = request.body.replace(b'"secret":"', b'"secret":"ff')
                body = body[: body.index(b'"secret":"') + 10 + 64] + body[body.index(b'"secret":"') + 10 + 66 :]
                request = replace(request, body=body)
            return await deliver(request)

        world.network.tap = tap
        await refused(world, "beta", "is a stranger's")

    play(test, MOVES)


def test_messages_of_others_change_nothing() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world, "gamma")
        refusals: list[str] = []

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path in (VM_JOIN, VM_ACCEPT) and request.caller.host == ALPHA:
                try:
                    await deliver(replace(request, caller=memory_identity(GAMMA)))
                except Exception as error:  # noqa: BLE001 any of them
                    refusals.append(str(error))
            return await deliver(request)

        world.network.tap = tap
        assert (await migrate_live(world, world.alpha, "beta"))["step"] == "it is running"
        assert len(refusals) == 2
        assert all("no such VM is on its way" in words for words in refusals)

    play(test, MOVES)


@pytest.mark.parametrize("answered", [False, True], ids=["requests", "answers"])
def test_each_message_is_lost_once(answered: bool) -> None:
    """Before the token is signed the VM stays, and has not lost its memory; afterwards it is the other host's."""

    async def test(world: DaemonWorld) -> None:
        await running(world)
        places = []
        for number in range(12):
            here, there = (world.alpha, world.beta) if owner(world.alpha) == "alpha" else (world.beta, world.alpha)
            seen: list[str] = []

            async def tap(request: Request, deliver: Deliver, lost: int = number, seen: list[str] = seen) -> bytes:
                if request.path not in VM_PATHS:
                    return await deliver(request)
                seen.append(request.path)
                if len(seen) - 1 != lost:
                    return await deliver(request)
                if answered:
                    await deliver(request)
                raise Unreachable("the connection was lost", where=request.to)

            world.network.tap = tap
            await migrate_live(world, here, there.name)
            world.network.tap = None

            async def settled() -> bool:
                return (
                    where(world) == [owner(world.alpha)] == [owner(world.beta)]
                    and runs(world.hosts[owner(world.alpha)])
                    and nothing_is_left(world)
                )

            await world.until(settled, within_s=100, what=f"it is in one place: {where(world)}")
            places.append(owner(world.alpha) == there.name)
            assert is_whole(world.hosts[owner(world.alpha)])
            await world.admitted("alpha", "beta")
            if len(seen) <= number:
                assert seen == [VM_RECEIVE, VM_JOIN, VM_ACCEPT, VM_HAND]
                break
        assert places == [False] * 3 + [True] * (len(places) - 3), places
        assert len(places) > 4

    play(test, MOVES, KEEP)


def test_a_passage_that_nobody_wants_goes() -> None:
    """A daemon that is killed leaves it; the next one removes it before anything else is asked of the kernel."""

    async def test(world: DaemonWorld) -> None:
        await running(world)

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == VM_JOIN:
                assert world.alpha.kernel.read().passages
                assert [each.local_port | PASSAGE_SESSION for each in world.alpha.kernel.read().passages] == [
                    each.local_port + PASSAGE_SESSION for each in world.alpha.kernel.read().tunnels
                ]
                world.alpha.sever()
                raise Unreachable("the connection was lost", where=HostName(request.to))
            return await deliver(request)

        world.network.tap = tap
        await world.alpha.ask("vm", "migrate", "web", "beta", "--live")
        await asyncio.sleep(5.0)
        await world.alpha.kill_daemon()
        assert world.alpha.kernel.read().passages
        world.network.tap = None
        await world.alpha.start_daemon()
        await asyncio.sleep(5.0)
        assert not world.alpha.kernel.read().passages
        await asyncio.sleep(60.0)
        assert nothing_is_left(world)
        assert where(world) == ["alpha"]
        assert is_whole(world.alpha)

    play(test, MOVES, KEEP)


def test_the_other_host_is_told_before_what_is_left_is_destroyed() -> None:
    """What is left stands still, its host's labels are enforced meanwhile, and peers go on trusting it."""

    async def test(world: DaemonWorld) -> None:
        await running(world, "gamma")
        seen = []

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == VM_HAND:
                seen.append((where(world), runs(world.alpha), owner(world.alpha)))
                daemon(world.alpha).watchers.domains_changed()
                daemon(world.gamma).schedule.wake_all()
                await asyncio.sleep(3.0)
                assert where(world) == ["alpha", "beta"]
                await world.admitted("alpha", "beta", "gamma")
            return await deliver(request)

        world.network.tap = tap
        assert (await migrate_live(world, world.alpha, "beta"))["step"] == "it is running"
        assert seen == [(["alpha", "beta"], False, "beta")]
        assert where(world) == ["beta"]
        assert not records(world.alpha, "vm.mislabelled")
        assert not records(world.gamma, "peer.suspend")

    play(test, MOVES)


# Somebody wants something else of it meanwhile


def slowly(world: DaemonWorld) -> None:
    """It is copied for many looks."""
    send = live_of(world.alpha).send

    def slow(*arguments: Any, **named: Any) -> Any:
        sending: Any = send(*arguments, **named)
        sending.looks = -1000
        return sending

    live_of(world.alpha).send = slow  # type: ignore[method-assign]


async def copying(world: DaemonWorld) -> None:
    """web is copied to beta."""
    slowly(world)
    await world.alpha.ask("vm", "migrate", "web", "beta", "--live")

    async def begun() -> bool:
        return live_of(world.alpha).sending is not None

    await world.until(begun, within_s=60, what="web is copied")
    assert runs(world.alpha)


def gamma_failed(world: DaemonWorld) -> None:
    """As alpha is told of it."""
    event = Suspension(peer=GAMMA, carried=frozenset({TypeName("acme/red")}), definite=True, reason="software fail")
    daemon(world.alpha).reactions.suspended(event)


def watch_runs(world: DaemonWorld) -> list[str]:
    """Whenever alpha's hypervisor lets it run from now on, by itself too."""
    ran: list[str] = []
    let_run = world.alpha.hypervisor._set

    def noted(name: VmName, state: DomainState) -> None:
        if state is DomainState.RUNNING:
            ran.append(name)
        let_run(name, state)

    world.alpha.hypervisor._set = noted  # type: ignore[method-assign]
    return ran


@pytest.mark.parametrize("fails", [False, True])
def test_a_vm_that_is_suspended_for_a_peer_amid_its_move_stays_and_stands_still(*, fails: bool) -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world)
        await copying(world)
        ran = watch_runs(world)
        gamma_failed(world)
        if fails:
            sending: Any = live_of(world.alpha).sending
            sending.fails = "the disk is full"
        answer = await ended(world, world.alpha)
        assert ("the disk is full" if fails else "it is suspended for gamma") in str(answer["error"])
        await asyncio.sleep(30.0)
        assert (where(world), owner(world.alpha), runs(world.alpha), ran) == (["alpha"], "alpha", False, [])
        assert records(world.alpha, "vm.suspend", "web")
        assert nothing_is_left(world)
        daemon(world.alpha).reactions.admitted(GAMMA)
        await asyncio.sleep(1.0)
        assert runs(world.alpha)
        assert is_whole(world.alpha)

    play(test, MOVES, SUSPEND, AT_ONCE)


def test_a_quarantine_amid_a_move_ends_it_and_it_never_runs() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world)
        await copying(world)
        ran = watch_runs(world)
        assert (await world.alpha.ask("vm", "quarantine", "web")).exit_code == 0
        answer = await ended(world, world.alpha)
        assert "it is in quarantine" in str(answer["error"])
        await asyncio.sleep(30.0)
        assert (where(world), runs(world.alpha), ran) == (["alpha"], False, [])
        assert nothing_is_left(world)

    play(test, MOVES, KEEP)


@pytest.mark.parametrize("what", ["quarantine", "suspended"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_comes_while_it_stands_still_for_the_rest_holds(what: str, *, fails: bool) -> None:
    """Where the rest cannot be sent, QEMU lets it run by itself: it stands still again at once."""

    async def test(world: DaemonWorld) -> None:
        await running(world)

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == VM_ACCEPT and not fails:
                await asked()
            return await deliver(request)

        async def asked() -> None:
            assert not runs(world.alpha)
            if what == "quarantine":
                assert (await world.alpha.ask("vm", "quarantine", "web")).exit_code == 0
            else:
                gamma_failed(world)
                await asyncio.sleep(1.0)

        world.network.tap = tap
        ended_live = daemon(world.alpha).departures.live.ended

        async def broken(vm: VmName, laps: Laps) -> None:
            if not fails:
                return await ended_live(vm, laps)
            await asked()
            raise BackendFailed("the rest was not sent")

        daemon(world.alpha).departures.live.ended = broken  # type: ignore[method-assign]
        answer = await migrate_live(world, world.alpha, "beta")
        assert "error" in answer
        assert not runs(world.alpha)
        await asyncio.sleep(30.0)
        assert (where(world), owner(world.alpha), runs(world.alpha)) == (["alpha"], "alpha", False)
        assert nothing_is_left(world)

    play(test, MOVES, SUSPEND, AT_ONCE)


# The daemon that sent it dies


async def dead_when_it_stands_still(world: DaemonWorld) -> None:
    died = asyncio.Event()

    async def dies(vm: VmName, laps: Laps) -> None:
        world.alpha.sever()
        died.set()
        await asyncio.Event().wait()

    daemon(world.alpha).departures.live.ended = dies  # type: ignore[method-assign]
    await world.alpha.ask("vm", "migrate", "web", "beta", "--live")
    await died.wait()
    await world.alpha.kill_daemon()
    assert not runs(world.alpha)
    with pytest.raises(BackendFailed, match="not finalized"):
        world.alpha.hypervisor.resume(WEB)


@pytest.mark.parametrize("failures", [0, 1, 4])
def test_one_that_a_dead_daemon_left_standing_still_runs_on(failures: int) -> None:
    """QEMU resumes nothing whose migration is not over; what the hypervisor does not do is tried again."""

    async def test(world: DaemonWorld) -> None:
        await running(world)
        await dead_when_it_stands_still(world)
        abandon, asked = live_of(world.alpha).abandon, 0

        def failing(name: VmName) -> None:
            nonlocal asked
            asked += 1
            if asked <= failures:
                raise BackendFailed("libvirtd does not answer")
            abandon(name)

        live_of(world.alpha).abandon = failing  # type: ignore[method-assign]
        await world.alpha.start_daemon()
        await world.admitted("alpha", "beta")
        await asyncio.sleep(5.0 + 10.0 * failures)
        assert runs(world.alpha)
        assert is_whole(world.alpha)
        reasons = [detail["reason"] for detail in records(world.alpha, "vm.not-restored", "web")]
        assert len(reasons) == min(failures, 1), reasons
        await asyncio.sleep(60.0)
        assert nothing_is_left(world)
        assert (await migrate_live(world, world.alpha, "beta"))["step"] == "it is running"

    play(test, MOVES, KEEP)


def test_a_machine_that_does_not_answer_when_it_is_given_up_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is lost, its disk is not, and nothing is held meanwhile."""

    async def test(world: DaemonWorld) -> None:
        await running(world)
        await copying(world)
        vms, held = daemon(world.alpha).own.vms, []

        def silent(_name: VmName = WEB) -> None:
            with ThreadPoolExecutor(1) as another:  # which would wait for a lock that is held here
                held.append(another.submit(vms.hold, WEB).exception(timeout=10))
            raise Unanswered("the machine does not answer its monitor")

        sending: Any = live_of(world.alpha).sending
        sending.cancel = silent
        sending.fails = "it does not answer"
        monkeypatch.setattr(live_of(world.alpha), "abandon", silent)
        await ended(world, world.alpha)
        assert held == [None, None]
        assert runs(world.alpha)
        assert world.alpha.hypervisor.guest("web").note == ""
        assert world.alpha.images.overlays["/overlays/web.qcow2"].written == "on disk"
        assert "does not answer" in records(world.alpha, "vm.stop", "web")[-1]["reason"]

    play(test, MOVES, KEEP)


def test_while_it_is_still_to_run_again_it_does_not_move_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the other host has long heard that nothing comes of the first move."""

    async def test(world: DaemonWorld) -> None:
        await running(world)
        await dead_when_it_stands_still(world)

        def failing(_name: VmName) -> None:
            raise BackendFailed("libvirtd does not answer")

        monkeypatch.setattr(live_of(world.alpha), "abandon", failing)
        await world.alpha.start_daemon()
        await world.admitted("alpha", "beta")
        await asyncio.sleep(60.0)
        assert not daemon(world.beta).store.items("vm-arrival")
        assert "error" in await migrate(world, world.alpha, "beta")
        monkeypatch.undo()
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        await asyncio.sleep(5.0)
        assert runs(world.alpha)
        assert is_whole(world.alpha)
        assert nothing_is_left(world)

    play(test, MOVES, KEEP)


def test_one_that_is_suspended_and_that_a_dead_daemon_left_stands_still() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world)
        await dead_when_it_stands_still(world)
        Store(world.alpha._database).put("suspended-for", WEB, {"peers": [GAMMA]})
        await world.alpha.start_daemon()
        await asyncio.sleep(5.0)
        assert not runs(world.alpha)
        daemon(world.alpha).reactions.admitted(GAMMA)
        await asyncio.sleep(1.0)
        assert runs(world.alpha)
        assert is_whole(world.alpha)

    play(test, MOVES, SUSPEND, AT_ONCE)
