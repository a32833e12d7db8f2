"""Starting and stopping one host's program: what stays, what goes, what is refused, and in which words."""

import pytest

from shamon_host.daemon.policy_versions import PolicyRecord, PolicyVersions
from shamon_host.daemon.ports import StopReason
from shamon_host.daemon.store import Store
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, Refused, ShamonError
from shamon_host.domain.labels import VmContext, VmName
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.testing.memory_ca import memory_expelled
from shamon_host.testing.memory_host import MemoryHost
from shamon_host.testing.tpm import MemoryTpm
from shamon_host.testing.world import BootVariant
from tests.unit.daemon.daemon_world import (
    ALPHA,
    BETA,
    ON_FAILURE,
    DaemonWorld,
    SlowBlocking,
    changed_policy,
    daemon,
    play,
    records,
)

WEB = VmName("web")


async def stop(host: MemoryHost, reason: StopReason) -> None:
    host.service_manager.reason = reason
    await host.stop_daemon()
    host.service_manager.reason = StopReason.STOP


async def refused_start(host: MemoryHost, kind: type[ShamonError]) -> str:
    with pytest.raises(kind) as caught:
        await host.start_daemon()
    return str(caught.value)


def context_of_web(world: DaemonWorld) -> VmContext | None:
    return next(report.context for report in world.alpha.hypervisor.domains() if report.name == WEB)


def test_a_restart_keeps_links_and_they_stay_up() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        devices = (await world.alpha.objects("beta")).devices
        await stop(world.alpha, StopReason.RESTART)
        assert await world.web_reaches_db()
        await world.alpha.start_daemon()
        assert await world.web_reaches_db()
        await world.admitted("alpha", "beta")
        assert await world.web_reaches_db()
        assert (await world.alpha.objects("beta")).devices == devices

    play(test)


@pytest.mark.parametrize("reason", [StopReason.STOP, StopReason.SHUTDOWN])
def test_a_stop_closes_all(reason: StopReason) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await stop(world.alpha, reason)
        assert (await world.alpha.objects("beta")).nothing
        assert not await world.web_reaches_db()
        assert world.alpha.kernel.read().guard

    play(test)


@pytest.mark.parametrize(
    ("how", "clean"), [(StopReason.STOP, True), (StopReason.SHUTDOWN, False), (StopReason.RESTART, True), (None, True)]
)
def test_vms_are_replaced_unless_the_last_boot_was_watched_to_its_end(how: StopReason | None, clean: bool) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        await world.alpha.guest("web").write_marker("here")
        if how is None:
            await world.alpha.kill_daemon()
        else:
            await stop(world.alpha, how)
        await world.alpha.boot()
        assert (await world.alpha.guest("web").read_marker() == "") is clean
        assert context_of_web(world) is not None
        # and only once
        await world.alpha.guest("web").write_marker("again")
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        assert await world.alpha.guest("web").read_marker() == "again"

    play(test)


def test_a_host_that_was_refused_replaces_its_vms_at_its_next_boot() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.beta.boot(BootVariant.WRONG)
        await world.start("beta", "db")
        await world.beta.guest("db").write_marker("here")
        await world.suspended("alpha", "beta")
        await world.suspended("beta", "alpha")
        await world.beta.boot()
        assert await world.beta.guest("db").read_marker() == ""
        assert records(world.beta, "vm.replace", "db") == [{"reason": "refused by alpha"}]

    play(test)


def test_the_policys_successor_is_taken() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        before = context_of_web(world)
        parent = world.policy.digest
        world.enrolment.policy = changed_policy(
            ("version = 1", f'version = 2\nparent = "{parent}"'), ("period_s = 10.0", "period_s = 12.0")
        )
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        assert daemon(world.alpha).policy.version == 2
        assert records(world.alpha, "policy.update")[-1]["permitted"]
        assert context_of_web(world) == before

    play(test)


@pytest.mark.parametrize(
    "changes",
    [
        [("version = 1", "version = 1\n"), ("period_s = 10.0", "period_s = 12.0")],
        [('name = "lab"', 'name = "another"')],
        [("version = 1", 'version = 2\nparent = "' + "0" * 64 + '"')],
        [("version = 1", 'version = 3\nparent = "' + "0" * 64 + '"')],
    ],
)
def test_another_policy_is_refused_and_nothing_of_it_stays(changes: list[tuple[str, str]]) -> None:
    extra = ('[types."rival/blue"]', '[types."aaa/first"]\non_failure = "keep"\n\n[types."rival/blue"]')

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        before = context_of_web(world)
        label_map = daemon(world.alpha).store.get("host", "label-map")
        await world.alpha.kill_daemon()
        world.enrolment.policy = changed_policy(extra, *changes)
        words = await refused_start(world.alpha, Refused)
        assert "policy." in words
        world.enrolment.policy = world.policy
        await world.alpha.start_daemon()
        assert daemon(world.alpha).store.get("host", "label-map") == label_map
        assert context_of_web(world) == before

    play(test)


def test_a_policy_without_this_host_is_refused() -> None:
    async def test(world: DaemonWorld) -> None:
        world.enrolment.policy = changed_policy(("[hosts.gamma]", "[hosts.delta]"), ("192.0.2.3", "192.0.2.4"))
        assert "not in the policy" in await refused_start(world.gamma, BadInput)

    play(test)


def test_what_an_expelled_host_had_is_removed_at_the_start() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.alpha.kill_daemon()
        registry = PeerRegistry(world.enrolment.registry.hosts())
        registry.take(memory_expelled(registry.enrolled(BETA)))
        world.enrolment.registry = registry
        assert not (await world.alpha.objects("beta")).nothing
        await world.alpha.start_daemon()
        assert (await world.alpha.objects("beta")).nothing
        assert records(world.alpha, "peer.expelled", "beta")
        await world.wait(60)
        assert daemon(world.alpha).admissions.peers[BETA].state == "expelled"
        assert (await world.alpha.objects("beta")).nothing
        assert not await world.web_reaches_db()

    play(test)


def test_without_its_tpm_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        def gone() -> bytes:
            raise BackendFailed("the TPM does not let this program open it", where="device:/dev/tpmrm0")

        monkeypatch.setattr(world.alpha.machine.tpm, "ak_public", gone)
        world.alpha.machine.boot()
        assert "/dev/tpmrm0" in await refused_start(world.alpha, BackendFailed)

    play(test)


def test_without_its_logs_it_does_not_start() -> None:
    async def test(world: DaemonWorld) -> None:
        world.alpha.machine.boot()
        world.alpha.machine.logs.present = False
        assert "measurement logs" in await refused_start(world.alpha, BackendFailed)

    play(test)


def test_with_another_tpm_than_the_enrolled_one_it_does_not_start() -> None:
    async def test(world: DaemonWorld) -> None:
        world.alpha.machine.boot()
        other = MemoryTpm()
        world.alpha.machine.tpm.ak_public = other.ak_public  # type: ignore[method-assign]
        words = await refused_start(world.alpha, NotTrusted)
        assert "another Attestation Key" in words
        assert "Enrol this host again" in words

    play(test)


def test_a_start_that_failed_does_not_vouch_for_the_boot() -> None:
    """The VMs are replaced by the start that succeeds at last."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        await world.alpha.guest("web").write_marker("here")
        await world.alpha.kill_daemon()
        world.enrolment.policy = changed_policy(("version = 1", f'version = 3\nparent = "{"0" * 64}"'))
        with pytest.raises(Refused):
            await world.alpha.boot()
        failed = world.alpha.daemon
        assert failed is None
        world.enrolment.policy = world.policy
        await world.alpha.start_daemon()
        assert await world.alpha.guest("web").read_marker() == ""

    play(test)


def test_stop_while_a_handshake_installs_leaves_nothing() -> None:
    async def test(world: DaemonWorld) -> None:
        slow = world.alpha.blocking = SlowBlocking()
        await world.pair_with_link()
        for delay_s in (0.0, 0.1, 0.3, 0.7, 1.3, 1.9, 2.6, 3.4):
            slow.delay_s = 0.4
            daemon(world.alpha).schedule.wake(BETA)
            daemon(world.beta).schedule.wake(ALPHA)
            await world.wait(delay_s)
            await world.alpha.stop_daemon()
            await world.wait(10)
            assert (await world.alpha.objects("beta")).nothing
            slow.delay_s = 0.0
            await world.alpha.start_daemon()
            await world.admitted("alpha", "beta")

    play(test)


KEPT = (ON_FAILURE, 'on_failure = "keep"')
RIVALS = '[conflicts.rivals]\ntypes = ["acme/red", "rival/blue"]\n'


@pytest.mark.parametrize("left", ["killed before it stopped it", "given by hand"])
def test_what_runs_and_is_forbidden_by_the_policy_in_force_is_stopped_at_the_start(left: str) -> None:
    """A host's daemon died after a version was in force and before it stopped what that forbids; or a new file."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("beta")
        await world.start("beta", "db")
        await world.start("beta", "spy")
        parent = world.policy.digest
        world.enrolment.policy = changed_policy(
            KEPT,
            ("version = 1", f'version = 2\nparent = "{parent}"'),
            ("[hosts.alpha]", f"{RIVALS}\n[hosts.alpha]"),
        )
        await world.beta.kill_daemon()
        if left != "given by hand":
            versions = PolicyVersions(Store(world.beta._database))
            versions.begin(PolicyRecord(policy=world.enrolment.policy))
        await world.beta.start_daemon()
        assert daemon(world.beta).policy.version == 2
        (stopped,) = {VmName("db"), VmName("spy")} - daemon(world.beta).own.vms.states.running().keys()
        (detail,) = records(world.beta, "vm.forbidden", stopped)
        assert detail["rule"] == "chinese-wall"

    play(test, KEPT)


def test_what_a_host_may_run_once_it_is_admitted_goes_on_over_a_restart() -> None:
    starting = ('[hosts.beta]\naddress = "192.0.2.2"\n', '[hosts.beta]\naddress = "192.0.2.2"\nstarting = []\n')

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.kill_daemon()
        await world.beta.start_daemon()
        assert VmName("db") in daemon(world.beta).own.vms.states.running()
        assert not records(world.beta, "vm.forbidden")

    play(test, starting)
