"""Hosts whose links are held by a VM that the host attests: nobody trusts the host before it is, and nobody any more
when it is not."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.guest_messages import encode_refusal
from shamon_host.daemon import appraising
from shamon_host.daemon.mac_vm import AGAIN_S
from shamon_host.domain.errors import Refused
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus
from shamon_host.hypervisor.mac_vm_report import NOT_YET, RuntimeState
from shamon_host.hypervisor.ports import DomainState
from shamon_host.hypervisor.vm_disks import VmDisks
from shamon_host.testing.mac_vm import MemoryMacVm
from shamon_host.testing.memory_host import MemoryHost, mac_vm_reference
from shamon_host.testing.memory_world import MAC_VM_PINS, attested_pins
from tests.unit.daemon.daemon_world import Change, DaemonWorld, daemon, play, records, state
from tests.unit.daemon.signed_world import SignedWorld, envelope, play_signed, signed_policy

ALPHA, ALPHA_MAC = HostName("alpha"), VmName("alpha-mac")
PROGRAM = "/usr/local/bin/strange"
KEEP: Change = ('period_s = 10.0\nlease_s = 30.0\non_failure = "replace"', "period_s = 10.0\nlease_s = 30.0")
_ALPHA = '[vms.alpha-mac]\nlabel = "unlabelled"\nimage = "mac-vm"\nhost = "alpha"\n'
PORTS_DOWN: Change = (_ALPHA, f'{_ALPHA}quarantine = "ports-down"\n')
"""Its peers hear through it why it is not trusted."""


def mac_vm(host: MemoryHost) -> MemoryMacVm:
    assert host.mac_vm is not None
    return host.mac_vm


def cid(host: MemoryHost) -> int:
    found = daemon(host).own.vms.states.cid(VmName(f"{host.name}-mac"))
    assert found is not None
    return found


def runtime(host: MemoryHost) -> RuntimeState:
    own = daemon(host).own
    found = own.mac_vm.runtime(own.vms.states) if own.mac_vm else None
    assert found is not None
    return found.state


def uplinks(host: MemoryHost) -> set[str]:
    """Taps of its MAC VM that are in a bridge."""
    return {port for each in host.kernel.read().bridges.values() for port in each.ports if port.startswith("shmc")}


async def reaches(world: DaemonWorld) -> bool:
    return await world.alpha.guest("web").reaches(world.vm_addresses["db"][0])


async def until_it_reaches(world: DaemonWorld, within_s: float = 100) -> None:
    await world.until(lambda: reaches(world), within_s=within_s, what="web reaches db")


async def attested(host: MemoryHost) -> bool:
    return host.daemon is not None and runtime(host) is RuntimeState.ATTESTED


def run_strange_program(host: MemoryHost) -> None:
    host.hypervisor.machine(f"{host.name}-mac").run_program(PROGRAM, b"\x7fELF strange")


def told(host: MemoryHost, kind: str, subject: str | None = None) -> str:
    return " ".join(str(detail) for detail in records(host, kind, subject))


async def row(world: DaemonWorld) -> Any:
    return next(each for each in (await world.alpha.ask("vms")).value if each["name"] == ALPHA_MAC)


# Until it is attested


def test_peers_hear_that_it_is_attested_and_people_too() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        (peer,) = [each for each in (await world.beta.ask("peers")).value if each["host"] == "alpha"]
        assert "as its host attests (macvm.runtime pass)" in " ".join(peer["claims"])
        attestation = (await world.alpha.ask("mac-vm")).value["attestation"]
        assert (attestation["demand"], attestation["attested"]) == ("mac", True)
        assert mac_vm(world.alpha).boots == 1

    play(test, mac_vms=True)


def test_no_peer_admits_the_host_before_it_is_attested_and_nothing_counts_against_anybody() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("beta")
        await world.wait(2)
        await world.start("beta", "db")
        await world.alpha.boot()
        world.alpha.guests.silent.add(cid(world.alpha))
        await world.until(lambda: _booted(world, 1), within_s=10, what="the MAC VM runs")
        await world.wait(1)
        await world.start("alpha", "web")
        await world.wait(20)
        assert uplinks(world.alpha), "its interfaces are not held down"
        assert state(world.beta, "alpha") != "admitted"
        assert NOT_YET in told(world.beta, "peer.suspend", "alpha")
        assert {detail["definite"] for detail in records(world.beta, "peer.suspend", "alpha")} == {False}
        assert daemon(world.beta).reactions.pending == ()
        assert not await reaches(world)
        world.alpha.guests.silent.clear()
        await world.admitted("alpha", "beta")
        await until_it_reaches(world)
        assert mac_vm(world.alpha).boots == 1
        await world.alpha.boot()
        assert (
            not daemon(world.alpha).own.session.replaces_vms or "refused" not in daemon(world.alpha).own.session.reason
        )

    play(test, mac_vms=True)


@pytest.mark.parametrize(
    ("words", "noted"),
    [
        ([f"running-labels absent: {NOT_YET}"], False),
        ([f"running-labels absent: {NOT_YET}", "software fail: a strange program"], True),
        (["software fail: a strange program"], True),
    ],
)
def test_what_else_a_peer_refuses_meanwhile_is_remembered(words: list[str], *, noted: bool) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.alpha.boot()
        world.alpha.guests.silent.add(cid(world.alpha))
        await daemon(world.alpha).host.refused_by_peer(HostName("beta"), words)
        assert (daemon(world.alpha).store.get("host", "refused") is not None) is noted

    play(test, mac_vms=True)


def test_without_reference_values_it_runs_and_is_recorded() -> None:
    async def test(world: DaemonWorld) -> None:
        del world.enrolment.guests["mac"]
        await world.beta.boot()
        await world.alpha.boot()
        await world.wait(100)
        assert (await row(world))["quarantine"] is None
        assert mac_vm(world.alpha).boots == 1
        assert state(world.beta, "alpha") != "admitted"
        assert "no Reference Values" in told(world.alpha, "vm.not-attested", ALPHA_MAC)
        recorded = (await world.alpha.ask("vms", "reference", ALPHA_MAC)).value
        assert recorded["reference"] == mac_vm_reference().to_document()
        world.enrolment.guests["mac"] = mac_vm_reference()
        await world.admitted("alpha", "beta")

    play(test, mac_vms=True)


def test_one_that_never_answers_is_put_into_quarantine_when_its_time_is_over() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.alpha.boot()
        world.alpha.guests.silent.add(cid(world.alpha))
        await world.wait(60)
        assert "does not answer" in (await row(world))["quarantined"]
        assert mac_vm(world.alpha).boots == 1, "a clean one that never passed is not replaced"

    play(test, mac_vms=True)


# When it fails


def test_a_strange_program_in_it_and_a_clean_one_in_its_place() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        run_strange_program(world.alpha)
        await world.until(lambda: _booted(world, 2), within_s=30, what="another MAC VM runs")
        await world.until(lambda: attested(world.alpha), within_s=30, what="it is attested")
        await until_it_reaches(world)
        assert mac_vm(world.alpha).boots == 2, "nobody else replaces it too"
        kinds = [each.kind for each in daemon(world.alpha).audit.records(limit=10_000) if each.subject == ALPHA_MAC]
        order = ["vm.appraised", "vm.quarantine", "vm.replace", "vm.new-tpm", "vm.ak", "vm.appraised"]
        at = kinds.index("vm.quarantine") - 1
        assert [kind for kind in kinds[at:] if kind in order] == order
        assert PROGRAM in told(world.alpha, "vm.quarantine", ALPHA_MAC)
        assert len(records(world.alpha, "mac-vm.up")) == 2

    play(test, mac_vms=True)


async def _booted(world: DaemonWorld, boots: int) -> bool:
    return mac_vm(world.alpha).boots == boots


def test_where_it_is_not_to_be_replaced_it_stands_still_until_somebody_acts() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        run_strange_program(world.alpha)
        await world.wait(120)
        assert (await row(world))["state"] == DomainState.PAUSED
        assert mac_vm(world.alpha).boots == 1
        assert state(world.beta, "alpha") != "admitted"
        assert len(records(world.alpha, "vm.quarantine", ALPHA_MAC)) == 1
        assert "the MAC VM is in quarantine" in told(world.alpha, "host.domains-unreadable")
        assert (await world.alpha.ask("vm", "start", "shop")).exit_code != 0, "no VM gets half a bridge"
        assert (await world.alpha.ask("vm", "start", ALPHA_MAC)).exit_code == 0
        await world.wait(20)
        assert (await row(world))["state"] == DomainState.PAUSED, "what its log shows sticks"
        assert (await world.alpha.ask("vm", "replace", ALPHA_MAC)).exit_code == 0
        await until_it_reaches(world)
        assert mac_vm(world.alpha).boots == 2

    play(test, KEEP, mac_vms=True)


def test_of_one_that_is_off_its_bridges_peers_hear_why() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        run_strange_program(world.alpha)
        await world.until(lambda: _told_why(world), within_s=30, what="beta is told why")
        assert state(world.beta, "alpha") == "suspended"
        assert mac_vm(world.alpha).runs
        assert mac_vm(world.alpha).boots == 1
        await world.wait(60)
        assert uplinks(world.alpha) == set(), "no reconciliation joins a bridge again"
        taken = {each.subject for each in daemon(world.alpha).audit.records(limit=10_000) if "detach" in each.kind}
        assert taken == {"shmc1", "shmc2", "shmc3"}
        assert not mac_vm(world.alpha).kernel.read().sas
        assert not await reaches(world)
        assert (await world.alpha.ask("vm", "start", "shop")).exit_code == 0, "its half of the bridge is the host's"
        await world.wait(20)
        assert uplinks(world.alpha) == set()
        assert (await world.alpha.ask("vm", "replace", ALPHA_MAC)).exit_code == 0
        await until_it_reaches(world)
        assert uplinks(world.alpha)

    play(test, KEEP, PORTS_DOWN, mac_vms=True)


async def _told_why(world: DaemonWorld) -> bool:
    words = told(world.beta, "peer.suspend", "alpha")
    return "the MAC VM's attestation failed" in words and PROGRAM in words


def test_one_that_is_released_from_its_quarantine_is_joined_again() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        assert (await world.alpha.ask("vm", "quarantine", ALPHA_MAC)).exit_code == 0
        await world.wait(40)
        assert uplinks(world.alpha) == set()
        assert state(world.beta, "alpha") != "admitted"
        assert (await world.alpha.ask("vm", "start", ALPHA_MAC)).exit_code == 0
        await until_it_reaches(world)
        assert mac_vm(world.alpha).boots == 1

    play(test, PORTS_DOWN, mac_vms=True)


@pytest.mark.parametrize("how", ["start", "replace"])
def test_vms_that_could_not_start_without_it_start_when_it_is_back(how: str) -> None:
    """Also where the daemon has started again meanwhile."""

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        assert (await world.alpha.ask("vm", "quarantine", ALPHA_MAC)).exit_code == 0
        await world.wait(60)
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        await world.wait(20)
        assert (await world.alpha.ask("vm", how, ALPHA_MAC)).exit_code == 0
        await until_it_reaches(world)

    play(test, mac_vms=True)


def test_one_that_falls_silent_and_its_peers() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.alpha.guests.silent.add(cid(world.alpha))
        await world.wait(60)
        assert "does not answer" in told(world.alpha, "vm.quarantine", ALPHA_MAC)
        assert mac_vm(world.alpha).boots == 2
        assert state(world.beta, "alpha") != "admitted"
        world.alpha.guests.silent.clear()

    play(test, mac_vms=True)


@pytest.mark.parametrize("bad", [b"", b"{}", b"\xff" * 100, encode_refusal("I will not"), b"{" * 8000])
def test_nonsense_is_silence(bad: bytes) -> None:
    async def test(world: DaemonWorld) -> None:
        world.alpha.guests.tamper = lambda _cid, _request, _answer: bad
        await world.beta.boot()
        await world.alpha.boot()
        await world.wait(60)
        assert (await row(world))["quarantine"] is not None
        assert state(world.beta, "alpha") != "admitted"

    play(test, KEEP, mac_vms=True)


def test_other_reference_values_than_it_meets() -> None:
    """A clean one that fails is not replaced for ever; the peer is told."""
    other = mac_vm_reference().digest
    change: Change = (other, "0" * 64)

    async def test(world: DaemonWorld) -> None:
        await world.beta.boot()
        await world.alpha.boot()
        await world.wait(60)
        assert "are not those that the policy names" in told(world.alpha, "vm.not-attested", ALPHA_MAC)
        assert state(world.beta, "alpha") != "admitted"
        assert mac_vm(world.alpha).boots == 1

    play(test, change, mac_vms=True)


# Two watch over it, and one owns it


def test_one_that_ends_is_asked_anew() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        marks = {_lease_mark(world)}
        world.alpha.hypervisor.crash(ALPHA_MAC)
        await world.until(lambda: _booted(world, 2), within_s=30, what="another MAC VM runs")
        marks.add(_lease_mark(world))
        assert len(marks) == 2
        await until_it_reaches(world)
        assert records(world.alpha, "vm.quarantine", ALPHA_MAC) == []

    play(test, mac_vms=True)


def _lease_mark(world: DaemonWorld) -> str:
    lease = daemon(world.alpha).own.vms.states.leases.of(ALPHA_MAC)
    assert lease is not None
    return lease.mark


def test_a_verdict_about_one_that_is_gone_does_not_touch_the_next_one() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        attestation = daemon(world.alpha).attestation
        assert attestation is not None
        mark = _lease_mark(world)
        world.alpha.hypervisor.crash(ALPHA_MAC)
        await world.until(lambda: _booted(world, 2), within_s=30, what="another MAC VM runs")
        assert not attestation._cut_off(ALPHA_MAC, mark, "of the one before")
        assert (await row(world))["quarantine"] is None
        assert attestation._cut_off(ALPHA_MAC, _lease_mark(world), "of this one")
        assert (await row(world))["quarantined"] == "of this one"

    play(test, mac_vms=True)


def test_one_that_fails_and_cannot_be_replaced_is_replaced_when_it_can_be() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        image, world.alpha.images.clean["mac-vm"] = world.alpha.images.clean["mac-vm"], b"the image of a MAC Vm"
        run_strange_program(world.alpha)
        await world.wait(60)
        assert not mac_vm(world.alpha).runs
        assert len(records(world.alpha, "vm.replace", ALPHA_MAC)) < 60 / AGAIN_S + 3
        world.alpha.images.clean["mac-vm"] = image
        await until_it_reaches(world)
        assert mac_vm(world.alpha).boots == 2

    play(test, mac_vms=True)


def test_one_that_somebody_puts_in_quarantine_while_it_is_replaced_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        own = daemon(world.alpha).own
        assert own.mac_vm is not None

        def quarantine(_disks: VmDisks, name: VmName) -> None:
            monkeypatch.undo()
            own.vms.quarantine(name, "looked at", ports_down=own.detach_port)

        monkeypatch.setattr(VmDisks, "read_pinned", quarantine)
        with pytest.raises(Refused, match="something else was asked for"):
            own.mac_vm.replace(own.vms, "asked for by the operator")
        await world.wait(3 * AGAIN_S)
        assert (await row(world))["quarantined"] == "looked at"
        assert mac_vm(world.alpha).boots == 1

    play(test, mac_vms=True)


def test_a_replacement_that_a_daemon_died_in_is_finished_by_who_keeps_it() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        daemon(world.alpha).own.vms.states.note_replacing(ALPHA_MAC, "cut short")
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        await world.wait(10)
        assert daemon(world.alpha).own.vms.states.replacing(ALPHA_MAC) is None
        assert "cut short" in told(world.alpha, "vm.replace", ALPHA_MAC)
        await until_it_reaches(world)

    play(test, mac_vms=True)


# The daemon starts again


def test_a_daemon_that_starts_again_finds_its_lease() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        assert runtime(world.alpha) is RuntimeState.ATTESTED
        assert await reaches(world)
        await world.wait(60)
        assert state(world.beta, "alpha") == "admitted"
        assert mac_vm(world.alpha).boots == 1

    play(test, mac_vms=True)


def test_a_lease_that_ends_while_no_daemon_runs() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.alpha.guests.silent.add(cid(world.alpha))
        await world.alpha.kill_daemon()
        await world.wait(40)
        await world.alpha.start_daemon()
        assert runtime(world.alpha) is not RuntimeState.ATTESTED
        await world.wait(5)
        assert state(world.beta, "alpha") != "admitted"

    play(test, KEEP, mac_vms=True)


@pytest.mark.parametrize("operations", range(8))
def test_a_daemon_that_dies_in_the_midst(operations: int) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        run_strange_program(world.alpha)
        await world.alpha.kill_daemon_at(operations, within_s=20)
        await world.alpha.start_daemon()
        await until_it_reaches(world)
        paths = [entry.fields().path for entry in world.alpha.hypervisor.machine(ALPHA_MAC).logs.entries]
        assert PROGRAM not in paths
        assert runtime(world.alpha) is RuntimeState.ATTESTED

    play(test, mac_vms=True)


# Against a peer, or a host, that does not keep to it


def test_the_host_itself_makes_no_link_while_it_is_not_attested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its peer thinks of that."""

    def content(_data: bytes, *, host: HostName, policy: object) -> Claim:
        return Claim(name=ClaimName.RUNNING_LABELS, status=ClaimStatus.PASS, reason=f"{host} {bool(policy)}")

    monkeypatch.setattr(appraising, "check_hypervisor_report", content)

    async def test(world: DaemonWorld) -> None:
        await world.beta.boot()
        await world.alpha.boot()
        world.alpha.guests.silent.add(cid(world.alpha))
        await world.wait(20)
        assert state(world.alpha, "beta") != "admitted"
        assert not mac_vm(world.alpha).kernel.read().sas
        world.alpha.guests.silent.clear()
        await world.admitted("alpha", "beta")

    play(test, mac_vms=True)


def test_a_host_that_says_nothing_of_it_is_not_admitted() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.beta.boot()
        await world.alpha.boot()
        own = daemon(world.alpha).own

        def silent() -> Any:
            found = own.mac_vm.reported(own.vms.states) if own.mac_vm else None
            return (
                None
                if found is None
                else type(found)(name=found.name, image_sha256=found.image_sha256, boot=found.boot)
            )

        daemon(world.alpha).host.mac_vm = silent
        await world.wait(60)
        assert state(world.beta, "alpha") != "admitted"
        assert "nothing is said of the MAC VM's attestation" in told(world.beta, "peer.suspend", "alpha")

    play(test, mac_vms=True)


# The policy changes

FIRST = signed_policy(mac_vm=MAC_VM_PINS)
DEMANDED = signed_policy(after=FIRST, mac_vm=attested_pins())
OTHER = signed_policy(
    (mac_vm_reference().digest, "0" * 64),
    (_ALPHA, f'{_ALPHA}quarantine = "ports-down"\n'),
    after=DEMANDED,
    mac_vm=attested_pins(),
)


def test_a_version_that_demands_it_reaches_all_hosts_and_then_their_mac_vms_get_tpms() -> None:
    async def test(world: SignedWorld) -> None:
        await world.pair_with_link()
        await world.boot("gamma")
        outcome = await daemon(world.alpha).changes.update(envelope(DEMANDED))
        assert outcome.confirmed == ("beta", "gamma")
        assert not outcome.unconfirmed
        for host in world.hosts.values():
            await world.until(partial(attested, host), within_s=60, what=f"{host.name}'s MAC VM is attested")
            assert mac_vm(host).boots == 2
        await world.admitted("alpha", "beta", "gamma")
        await until_it_reaches(world)

    play_signed(test, first=FIRST)


def test_a_version_with_other_reference_values_counts_at_once() -> None:
    """What passed by those of the version before has not passed by these."""

    async def test(world: SignedWorld) -> None:
        await world.pair_with_link()
        await world.boot("gamma")
        await daemon(world.alpha).changes.update(envelope(OTHER))
        assert runtime(world.alpha) is not RuntimeState.ATTESTED
        await world.wait(60)
        assert state(world.beta, "alpha") != "admitted"
        assert state(world.alpha, "beta") != "admitted"

    play_signed(test, first=DEMANDED)


# At random

_ACTS: dict[str, Callable[[DaemonWorld], None]] = {
    "strange": lambda world: run_strange_program(world.alpha) if mac_vm(world.alpha).runs else None,
    "crash": lambda world: world.alpha.hypervisor.crash(ALPHA_MAC) if mac_vm(world.alpha).runs else None,
    "silent": lambda world: world.alpha.guests.silent.add(cid(world.alpha)),
    "talks": lambda world: world.alpha.guests.silent.clear(),
    "hangs": lambda world: setattr(mac_vm(world.alpha), "hangs", True),
    "unreferenced": lambda world: world.enrolment.guests.clear(),
    "referenced": lambda world: world.enrolment.guests.update(mac=mac_vm_reference()),
}
_ASKED = ("quarantine", "start", "stop", "replace")


@settings(max_examples=15)
@given(acts=st.lists(st.sampled_from([*_ACTS, *_ASKED, "killed", "restarted", "wait"]), max_size=8))
def test_no_peer_admits_the_host_while_it_is_not_attested(acts: list[str]) -> None:
    """Whatever happens to it, and at the end the host comes back."""

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        admissions = daemon(world.beta).admissions
        begin, broken = admissions.begin, list[str]()

        def watched(peer: HostName, admitting: Any) -> None:
            if peer == ALPHA and not (world.alpha.daemon and runtime(world.alpha) is RuntimeState.ATTESTED):
                broken.append(f"admitted while {world.alpha.daemon and runtime(world.alpha)}")
            begin(peer, admitting)

        admissions.begin = watched  # type: ignore[method-assign]
        for act in acts:
            if act in _ACTS:
                _ACTS[act](world)
            elif act in _ASKED:
                await world.alpha.ask("vm", act, ALPHA_MAC)
            elif act != "wait":
                await world.alpha.kill_daemon()
                if act == "killed":
                    await world.wait(35)
                await world.alpha.start_daemon()
            await world.wait(13)
            assert broken == []
        for act in ("talks", "referenced"):
            _ACTS[act](world)
        await world.alpha.ask("vm", "replace", ALPHA_MAC)
        await until_it_reaches(world, within_s=200)
        assert broken == []

    play(test, mac_vms=True)
