"""Hosts whose links are held by a VM of their own: it is there before anything labelled, or nothing labelled is."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources

import pytest

from shamon_host import systemd
from shamon_host.daemon.link_reconciler import LinkReconciler
from shamon_host.daemon.mac_vm import AGAIN_S, require_own_profile
from shamon_host.daemon.watchers import MAC_VM_LOOK_S
from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.labels import HostName, SelinuxContext, VmName
from shamon_host.domain.quarantine import Grade
from shamon_host.hypervisor.mac_vm_report import ReportedMacVm
from shamon_host.hypervisor.ports import DomainReport, DomainState
from shamon_host.hypervisor.report import check_hypervisor_report, hypervisor_report
from shamon_host.link_agent import remote_kernel
from shamon_host.links.model import KernelState
from shamon_host.testing.images import sha256_of
from shamon_host.testing.mac_vm import MemoryMacVm
from shamon_host.testing.memory_host import MAC_VM_SETTINGS, MemoryHost
from shamon_host.testing.memory_world import MAC_VM_PINS
from tests.unit.daemon.daemon_world import DaemonWorld, changed_policy, daemon, play, records, state
from tests.unit.daemon.signed_world import SignedWorld, envelope, play_signed, signed_policy

ALPHA_MAC = VmName("alpha-mac")


def mac_vm(host: MemoryHost) -> MemoryMacVm:
    assert host.mac_vm is not None
    return host.mac_vm


async def reaches(world: DaemonWorld) -> bool:
    return await world.alpha.guest("web").reaches(world.vm_addresses["db"][0])


async def started_anew(world: DaemonWorld) -> bool:
    return mac_vm(world.alpha).boots == 2


async def is_not_admitted(world: DaemonWorld) -> bool:
    return state(world.beta, "alpha") != "admitted"


def told(host: MemoryHost, kind: str) -> list[str]:
    return [str(detail) for detail in records(host, kind)]


def test_links_are_in_the_mac_vm_and_taps_on_the_host() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        assert await reaches(world)
        host, inside = world.alpha.kernel.read(), mac_vm(world.alpha).kernel.read()
        assert (host.sas, host.tunnels, host.gate) == (frozenset(), frozenset(), {})
        assert inside.sas
        assert inside.tunnels
        assert not any(port.startswith("shvm") for bridge in inside.bridges.values() for port in bridge.ports)
        (row,) = [row for row in (await world.beta.ask("peers")).value if row["host"] == "alpha"]
        told_peer = " ".join(row["claims"])
        assert "alpha-mac was started from what the policy pins" in told_peer
        assert "macvm.runtime absent: the policy does not have it attested" in told_peer

    play(test, mac_vms=True, attested=False)


def test_a_mac_vm_that_ends_is_started_again_and_links_come_back() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.alpha.hypervisor.crash(ALPHA_MAC)
        assert not await reaches(world)
        await world.until(lambda: reaches(world), within_s=60, what="web reaches db again")
        assert mac_vm(world.alpha).boots == 2
        assert len(told(world.alpha, "mac-vm.up")) == 2

    play(test, mac_vms=True)


def test_a_mac_vm_that_answers_nobody_is_started_anew() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        mac_vm(world.alpha).hangs = True
        told_by_alpha = (await world.alpha.ask("mac-vm")).value
        assert (told_by_alpha["state"], told_by_alpha["boot_id"]) == ("running", "")
        assert "does not answer" in told_by_alpha["wrong"]
        daemon(world.alpha).watchers.domains_changed()
        await world.until(lambda: started_anew(world), within_s=60, what="the MAC VM is another one")
        await world.until(lambda: reaches(world), within_s=60, what="web reaches db again")
        assert (await world.alpha.ask("mac-vm")).value["boot_id"] == "mac-vm-2"

    play(test, mac_vms=True)


def test_a_host_without_a_mac_vm_says_so() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.alpha.boot()
        assert (await world.alpha.ask("mac-vm")).value is None

    play(test)


def test_a_mac_vm_that_somebody_stops_is_started_again() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        assert (await world.alpha.ask("vm", "stop", ALPHA_MAC)).exit_code == 0
        await world.until(lambda: reaches(world), within_s=60, what="web reaches db again")

    play(test, mac_vms=True)


def test_a_mac_vm_under_another_label_is_destroyed_and_started_anew() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        other = SelinuxContext(user="system_u", role="system_r", type="svirt_t", categories=frozenset({1, 1000}))
        world.alpha.hypervisor.relabel(ALPHA_MAC, other)
        await world.until(lambda: started_anew(world), within_s=60, what="the MAC VM is another one")
        await world.until(lambda: reaches(world), within_s=60, what="web reaches db again")
        assert told(world.alpha, "vm.mislabelled")

    play(test, mac_vms=True)


@pytest.mark.parametrize("what", ["image", "kernel", "initrd", "cmdline"])
def test_a_mac_vm_of_which_one_byte_was_changed_is_not_started(what: str) -> None:
    async def test(world: DaemonWorld) -> None:
        alpha = world.alpha
        match what:
            case "image":
                alpha.images.clean["mac-vm"] = b"the image of a MAC Vm"
            case "cmdline":
                alpha.vm_settings[ALPHA_MAC] = replace(MAC_VM_SETTINGS, cmdline="its command lime")
            case _:
                alpha.images.files[getattr(MAC_VM_SETTINGS, what)] = b"its another"
        await alpha.boot()
        await world.beta.boot()
        await world.wait(60)
        assert not mac_vm(alpha).runs
        assert state(world.beta, "alpha") != "admitted"
        reasons = " ".join(told(alpha, "links.not-reconciled") + told(alpha, "host.domains-unreadable"))
        assert "pinned one" in reasons
        assert len(told(alpha, "vm.replace")) < 60 / AGAIN_S + 2  # not once for each that asks
        answer = await alpha.ask("vm", "start", "web")
        assert answer.exit_code != 0  # no bridge for it: nobody would hold it apart
        assert alpha.kernel.read().bridges.keys() <= {f"shbr{number}" for number in range(1024)}

    play(test, mac_vms=True)


def test_the_daemon_is_killed_and_the_mac_vm_carries_on() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.alpha.kill_daemon()
        assert await reaches(world)
        await world.alpha.start_daemon()
        assert await reaches(world)
        assert mac_vm(world.alpha).boots == 1

    play(test, mac_vms=True)


def test_a_peer_that_says_nothing_of_its_mac_vm_or_another_thing_is_not_believed() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        own = daemon(world.alpha).own
        reported = own.mac_vm.reported(own.vms.states) if own.mac_vm else None
        domains = own.vms.states.active()
        assert reported is not None
        policy, label_map = own.enforced.policy, own.enforced.label_map

        def verdict(mac_vm: ReportedMacVm | None, domains: Sequence[DomainReport] = domains) -> str:
            data = hypervisor_report(domains, label_map, mac_vm=mac_vm)
            claim = check_hypervisor_report(data, host=world.alpha.host, policy=policy)
            return f"{claim.status}: {claim.reason}"

        assert verdict(reported).startswith("pass")
        assert verdict(None) == "absent: nothing is said of the MAC VM"
        for changed in ({"kernel_sha256": "0" * 64}, {"initrd_sha256": "0" * 64}, {"cmdline": "enforcing=0"}):
            boot = replace(reported.boot, **changed)
            assert verdict(replace(reported, boot=boot)).startswith("fail: the MAC VM was started from another")
        assert "another image" in verdict(replace(reported, image_sha256="0" * 64))
        assert "another VM holds" in verdict(replace(reported, name=VmName("web")))
        assert "does not run" in verdict(reported, [each for each in domains if each.name != ALPHA_MAC])
        paused = [replace(each, state=DomainState.PAUSED) if each.name == ALPHA_MAC else each for each in domains]
        assert "does not run" in verdict(reported, paused)
        data = hypervisor_report(domains, label_map, mac_vm=reported)
        plain = check_hypervisor_report(data, host=world.alpha.host, policy=changed_policy())
        assert plain.reason == "a VM holds the host's links"

    play(test, mac_vms=True)


def test_policy_and_configuration_have_to_agree() -> None:
    own = changed_policy(mac_vms=True)
    with pytest.raises(BadInput, match="do not agree"):
        require_own_profile(own, next(iter(own.hosts)), None)
    require_own_profile(changed_policy(), next(iter(own.hosts)), None)


def test_a_crash_while_it_starts_converges() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.alpha.boot()
        await world.wait(1)
        world.alpha.hypervisor.crash(ALPHA_MAC)
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        await world.boot("beta")
        assert mac_vm(world.alpha).runs
        found = [each for each in world.alpha.hypervisor.domains() if each.name == ALPHA_MAC]
        assert [each.state for each in found] == [DomainState.RUNNING]

    play(test, mac_vms=True)


SIGNED = signed_policy(mac_vm=MAC_VM_PINS)
_RED_TO_BLACK = '"acme/red", "rival/blue", "audit/black"'
_CARRIES_GREEN = (
    f'mac_vm = "alpha-mac"\ntypes = [{_RED_TO_BLACK}]',
    f'mac_vm = "alpha-mac"\ntypes = [{_RED_TO_BLACK}, "acme/green"]',
)
_GREEN = '[types."acme/green"]\n[labels.green]\ntypes = ["acme/green"]\n'
GREEN = signed_policy(_CARRIES_GREEN, after=SIGNED, also=_GREEN, mac_vm=MAC_VM_PINS)
"""alpha may carry a type more: its MAC VM lacks the interface for it."""
WITHOUT_GAMMA = signed_policy(
    ('[hosts.gamma]\naddress = "192.0.2.3"\nmac_vm = "gamma-mac"\ntypes = ["acme/red", "rival/blue"]\n', ""),
    ('[vms.gamma-mac]\nlabel = "unlabelled"\nimage = "mac-vm"\nhost = "gamma"\n', ""),
    _CARRIES_GREEN,
    after=SIGNED,
    also=_GREEN,
    mac_vm=MAC_VM_PINS,
)
RENAMED = signed_policy(
    ("acme/red", "acme/crimson"),
    after=SIGNED,
    also='[renames]\ntypes = {"acme/red" = "acme/crimson"}\n',
    mac_vm=MAC_VM_PINS,
)
"""The link for it goes, and comes back under the new name."""
PATIENT = signed_policy(("timeout_s = 5.0", "timeout_s = 6.0"), after=SIGNED, mac_vm=MAC_VM_PINS)


async def _three_with_a_link(world: SignedWorld) -> None:
    await world.boot("gamma")
    await world.pair_with_link()
    await world.admitted("alpha", "beta", "gamma")


def test_a_version_with_a_type_more_has_the_mac_vm_started_anew() -> None:
    async def test(world: SignedWorld) -> None:
        await _three_with_a_link(world)
        await daemon(world.alpha).changes.update(envelope(GREEN))
        await world.until(lambda: started_anew(world), within_s=30, what="the MAC VM is another one")
        await world.until(lambda: reaches(world), within_s=100, what="web reaches db again")
        assert world.versions() == {"alpha": 2, "beta": 2, "gamma": 2}
        assert any("no interface" in each for each in told(world.alpha, "links.not-reconciled"))

    play_signed(test, first=SIGNED)


def test_a_version_comes_while_the_mac_vm_is_away() -> None:
    async def test(world: SignedWorld) -> None:
        await _three_with_a_link(world)
        mac_vm(world.alpha).hangs = True
        await daemon(world.alpha).changes.update(envelope(PATIENT))
        assert world.versions() == {"alpha": 2, "beta": 2, "gamma": 2}
        await world.until(lambda: reaches(world), within_s=200, what="web reaches db again")
        assert mac_vm(world.alpha).boots == 2

    play_signed(test, first=SIGNED)


def test_a_version_that_takes_a_link_away_waits_for_a_mac_vm_that_could_still_have_it() -> None:
    """Nothing of the new version counts on alpha before that link is closed there; no daemon ends of it."""

    async def test(world: SignedWorld) -> None:
        await _three_with_a_link(world)
        own = daemon(world.alpha).own
        mac_vm(world.alpha).hangs = True
        outcome = await daemon(world.beta).changes.update(envelope(RENAMED))
        assert list(outcome.unconfirmed) == ["alpha"]
        assert own.enforced.policy.version == 1
        assert told(world.alpha, "policy.not-followed")
        await world.until(lambda: _follows(world), within_s=200, what="alpha follows")
        assert mac_vm(world.alpha).boots == 2
        await world.until(lambda: reaches(world), within_s=200, what="web reaches db again")
        links = (await world.alpha.ask("links")).value
        assert {(link["peer"], link["type"]) for link in links} == {("beta", "acme/crimson")}

    play_signed(test, first=SIGNED)


async def _follows(world: SignedWorld) -> bool:
    return world.versions()["alpha"] == 2


def test_its_own_operator_hears_that_a_version_waits_for_the_mac_vm() -> None:
    async def test(world: SignedWorld) -> None:
        await _three_with_a_link(world)
        mac_vm(world.alpha).hangs = True
        with pytest.raises(BackendFailed, match="the MAC VM does not answer"):
            await daemon(world.alpha).changes.update(envelope(RENAMED))
        assert world.versions() == {"alpha": 1, "beta": 1, "gamma": 1}
        await world.until(lambda: reaches(world), within_s=200, what="web reaches db again")
        await world.wait(60)
        await world.admitted("alpha", "beta", "gamma")
        await daemon(world.alpha).changes.update(envelope(RENAMED))
        assert world.versions() == {"alpha": 2, "beta": 2, "gamma": 2}

    play_signed(test, first=SIGNED)


def test_a_version_that_drops_a_host_and_has_the_mac_vm_started_anew() -> None:
    async def test(world: SignedWorld) -> None:
        await _three_with_a_link(world)
        await daemon(world.alpha).changes.update(envelope(WITHOUT_GAMMA))
        await world.until(lambda: reaches(world), within_s=200, what="web reaches db again")
        assert world.versions() == {"alpha": 2, "beta": 2, "gamma": 1}
        assert mac_vm(world.alpha).boots == 2
        assert HostName("gamma") not in daemon(world.alpha).admissions.peers
        state = mac_vm(world.alpha).kernel.read()
        assert "192.0.2.3" not in {*state.gate, *(sa.source for sa in state.sas)}

    play_signed(test, first=SIGNED)


def test_bytes_of_a_mac_vm_end_neither_this_daemon_nor_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def hostile() -> KernelState:
        return KernelState(gate={"192.0.2.2": 10**400})

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        monkeypatch.setattr(mac_vm(world.alpha).kernel, "read", hostile)
        daemon(world.alpha).watchers.domains_changed()
        await world.wait(20)
        assert world.alpha.failure() is None
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        await world.wait(20)
        assert world.alpha.failure() is None

    play(test, mac_vms=True)


def test_the_control_wire_is_made_right_again_and_told() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.alpha.control_wire.wrong.append("there is no table shamon-control")
        world.alpha.kernel.flush_nft()
        await world.wait(20)
        assert world.alpha.control_wire.wrong == []
        assert any("there is no table" in each for each in told(world.alpha, "mac-vm.control-wire"))
        assert await reaches(world)

    play(test, mac_vms=True)


def test_the_next_daemon_looks_at_the_control_wire_of_a_mac_vm_that_runs() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.alpha.kill_daemon()
        world.alpha.control_wire.wrong.append("veth0 is a port of shcontrol")
        await world.alpha.start_daemon()
        await world.wait(5)
        assert mac_vm(world.alpha).boots == 1
        assert any("veth0" in each for each in told(world.alpha, "mac-vm.control-wire"))

    play(test, mac_vms=True)


def test_peers_see_a_control_wire_that_stays_wrong() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.alpha.control_wire.wrong.append("veth0 is a port of shcontrol")
        world.alpha.control_wire.stays_wrong = True
        daemon(world.alpha).watchers.domains_changed()
        await world.until(lambda: is_not_admitted(world), within_s=60, what="beta refuses alpha")
        (row,) = [row for row in (await world.beta.ask("peers")).value if row["host"] == "alpha"]
        assert "veth0" in str(row)

    play(test, mac_vms=True)


def test_a_mac_vm_that_the_policy_does_not_pin_any_more_is_started_anew() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        image, first = b"the next image of a MAC VM", changed_policy(mac_vms=True)
        policy = changed_policy(
            (MAC_VM_PINS.image_sha256, sha256_of(image)),
            ("version = 1", f'version = 2\nparent = "{first.digest}"'),
            mac_vms=True,
        )
        for host in (world.alpha, world.beta):
            await host.kill_daemon()
            host.images.clean["mac-vm"] = image
        world.enrolment.policy = policy
        for host in (world.alpha, world.beta):
            await host.start_daemon()
        await world.until(lambda: started_anew(world), within_s=2 * MAC_VM_LOOK_S, what="the MAC VM is another one")
        await world.until(lambda: reaches(world), within_s=120, what="web reaches db again")
        assert mac_vm(world.alpha).boots == 2

    play(test, mac_vms=True)


@pytest.mark.parametrize("what", ["kernel", "initrd", "cmdline"])
def test_a_mac_vm_that_somebody_starts_otherwise_by_hand_is_destroyed(what: str) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.alpha.hypervisor.exchange(ALPHA_MAC, **{what: "/root/another"})
        await world.until(lambda: reaches(world), within_s=120, what="web reaches db again")
        assert mac_vm(world.alpha).boots == 3
        assert any("/root/another" in each for each in told(world.alpha, "vm.other-boot"))

    play(test, mac_vms=True)


@pytest.mark.parametrize("grade", [Grade.SUSPEND, Grade.DESTROY])
def test_a_mac_vm_in_quarantine_stays_there_until_it_is_replaced(grade: Grade) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        own = daemon(world.alpha).own
        own.vms.quarantine(ALPHA_MAC, "odd frames", ports_down=own.links.detach_port, grade=grade)
        daemon(world.alpha).watchers.domains_changed()
        await world.wait(60)
        (row,) = [row for row in (await world.alpha.ask("vms")).value if row["name"] == ALPHA_MAC]
        assert row["quarantined"]
        assert not await reaches(world)
        assert any("is in quarantine" in each for each in told(world.alpha, "host.domains-unreadable"))
        assert mac_vm(world.alpha).boots == 1
        assert (await world.alpha.ask("vm", "replace", ALPHA_MAC)).exit_code == 0
        await world.until(lambda: reaches(world), within_s=120, what="web reaches db again")

    play(test, mac_vms=True)


def hanging(host: MemoryHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its MAC VM answers nobody once it was started."""
    start = mac_vm(host).start

    def and_hang() -> None:
        start()
        mac_vm(host).hangs = True

    monkeypatch.setattr(mac_vm(host), "start", and_hang)


def test_the_daemon_is_ready_before_its_mac_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        hanging(world.alpha, monkeypatch)
        await world.alpha.boot()
        assert (mac_vm(world.alpha).boots, world.alpha._paused_s) == (0, 0)
        await world.wait(5)
        assert mac_vm(world.alpha).boots
        assert any("does not answer" in each for each in told(world.alpha, "host.domains-unreadable"))

    play(test, mac_vms=True)


def test_what_people_start_before_the_vms_behind_the_mac_vm_is_not_started_twice() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        alpha = daemon(world.alpha)
        assert alpha.own.session.replaces_vms
        await alpha._start_vms((), (), is_new=True)
        assert records(world.alpha, "vm.replace", "web") == []
        assert await reaches(world)

    play(test, mac_vms=True)


def test_a_vm_that_is_missing_runs_once_the_next_daemon_has_a_mac_vm() -> None:
    """Nothing of a boot is to be restored: that was done."""

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.alpha.kill_daemon()
        for name in (ALPHA_MAC, VmName("web")):
            world.alpha.hypervisor.crash(name)
        await world.alpha.start_daemon()
        await world.until(lambda: reaches(world), within_s=100, what="web reaches db")

    play(test, mac_vms=True)


def test_a_vm_that_is_missing_runs_also_where_the_first_reconcile_behind_a_new_mac_vm_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        own, fails = daemon(world.alpha).own, [True]
        reconcile, bring_about = LinkReconciler.reconcile, daemon(world.alpha).watchers.bring_mac_vm_about

        def brought_about() -> bool:
            is_new = bring_about()
            if is_new and fails:
                fails.append(True)
            return is_new

        def failing(reconciler: LinkReconciler) -> KernelState:
            if len(fails) > 1 and reconciler is own.reconciler:
                fails.clear()
                raise BackendFailed("busy")
            return reconcile(reconciler)

        monkeypatch.setattr(LinkReconciler, "reconcile", failing)
        monkeypatch.setattr(daemon(world.alpha).watchers, "bring_mac_vm_about", brought_about)
        for name in (VmName("web"), ALPHA_MAC):
            world.alpha.hypervisor.crash(name)
        await world.until(lambda: reaches(world), within_s=100, what="web reaches db")
        assert not fails

    play(test, mac_vms=True)


def test_the_unit_waits_for_as_long_as_a_start_may_take() -> None:
    unit = resources.files(systemd).joinpath("shamon.service").read_text()
    (limit_s,) = re.findall(r"^TimeoutStartSec=(\d+)$", unit, re.MULTILINE)
    assert float(limit_s) > 2 * remote_kernel.ANSWER_S + remote_kernel.CONNECT_S + 30


def test_a_mac_vm_that_ends_at_once_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        alpha = world.alpha
        hanging(alpha, monkeypatch)
        pause = alpha._pause

        def it_ends(seconds: float) -> None:
            pause(seconds)
            if mac_vm(alpha).runs:
                alpha.hypervisor.crash(ALPHA_MAC)

        monkeypatch.setattr(alpha, "_pause", it_ends)
        await alpha.boot()
        await world.wait(5)
        assert mac_vm(alpha).boots >= 1
        assert alpha._paused_s < 5
        assert any("has ended" in each for each in told(alpha, "host.domains-unreadable"))

    play(test, mac_vms=True)


def test_nobody_waits_for_a_mac_vm_when_the_daemon_ends() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        own = daemon(world.alpha).own
        assert own.mac_vm is not None
        ends = asyncio.create_task(own.mac_vm.end_with_this_task())
        await asyncio.sleep(0)
        ends.cancel()
        await asyncio.gather(ends, return_exceptions=True)
        mac_vm(world.alpha).hangs = True
        with pytest.raises(BackendFailed, match="the daemon ends"):
            own.mac_vm.bring_about(own.vms)
        assert world.alpha._paused_s == 0

    play(test, mac_vms=True)


@pytest.mark.parametrize("watched", [True, False])
def test_vms_start_behind_the_mac_vm_after_a_boot(watched: bool) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        if not watched:
            await world.alpha.kill_daemon()
        await world.alpha.boot()
        assert not mac_vm(world.alpha).runs
        await world.until(lambda: reaches(world), within_s=120, what="web reaches db again")
        all_records = list(daemon(world.alpha).audit.records(limit=10_000))
        boots = [index for index, record in enumerate(all_records) if record.kind == "daemon.start"]
        since = [(record.kind, record.subject) for record in all_records[boots[-1] :]]
        assert since.index(("mac-vm.up", ALPHA_MAC)) < since.index(("vm.start", "web"))
        assert since.count(("vm.start", "web")) == 1
        assert (("vm.replace", "web") in since) is not watched

    play(test, mac_vms=True)


def test_a_vm_of_an_untrusted_boot_that_somebody_starts_before_the_mac_vm_is_a_clean_one() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.alpha.kill_daemon()
        await world.alpha.boot()
        assert daemon(world.alpha).own.vms.states.needs_fresh(VmName("web"))

    play(test, mac_vms=True)
