"""Cold migration between two hosts of a coalition: a VM is in one place at every moment, whoever fails when."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from shamon_host.domain.errors import Refused, Unreachable
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy_form import with_digest
from shamon_host.domain.quarantine import Grade
from shamon_host.peer.move_messages import Handover
from shamon_host.peer.vm_token import countersigned, proposed, token_in
from shamon_host.peer.wire import VM_ACCEPT, VM_PATHS
from shamon_host.testing.images import MemoryOverlay
from shamon_host.testing.live import MemoryLive
from shamon_host.testing.memory_ca import memory_key
from shamon_host.testing.memory_host import MemoryHost
from shamon_host.testing.network import Deliver, Request, memory_identity
from shamon_host.testing.story_policy import VM_ADDRESSES
from tests.unit.daemon.daemon_world import (
    ALPHA,
    BETA,
    GAMMA,
    ON_FAILURE,
    XEN,
    DaemonWorld,
    daemon,
    play,
    records,
    state,
)

WEB, DB = VmName("web"), VmName("db")
MOVES = (
    'label = "red"\nimage = "app"\nhost = "alpha"',
    'label = "red"\nimage = "app"\nhost = "alpha"\nmay_move_to = ["beta", "gamma"]',
)


KINDS = ("vm-departure", "vm-departure-untold", "vm-arrival")


async def migrate(world: DaemonWorld, source: MemoryHost, to: str, vm: str = "web") -> dict[str, Any]:
    """Move it, and wait for the end. The answer to whoever asked; an error as the API gives it."""
    begun = await source.ask("vm", "migrate", vm, to)
    if begun.exit_code:
        return dict(begun.value)
    return await ended(world, source, vm)


async def ended(world: DaemonWorld, source: MemoryHost, vm: str = "web") -> dict[str, Any]:
    async def over() -> bool:
        return daemon(source).departures.progress[VmName(vm)].done

    await world.until(over, within_s=60, what="the move is over")
    return dict((await source.ask("vm", "move", vm)).value)


def live_of(host: MemoryHost) -> MemoryLive:
    assert host.live is not None
    return host.live


def runs(host: MemoryHost, vm: str = "web") -> bool:
    return any(report.name == vm and report.state == "running" for report in host.hypervisor.domains())


def where(world: DaemonWorld, vm: str = "web") -> list[str]:
    return [name for name, host in world.hosts.items() if any(each.name == vm for each in host.hypervisor.domains())]


def owner(host: MemoryHost, vm: str = "web") -> HostName:
    return daemon(host).policy.host_of(VmName(vm))


async def db_reaches_web(world: DaemonWorld) -> None:
    """db on beta reaches web, wherever it is."""

    async def reaches() -> bool:
        return await world.beta.guest("db").reaches(VM_ADDRESSES["web"][0])

    await world.until(reaches, within_s=60, what="db reaches web")


def test_a_vm_moves_with_its_disk_and_its_links_follow() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("gamma")
        await world.pair_with_link()
        await world.alpha.guest("web").write_marker("written on alpha")
        answer = await migrate(world, world.alpha, "gamma")
        assert answer["done"]
        assert answer["step"] == "it is running", answer
        assert answer["downtime_ms"] > 0
        assert list(answer["parts_ms"]) == ["attested", "prepared", "stopped", "copied", "accepted", "given", "taken"]
        assert where(world) == ["gamma"]
        assert world.gamma.images.overlays["/overlays/web.qcow2"].written == "written on alpha"
        assert world.alpha.images.overlay(WEB) is None
        await db_reaches_web(world)
        await world.admitted("alpha", "beta", "gamma")
        assert {owner(host) for host in world.hosts.values()} == {"gamma"}
        assert [row["name"] for row in (await world.alpha.ask("vms", "--away")).value] == ["web"]
        assert "web" not in [row["name"] for row in (await world.alpha.ask("vms")).value]
        assert (await world.alpha.ask("vm", "start", "web")).exit_code != 0

    play(test, MOVES)


def test_there_and_back_again() -> None:
    """Each move has the next number; what was left of the first stay is not what comes back."""

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        assert (await migrate(world, world.alpha, "beta"))["step"] == "it is running"
        await world.beta.guest("web").write_marker("written on beta")
        await world.admitted("alpha", "beta")
        assert (await migrate(world, world.beta, "alpha"))["step"] == "it is running"
        assert where(world) == ["alpha"]
        assert world.alpha.images.overlays["/overlays/web.qcow2"].written == "written on beta"
        assert [detail["generation"] for detail in records(world.alpha, "vm.own")] == [2]
        await world.until(world.web_reaches_db, within_s=60, what="web reaches db")
        assert state(world.alpha, "beta") == state(world.beta, "alpha") == "admitted"

    play(test, MOVES)


def test_a_vm_that_is_stopped_moves_and_stays_stopped() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.alpha.ask("vm", "stop", "web")
        assert (await migrate(world, world.alpha, "beta"))["step"] == "it is stopped"
        assert where(world) == []
        assert (await world.alpha.ask("vm", "start", "web")).exit_code != 0
        await world.start("beta", "web")

    play(test, MOVES)


def test_a_vm_that_never_ran_moves_without_a_disk() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        assert (await migrate(world, world.alpha, "beta"))["step"] == "it is stopped"
        assert world.beta.images.overlay(WEB) is None
        await world.start("beta", "web")
        assert await world.beta.overlay_is_clean("web")

    play(test, MOVES)


def test_after_a_boot_it_starts_where_it_was_moved_to() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await migrate(world, world.alpha, "beta")
        await world.alpha.boot()
        await world.beta.boot()
        await world.admitted("alpha", "beta")
        assert where(world) == ["beta"]
        assert {owner(world.alpha), owner(world.beta)} == {"beta"}

    play(test, MOVES)


def test_between_two_hosts_with_xen() -> None:
    """The label of a VM that may come is in the other host's FLASK policy before it comes."""

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        assert (await migrate(world, world.alpha, "beta"))["step"] == "it is running"
        [web] = [each for each in world.beta.hypervisor.domains() if each.name == WEB]
        assert str(web.context) == "system_u:system_r:shamon_vm_red_t"
        await db_reaches_web(world)
        await world.admitted("alpha", "beta")

    here, there = (MOVES[0], MOVES[1].replace(', "gamma"', "")), ('192.0.2.2"', '192.0.2.2"\nhypervisor = "xen"')
    play(test, here, XEN, there)


# Refused


CONFLICT = ("[hosts.alpha]", '[conflicts.rivals]\ntypes = ["acme/red", "rival/blue"]\n\n[hosts.alpha]')


async def refused(world: DaemonWorld, to: str, words: str, *, runs_on: bool = True) -> None:
    """The move is refused for this reason, and the VM is where it was, running."""
    answer = await migrate(world, world.alpha, to)
    assert words in str(answer["error"]), answer
    assert where(world) == (["alpha"] if runs_on else [])
    assert not runs_on or runs(world.alpha)
    assert owner(world.alpha) == "alpha"


def test_what_would_conflict_there_does_not_move() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        await world.start("beta", "spy")
        await refused(world, "beta", "acme/red, rival/blue (conflict set rivals) would run together on beta")
        assert records(world.alpha, "vm.stop") == [], "it was not even stopped"
        await world.beta.ask("vm", "stop", "spy")
        assert (await migrate(world, world.alpha, "beta"))["step"] == "it is running"
        assert (await world.beta.ask("vm", "start", "spy")).exit_code == 1

    play(test, MOVES, CONFLICT)


def test_what_the_policy_does_not_let_move_does_not() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        await refused(world, "beta", "does not let web move to beta")
        await refused(world, "alpha", "on this host")
        await refused(world, "nobody", "knows no such host")
        answer = await world.beta.ask("vm", "migrate", "web", "alpha")
        assert "on this host" in str(answer.value), "only its owner gives it away"

    play(test)


def test_hosts_that_are_not_admitted_get_nothing() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        await refused(world, "gamma", "gamma is")
        calls = world.count_calls("/v1/vm/prepare")
        world.network.cut(ALPHA, BETA)
        await world.suspended("alpha", "beta")
        await refused(world, "beta", "beta is suspended")
        assert calls == []

    play(test, MOVES, (ON_FAILURE, 'on_failure = "keep"'))


def test_a_vm_in_quarantine_or_suspended_does_not_move() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        vms = daemon(world.alpha).own.vms
        vms.suspend(WEB, "for a look")
        assert "suspended" in str((await migrate(world, world.alpha, "beta"))["error"])
        vms.start(WEB)
        vms.quarantine(WEB, "looks odd", ports_down=lambda _: None, grade=Grade.SUSPEND)
        assert "in quarantine" in str((await migrate(world, world.alpha, "beta"))["error"])
        vms.start(WEB)
        assert (await migrate(world, world.alpha, "beta"))["step"] == "it is running"

    play(test, MOVES)


def test_a_quarantine_in_the_midst_of_a_move_keeps_the_vm() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        vms = daemon(world.alpha).own.vms

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == "/v1/vm/accept":
                vms.quarantine(WEB, "looks odd", ports_down=lambda _: None)
            return await deliver(request)

        world.network.tap = tap
        assert "in quarantine" in str((await migrate(world, world.alpha, "beta"))["error"])
        assert where(world) == []
        assert owner(world.alpha) == owner(world.beta) == "alpha"

    play(test, MOVES)


def test_nothing_else_is_done_to_a_vm_on_its_way() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        answers = []

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == "/v1/vm/accept":
                for what in (("start", "web"), ("replace", "web"), ("migrate", "web", "gamma")):
                    answers.append(await world.alpha.ask("vm", *what))
                answers.append(await world.beta.ask("vm", "start", "web"))
            return await deliver(request)

        world.network.tap = tap
        assert (await migrate(world, world.alpha, "beta"))["step"] == "it is running"
        assert [answer.exit_code != 0 for answer in answers] == [True] * 4

    play(test, MOVES)


def test_a_disk_that_arrives_otherwise_is_not_taken() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == "/v1/vm/disk":
                request = replace(request, body=request.body[:-1] + b"!")
            return await deliver(request)

        world.network.tap = tap
        await refused(world, "beta", "did not arrive as it was sent")
        await asyncio.sleep(30)
        assert not world.beta.images.incoming

    play(test, MOVES)


ANOTHER_IMAGE = "00" * 32


def test_a_vm_whose_disk_stands_on_another_image_does_not_move() -> None:
    """A new image was pinned, and it was not replaced yet: the other host would put its disk on the new one."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        states = daemon(world.alpha).own.vms.states
        states.note_overlay(WEB, ANOTHER_IMAGE)
        await refused(world, "beta", "another clean image than the pinned one")
        states._change(WEB, base=None)
        await refused(world, "beta", "nobody noted")
        assert records(world.alpha, "vm.stop") == [], "it was not even stopped"

    play(test, MOVES)


@pytest.mark.parametrize("base", [ANOTHER_IMAGE, ""])
def test_a_disk_that_is_given_on_another_image_is_not_taken(base: str) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == VM_ACCEPT:
                handover = Handover.decode(request.body)
                token = proposed(replace(token_in(handover.token), base=base))
                request = replace(request, body=replace(handover, token=token).encode())
            return await deliver(request)

        world.network.tap = tap
        await refused(world, "beta", "another clean image than the pinned one" if base else "nobody noted")
        assert not world.beta.images.incoming

    play(test, MOVES)


def test_a_vm_whose_disk_is_gone_does_not_move() -> None:
    """It would get a clean one there, and nobody would be told."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        await world.alpha.ask("vm", "stop", "web")
        world.alpha.images.discard(WEB)
        await refused(world, "beta", "its disk is not there", runs_on=False)

    play(test, MOVES)


def test_on_xen_a_copy_of_another_image_moves_as_it_is() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        daemon(world.alpha).own.vms.states.note_overlay(WEB, ANOTHER_IMAGE)
        assert (await migrate(world, world.alpha, "beta"))["step"] == "it is running"
        assert daemon(world.beta).own.vms.states.overlay_of(WEB) == ANOTHER_IMAGE

    here, there = (MOVES[0], MOVES[1].replace(', "gamma"', "")), ('192.0.2.2"', '192.0.2.2"\nhypervisor = "xen"')
    play(test, here, XEN, there)


@pytest.mark.parametrize("older", [False, True])
def test_what_came_in_and_is_gone_is_not_started_otherwise(older: bool) -> None:
    """Neither clean nor with a disk that lay there; the host that gave it keeps its disk, and says so again and
    again."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        await world.alpha.guest("web").write_marker("written on alpha")
        came = bytearray()

        async def tap(request: Request, deliver: Deliver) -> bytes:
            answer = await deliver(request)
            if request.path == VM_ACCEPT:
                came.extend(world.beta.images.incoming.pop(WEB))
                if older:
                    world.beta.images.overlays["/overlays/web.qcow2"] = MemoryOverlay(base_sha256="", written="older")
            return answer

        world.network.tap = tap
        answer = await migrate(world, world.alpha, "beta")
        assert "has not answered yet" in str(answer["error"])
        await world.alpha.kill_daemon()
        await world.beta.kill_daemon()
        await world.beta.start_daemon()
        await world.alpha.start_daemon()
        await asyncio.sleep(30)
        assert where(world) == []
        assert world.alpha.images.overlays["/overlays/web.qcow2"].written == "written on alpha"
        world.beta.images.incoming[WEB] = came
        await asyncio.sleep(60)
        assert where(world) == ["beta"]
        assert world.beta.images.overlays["/overlays/web.qcow2"].written == "written on alpha"

    play(test, MOVES, (ON_FAILURE, 'on_failure = "keep"'))


def test_a_disk_that_is_gone_when_the_vm_is_this_host_s() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        images, place = world.beta.images, world.beta.images.place_incoming
        images.overlays["/overlays/web.qcow2"] = MemoryOverlay(base_sha256="", written="older")

        def gone(vm: VmName, image: str) -> None:
            images.discard_incoming(vm)
            place(vm, image)

        images.place_incoming = gone  # type: ignore[method-assign]
        answer = await migrate(world, world.alpha, "beta")
        assert "has not answered yet" in str(answer["error"])
        await world.beta.kill_daemon()
        await world.beta.start_daemon()
        await asyncio.sleep(30)
        assert where(world) == []
        assert world.alpha.images.overlay(WEB) is not None

    play(test, MOVES, (ON_FAILURE, 'on_failure = "keep"'))


def test_a_disk_that_is_of_no_use_stays_where_it_is() -> None:
    """It arrives as it was sent, and is no overlay: that is known before the other host takes the VM."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        read = world.alpha.images.read
        world.alpha.images.read = lambda *which: b"\xff" * len(read(*which))  # type: ignore[method-assign]
        await refused(world, "beta", "no plain overlay")
        await asyncio.sleep(30)
        assert not world.beta.images.incoming
        assert daemon(world.beta).store.items("vm-arrival") == ()
        await world.beta.kill_daemon()
        await world.beta.start_daemon()
        await world.admitted("alpha", "beta")

    play(test, MOVES, (ON_FAILURE, 'on_failure = "keep"'))


def test_a_move_to_a_host_that_is_no_more_is_forgotten() -> None:
    """The daemon died in the midst of it, and starts under a version without that host."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        await world.start("alpha", "web")

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == "/v1/vm/disk":
                world.alpha.sever()
            return await deliver(request)

        world.network.tap = tap
        await world.alpha.ask("vm", "migrate", "web", "gamma")
        await asyncio.sleep(1.0)
        await world.alpha.kill_daemon()
        world.network.tap = None
        following = replace(world.policy, version=2, parent=world.policy.digest)
        hosts = {name: each for name, each in following.hosts.items() if name != GAMMA}
        vms = {name: replace(each, may_move_to=frozenset()) for name, each in following.vms.items()}
        world.enrolment.policies[ALPHA] = with_digest(replace(following, hosts=hosts, vms=vms))
        await world.alpha.start_daemon()
        await asyncio.sleep(30)
        assert runs(world.alpha)
        assert daemon(world.alpha).store.items("vm-departure") == ()

    play(test, MOVES)


# The network fails


@pytest.mark.parametrize("answered", [False, True], ids=["requests", "answers"])
def test_each_message_is_lost_once(answered: bool) -> None:
    """Before the token is signed the VM stays; afterwards it is the other host's, as soon as that hears of it."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        places = []
        for number in range(20):
            here, there = (world.alpha, world.beta) if owner(world.alpha) == "alpha" else (world.beta, world.alpha)
            seen = 0

            async def tap(request: Request, deliver: Deliver, lost: int = number) -> bytes:
                nonlocal seen
                if request.path not in VM_PATHS:
                    return await deliver(request)
                seen += 1
                if seen - 1 != lost:
                    return await deliver(request)
                if answered:
                    await deliver(request)
                raise Unreachable("the connection was lost", where=request.to)

            world.network.tap = tap
            await migrate(world, here, there.name)
            world.network.tap = None

            async def settled() -> bool:
                hosts = (world.alpha, world.beta)
                return (
                    where(world) == [owner(world.alpha)] == [owner(world.beta)]
                    and runs(world.hosts[owner(world.alpha)])
                    and not any(daemon(host).store.items(kind) for host in hosts for kind in KINDS)
                )

            await world.until(settled, within_s=100, what=f"it is in one place: {where(world)}")
            places.append(owner(world.alpha) == there.name)
            await world.admitted("alpha", "beta")
            if seen <= number:
                break
        assert places == [False] * 4 + [True] * (len(places) - 4), places
        assert len(places) > 5

    play(test, MOVES, (ON_FAILURE, 'on_failure = "keep"'))


# Hosts that claim what is not theirs


def test_a_host_that_shows_a_vm_that_it_gave_away_is_refused() -> None:
    """Its state was put back to before the move: two hosts show the VM, and the older token fails."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        await world.start("alpha", "web")
        await migrate(world, world.alpha, "beta")
        await world.admitted("alpha", "beta", "gamma")

        async def known() -> bool:
            return owner(world.gamma) == "beta"

        await world.until(known, within_s=60, what="gamma hears of it")
        own = daemon(world.alpha).own
        own.owners._set({})
        own.vms.enforce_labels = lambda: ()  # type: ignore[method-assign]
        own.vms.start(WEB)
        reason = await world.suspended("gamma", "alpha")
        assert "a VM runs on another host than the one that it was moved to" in reason
        assert state(world.gamma, "beta") == "admitted"

    play(test, MOVES)


def test_a_host_that_takes_a_vm_without_its_owner_is_refused() -> None:
    """A token needs the signature of the host that owned the VM; beta signs in alpha's place."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        await world.start("alpha", "web")
        await migrate(world, world.alpha, "beta")
        await world.admitted("alpha", "beta", "gamma")
        await migrate(world, world.beta, "alpha")
        await world.admitted("alpha", "beta", "gamma")
        true = daemon(world.alpha).own.owners.newest(WEB)
        assert true is not None
        forged = replace(true, generation=3, owner=BETA, previous=ALPHA)
        envelope = countersigned(proposed(forged), memory_key(BETA))
        own = daemon(world.beta).own
        own.owners._set({WEB: (token_in(envelope), envelope)})
        own.vms.start(WEB)
        reason = await world.suspended("gamma", "beta")
        assert "lacks a signature" in reason
        assert owner(world.gamma) == owner(world.alpha) == "alpha"

    play(test, MOVES, (ON_FAILURE, 'on_failure = "keep"'))


def test_a_host_that_lost_its_memory_hears_of_it_and_gives_way() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        await migrate(world, world.alpha, "beta")
        await world.alpha.stop_daemon()
        world.alpha.forget_everything()
        await world.alpha.boot()
        assert owner(world.alpha) == "alpha"
        await world.start("alpha", "web")

        async def given_way() -> bool:
            return owner(world.alpha) == "beta" and where(world) == ["beta"]

        await world.until(given_way, within_s=100, what="alpha gives way")
        await world.admitted("alpha", "beta")

    play(test, MOVES, (ON_FAILURE, 'on_failure = "keep"'))


def test_an_old_token_played_again_changes_nothing() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        handed: list[Request] = []

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == "/v1/vm/hand":
                handed.append(request)
            return await deliver(request)

        world.network.tap = tap
        await migrate(world, world.alpha, "beta")
        await world.admitted("alpha", "beta")
        await migrate(world, world.beta, "alpha")
        await world.admitted("alpha", "beta")
        await world.network.send(handed[0])
        assert where(world) == ["alpha"]
        assert owner(world.beta) == "alpha"

    play(test, MOVES)


def test_strangers_cannot_use_a_move_of_others() -> None:
    """Parts of a disk, acceptance and end of a move are its own host's alone."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        await world.start("alpha", "web")
        refusals: list[str] = []

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path in VM_PATHS - {"/v1/vm/hand"} and request.caller.host == ALPHA:
                caller = replace(request, caller=memory_identity(GAMMA))
                try:
                    await deliver(caller)
                except Refused as error:
                    refusals.append(str(error))
                else:
                    refusals.append("")
            return await deliver(request)

        world.network.tap = tap
        answer = await migrate(world, world.alpha, "beta")
        assert answer["step"] == "it is running", answer
        assert all(refusals)

    play(test, MOVES)
