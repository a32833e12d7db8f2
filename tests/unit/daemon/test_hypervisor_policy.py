"""A host with Xen keeps the coalition's policy in its hypervisor, and tells its peers and people when it was not."""

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from shamon_host.daemon.hypervisor_policy import HypervisorPolicy
from shamon_host.daemon.policy_versions import PolicyRecord
from shamon_host.daemon.watchers import POLICY_POLL_S
from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.flask_labels import flask_context, flask_type
from shamon_host.domain.flask_rules import Question
from shamon_host.domain.labels import VmName
from shamon_host.domain.policy import HypervisorKind, Policy
from shamon_host.domain.policy_form import with_digest
from shamon_host.hypervisor.ports import FlaskState, VmSpec
from shamon_host.interchange.flask import flask_base_source, flask_source
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
        kept=lambda _digest: None,
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


def next_version(first: Policy, *, without_shop: bool = False) -> Policy:
    """With the same labels; or without the VM, and so the pairs, that a foreign policy of these tests is about."""
    vms = {name: entry for name, entry in first.vms.items() if not without_shop or name != SHOP}
    return with_digest(replace(first, version=first.version + 1, parent=first.digest, vms=vms))


def with_other_label(first: Policy) -> Policy:
    """The next version, in which red is called crimson."""
    labels = {name: label for name, label in first.vm_labels.items() if name != "red"}
    labels["crimson"] = replace(first.vm_labels["red"], name="crimson")
    vms = {
        name: replace(entry, label="crimson") if entry.label == "red" else entry for name, entry in first.vms.items()
    }
    return with_digest(replace(first, version=first.version + 1, parent=first.digest, vm_labels=labels, vms=vms))


class Dying(MemoryFlask):
    """The daemon is killed when it loads a policy, after Xen has taken it or before."""

    dies: str = ""

    def load(self, module: str) -> None:
        dies, self.dies = self.dies, ""
        if dies != "before":
            super().load(module)
        if dies:
            raise SystemError("killed")


@pytest.mark.parametrize("dies", ["before", "after"])
def test_a_daemon_that_is_killed_while_it_replaces_a_foreign_policy_has_told_nobody_yet(dies: str) -> None:
    async def test(world: DaemonWorld) -> None:
        world.alpha.flask = world.alpha.hypervisor.flask = dying = Dying()
        await world.boot("alpha", "beta")
        dying.allow(RED, BLUE, "grant", "map_read")
        dying.dies = dies
        with pytest.raises(SystemError):
            xen(world.alpha).bring_about()
        await world.alpha.kill_daemon()
        await world.wait(20)  # more than the reports of a period
        await world.alpha.start_daemon()
        assert "map_read" in await world.suspended("beta", "alpha")
        assert "map_read" in str(await status(world.alpha))
        await world.admitted("alpha", "beta")
        for _ in range(2):
            await world.alpha.kill_daemon()
            await world.alpha.start_daemon()
            assert "map_read" in str(await status(world.alpha))
            await world.wait(20)
            assert not xen(world.alpha).reported().foreign, "it was told, once"
        await world.boot("alpha")
        assert await status(world.alpha) == {"wrong": "", "changed_by_others": ""}

    play(test, XEN)


@pytest.mark.parametrize("without_shop", [False, True])
def test_a_foreign_policy_that_is_found_at_a_change_of_version_is_told_too(without_shop: bool) -> None:
    following = next_version(changed_policy(XEN), without_shop=without_shop)

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        flask(world.alpha).allow(RED, BLUE, "grant", "map_read")
        await daemon(world.alpha).changes.switch.to(PolicyRecord(policy=following))
        (foreign,) = records(world.alpha, "flask.foreign")
        assert f"{RED} may map_read {BLUE}" in foreign["found"]
        assert xen(world.alpha).reported().foreign == foreign["found"]
        assert xen(world.alpha).wrong == ""
        assert flask(world.alpha).state([(RED, BLUE, "grant")]).access == {(RED, BLUE, "grant"): frozenset()}
        await world.wait(20)
        assert xen(world.alpha).reported().foreign == ""

    play(test, XEN)


def test_what_is_found_while_no_peer_asks_is_in_the_first_report() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        flask(world.alpha).allow(RED, BLUE, "grant", "map_read")
        await world.wait(60)
        assert len(records(world.alpha, "flask.foreign")) == 1
        await world.beta.boot()
        assert "map_read" in await world.suspended("beta", "alpha")
        await world.admitted("alpha", "beta")

    play(test, XEN)


@pytest.mark.parametrize("kept", [False, True])
def test_a_start_with_another_version_than_the_one_that_was_loaded(kept: bool) -> None:
    following = next_version(changed_policy(XEN), without_shop=True)

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.alpha.kill_daemon()
        flask(world.alpha).allow(RED, BLUE, "grant", "map_read")
        world.enrolment.policies[world.alpha.host] = following
        if not kept:
            database = world.alpha._database
            with database.transaction() as connection:
                connection.execute("DELETE FROM document WHERE kind = 'policy-history'")
        await world.alpha.start_daemon()
        assert daemon(world.alpha).policy.version == 2
        (foreign,) = records(world.alpha, "flask.foreign")
        assert ("map_read" if kept else "is not kept, and so cannot be compared") in foreign["found"]
        assert xen(world.alpha).reported().foreign == foreign["found"]

    play(test, XEN)


@pytest.mark.parametrize("dies", ["before", "after"])
def test_a_version_whose_load_was_cut_short_is_nobody_elses(dies: str) -> None:
    following = with_other_label(changed_policy(XEN))

    async def test(world: DaemonWorld) -> None:
        world.alpha.flask = world.alpha.hypervisor.flask = dying = Dying()
        await world.boot("alpha")
        dying.dies = dies
        with pytest.raises(SystemError):
            await daemon(world.alpha).changes.switch.to(PolicyRecord(policy=following))
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        assert daemon(world.alpha).policy.version == 2
        assert xen(world.alpha).wrong == ""
        assert not records(world.alpha, "flask.foreign")

    play(test, XEN)


class Refusing(MemoryFlask):
    """It answers, and takes no policy while `refuses`."""

    refuses: str = ""

    def load(self, module: str) -> None:
        if self.refuses:
            raise BackendFailed(self.refuses)
        super().load(module)


def test_what_cannot_be_loaded_is_tried_again_and_told_of_once() -> None:
    async def test(world: DaemonWorld) -> None:
        world.alpha.flask = world.alpha.hypervisor.flask = refusing = Refusing()
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        refusing.allow(RED, BLUE, "grant", "map_read")
        refusing.refuses = "no space left on device"
        assert "map_read" in await world.suspended("beta", "alpha")
        await world.wait(60)
        for kind, times in (("flask.foreign", 1), ("flask.load", 2), ("flask.not-loaded", 1)):
            assert len(records(world.alpha, kind)) == times, kind
        assert "no space left" in await refused(world.alpha, "shop")
        refusing.refuses = ""
        await world.admitted("alpha", "beta")
        await world.start("alpha", "shop")
        assert len(records(world.alpha, "flask.foreign")) == 1

    play(test, XEN)


def test_a_store_that_fails_for_a_moment_does_not_end_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")

        def full(*_arguments: object) -> None:
            raise BackendFailed("the database failed", found="disk full")

        with monkeypatch.context() as patch:
            patch.setattr(xen(world.alpha).documents, "put", full)
            flask(world.alpha).allow(RED, BLUE, "grant", "map_read")
            await world.wait(3 * POLICY_POLL_S)
        (told,) = records(world.alpha, "flask.not-loaded")
        assert "disk full" in told["reason"]
        await world.wait(POLICY_POLL_S)
        assert len(records(world.alpha, "flask.foreign")) == 1
        assert world.alpha.failure() is None

    play(test, XEN)


class Losing(MemoryFlask):
    """Once every label is lost, somebody else's policy being in force for a moment before ours is."""

    loses = False

    def load(self, module: str) -> None:
        if self.loses:
            super().load(flask_base_source())
        super().load(module)


@pytest.mark.parametrize("who", ["a report", "the watch", "a version"])
def test_labels_are_enforced_after_each_load(who: str) -> None:
    """Xen's answers are right then, and no event tells of what a domain has lost."""

    async def test(world: DaemonWorld) -> None:
        world.alpha.flask = world.alpha.hypervisor.flask = losing = Losing()
        await world.boot("alpha")
        await world.start("alpha", "web")
        await world.wait(2)
        losing.loses = True
        if who == "a version":
            await daemon(world.alpha).changes.switch.to(PolicyRecord(policy=next_version(world.policy)))
            assert not world.alpha.hypervisor.domains()
        else:
            losing.allow(RED, BLUE, "grant", "map_read")
            if who == "a report":
                xen(world.alpha).reported()
            await world.wait(0.1 if who == "a report" else POLICY_POLL_S + 1)
            assert not world.alpha.hypervisor.domains()
        assert len(records(world.alpha, "vm.mislabelled", "web")) == 1

    play(test, XEN)


def blind(module: str) -> str:
    """A policy that gives dom0 nothing on what lost its label."""
    return "\n".join(line for line in module.splitlines() if not line.startswith("allow dom0_t unlabeled_t:"))


def test_a_start_puts_the_policy_in_force_before_it_reads_labels() -> None:
    """While no daemon ran, somebody loaded one under which dom0 sees no label."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        await world.alpha.kill_daemon()
        own = flask_source(world.policy)
        flask(world.alpha).load(own.replace("{ create max_vcpus", "{ create").replace("getdomaininfo ", ""))
        with pytest.raises(BackendFailed, match="getdomaininfo"):
            world.alpha.hypervisor.domains()
        await world.alpha.start_daemon()
        (domain,) = world.alpha.hypervisor.domains()
        assert (domain.name, domain.context) == (WEB, flask_context("red"))
        assert not records(world.alpha, "vm.mislabelled")
        assert len(records(world.alpha, "flask.foreign")) == 1

    play(test, XEN)


@pytest.mark.parametrize("running", [False, True])
def test_a_foreign_policy_does_not_keep_what_is_forbidden_from_being_stopped(running: bool) -> None:
    """It gives dom0 nothing on the domains, and their labels stay."""
    following = next_version(changed_policy(XEN), without_shop=True)

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        for vm in ("web", "shop"):
            await world.start("alpha", vm)
        foreign = blind(flask_source(world.policy)).replace("trigger shutdown destroy", "trigger shutdown")
        if running:
            flask(world.alpha).load(foreign)
            await daemon(world.alpha).changes.switch.to(PolicyRecord(policy=following))
        else:
            await world.alpha.kill_daemon()
            flask(world.alpha).load(foreign)
            world.enrolment.policies[world.alpha.host] = following
            await world.alpha.start_daemon()
        assert [domain.name for domain in world.alpha.hypervisor.domains()] == [WEB]
        assert len(records(world.alpha, "flask.foreign")) == 1

    play(test, XEN)


def test_a_flask_that_cannot_be_brought_about_starts_no_vm_and_the_daemon() -> None:
    async def test(world: DaemonWorld) -> None:
        world.alpha.flask = world.alpha.hypervisor.flask = refusing = Refusing()
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        await world.alpha.kill_daemon()
        refusing.load(blind(flask_base_source()))
        refusing.refuses = "checkpolicy is not installed"
        await world.alpha.start_daemon()
        assert "checkpolicy is not installed" in await refused(world.alpha, "shop")
        assert "checkpolicy is not installed" in str(await status(world.alpha))
        with pytest.raises(BackendFailed, match="getdomaininfo"):
            world.alpha.hypervisor.domains()
        assert await world.suspended("beta", "alpha")
        refusing.refuses = ""
        await world.admitted("alpha", "beta")
        await world.wait(POLICY_POLL_S + 1)
        await world.start("alpha", "shop")

    play(test, XEN)


@pytest.mark.parametrize("changes", [(), (XEN,)], ids=["qemu", "xen"])
def test_no_vm_starts_beside_a_domain_that_the_policy_does_not_know(
    changes: tuple[tuple[str, str], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not be destroyed: whether its types are in conflict with those of a VM, nobody can say."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        hypervisor, stranger = world.alpha.hypervisor, VmName("stranger")
        await world.start("alpha", "web")
        (web,) = hypervisor.domains()
        destroy = hypervisor.destroy

        def only_known(name: VmName) -> None:
            if name == stranger:
                raise BackendFailed("Xen refuses a call", where=name)
            destroy(name)

        with monkeypatch.context() as patch:
            patch.setattr(hypervisor, "destroy", only_known)
            patch.setattr(hypervisor, "disk_exists", lambda _path: True)
            assert web.context is not None
            hypervisor.start_paused(
                VmSpec(name=stranger, uuid="5", context=web.context, disk="/stranger.raw", interfaces=())
            )
            await world.wait(1)
            assert "stranger" in await refused(world.alpha, "shop")
            assert "a domain runs that the policy does not know" in await refused(world.alpha, "web")
        hypervisor.destroy(stranger)
        await world.start("alpha", "shop")

    play(test, *changes)


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
