"""Stories of verdicts, out of worlds in which they happened: since when, what failed first, where, what followed."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from shamon_host.attestation.ima_log import encode_ima_log
from shamon_host.attestation.ports import Quote
from shamon_host.daemon.api import Api
from shamon_host.daemon.verdict_story import first_failing, what_clears
from shamon_host.domain.labels import HostName
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus
from shamon_host.testing.memory_ca import memory_expelled
from shamon_host.testing.world import BootVariant, Fault
from tests.unit.attestation.result_records import PASSING, failing
from tests.unit.daemon.daemon_world import ALPHA, BETA, ON_FAILURE, DaemonWorld, daemon, play, state

Story = dict[str, Any]
BETA_HOST = HostName("beta")


async def story(world: DaemonWorld, of: str = "beta", *, by: str = "alpha") -> Story:
    answer = await Api(daemon=daemon(world.hosts[by])).handle("GET", "/v1/results/explain", {"host": of})
    assert answer.status == 200, answer.body
    body: Story = answer.body
    return body


def told(then: Callable[[DaemonWorld], Awaitable[None]], *changes: tuple[str, str]) -> Story:
    """The story of beta by alpha, with a red link, after what happens then."""
    found: list[Story] = []

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await then(world)
        found.append(await story(world))

    play(test, *changes)
    return found[0]


async def nothing(world: DaemonWorld) -> None:
    await world.wait(25)


async def failed(world: DaemonWorld) -> None:
    await world.wait(20)
    await world.beta.inflict(Fault.PROGRAM)
    await world.suspended("alpha", "beta")


def test_a_host_that_is_trusted() -> None:
    found = told(nothing)
    assert (found["verdict"], found["first_failure"], found["failing"], found["clears"]) == ("trusted", None, [], [])
    assert found["since"].startswith("2023-11-14T22:13:")
    assert "every claim passes" in found["summary"]
    assert "software TPM" in found["summary"]
    assert found["before"] == []


def test_an_unknown_program_is_told_with_entry_file_and_digest() -> None:
    found = told(failed)
    first = found["first_failure"]
    assert found["verdict"] == "not trusted"
    assert (first["name"], first["status"], first["sticky"]) == ("software", "fail", True)
    assert first["at"] == {"entry": 13, "path": "/usr/local/bin/unknown"}
    assert first["expected"] == "no such file"
    assert first["found"].startswith("sha256:")
    assert found["failing"] == [first]
    (suspended, planned) = found["followed"]
    assert suspended.startswith(found["since"][:16])
    assert "beta was suspended, its links of acme/red were closed" in suspended
    assert planned.startswith("planned: replace web, in 1")
    (clears,) = found["clears"]
    assert "only a clean boot, or a change of its Reference Values" in clears
    (before,) = found["before"]
    assert "trusted, " in before


@pytest.mark.parametrize(
    ("action", "words"), [("replace", "web was replaced by a clean one"), ("suspend", "web was suspended")]
)
def test_what_was_done_to_vms_is_told(action: str, words: str) -> None:
    async def then(world: DaemonWorld) -> None:
        await failed(world)
        await world.wait(20)

    found = told(then, (ON_FAILURE, f'on_failure = "{action}"'))
    assert any(words in each for each in found["followed"])
    assert not any(each.startswith("planned") for each in found["followed"])


def test_what_failed_first_stays_first_when_more_fails() -> None:
    async def then(world: DaemonWorld) -> None:
        await failed(world)
        await world.beta.inflict(Fault.PERMISSIVE)
        await world.wait(15)

    found = told(then)
    assert found["first_failure"]["name"] == "software"
    assert {claim["name"] for claim in found["failing"]} >= {"software", "selinux"}
    assert len(found["clears"]) == len(found["failing"])


def test_a_wrong_boot_is_told_with_pcr_and_event_and_what_was_before() -> None:
    async def then(world: DaemonWorld) -> None:
        await failed(world)
        await world.beta.boot(BootVariant.WRONG)
        await world.wait(10)

    found = told(then)
    (claim,) = found["failing"]
    assert claim["name"] == "boot-chain"
    assert claim["at"].keys() == {"pcr", "event"}
    # Not trusted ever since the program ran: the boot did not begin it.
    assert found["first_failure"]["name"] == "software"
    assert found["clears"] == ["boot-chain: a boot of beta as it was recorded, or a change of its Reference Values."]


def test_after_a_clean_boot_the_failure_is_what_was_before() -> None:
    async def then(world: DaemonWorld) -> None:
        await failed(world)
        await world.beta.boot(BootVariant.GOOD)
        await world.admitted("alpha", "beta")

    found = told(then)
    assert found["verdict"] == "trusted"
    assert ["not trusted" in each for each in found["before"]] == [True, False]
    assert "software, an unknown program or file was measured" in found["before"][0]


def test_a_silent_host_is_not_a_bad_one() -> None:
    async def then(world: DaemonWorld) -> None:
        world.network.cut_host(BETA)
        await world.suspended("alpha", "beta")

    found = told(then)
    assert (found["verdict"], found["first_failure"]) == ("silent", None)
    assert found["since"]
    assert "the lease ended: no passing Evidence came in time" in found["summary"]
    assert "its links of acme/red were closed" in found["followed"][0]
    assert found["clears"][0].startswith("nothing to do")


def test_a_log_that_is_behind_its_quote_is_told_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def then(world: DaemonWorld) -> None:
        logs = world.beta.machine.logs
        now = tuple(logs.entries)
        monkeypatch.setattr(logs, "ima_log", lambda offset: encode_ima_log(now)[offset:])
        world.beta.machine.run_program("/usr/sbin/libvirtd", b"\x7fELF libvirtd, another one")
        await world.wait(12)

    found = told(then)
    assert found["verdict"] == "trusted"
    assert found["since"] == found["before"][0].split()[0]
    assert "still trusts beta, for what it proved before" in found["summary"]
    assert found["first_failure"]["name"] == "software"
    assert all("nothing to do" in each for each in found["clears"])


def test_evidence_that_is_not_its_own_is_one_cause_and_not_nine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def then(world: DaemonWorld) -> None:
        quote = world.beta.machine.tpm.quote

        def forged(data: bytes) -> Quote:
            made = quote(data)
            return replace(made, signature=made.signature[:-8] + bytes(8))

        monkeypatch.setattr(world.beta.machine.tpm, "quote", forged)
        await world.suspended("alpha", "beta")

    found = told(then)
    assert found["first_failure"]["name"] == "binding"
    assert len(found["failing"]) == len(ClaimName)
    (clears,) = found["clears"]
    assert clears.startswith("binding: nothing to do if it was one handshake")


def test_a_host_that_was_never_heard_of() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.wait(5)
        found = await story(world)
        assert (found["verdict"], found["since"]) == ("never appraised", "")
        assert "nobody listens" in found["summary"]

    play(test)


def test_what_was_seen_before_a_restart_is_still_told() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await failed(world)
        before = await story(world)
        world.network.cut_host(BETA)
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        after = await story(world)
        assert state(world.alpha, "beta") == "enrolled"
        assert (after["verdict"], after["since"]) == ("not trusted", before["since"])
        assert after["first_failure"] == before["first_failure"]
        assert after["followed"][0] == before["followed"][0]

    play(test)


def test_an_expelled_host() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.alpha.kill_daemon()
        registry = world.enrolment.registry
        registry.take(memory_expelled(registry.enrolled(BETA)))
        await world.alpha.start_daemon()
        found = await story(world)
        assert found["verdict"] == "expelled"
        assert "never admitted again" in found["summary"]

    play(test)


def test_a_host_that_refuses_this_one_says_so_and_where_to_ask() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.alpha.inflict(Fault.PROGRAM)
        await world.suspended("beta", "alpha")
        await world.suspended("alpha", "beta")
        found = await story(world)
        assert "beta does not trust alpha either way" in found["summary"]
        assert found["clears"] == [f"beta refuses {ALPHA}: see `shamon explain alpha` there."]

    play(test)


@pytest.mark.parametrize("name", list(ClaimName))
def test_every_claim_has_something_that_clears_it(name: ClaimName) -> None:
    for status in (ClaimStatus.FAIL, ClaimStatus.ABSENT):
        for expected in ("", "an entry"):
            for sticky in (True, False):
                claim = Claim(name=name, status=status, reason="it is not", expected=expected, sticky=sticky)
                words = what_clears(claim, BETA_HOST)
                assert words.startswith(f"{name}: ")
                assert words.endswith((".", "?"))
                assert ("sticky" in words) is sticky


def test_what_is_wrong_is_told_before_what_is_not_shown() -> None:
    assert first_failing(PASSING) is None
    result = failing(ClaimName.NETWORK_STATE)
    absent = replace(result.claims[1], status=ClaimStatus.ABSENT)
    both = replace(result, claims=(result.claims[0], absent, *result.claims[2:]))
    found = first_failing(both)
    assert found is not None
    assert found.name is ClaimName.NETWORK_STATE
