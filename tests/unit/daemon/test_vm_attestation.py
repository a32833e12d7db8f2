"""A VM that is attested, on whole hosts: when its ports are up, what becomes of it when it fails, and that no death of
the daemon changes either."""

from dataclasses import replace
from typing import Any

import pytest

from shamon_host.attestation.guest_messages import encode_refusal
from shamon_host.domain.labels import VmName
from shamon_host.hypervisor.ports import DomainState
from shamon_host.links.model import AttachPort
from tests.unit.daemon.attested_world import (
    PROGRAM,
    WEB,
    attested,
    cid,
    demanding,
    guest_reference,
    play_attested,
    ports,
    web,
)
from tests.unit.daemon.daemon_world import Change, DaemonWorld, daemon, play, records

PORTS_DOWN: Change = ('attest = "app"', 'attest = "app"\nquarantine = "ports-down"')
RED_PORTS_DOWN: Change = (
    '[labels.red]\ntypes = ["acme/red"]',
    '[labels.red]\ntypes = ["acme/red"]\nquarantine = "ports-down"',
)


async def started(world: DaemonWorld) -> None:
    """alpha and beta admitted, web attested, and it reaches db."""
    await world.boot("alpha", "beta")
    await world.start("alpha", "web")
    await world.start("beta", "db")
    await attested(world)
    await world.until(world.web_reaches_db, within_s=60, what="web reaches db")


def test_its_ports_are_up_once_it_is_attested_and_not_before() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        world.alpha.guests.silent.add(cid(world.alpha))
        await world.start("alpha", "web")
        await world.start("beta", "db")
        assert ports(world.alpha) == []
        await world.wait(10)
        assert (await web(world))["state"] == "running"
        assert (await web(world))["attestation"]["attested"] is False
        assert ports(world.alpha) == []
        assert daemon(world.alpha).own.links.status() == ()
        assert not await world.web_reaches_db()
        world.alpha.guests.silent.clear()
        await attested(world)
        assert len(ports(world.alpha)) == 1
        await world.until(world.web_reaches_db, within_s=60, what="web reaches db")
        (first,) = records(world.alpha, "vm.appraised", "web")
        assert first == {"trusted": True, "reason": "", "lease_s": 15.0}

    play_attested(test)


def test_a_vm_that_need_not_be_attested_is_as_it_was() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("beta")
        await world.start("beta", "db")
        assert len(ports(world.beta)) == 1
        assert world.beta.guests.asked == []
        (db, *_) = (await world.beta.ask("vms")).value
        assert (db["name"], db["attestation"]) == ("db", None)

    play_attested(test)


def test_it_is_asked_again_and_again_and_its_log_comes_in_increments() -> None:
    async def test(world: DaemonWorld) -> None:
        sizes: list[int] = []

        def watch(_cid: int, _request: bytes, answer: bytes) -> bytes:
            sizes.append(len(answer))
            return answer

        world.alpha.guests.tamper = watch
        await started(world)
        await world.wait(30)
        assert len(sizes) >= 6
        assert max(sizes[1:]) < sizes[0] / 2
        assert await world.web_reaches_db()
        assert len(records(world.alpha, "vm.appraised", "web")) == 1, "one record of what does not change"

    play_attested(test)


@pytest.mark.parametrize("change", [None, RED_PORTS_DOWN])
def test_a_strange_program_in_it_puts_it_into_quarantine_and_a_clean_one_in_its_place(change: Change | None) -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        await world.alpha.guest("web").write_marker("traces")
        before = world.alpha.hypervisor.machine("web")
        before.run_program(PROGRAM, b"\x7fELF strange")
        await world.wait(7)
        (done,) = records(world.alpha, "vm.quarantine", "web")
        assert (done["grade"], PROGRAM in done["reason"]) == ("ports-down" if change else "suspend", True)
        await attested(world)
        assert world.alpha.hypervisor.machine("web") is not before, "its TPM is another one"
        assert await world.alpha.guest("web").read_marker() == ""
        assert (await web(world))["quarantine"] is None
        await world.until(world.web_reaches_db, within_s=60, what="web reaches db")
        kinds = [record.kind for record in daemon(world.alpha).audit.records(limit=10_000) if record.subject == "web"]
        order = ["vm.appraised", "vm.quarantine", "vm.replace", "vm.new-tpm", "vm.ak", "vm.appraised"]
        at = kinds.index("vm.quarantine") - 1
        assert [kind for kind in kinds[at:] if kind in order] == order
        (again,) = records(world.alpha, "vm.connected-again", "web")
        assert set(again["ms"]) == {"in quarantine", "replaced", "attested", "connected"}
        assert "failed VM: in all" in daemon(world.alpha).figures.summary()

    play_attested(test, *([change] if change else []))


def test_without_replacement_it_stays_in_quarantine_and_a_release_begins_with_its_ports_down() -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        world.alpha.hypervisor.machine("web").run_program(PROGRAM, b"\x7fELF strange")
        await world.wait(60)
        assert (await web(world))["state"] == "paused"
        assert PROGRAM in (await web(world))["quarantined"]
        assert ports(world.alpha) == []
        assert len(records(world.alpha, "vm.quarantine", "web")) == 1
        await world.start("alpha", "web")
        assert ports(world.alpha) == []
        await world.wait(10)
        assert len(records(world.alpha, "vm.quarantine", "web")) == 2, "what its log shows sticks"
        assert ports(world.alpha) == []

    play_attested(test, on_failure="keep")


def test_one_that_boots_by_itself_does_not_hide_what_it_ran() -> None:
    """Its TPM says so, should the hypervisor have let it."""

    async def test(world: DaemonWorld) -> None:
        await started(world)
        await _asked_again(world)
        machine = world.alpha.hypervisor.machine("web")
        machine.run_program(PROGRAM, b"\x7fELF strange")
        machine.boot()
        await world.wait(7)
        assert ports(world.alpha) == []
        assert "it booted by itself" in (await web(world))["quarantined"]
        *_, last = records(world.alpha, "vm.appraised", "web")
        assert (last["trusted"], "it booted by itself" in last["reason"]) == (False, True)
        await world.start("alpha", "web")
        assert ports(world.alpha) == []
        await attested(world)
        await world.wait(30)
        assert len(ports(world.alpha)) == 1, "the boot that this host began is none of its own"

    play_attested(test, on_failure="keep")


async def _asked_again(world: DaemonWorld) -> None:
    asked = len(world.alpha.guests.asked)
    while len(world.alpha.guests.asked) == asked:
        await world.wait(0.5)


def test_one_that_reboots_is_gone_and_its_next_start_begins_with_its_ports_down() -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        await _asked_again(world)
        world.alpha.hypervisor.reboot(WEB)
        await world.wait(1)
        assert (ports(world.alpha), (await web(world))["state"]) == ([], "absent")
        world.alpha.guests.silent.add(cid(world.alpha))
        await world.start("alpha", "web")
        assert ports(world.alpha) == [], "the lease of the start before would go on for seconds"
        world.alpha.guests.silent.clear()
        await attested(world)

    play_attested(test, on_failure="keep")


def test_an_answer_that_is_older_than_the_start_says_nothing_about_it() -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        told = len(records(world.alpha, "vm.appraised", "web"))

        def restart(_cid: int, _request: bytes, answer: bytes) -> bytes:
            own = daemon(world.alpha).own
            own.vms.stop(WEB)
            own.vms.start(WEB)
            world.alpha.guests.silent.add(cid(world.alpha))
            return answer

        world.alpha.hypervisor.machine("web").run_program(PROGRAM, b"\x7fELF strange")
        world.alpha.guests.tamper = restart
        await world.wait(12)
        assert len(records(world.alpha, "vm.appraised", "web")) == told
        assert (await web(world))["quarantine"] is None

    play_attested(test, on_failure="keep")


def test_a_release_from_an_operators_quarantine_is_attested_first() -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        assert (await world.alpha.ask("vm", "quarantine", "web")).exit_code == 0
        assert ports(world.alpha) == []
        await world.wait(60)
        assert (await web(world))["attestation"]["failed"] == "", "nobody asks a VM that is in quarantine"
        await world.start("alpha", "web")
        assert ports(world.alpha) == []
        await attested(world)
        await world.until(world.web_reaches_db, within_s=60, what="web reaches db")

    play_attested(test)


def test_one_that_falls_silent_loses_its_ports_with_its_lease() -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        world.alpha.guests.silent.add(cid(world.alpha))
        await world.wait(8)
        assert len(ports(world.alpha)) == 1
        await world.wait(9)
        assert ports(world.alpha) == []
        await world.until(lambda: _in_quarantine(world), within_s=10, what="web is in quarantine")
        assert "does not answer" in (await web(world))["quarantined"]

    play_attested(test, on_failure="keep")


async def _in_quarantine(world: DaemonWorld) -> bool:
    return (await web(world))["quarantine"] is not None


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{}",
        b"\xff" * 100,
        encode_refusal("I will not"),
        b'{"ak":"00"}\n{}',
        b'{"error":' + b"[" * 5000,
        b"{" * 8000,
    ],
)
def test_nonsense_is_silence(bad: bytes) -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        world.alpha.guests.tamper = lambda _cid, _request, _answer: bad
        await world.wait(20)
        assert ports(world.alpha) == []
        assert await _in_quarantine(world)

    play_attested(test, on_failure="keep")


def test_an_old_answer_is_found_out() -> None:
    async def test(world: DaemonWorld) -> None:
        kept: list[bytes] = []

        def repeat(_cid: int, _request: bytes, answer: bytes) -> bytes:
            kept.append(answer)
            return kept[0]

        world.alpha.guests.tamper = repeat
        await started(world)
        await world.wait(10)
        assert "other qualifying data" in (await web(world))["quarantined"]

    play_attested(test, on_failure="keep")


def test_another_ak_than_the_first_one_is_none() -> None:
    """A guest that shows a key of its own making, when its TPM has told too much."""

    async def test(world: DaemonWorld) -> None:
        await started(world)
        world.alpha.hypervisor.machines[_uuid(world)] = other = type(world.alpha.machine)()
        other.boot()
        await world.wait(10)
        assert "not by the expected AK" in (await web(world))["quarantined"]

    play_attested(test, on_failure="keep")


def _uuid(world: DaemonWorld) -> str:
    return next(report.uuid for report in world.alpha.hypervisor.domains() if report.name == WEB)


def test_a_clean_one_that_never_passes_is_not_replaced_for_ever() -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)

        def spoil(_cid: int, _request: bytes, answer: bytes) -> bytes:
            return answer.replace(b'"ima_offset":0', b'"ima_offset":7')

        world.alpha.guests.tamper = spoil
        world.alpha.hypervisor.machine("web").run_program(PROGRAM, b"\x7fELF strange")
        await world.wait(300)
        assert len(records(world.alpha, "vm.replace", "web")) == 1
        assert len(records(world.alpha, "vm.quarantine", "web")) == 2
        assert ports(world.alpha) == []

    play_attested(test)


def test_no_reference_values_count_against_nobody() -> None:
    async def test(world: DaemonWorld) -> None:
        del world.enrolment.guests["app"]
        await world.boot("alpha")
        await world.start("alpha", "web")
        await world.wait(60)
        assert ((await web(world))["state"], (await web(world))["quarantine"]) == ("running", None)
        assert ports(world.alpha) == []
        (told,) = records(world.alpha, "vm.not-attested", "web")
        assert "no Reference Values" in told["reason"]
        world.enrolment.guests["app"] = guest_reference()
        await attested(world)

    play_attested(test)


def test_reference_values_that_the_policy_does_not_name() -> None:
    async def test(world: DaemonWorld) -> None:
        world.enrolment.guests["app"] = guest_reference()
        await world.boot("alpha")
        await world.start("alpha", "web")
        await world.wait(30)
        assert ports(world.alpha) == []
        assert "are not those that the policy names" in (await web(world))["attestation"]["last"]["reason"]

    play(test, *demanding(sha256="0" * 64))


def test_recorded_from_a_vm_that_runs() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        assert (await world.alpha.ask("vms", "reference", "web")).exit_code != 0
        await world.start("alpha", "web")
        told = (await world.alpha.ask("vms", "reference", "web")).value
        assert told["digest"] == guest_reference().digest
        assert told["reference"] == guest_reference().to_document()
        assert (await world.alpha.ask("vms", "reference", "shop")).exit_code == 2

    play(test, *demanding(sha256="0" * 64))


@pytest.mark.parametrize("boots", [False, True])
def test_a_daemon_that_starts_again(*, boots: bool) -> None:
    """Within its lease a VM keeps its ports, whoever started again; a boot is a start."""

    async def test(world: DaemonWorld) -> None:
        await started(world)
        if boots:
            await world.alpha.boot()
            assert ports(world.alpha) == []
        else:
            await world.alpha.kill_daemon()
            assert len(ports(world.alpha)) == 1
            await world.alpha.start_daemon()
            assert len(ports(world.alpha)) == 1
        await attested(world)
        await world.until(world.web_reaches_db, within_s=60, what="web reaches db")
        assert (await web(world))["quarantine"] is None

    play_attested(test)


def test_a_lease_that_ends_while_no_daemon_runs() -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        world.alpha.guests.silent.add(cid(world.alpha))
        await world.alpha.kill_daemon()
        await world.wait(20)
        await world.alpha.start_daemon()
        assert ports(world.alpha) == []

    play_attested(test, on_failure="keep")


@pytest.mark.parametrize("operations", range(6))
def test_a_daemon_that_dies_in_the_midst(operations: int) -> None:
    """Between the verdict and the end of what follows from it: the strange program never has a port again."""

    async def test(world: DaemonWorld) -> None:
        await started(world)
        alpha = world.alpha
        alpha.hypervisor.machine("web").run_program(PROGRAM, b"\x7fELF strange")
        await alpha.kill_daemon_at(operations, within_s=20)
        await alpha.start_daemon()
        await world.wait(12)

        async def clean() -> bool:
            entries = alpha.hypervisor.machine("web").logs.entries if alpha.hypervisor.domains() else []
            paths = [entry.fields().path for entry in entries]
            assert not (PROGRAM in paths and ports(alpha)), "a port of a VM that has failed"
            return bool(paths) and PROGRAM not in paths

        await world.until(clean, within_s=60, what="a clean web")
        await attested(world)
        await world.until(world.web_reaches_db, within_s=60, what="web reaches db")

    play_attested(test)


def test_a_port_that_somebody_puts_back_is_taken_down_again() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        world.alpha.guests.silent.add(cid(world.alpha))
        await world.start("alpha", "web")
        (interface,) = (await web(world))["interfaces"]
        world.alpha.kernel.apply(
            [AttachPort(bridge=interface["bridge"], interface=interface["device"], isolated=False)]
        )
        await world.wait(1)
        assert ports(world.alpha) == []

    play_attested(test)


@pytest.mark.parametrize("by", ["watchers", "attestation", "next daemon"])
def test_a_lease_that_ends_while_the_mac_vm_is_away(by: str) -> None:
    """`by`: who looks first, the others being busy, for one with a MAC VM that they wait for."""

    async def test(world: DaemonWorld) -> None:
        alpha = world.alpha
        world.enrolment.guests["app"] = guest_reference()
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        await attested(world)
        assert len(ports(alpha)) == 1
        alpha.images.clean["mac-vm"] = b"another one"  # so that it cannot be started any more
        alpha.hypervisor.crash(VmName("alpha-mac"))
        del world.enrolment.guests["app"]  # nobody can judge: its ports go down with its lease, and that is all
        match by:
            case "watchers":
                attestation = daemon(alpha).attestation
                assert attestation is not None
                attestation.reconciler = replace(attestation.reconciler, read_host=None)
            case "attestation":
                daemon(alpha).watchers.reconciler = replace(daemon(alpha).own.reconciler, read_host=None)
            case _:
                await alpha.kill_daemon()
        await world.wait(20)
        if by == "next daemon":
            assert len(ports(alpha)) == 1
            await alpha.start_daemon()
        assert ports(alpha) == []
        assert (await web(world))["quarantine"] is None

    play(test, *demanding(on_failure="keep"), mac_vms=True)


def test_one_that_falls_silent_while_the_mac_vm_is_away() -> None:
    async def test(world: DaemonWorld) -> None:
        world.enrolment.guests["app"] = guest_reference()
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        await attested(world)
        world.alpha.images.clean["mac-vm"] = b"another one"
        world.alpha.hypervisor.crash(VmName("alpha-mac"))
        world.alpha.guests.silent.add(cid(world.alpha))
        await world.wait(60)
        assert ports(world.alpha) == []
        assert "does not answer" in (await web(world))["quarantined"]

    play(test, *demanding(on_failure="keep"), mac_vms=True)


def test_a_vm_that_was_stopped_is_asked_no_more() -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        assert (await world.alpha.ask("vm", "stop", "web")).exit_code == 0
        asked = len(world.alpha.guests.asked)
        await world.wait(60)
        assert len(world.alpha.guests.asked) == asked
        assert (await web(world))["state"] == "absent"
        await world.start("alpha", "web")
        await attested(world)

    play_attested(test)


def test_a_suspended_vm_is_not_to_blame() -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        vms = daemon(world.alpha).own.vms
        vms.suspend(WEB, "a pause")
        await world.wait(60)
        assert ports(world.alpha) == []
        assert (await web(world))["quarantine"] is None
        await world.start("alpha", "web")
        assert ports(world.alpha) == []
        await attested(world)
        assert world.alpha.hypervisor.domains()[0].state is DomainState.RUNNING

    play_attested(test)


def test_a_disk_from_before_it_was_to_be_attested_does_not_start() -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        states: Any = daemon(world.alpha).own.vms.states
        assert (await world.alpha.ask("vm", "stop", "web")).exit_code == 0
        states._change(WEB, tpm=None)
        answer = await world.alpha.ask("vm", "start", "web")
        assert "from before it was to be attested" in answer.value["error"]["what"]
        assert (await world.alpha.ask("vm", "replace", "web")).exit_code == 0
        await attested(world)

    play_attested(test)


def test_a_domain_without_its_tpm_is_destroyed() -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        domain = world.alpha.hypervisor._domains[VmName("web")]
        domain.spec = type(domain.spec)(
            **{name: getattr(domain.spec, name) for name in domain.spec.__slots__} | {"cid": 3}
        )
        daemon(world.alpha).watchers.domains_changed()
        await world.wait(1)
        assert (await web(world))["state"] == "absent"
        assert records(world.alpha, "vm.other-devices", "web")

    play_attested(test)
