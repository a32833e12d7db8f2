"""What a host notices of itself, and what it does then: repair, and new Evidence for every peer."""

import asyncio
from collections.abc import Collection

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName, VmName
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.peer.wire import CONFIRM, EVIDENCE, HELLO
from shamon_host.testing.network import Deliver, Request
from tests.unit.daemon.daemon_world import ALPHA, BETA, DaemonWorld, daemon, play, records

WEB = VmName("web")
RED, BLUE = TypeName("acme/red"), TypeName("rival/blue")
FOREIGN = SelinuxContext(user="system_u", role="system_r", type="svirt_t", categories=frozenset({700, 701}))


def test_policies_flushed_by_hand_are_back_at_once() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        before = world.alpha.kernel.read().spd
        world.alpha.kernel.flush_policies()
        assert not world.alpha.kernel.read().spd
        await world.wait(0.01)
        assert world.alpha.kernel.read().spd == before
        assert await world.web_reaches_db()

    play(test)


@pytest.mark.parametrize("flush", ["flush_sas", "flush_nft", "damage_guard"])
def test_what_needs_a_handshake_is_back_after_one(flush: str) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        mark = world.mark_wire()
        getattr(world.alpha.kernel, flush)()
        await world.web_reaches_db()
        await world.wait(0.01)
        await world.until(world.web_reaches_db, within_s=5, what="web reaches db again")
        assert world.wire_since(mark).clear == 0
        assert world.alpha.kernel.read().guard

    play(test)


def test_forwarding_switched_on_by_hand_is_told_and_shown_to_peers_at_once() -> None:
    """Nobody repairs it: it is the operator's. The peers see it long before the next period."""

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.alpha.kernel.set_sysctl("net.ipv4.ip_forward", "1")
        reason = await world.suspended("beta", "alpha", within_s=5)
        assert "net.ipv4.ip_forward" in reason
        (told,) = records(world.alpha, "links.state-changed", "alpha")
        assert "a sysctl is wrong (net.ipv4.ip_forward)" in told["wrong"]

    play(test)


def test_a_vm_under_another_label_is_destroyed() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        world.alpha.hypervisor.relabel(WEB, FOREIGN)
        await world.wait(0.01)
        assert not world.alpha.hypervisor.domains()
        assert records(world.alpha, "vm.mislabelled", "web")[0]["found"] == str(FOREIGN)

    play(test)


def test_a_vm_relabelled_before_the_daemon_listened_is_destroyed_at_its_start() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        await world.alpha.kill_daemon()
        world.alpha.hypervisor.relabel(WEB, FOREIGN)
        await world.alpha.start_daemon()
        assert not world.alpha.hypervisor.domains()

    play(test)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_vm_that_cannot_be_destroyed_is_no_secret_and_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch, *, restarts: bool
) -> None:
    """The daemon comes up, repairs the kernel, and tries again by itself."""

    async def test(world: DaemonWorld) -> None:
        alpha = world.alpha
        await world.pair_with_link()
        if restarts:
            await alpha.kill_daemon()

        def refused(name: VmName) -> None:
            raise BackendFailed("permission denied", where=name)

        with monkeypatch.context() as patch:
            patch.setattr(alpha.hypervisor, "destroy", refused)
            alpha.hypervisor.relabel(WEB, FOREIGN)
            if restarts:
                await alpha.start_daemon()
            await world.wait(20)
            assert [report.name for report in alpha.hypervisor.domains()] == [WEB]
            assert (await alpha.ask("status")).value["resisting"] == ["web"]
            assert len(records(alpha, "vm.mislabelled", "web")) == 1
            assert len(records(alpha, "vm.not-destroyed", "web")) == 1
            assert not any(
                port.startswith("shvm") for bridge in alpha.kernel.read().bridges.values() for port in bridge.ports
            )
            assert not await world.web_reaches_db()
        await world.wait(6)
        assert not alpha.hypervisor.domains()
        assert (await alpha.ask("status")).value["resisting"] == []

    play(test)


def test_what_happens_between_start_and_listening_is_repaired() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()  # its tasks have not run yet
        world.alpha.kernel.flush_policies()
        assert not world.alpha.kernel.read().spd
        await world.wait(0.01)
        assert world.alpha.kernel.read().spd >= set(BLOCK_ENTRIES)

    play(test)


def test_a_new_measurement_is_shown_to_every_peer() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        await world.wait(2)
        calls = world.count_calls(HELLO)
        world.gamma.machine.run_program("/usr/bin/new", b"\x7fELF new")
        await world.wait(2)
        assert {("gamma", "alpha"), ("gamma", "beta")} <= set(calls)

    play(test)


def test_logs_that_become_unreadable_are_told_once_and_shown() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.wait(2)
        world.alpha.machine.logs.present = False
        await world.wait(5)
        assert len(records(world.alpha, "host.measurements-unreadable")) == 1
        await world.suspended("beta", "alpha", within_s=world.timing.lease_s)
        world.alpha.machine.logs.present = True
        await world.admitted("alpha", "beta")

    play(test)


def test_a_hypervisor_that_answers_again_is_looked_at_without_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")

        def unreachable() -> None:
            raise BackendFailed("libvirtd does not answer")

        with monkeypatch.context() as patch:
            patch.setattr(world.alpha.hypervisor, "domains", unreachable)
            world.alpha.hypervisor.relabel(WEB, FOREIGN)
            await world.wait(30)
        assert len(records(world.alpha, "host.domains-unreadable")) == 1
        await world.wait(10)
        assert not world.alpha.hypervisor.domains()

    play(test)


def test_a_guest_that_ends_takes_its_link_with_it() -> None:
    """Here at once, at the peer with the handshake that follows; links of other types go on."""

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.start("alpha", "shop")
        await world.start("beta", "spy")
        await world.until(world.spy_reaches_shop, within_s=5, what="spy reaches shop")
        world.alpha.hypervisor.crash(WEB)
        await world.wait(0.01)
        objects = await world.alpha.objects("beta")
        assert (objects.gate_open, objects.sas > 0, objects.spd_entries, objects.devices) == (True, True, 2, 1)
        assert daemon(world.alpha).admissions.carried(BETA) == {BLUE}
        assert await world.spy_reaches_shop()
        await world.wait(3)
        assert daemon(world.beta).admissions.carried(ALPHA) == {BLUE}
        assert (await world.beta.objects("alpha")).devices == 1
        assert await world.spy_reaches_shop()
        (closed,) = [detail for detail in records(world.alpha, "link.close", "beta") if RED in detail["types"]]
        assert closed["types"] == [RED]

    play(test)


def test_a_link_goes_with_its_last_vm_though_the_peer_does_not_answer() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.kill_daemon()
        world.alpha.hypervisor.crash(WEB)
        await world.wait(0.01)
        objects = await world.alpha.objects("beta")
        assert (objects.sas, objects.spd_entries, objects.devices) == (0, 0, 0)

    play(test)


@pytest.mark.parametrize("path", [HELLO, EVIDENCE, CONFIRM])
@pytest.mark.parametrize("answered", [False, True])
def test_a_handshake_that_began_before_does_not_bring_the_link_back(path: str, answered: bool) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.wait(3)
        ended: list[str] = []

        async def slow(request: Request, deliver: Deliver) -> bytes:
            if request.path != path or request.to != "beta" or ended:
                return await deliver(request)
            answer = await deliver(request) if answered else b""
            ended.append(path)
            world.alpha.hypervisor.crash(WEB)
            await asyncio.sleep(0.01)
            assert (await world.alpha.objects("beta")).devices == 0
            return answer if answered else await deliver(request)

        world.network.tap = slow
        daemon(world.alpha).schedule.wake(BETA)
        for _ in range(200):
            await world.wait(0.01)
            if ended:
                assert (await world.alpha.objects("beta")).devices == 0
        assert ended
        await world.wait(3)
        assert (await world.beta.objects("alpha")).devices == 0
        assert not daemon(world.alpha).admissions.carried(BETA)
        assert not daemon(world.beta).admissions.carried(ALPHA)

    play(test)


def test_a_link_whose_vm_is_back_is_back() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.alpha.hypervisor.crash(WEB)
        await world.wait(0.01)
        await world.start("alpha", "web")
        await world.until(world.web_reaches_db, within_s=5, what="web reaches db again")

    play(test)


def test_what_cannot_be_closed_is_told_once_and_tried_again() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.kill_daemon()
        links = daemon(world.alpha).own.links
        closes, refuse = links.close_types, True

        def close_types(peer: HostName, types: Collection[TypeName], reason: str) -> None:
            if refuse:
                raise BackendFailed("the kernel refused")
            closes(peer, types, reason)

        vars(links)["close_types"] = close_types
        world.alpha.hypervisor.crash(WEB)
        await world.wait(15)
        assert len(records(world.alpha, "link.not-closed")) == 1
        assert (await world.alpha.objects("beta")).devices == 1
        refuse = False
        await world.wait(6)
        assert (await world.alpha.objects("beta")).devices == 0

    play(test)
