"""Records of hosts between daemons: they spread, they count at once, and no old, foreign or forbidden one counts."""

import asyncio
import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from shamon_host.daemon import membership
from shamon_host.domain.errors import BackendFailed, NotTrusted, Refused
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import Policy
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.host_record import (
    HostRecord,
    authorities_from_key,
    read_host_record,
    sign_host_record,
    sign_leave,
)
from shamon_host.peer.ports import EnrolledPeer
from shamon_host.peer.registry_messages import Exchange
from shamon_host.peer.wire import CONFIRM, EVIDENCE, HELLO, REGISTRY
from shamon_host.testing.memory_ca import (
    memory_authorities,
    memory_certificate,
    memory_expelled,
    memory_key,
    memory_next_ca,
    memory_record,
)
from shamon_host.testing.memory_host import MemoryHost
from shamon_host.testing.network import Deliver, Request
from shamon_host.testing.tpm import MemoryTpm
from shamon_host.testing.world import Fault
from tests.unit.attestation.ek_world import Authority
from tests.unit.daemon.daemon_world import ALPHA, BETA, GAMMA, DaemonWorld, daemon, play, records, state


def registry(host: MemoryHost) -> PeerRegistry:
    return daemon(host).registry


async def under(host: MemoryHost, policy: Policy) -> None:
    """The host enforces this policy from now on, with or without gamma, however it came to it."""
    running = daemon(host)
    before = running.policy.hosts
    running.own.enforced._record = replace(running.own.enforced._record, policy=policy)
    if GAMMA in policy.hosts:
        running.admissions.meet_host(GAMMA)
    else:
        await running.admissions.drop_host(GAMMA, before[GAMMA].address)
        running.host.forget(GAMMA)
    running.schedule.peers_changed()


async def tell(host: MemoryHost, *told: HostRecord) -> None:
    """As the operator tells one host."""
    await daemon(host).members.receive([record.envelope for record in told], "operator")


def test_an_expulsion_told_to_one_host_is_known_to_all_and_cuts_the_expelled_off() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("gamma")
        await world.pair_with_link()
        await tell(world.gamma, memory_expelled(registry(world.gamma).enrolled(BETA)))

        async def known() -> bool:
            return state(world.alpha, "beta") == "expelled"

        took_s = await world.until(known, within_s=2, what="alpha hears of it")
        assert took_s < world.timing.period_s / 2
        assert (await world.alpha.objects("beta")).nothing
        assert not await world.web_reaches_db()
        for host, source in ((world.gamma, "operator"), (world.alpha, "gamma")):
            assert records(host, "host.expelled", "beta") == [
                {"serial": 2, "reason": "it was told to go", "from": source}
            ]
            kinds = [record.kind for record in daemon(host).audit.records(limit=10_000) if record.subject == "beta"]
            assert kinds.index("host.expelled") < kinds.index("peer.expel")
        with pytest.raises(NotTrusted, match="expelled"):
            registry(world.alpha).enrolled(BETA)

        await world.wait(60)
        assert state(world.alpha, "gamma") == "admitted"
        assert state(world.alpha, "beta") == "expelled"

    play(test)


def test_what_is_known_survives_a_restart_with_older_files() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await tell(world.alpha, memory_expelled(registry(world.alpha).enrolled(BETA)))
        await world.alpha.kill_daemon()
        world.enrolment.registry.enrolled(BETA)  # what lies in the files
        await world.alpha.start_daemon()
        assert state(world.alpha, "beta") == "expelled"
        with pytest.raises(NotTrusted, match="expelled"):
            registry(world.alpha).enrolled(BETA)

    play(test)


def test_a_host_with_the_tpm_of_one_that_left_is_known_after_a_restart() -> None:
    async def test(world: DaemonWorld) -> None:
        complete = world.enrolment.registry
        world.enrolment.registry = PeerRegistry(
            records=[record for record in complete.records() if record.peer.host != BETA]
        )
        await world.boot("alpha")
        gamma = registry(world.alpha).record(GAMMA)
        assert gamma is not None
        await tell(world.alpha, sign_leave(gamma, memory_key(GAMMA), memory_authorities()))
        peer = replace(complete.enrolled(BETA), ak_public=gamma.peer.ak_public, ak_name=gamma.peer.ak_name)
        await tell(world.alpha, memory_record(peer))
        known = registry(world.alpha).enrolled(BETA)
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        assert registry(world.alpha).enrolled(BETA) == known

    play(test)


def test_an_old_record_is_no_news_and_a_forged_one_is_refused() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        first = registry(world.alpha).record(BETA)
        assert first is not None
        second = memory_record(replace(first.peer, serial=2))
        await tell(world.alpha, second)
        await tell(world.alpha, first)
        assert registry(world.alpha).record(BETA) == second
        forged = sign_host_record(replace(first.peer, serial=9), memory_certificate(BETA), memory_key(GAMMA))
        with pytest.raises(NotTrusted, match="signature is missing or wrong"):
            await tell(world.alpha, forged)
        transport = daemon(world.beta).backends.transport
        body = Exchange.of({}, [forged]).encode()
        with pytest.raises(Refused, match="signature is missing or wrong"):
            await transport.call(world.policy.hosts[ALPHA], REGISTRY, body, timeout_s=5)
        assert registry(world.alpha).record(BETA) == second
        assert state(world.alpha, "beta") == "admitted"

    play(test)


def test_a_record_that_comes_many_times_in_one_message_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each signature costs this host more than it costs whoever sends it."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        first = registry(world.alpha).record(BETA)
        assert first is not None
        await tell(world.alpha, memory_record(replace(first.peer, serial=2)))
        verified: list[bytes] = []

        def counted(data: bytes, *arguments: Any, **named: Any) -> HostRecord:
            verified.append(data)
            return read_host_record(data, *arguments, **named)

        monkeypatch.setattr(membership, "read_host_record", counted)
        transport = daemon(world.beta).backends.transport
        body = Exchange.of({}, [first] * 1000).encode()
        await transport.call(world.policy.hosts[ALPHA], REGISTRY, body, timeout_s=5)
        assert verified.count(first.envelope) == 1

    play(test)


def test_a_new_host_introduces_itself() -> None:
    """It has the records of all, and nobody has its own yet."""

    async def test(world: DaemonWorld) -> None:
        complete = world.enrolment.registry
        world.enrolment.registry = PeerRegistry(
            records=[record for record in complete.records() if record.peer.host != GAMMA]
        )
        await world.boot("alpha", "beta")
        assert registry(world.alpha).get(GAMMA) is None
        world.enrolment.registry = complete
        await world.boot("gamma")
        for host in (world.alpha, world.beta):
            decision = records(host, "host.enrol", "gamma")[0]
            assert decision["permitted"]
            assert registry(host).enrolled(GAMMA) == complete.enrolled(GAMMA)

    play(test)


def test_one_tpm_as_two_hosts_is_refused_by_every_host_and_told_once() -> None:
    async def test(world: DaemonWorld) -> None:
        complete = world.enrolment.registry
        world.enrolment.registry = PeerRegistry(
            records=[record for record in complete.records() if record.peer.host != GAMMA]
        )
        await world.boot("alpha", "beta")
        beta, gamma = registry(world.alpha).enrolled(BETA), complete.enrolled(GAMMA)
        twice = memory_record(replace(gamma, ak_public=beta.ak_public, ak_name=beta.ak_name))
        for _ in range(3):
            await tell(world.alpha, twice)
        (decision,) = records(world.alpha, "host.enrol", "gamma")
        assert not decision["permitted"]
        assert "beta is enrolled with the same AK" in str(decision["reason"])
        assert registry(world.alpha).get(GAMMA) is None

    play(test)


def test_a_host_that_the_policy_does_not_know_is_not_enrolled() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        known = registry(world.alpha).enrolled(BETA)
        stranger = HostName("delta")
        peer = EnrolledPeer(
            host=stranger,
            certificate_sha256=b"",
            ak_public=(public := MemoryTpm().ak_public()),
            ak_name=b"",
            tpm=known.tpm,
            serial=1,
        )
        assert public
        await tell(world.alpha, memory_record(peer))
        assert registry(world.alpha).get(stranger) is None
        (decision,) = records(world.alpha, "host.enrol", "delta")
        assert "the policy knows no host delta" in str(decision["reason"])

    play(test)


def test_an_expelled_host_is_never_enrolled_again() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        beta = registry(world.alpha).enrolled(BETA)
        await tell(world.alpha, memory_expelled(beta))
        await tell(world.alpha, memory_record(replace(beta, serial=7)))
        assert state(world.alpha, "beta") == "expelled"
        assert "was expelled" in str(records(world.alpha, "host.enrol", "beta")[0]["reason"])

    play(test)


def test_a_host_with_another_tpm_is_cut_off_until_that_one_proves_itself() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        beta = registry(world.alpha).enrolled(BETA)
        public = MemoryTpm().ak_public()
        await tell(world.alpha, memory_record(replace(beta, serial=2, ak_public=public)))
        assert state(world.alpha, "beta") == "suspended"
        assert (await world.alpha.objects("beta")).nothing
        await world.wait(60)
        assert state(world.alpha, "beta") != "admitted"

    play(test)


def test_a_host_whose_tpm_was_cleared_is_admitted_again_once_it_is_enrolled_anew() -> None:
    """With the AK of before, whose counts have gone back: only the operator can say that this is explained."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("gamma")
        await world.pair_with_link()
        for _ in range(3):
            await world.boot("beta")
        before = registry(world.alpha).enrolled(BETA)
        world.beta.machine.tpm.clear()
        assert "resetCount went backwards" in await world.suspended("alpha", "beta")
        await world.wait(60)
        assert state(world.alpha, "beta") == "suspended"
        await tell(world.gamma, memory_record(replace(before, serial=2)))
        await world.admitted("alpha", "beta", "gamma")
        assert registry(world.alpha).enrolled(BETA).ak_name == before.ak_name

        # It is remembered again from then on, hence noticed again.
        world.beta.machine.tpm.clear()
        assert "clock went backwards" in await world.suspended("alpha", "beta")

    play(test)


def test_a_host_that_is_enrolled_anew_has_not_got_rid_of_what_failed_in_this_boot() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.inflict(Fault.PROGRAM)
        assert "software" in await world.suspended("alpha", "beta")
        for host in (world.alpha, world.beta):
            await tell(host, memory_record(replace(registry(host).enrolled(BETA), serial=2)))
        await world.wait(60)
        assert state(world.alpha, "beta") == "suspended"
        assert "software" in daemon(world.alpha).admissions.peers[BETA].reason

    play(test)


@pytest.mark.parametrize("path", [HELLO, EVIDENCE, CONFIRM])
@pytest.mark.parametrize("after", [False, True])
def test_a_host_that_is_enrolled_anew_in_the_midst_of_a_handshake_keeps_its_links(path: str, after: bool) -> None:
    """All hosts are, while a coalition's CA is rotated."""

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        anew = memory_record(replace(registry(world.alpha).enrolled(BETA), serial=2))

        async def tap(request: Request, deliver: Deliver) -> bytes:
            now = request.path == path and {request.caller.host, request.to} == {ALPHA, BETA}
            if now and not after:
                await tell(world.alpha, anew)
            answer = await deliver(request)
            if now and after:
                await tell(world.alpha, anew)
            return answer

        world.network.tap = tap
        await world.wait(2 * world.timing.period_s)
        world.network.tap = None
        for host in (world.alpha, world.beta):
            assert registry(host).enrolled(BETA).serial == 2
            assert records(host, "peer.suspend") == []
        await world.wait(2 * world.timing.lease_s)
        assert state(world.alpha, "beta") == state(world.beta, "alpha") == "admitted"
        assert await world.web_reaches_db()

    play(test)


def test_a_host_leaves_and_everybody_hears() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("gamma")
        await world.pair_with_link()
        unheard = await daemon(world.beta).members.leave()
        assert unheard == {}
        for host in (world.alpha, world.gamma):
            assert state(host, "beta") == "expelled"
            assert daemon(host).admissions.peers[BETA].reason == "it left the coalition"
            assert records(host, "host.left", "beta")
        assert (await world.beta.objects("alpha")).nothing
        assert (await world.alpha.objects("beta")).nothing
        with pytest.raises(NotTrusted, match="left"):
            await daemon(world.beta).members.leave()

        # Whoever was away hears it later, and the CA may enrol the host again.
        again = memory_record(replace(world.enrolment.registry.enrolled(BETA), serial=2))
        await tell(world.gamma, again)
        await world.admitted("alpha", "beta", "gamma")

    play(test)


def test_a_host_that_hears_of_its_own_expulsion_closes_its_links() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await tell(world.beta, memory_expelled(registry(world.beta).enrolled(BETA)))
        assert (await world.beta.objects("alpha")).nothing
        assert "out of the coalition" in daemon(world.beta).admissions.peers[ALPHA].reason

    play(test)


def test_an_expelled_host_learns_and_tells_nothing() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await tell(world.alpha, memory_expelled(registry(world.alpha).enrolled(BETA)))
        transport = daemon(world.beta).backends.transport
        with pytest.raises(Refused, match="expelled"):
            await transport.call(world.policy.hosts[ALPHA], REGISTRY, Exchange.of({}).encode(), timeout_s=5)

    play(test)


def test_an_enrolment_that_cannot_be_written_down_does_not_count_and_ends_the_daemon() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        before = registry(world.alpha).record(BETA)
        assert before is not None
        known, database = registry(world.alpha), world.alpha.database
        assert database is not None
        database.full = True
        with pytest.raises(BackendFailed, match="database failed"):
            await tell(world.alpha, memory_record(replace(before.peer, serial=2)))
        assert known.record(BETA) == before
        database.full = False
        await ended(world)

    play(test)


def test_an_expulsion_that_cannot_be_written_down_counts_nevertheless() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        known, database = registry(world.alpha), world.alpha.database
        assert database is not None
        database.full = True
        with pytest.raises(BackendFailed, match="database failed"):
            await tell(world.alpha, memory_expelled(known.enrolled(BETA)))
        with pytest.raises(NotTrusted, match="expelled"):
            known.enrolled(BETA)
        assert (await world.alpha.objects("beta")).nothing
        database.full = False
        await ended(world)

    play(test)


async def ended(world: DaemonWorld) -> None:
    """The daemon of alpha ends by itself, as it has to; the next one begins."""

    async def it_has() -> bool:
        return world.alpha.failure() is not None

    await world.until(it_has, within_s=10, what="alpha's daemon ends")
    await world.alpha.kill_daemon()


def test_a_leave_by_another_key_than_the_hosts_is_refused() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        record = registry(world.alpha).record(BETA)
        assert record is not None
        with pytest.raises(NotTrusted, match="signature"):
            sign_leave(record, memory_key(GAMMA), memory_authorities())

    play(test)


def test_the_next_ca_is_known_to_all_by_the_word_of_the_one_before_it() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        certificate, key = memory_next_ca()
        known = registry(world.alpha).enrolled(GAMMA)
        record = sign_host_record(replace(known, serial=2), memory_certificate(GAMMA), key)
        with pytest.raises(NotTrusted, match="signature"):
            await tell(world.alpha, record)
        await daemon(world.alpha).members.receive([record.envelope], "operator", cas=[certificate])

        async def heard() -> bool:
            return registry(world.beta).enrolled(GAMMA).serial == 2

        await world.until(heard, within_s=2, what="beta hears of both")
        assert records(world.beta, "coalition.ca") == [
            {"certificate": hashlib.sha256(certificate).hexdigest(), "from": "alpha"}
        ]
        await world.beta.kill_daemon()
        await world.beta.start_daemon()
        assert registry(world.beta).enrolled(GAMMA).serial == 2  # it knows that CA still
        await world.admitted("alpha", "beta", "gamma")

    play(test)


@pytest.mark.parametrize("told", [True, False])
def test_a_host_that_joined_after_a_rotation_and_one_that_did_not_hear_of_it_know_each_other(told: bool) -> None:
    """Whether somebody tells it of the rotation, or only its own certificate does."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        certificate, key = memory_next_ca()
        known = daemon(world.beta).members
        known.authorities.update(authorities_from_key(key))  # as its `ca.pem` says
        record = sign_host_record(
            replace(registry(world.beta).enrolled(GAMMA), serial=2), memory_certificate(GAMMA), key
        )
        if not told:
            known.own_cas = (certificate,)
        await known.receive([record.envelope], "operator", cas=[certificate] if told else [])
        assert not records(world.beta, "coalition.ca")  # nothing new

        async def heard() -> bool:
            return registry(world.alpha).enrolled(GAMMA).serial == 2

        await world.until(heard, within_s=2, what="alpha hears of both")

    play(test)


def test_the_word_of_a_ca_that_is_forgotten_keeps_nobody_from_hearing_the_rest() -> None:
    """After two rotations: alpha has joined again and knows the last two CAs, beta tells of all three."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        certificate, key = memory_next_ca()
        members = daemon(world.alpha).members
        members.authorities.clear()
        members.authorities.update(authorities_from_key(key))
        record = sign_host_record(
            replace(registry(world.alpha).enrolled(GAMMA), serial=2), memory_certificate(GAMMA), key
        )
        transport = daemon(world.beta).backends.transport
        body = Exchange.of({}, [record], [certificate]).encode()
        await transport.call(world.policy.hosts[ALPHA], REGISTRY, body, timeout_s=5)
        assert registry(world.alpha).enrolled(GAMMA).serial == 2

    play(test)


def test_a_ca_that_certified_itself_is_not_the_next_one() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        ages = timedelta(days=10_000)
        false = Authority(text="memory #2", valid=(-ages, ages)).certificate.public_bytes(Encoding.DER)
        transport = daemon(world.beta).backends.transport
        body = Exchange.of({}, cas=[false]).encode()
        with pytest.raises(Refused, match="no CA that this host knows"):
            await transport.call(world.policy.hosts[ALPHA], REGISTRY, body, timeout_s=5)
        assert not records(world.alpha, "coalition.ca")

    play(test)


def test_who_was_cut_off_hears_it_when_it_is_back() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        world.network.cut_host(BETA)
        await tell(world.alpha, memory_expelled(registry(world.alpha).enrolled(GAMMA)))
        await world.wait(5 * world.timing.period_s)
        assert state(world.beta, "gamma") == "suspended"  # by its lease
        world.network.heal_host(BETA)

        async def heard() -> bool:
            return state(world.beta, "gamma") == "expelled"

        await world.until(heard, within_s=2 * world.timing.period_s, what="beta hears of it")

    play(test)


def test_who_was_away_hears_it_before_it_admits_anybody() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        before = len(records(world.alpha, "host.admit", "beta"))
        await world.alpha.kill_daemon()
        await tell(world.gamma, memory_expelled(registry(world.gamma).enrolled(BETA)))
        await world.wait(1)

        async def slow(request: Request, deliver: Deliver) -> bytes:
            await asyncio.sleep(1.0 if request.path == REGISTRY else 0.0)
            return await deliver(request)

        world.network.tap = slow
        await world.alpha.start_daemon()
        await world.admitted("alpha", "gamma")
        assert state(world.alpha, "beta") == "expelled"
        await world.wait(60)
        assert len(records(world.alpha, "host.admit", "beta")) == before

    play(test)


def test_who_cannot_be_asked_does_not_hold_up_the_others_for_long() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        await world.alpha.kill_daemon()
        world.network.cut_host(GAMMA)
        await world.alpha.start_daemon()

        async def it_is() -> bool:
            return state(world.alpha, "beta") == "admitted"

        await world.until(it_is, within_s=5, what="beta is admitted")

    play(test)


def test_a_host_that_was_refused_is_taken_once_the_policy_knows_it() -> None:
    """It does not have to be started again for that."""

    async def test(world: DaemonWorld) -> None:
        complete, policy = world.enrolment.registry, world.policy
        without = PeerRegistry(records=[record for record in complete.records() if record.peer.host != GAMMA])
        world.enrolment.registry = without
        await world.boot("alpha", "beta")
        smaller = replace(policy, hosts={name: entry for name, entry in policy.hosts.items() if name != GAMMA})
        for host in (world.alpha, world.beta):
            await under(host, smaller)
        world.enrolment.registry = complete
        await world.hosts["gamma"].boot()
        await world.wait(3 * world.timing.period_s)
        assert registry(world.alpha).get(GAMMA) is None
        for host in (world.alpha, world.beta):
            await under(host, policy)

        async def known() -> bool:
            return all(registry(host).get(GAMMA) is not None for host in (world.alpha, world.beta))

        await world.until(known, within_s=2 * world.timing.period_s, what="both know gamma")

    play(test)


def test_who_answers_with_a_bad_record_is_noted_once_and_the_rest_goes_on() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        record = registry(world.alpha).record(GAMMA)
        assert record is not None
        forged = sign_host_record(replace(record.peer, serial=9), memory_certificate(GAMMA), memory_key(BETA))

        async def tap(request: Request, deliver: Deliver) -> bytes:
            answer = await deliver(request)
            if request.path == REGISTRY and request.to == BETA:
                return Exchange.of({}, [forged]).encode()
            return answer

        world.network.tap = tap
        await world.wait(5 * world.timing.period_s)
        (noted,) = records(world.alpha, "host.not-compared", "beta")
        assert "signature is missing or wrong" in noted["reason"]
        assert registry(world.alpha).record(GAMMA) == record
        assert state(world.alpha, "beta") == "admitted"

    play(test)


def test_a_host_that_is_not_enrolled_yet_is_no_news() -> None:
    async def test(world: DaemonWorld) -> None:
        complete = world.enrolment.registry
        world.enrolment.registry = PeerRegistry(
            records=[record for record in complete.records() if record.peer.host != GAMMA]
        )
        await world.boot("alpha", "beta")
        await world.wait(5 * world.timing.period_s)
        assert not records(world.alpha, "host.not-compared")

    play(test)


def test_in_quiet_times_one_host_of_two_asks() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.wait(3 * world.timing.period_s)
        calls = world.count_calls(REGISTRY)
        await world.wait(5 * world.timing.period_s)
        assert {call for call in calls if "gamma" not in call} == {("alpha", "beta")}
        assert len([call for call in calls if "gamma" not in call]) in {4, 5, 6}

    play(test)
