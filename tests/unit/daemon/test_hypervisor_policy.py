"""A host with Xen keeps the coalition's policy in its hypervisor, and tells its peers and people when it was not."""

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from shamon_host.daemon.hypervisor_policy import HypervisorPolicy
from shamon_host.daemon.policy_versions import PolicyRecord
from shamon_host.daemon.watchers import POLICY_POLL_S
from shamon_host.domain.flask_labels import flask_type
from shamon_host.domain.flask_rules import Question
from shamon_host.domain.labels import VmName
from shamon_host.domain.policy import HypervisorKind
from shamon_host.domain.policy_form import with_digest
from shamon_host.hypervisor.ports import FlaskState
from shamon_host.interchange.flask import flask_base_source
from shamon_host.testing.flask import MemoryFlask
from shamon_host.testing.memory_host import MemoryHost
from tests.unit.daemon.daemon_world import XEN, DaemonWorld, changed_policy, daemon, play, records
from tests.unit.hypervisor.vm_world import MemoryDocuments

WEB, SHOP = VmName("web"), VmName("shop")
RED, BLUE = flask_type("red"), flask_type("blue")


def flask(host: MemoryHost) -> MemoryFlask:
    assert host.flask is not None
    return host.flask


def xen(host: MemoryHost) -> HypervisorPolicy:
    own = daemon(host).own.xen
    assert own is not None
    return own


def kinds(host: MemoryHost) -> list[str]:
    """What the audit log has about FLASK, in order."""
    wanted = ("flask.", "labelmap.install")
    return [record.kind for record in daemon(host).audit.records(limit=10_000) if record.kind.startswith(wanted)]


async def status(host: MemoryHost) -> object:
    return (await host.ask("status")).value["flask"]


async def refused(host: MemoryHost, vm: str) -> str:
    answer = await host.ask("vm", "start", vm)
    assert answer.exit_code == 3, answer.value
    return str(answer.value["error"])


def test_the_policy_is_loaded_before_a_vm_starts_and_once_a_boot() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        assert kinds(world.alpha) == ["labelmap.install", "flask.load", "labelmap.install"]
        assert kinds(world.beta) == ["labelmap.install"]
        (loaded,) = records(world.alpha, "flask.load")
        assert loaded == {"version": 1, "digest": world.policy.digest}
        await world.start("alpha", "web")
        (domain,) = world.alpha.hypervisor.domains()
        assert str(domain.context) == f"system_u:system_r:{RED}"
        assert await status(world.alpha) == {"wrong": "", "changed_by_others": ""}
        assert await status(world.beta) is None
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        await world.admitted("alpha", "beta")
        assert flask(world.alpha).loads == 1
        assert len(records(world.alpha, "flask.load")) == 1
        await world.boot("alpha")
        assert flask(world.alpha).loads == 1
        assert len(records(world.alpha, "flask.load")) == 2
        assert not records(world.alpha, "flask.foreign")

    play(test, XEN)


def test_a_policy_that_somebody_loads_is_replaced_and_every_peer_hears_of_it() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.start("alpha", "shop")
        flask(world.alpha).allow(RED, BLUE, "grant", "map_read")
        reason = await world.suspended("beta", "alpha", within_s=POLICY_POLL_S + 5)
        assert f"{RED} may map_read {BLUE} (grant), more than the policy says" in reason
        (foreign,) = records(world.alpha, "flask.foreign")
        assert foreign["found"] in reason
        assert kinds(world.alpha)[-3:] == ["flask.foreign", "flask.load", "labelmap.install"]
        assert flask(world.alpha).state([(RED, BLUE, "grant")]).access == {(RED, BLUE, "grant"): frozenset()}
        assert await status(world.alpha) == {"wrong": "", "changed_by_others": foreign["found"]}
        assert {domain.name for domain in world.alpha.hypervisor.domains()} == {WEB, SHOP}
        await world.admitted("alpha", "beta")
        assert flask(world.alpha).loads == 2

    play(test, XEN)


def test_a_policy_without_the_labels_ends_the_vms_that_had_them() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        flask(world.alpha).load(flask_base_source())
        await world.suspended("beta", "alpha", within_s=POLICY_POLL_S + 5)

        async def gone() -> bool:
            return not world.alpha.hypervisor.domains()

        await world.until(gone, within_s=5, what="web, which lost its label, is destroyed")
        (mislabelled,) = records(world.alpha, "vm.mislabelled", "web")
        assert mislabelled["found"] == "system_u:system_r:unlabeled_t"
        await world.start("alpha", "web")
        (domain,) = world.alpha.hypervisor.domains()
        assert str(domain.context) == f"system_u:system_r:{RED}"
        await world.admitted("alpha", "beta")

    play(test, XEN)


def test_what_happened_while_the_daemon_was_dead_is_told_too() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.alpha.kill_daemon()
        flask(world.alpha).allow(RED, BLUE, "mmu", "map_read")
        await world.alpha.start_daemon()
        assert len(records(world.alpha, "flask.foreign")) == 1
        assert "map_read" in await world.suspended("beta", "alpha")
        await world.admitted("alpha", "beta")

    play(test, XEN)


@pytest.mark.parametrize("boolean", [False, True])
def test_what_loading_does_not_mend_stays_told_and_no_vm_starts(boolean: bool) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        if boolean:
            flask(world.alpha).booleans["guest_writeconsole"] = True
            words = "the boolean guest_writeconsole is on"
        else:
            flask(world.alpha).enforcing = False
            words = "FLASK is permissive"
        assert words in await refused(world.alpha, "web")
        assert words in await world.suspended("beta", "alpha")
        assert words in str(await status(world.alpha))
        await world.wait(60)
        assert flask(world.alpha).loads == 1, "it is not tried again and again"
        told = [detail for detail in records(world.alpha, "labelmap.install") if words in detail["reason"]]
        assert [detail["permitted"] for detail in told] == [False]
        assert words in await refused(world.alpha, "web")
        flask(world.alpha).booleans.clear()
        flask(world.alpha).enforcing = True
        await world.admitted("alpha", "beta")
        await world.start("alpha", "web")

    play(test, XEN)


def test_a_hypervisor_that_does_not_answer_starts_nothing() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        flask(world.alpha).broken = "ENOSYS"
        assert "ENOSYS" in await refused(world.alpha, "web")
        await world.suspended("beta", "alpha", within_s=200)
        (told,) = records(world.alpha, "flask.not-loaded")
        assert "ENOSYS" in told["reason"]
        flask(world.alpha).broken = ""
        await world.admitted("alpha", "beta")
        await world.start("alpha", "web")

    play(test, XEN)


def test_what_should_run_starts_once_labels_bind_again() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")

        class Silent(MemoryFlask):
            def reboot(self) -> None:
                super().reboot()
                self.broken = "ENOSYS"

        world.alpha.flask = world.alpha.hypervisor.flask = Silent()
        await world.alpha.boot()
        assert not world.alpha.hypervisor.domains()
        (left,) = records(world.alpha, "vm.not-restored", "web")
        assert "ENOSYS" in left["reason"]
        flask(world.alpha).broken = ""

        async def runs() -> bool:
            return bool(world.alpha.hypervisor.domains())

        await world.until(runs, within_s=POLICY_POLL_S + 1, what="web runs")
        (domain,) = world.alpha.hypervisor.domains()
        assert str(domain.context) == f"system_u:system_r:{RED}"

    play(test, XEN)


def test_whoever_waits_takes_what_the_next_one_finds() -> None:
    """However many ask at once, Xen is asked for the first of them, and once for all who waited."""
    world = DaemonWorld(XEN)
    entered, go_on, asked = threading.Event(), threading.Event(), list[int]()

    class Slow(MemoryFlask):
        def state(self, questions: Iterable[Question]) -> FlaskState:
            asked.append(1)
            entered.set()
            assert go_on.wait(10)
            return super().state(questions)

    own = HypervisorPolicy(
        host=world.alpha.host,
        flask=Slow(),
        policy=lambda: world.policy,
        documents=MemoryDocuments(),
        audit=lambda kind, subject, detail: None,
        clock=world.alpha.clock,
        boot_id="one",
    )
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(own.bring_about)
        assert entered.wait(10)
        arrived = threading.Barrier(9)

        def wait() -> None:
            arrived.wait(10)
            own.bring_about()

        others = [pool.submit(wait) for _ in range(8)]
        arrived.wait(10)
        go_on.set()
        for each in (first, *others):
            each.result()
    assert own.wrong == ""
    assert 3 <= len(asked) <= 2 + len(others), "before and after the load; for all who waited; for who came later"


def test_a_base_policy_that_allows_more_is_told_of_and_loaded_once() -> None:
    """Whoever made the image of this host left something in the base policy that goes past the module."""

    class Lax(MemoryFlask):
        def load(self, module: str) -> None:
            super().load(module)
            self.allow(RED, "dom0_t", "argo", "send")

    async def test(world: DaemonWorld) -> None:
        world.alpha.flask = world.alpha.hypervisor.flask = Lax()
        await world.alpha.boot()
        await world.beta.boot()
        await world.wait(60)
        assert "argo" in await refused(world.alpha, "web")
        assert "argo" in await world.suspended("beta", "alpha")
        assert flask(world.alpha).loads == 1
        assert not records(world.alpha, "flask.foreign")

    play(test, XEN)


def test_the_next_version_is_loaded_after_what_it_forbids_was_stopped() -> None:
    first = changed_policy(XEN)
    labels = {**first.vm_labels, "crimson": replace(first.vm_labels["red"], name="crimson")}
    vms = {**first.vms, WEB: replace(first.vms[WEB], label="crimson")}
    following = with_digest(replace(first, version=2, parent=first.digest, vm_labels=labels, vms=vms))

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        await world.start("alpha", "shop")
        await daemon(world.alpha).changes.switch.to(PolicyRecord(policy=following))
        assert [domain.name for domain in world.alpha.hypervisor.domains()] == [SHOP]
        (forbidden,) = records(world.alpha, "vm.forbidden", "web")
        assert flask_type("crimson") in forbidden["reason"]
        log = [record.kind for record in daemon(world.alpha).audit.records(limit=10_000)]
        assert log.index("vm.forbidden") < max(at for at, kind in enumerate(log) if kind == "flask.load")
        assert [each["version"] for each in records(world.alpha, "flask.load")] == [1, 2]
        assert xen(world.alpha).wrong == ""
        assert not records(world.alpha, "flask.foreign")
        await world.start("alpha", "web")

    play(test, XEN)


def test_a_version_that_xen_does_not_take_counts_and_nothing_starts_under_it() -> None:
    first = changed_policy(XEN)
    following = with_digest(replace(first, version=2, parent=first.digest))

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        flask(world.alpha).broken = "checkpolicy is not installed"
        await daemon(world.alpha).changes.switch.to(PolicyRecord(policy=following))
        assert daemon(world.alpha).policy.version == 2
        assert "checkpolicy is not installed" in await refused(world.alpha, "shop")
        assert [domain.name for domain in world.alpha.hypervisor.domains()] == [WEB]
        flask(world.alpha).broken = ""
        await world.start("alpha", "shop")
        assert [each["version"] for each in records(world.alpha, "flask.load")][-1] == 2

    play(test, XEN)


def test_a_start_with_another_hypervisor_than_the_policy_says() -> None:
    async def test(world: DaemonWorld) -> None:
        world.enrolment.policies[world.alpha.host] = changed_policy()
        with pytest.raises(Exception, match="another hypervisor than the policy says; expected qemu; found xen"):
            await world.alpha.boot()
        assert flask(world.alpha).loads == 0
        del world.enrolment.policies[world.alpha.host]
        world.beta.flask = world.beta.hypervisor.flask = MemoryFlask()
        with pytest.raises(Exception, match="expected qemu; found xen"):
            await world.beta.boot()

    play(test, XEN)


def test_the_peers_of_a_host_that_hides_its_xen() -> None:
    """Its report says what a host with QEMU would say."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        daemon(world.alpha).host.xen = None
        reason = await world.suspended("beta", "alpha")
        assert "a host with Xen says nothing of FLASK" in reason

    play(test, XEN)


def test_the_kinds_of_the_world() -> None:
    policy = changed_policy(XEN)
    assert [policy.hosts[name].hypervisor for name in sorted(policy.hosts)] == [
        HypervisorKind.XEN,
        HypervisorKind.QEMU,
        HypervisorKind.QEMU,
    ]
