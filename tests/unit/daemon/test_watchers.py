"""What a host notices of itself, and what it does then: repair, and new Evidence for every peer."""

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import SelinuxContext, VmName
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.ports import AcquireEvent
from shamon_host.peer.wire import HELLO
from tests.unit.daemon.daemon_world import DaemonWorld, daemon, play, records

WEB = VmName("web")
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


def test_the_kernel_asking_for_an_sa_starts_a_handshake() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        await world.wait(2)
        calls = world.count_calls(HELLO)
        for address in ("192.0.2.2", "192.0.2.1", "203.0.113.1"):
            daemon(world.alpha).watchers._kernel_event(
                AcquireEvent(
                    source="192.0.2.1", destination=address, source_port=24576, destination_port=24576, context=None
                )
            )
        await world.wait(2)
        assert calls == [("alpha", "beta")]

    play(test)


def test_a_guest_that_ends_takes_its_link_with_it() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.alpha.hypervisor.crash(WEB)
        await world.wait(3)
        assert daemon(world.beta).host.carried(daemon(world.alpha).name) == frozenset()
        assert (await world.beta.objects("alpha")).devices == 0

    play(test)
