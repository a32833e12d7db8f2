"""The handshake with somebody in the middle who has got past TLS, or with a member of the coalition who lies.

Whatever is changed, repeated, relayed or sent back: nothing gets installed by whom it deceives.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shamon_host.attestation.evidence import Role
from shamon_host.attestation.evidence import encode as encode_evidence
from shamon_host.domain.errors import NotTrusted, Refused, ShamonError
from shamon_host.domain.labels import HostName
from shamon_host.peer.errors import Busy
from shamon_host.peer.key_schedule import Share, transcript
from shamon_host.peer.messages import Confirm, ConfirmAnswer, EvidenceAnswer, EvidenceRequest, Hello, Verdict
from shamon_host.peer.party import digest, proceedings
from shamon_host.peer.ports import Outcome, PeerIdentity
from shamon_host.peer.wire import CONFIRM, EVIDENCE, HELLO, encode_object, join, split
from shamon_host.testing.clock import run_virtual
from shamon_host.testing.network import Deliver, Request, Tap, memory_identity
from tests.examples import examples
from tests.unit.peer.handshake_world import ALPHA, BETA, GAMMA, World

STEPS = (HELLO, EVIDENCE, CONFIRM)
Change = Callable[[bytes], bytes]
_SMALL_ORDER = [
    bytes(32),
    bytes([1]) + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]
"""Points of small order on Curve25519."""


def tamper(path: str, *, request: Change | None = None, answer: Change | None = None) -> Tap:
    async def tap(sent: Request, deliver: Deliver) -> bytes:
        if sent.path != path:
            return await deliver(sent)
        if request is not None:
            sent = replace(sent, body=request(sent.body))
        returned = await deliver(sent)
        return returned if answer is None else answer(returned)

    return tap


def edit(**changes: object) -> Change:
    """Change fields of a message's JSON object."""

    def change(body: bytes) -> bytes:
        if body.startswith(b"{") and b"\n" in body:
            header, payload = split(body)
            return join(encode_object({**json.loads(header), **changes}), payload)
        return encode_object({**json.loads(body), **changes})

    return change


async def attempt(world: World) -> Outcome | ShamonError:
    """Run a handshake from alpha to beta, let all sessions run out, and say how it ended for alpha."""
    ended: Outcome | ShamonError
    try:
        ended = await world.initiate()
    except ShamonError as error:
        ended = error
    await world.settle()
    return ended


def deceived(world: World) -> set[HostName]:
    """Who has anything installed."""
    return {name for name, host in world.hosts.items() if not host.nothing_installed}


OFFERS = [{"type": "acme/red", "port": 40001, "spi": 0x2000}]
PASS = Verdict(trusted=True).encode().decode()
FAIL = Verdict(trusted=False, failures=("made up",)).encode().decode()

CHANGES: list[tuple[str, str, Change]] = [
    *(
        (HELLO, side, edit(**{name: value}))
        for side in ("request", "answer")
        for name, value in (
            ("offers", OFFERS),
            ("offers", []),
            ("nonce", "11" * 32),
            ("share", Share().public.hex()),
            ("coalition", "rivals"),
            ("policy_version", 2),
            ("policy_digest", "00" * 32),
            ("peer_policy_digest", "00" * 32),
            ("shared", []),
            ("shared", ["acme/red", "rival/blue"]),
            ("certificate", "00" * 32),
            ("ak_name", "000b" + "00" * 32),
            ("from", "gamma"),
            ("to", "gamma"),
            ("ima_offset", 7),
            ("ima_reset_count", 7),
            ("v", 0),
            ("v", 1),
            ("v", 3),
        )
    ),
    (HELLO, "answer", edit(session="22" * 16)),
    (EVIDENCE, "request", edit(session="22" * 16)),
    (EVIDENCE, "request", lambda body: body + b" "),
    (EVIDENCE, "answer", lambda body: body + b" "),
    (EVIDENCE, "answer", edit(lease_ms=1)),
    (EVIDENCE, "answer", edit(lease_ms=3_600_000)),
    (EVIDENCE, "answer", edit(verdict=FAIL)),
    (CONFIRM, "request", edit(lease_ms=3_600_000)),
    (CONFIRM, "request", edit(mac="00" * 32)),
    (CONFIRM, "request", edit(verdict=FAIL)),
    (CONFIRM, "request", edit(session="22" * 16)),
]


@pytest.mark.parametrize(("path", "side", "change"), CHANGES)
def test_changed_message_installs_nothing(path: str, side: str, change: Change) -> None:
    async def main() -> None:
        world = World()
        world.network.tap = tamper(path, **{side: change})
        assert isinstance(await attempt(world), ShamonError)
        assert deceived(world) == set()

    run_virtual(main())


@settings(max_examples=examples(150), deadline=None)
@given(
    path=st.sampled_from(STEPS),
    side=st.sampled_from(["request", "answer"]),
    where=st.floats(0, 1, exclude_max=True),
    how=st.sampled_from(["flip", "cut", "insert", "blank"]),
    value=st.integers(1, 255),
)
@example(path=CONFIRM, side="request", where=0.0, how="blank", value=1)
@example(path=CONFIRM, side="answer", where=0.5, how="flip", value=1)
def test_any_changed_byte_installs_nothing(path: str, side: str, where: float, how: str, value: int) -> None:
    def change(body: bytes) -> bytes:
        at = int(where * len(body))
        match how:
            case "flip":
                return body[:at] + bytes([body[at] ^ value]) + body[at + 1 :]
            case "cut":
                return body[:at]
            case "insert":
                return body[:at] + bytes([value]) + body[at:]
            case _:
                return b" " + body

    async def main() -> None:
        world = World()
        world.network.tap = tamper(path, **{side: change})
        assert isinstance(await attempt(world), ShamonError)
        last = path == CONFIRM and side == "answer"
        assert deceived(world) <= ({BETA} if last else set()), "after its own MAC was sent the responder is done"

    run_virtual(main())


@pytest.mark.parametrize("share", _SMALL_ORDER)
@pytest.mark.parametrize("side", ["request", "answer"])
def test_share_of_small_order_is_refused(share: bytes, side: str) -> None:
    async def main() -> None:
        world = World()
        world.network.tap = tamper(HELLO, **{side: edit(share=share.hex())})
        ended = await attempt(world)
        assert isinstance(ended, NotTrusted | Refused)
        assert "all-zero secret" in str(ended)
        assert deceived(world) == set()

    run_virtual(main())


def test_own_share_sent_back_is_refused() -> None:
    async def main() -> None:
        world = World()
        shares = []

        async def tap(sent: Request, deliver: Deliver) -> bytes:
            if sent.path == HELLO:
                shares.append(json.loads(sent.body)["share"])
                return edit(share=shares[0])(await deliver(sent))
            return await deliver(sent)

        world.network.tap = tap
        ended = await attempt(world)
        assert isinstance(ended, NotTrusted)
        assert "own X25519 share" in str(ended)

    run_virtual(main())


def test_hello_reflected_to_its_sender_is_refused() -> None:
    async def main() -> None:
        world = World()

        async def tap(sent: Request, deliver: Deliver) -> bytes:
            return await deliver(replace(sent, to=ALPHA, caller=memory_identity(BETA)))

        world.network.tap = tap
        assert isinstance(await attempt(world), Refused)
        assert deceived(world) == set()

    run_virtual(main())


def test_own_hello_as_the_answer_is_refused() -> None:
    async def main() -> None:
        world = World()

        async def tap(sent: Request, deliver: Deliver) -> bytes:
            return edit(role="responder", session="33" * 16)(sent.body)

        world.network.tap = tap
        ended = await attempt(world)
        assert isinstance(ended, NotTrusted)
        assert "from another host" in str(ended)

    run_virtual(main())


def test_evidence_and_mac_sent_back_do_not_pass_for_the_other_sides() -> None:
    async def main() -> None:
        for step in (EVIDENCE, CONFIRM):
            world = World()

            async def tap(sent: Request, deliver: Deliver, step: str = step) -> bytes:
                answer = await deliver(sent)
                if sent.path != step:
                    return answer
                if step == EVIDENCE:
                    return join(split(answer)[0], EvidenceRequest.decode(sent.body).evidence)
                return encode_object({"mac": json.loads(sent.body)["mac"]})

            world.network.tap = tap
            assert isinstance(await attempt(world), NotTrusted)
            assert world.hosts[ALPHA].nothing_installed

    run_virtual(main())


@pytest.mark.parametrize("path", STEPS)
def test_message_sent_twice_counts_once(path: str) -> None:
    async def main() -> None:
        world = World()
        second: list[bytes | ShamonError] = []

        async def tap(sent: Request, deliver: Deliver) -> bytes:
            answer = await deliver(sent)
            if sent.path == path:
                try:
                    second.append(await deliver(sent))
                except ShamonError as error:
                    second.append(error)
            return answer

        world.network.tap = tap
        ended = await attempt(world)
        if path == HELLO:
            assert isinstance(ended, ShamonError), "a second hello takes the session over"
            assert deceived(world) == set()
        else:
            assert isinstance(ended, Outcome)
            assert isinstance(second[0], Refused)
            assert world.hosts[BETA].called("inbound") == 1

    run_virtual(main())


def test_whole_handshake_replayed_later_is_refused() -> None:
    async def main() -> None:
        world = World()
        world.network.record = True
        await world.initiate()
        installed = dict(world.hosts[BETA].outbound)
        appraised = world.hosts[BETA].called("appraise")
        await world.clock.sleep(30)
        answers = []
        for exchange in list(world.network.exchanges):
            try:
                answers.append(await world.network.send(exchange.request))
            except Refused:
                answers.append(b"refused")
        assert answers[1:] == [b"refused", b"refused"]
        assert world.hosts[BETA].outbound == installed
        assert world.hosts[BETA].called("appraise") == appraised
        await world.settle()

    run_virtual(main())


def test_old_evidence_in_a_new_session_fails_the_binding() -> None:
    async def main() -> None:
        world = World()
        kept: list[bytes] = []

        async def tap(sent: Request, deliver: Deliver) -> bytes:
            if sent.path == EVIDENCE:
                kept.append(EvidenceRequest.decode(sent.body).evidence)
                session = EvidenceRequest.decode(sent.body).session
                sent = replace(sent, body=EvidenceRequest(session=session, evidence=kept[0]).encode())
            return await deliver(sent)

        world.network.tap = tap
        await world.initiate()
        before = dict(world.hosts[BETA].outbound)
        ended = await attempt(world)
        assert isinstance(ended, ShamonError)
        assert "binding fail" in str(ended)
        assert world.hosts[BETA].outbound == before

    run_virtual(main())


def test_session_of_another_host_cannot_be_used() -> None:
    async def main() -> None:
        world = World(ALPHA, BETA, GAMMA)

        async def tap(sent: Request, deliver: Deliver) -> bytes:
            if sent.path != HELLO:
                sent = replace(sent, caller=memory_identity(GAMMA))
            return await deliver(sent)

        world.network.tap = tap
        ended = await attempt(world)
        assert isinstance(ended, Refused)
        assert "no such handshake" in str(ended)
        assert deceived(world) == set()

    run_virtual(main())


def test_initiator_cannot_choose_the_session() -> None:
    async def main() -> None:
        world = World()
        world.network.tap = tamper(HELLO, request=edit(session="44" * 16))
        ended = await attempt(world)
        assert isinstance(ended, Refused)
        assert "hello.session" in str(ended)

    run_virtual(main())


def test_hello_under_another_certificate_is_refused() -> None:
    async def main() -> None:
        world = World(ALPHA, BETA, GAMMA)

        async def tap(sent: Request, deliver: Deliver) -> bytes:
            return await deliver(replace(sent, caller=memory_identity(GAMMA)))

        world.network.tap = tap
        ended = await attempt(world)
        assert isinstance(ended, Refused)
        assert "from another host" in str(ended)
        stranger = PeerIdentity(host=ALPHA, certificate_sha256=bytes(32))
        with pytest.raises(NotTrusted, match="not the one enrolled"):
            await world.services[BETA].handle(stranger, HELLO, b"{}")

    run_virtual(main())


@pytest.mark.parametrize("path", STEPS)
def test_oversize_and_garbage_are_refused(path: str) -> None:
    async def main() -> None:
        for body in (
            b"",
            b"[]",
            b"{",
            b"\xff",
            b"[" * 100_000,
            b"{}" + b" " * 200_000,
            b'{"a":' * 50_000,
            b"1e400",
            b'{"v":NaN}',
            b'{"v":2,"v":2}',
            b"9" * 10_000,
            b"{}\n{}",
        ):
            world = World()
            world.network.tap = tamper(path, request=lambda _, body=body: body)  # type: ignore[misc]
            assert isinstance(await attempt(world), ShamonError)
            world.network.tap = tamper(path, answer=lambda _, body=body: body)  # type: ignore[misc]
            assert isinstance(await attempt(world), ShamonError)
            assert world.hosts[ALPHA].nothing_installed

    run_virtual(main())


def test_verdict_turned_into_a_pass_installs_nothing() -> None:
    async def main() -> None:
        world = World()
        world.hosts[ALPHA].good = False
        world.network.tap = tamper(EVIDENCE, answer=edit(verdict=PASS))
        assert isinstance(await attempt(world), ShamonError)
        assert deceived(world) == set()
        world = World()
        world.hosts[BETA].good = False
        world.network.tap = tamper(CONFIRM, request=edit(verdict=PASS))
        assert isinstance(await attempt(world), NotTrusted)
        assert deceived(world) == set()

    run_virtual(main())


def test_peer_that_failed_cannot_confirm_itself_in() -> None:
    """Its MAC is right, and it says that it trusts us: the session still holds our own verdict."""

    async def main() -> None:
        world = World()
        world.hosts[ALPHA].good = False

        share = Share()
        caller, service = memory_identity(ALPHA), world.services[BETA]
        own = await world.hosts[ALPHA].terms(BETA)
        ours = Hello(
            role=Role.INITIATOR, sender=ALPHA, receiver=BETA, terms=own, nonce=bytes(32), share=share.public
        ).encode()
        theirs = await service.handle(caller, HELLO, ours)
        hello = Hello.decode(theirs, Role.RESPONDER)
        keys = share.agree(hello.share, transcript(ours, theirs))
        evidence = encode_evidence(
            await world.hosts[ALPHA].evidence(BETA, Role.INITIATOR, keys.transcript, ima_offset=0, ima_reset_count=1)
        )
        answer = EvidenceAnswer.decode(
            await service.handle(caller, EVIDENCE, EvidenceRequest(session=hello.session, evidence=evidence).encode())
        )
        assert not answer.verdict.trusted
        covered = proceedings(
            evidence_sha256={Role.INITIATOR: digest(evidence), Role.RESPONDER: digest(answer.evidence)},
            verdicts={Role.INITIATOR: Verdict(trusted=True).encode(), Role.RESPONDER: answer.verdict.encode()},
            leases_ms={Role.INITIATOR: 1000, Role.RESPONDER: answer.lease_ms},
        )
        confirm = Confirm(
            session=hello.session, verdict=Verdict(trusted=True), lease_ms=1000, mac=keys.mac(Role.INITIATOR, covered)
        )
        with pytest.raises(Refused, match="does not trust the caller"):
            await service.handle(caller, CONFIRM, confirm.encode())
        assert world.hosts[BETA].nothing_installed

    run_virtual(main())


@dataclass
class Relay:
    """Gamma, a member of the coalition, answers alpha with what beta says, beside Evidence of its own."""

    world: World
    own_evidence: bool
    to_alpha: bytes = b""
    from_alpha: bytes = b""
    to_beta: bytes = b""
    from_beta: bytes = b""

    async def handle(self, caller: PeerIdentity, path: str, body: bytes) -> bytes:
        service, identity = self.world.services[BETA], memory_identity(GAMMA)
        gamma = self.world.hosts[GAMMA]
        if path == HELLO:
            terms = await gamma.terms(ALPHA)
            alpha = json.loads(body)
            self.from_alpha = body
            self.to_beta = Hello(
                role=Role.INITIATOR,
                sender=GAMMA,
                receiver=BETA,
                terms=await gamma.terms(BETA),
                nonce=bytes.fromhex(alpha["nonce"]),
                share=bytes.fromhex(alpha["share"]),
            ).encode()
            self.from_beta = await service.handle(identity, HELLO, self.to_beta)
            beta = json.loads(self.from_beta)
            self.to_alpha = Hello(
                role=Role.RESPONDER,
                session=bytes.fromhex(beta["session"]),
                sender=GAMMA,
                receiver=ALPHA,
                terms=terms,
                nonce=bytes.fromhex(beta["nonce"]),
                share=bytes.fromhex(beta["share"]),
            ).encode()
            return self.to_alpha
        if path == EVIDENCE:
            session = EvidenceRequest.decode(body).session
            with_beta, with_alpha = transcript(self.to_beta, self.from_beta), transcript(self.from_alpha, self.to_alpha)
            evidence = await gamma.evidence(BETA, Role.INITIATOR, with_beta, ima_offset=0, ima_reset_count=1)
            request = EvidenceRequest(session=session, evidence=encode_evidence(evidence))
            answer = EvidenceAnswer.decode(await service.handle(identity, EVIDENCE, request.encode()))
            if self.own_evidence:
                mine = await gamma.evidence(ALPHA, Role.RESPONDER, with_alpha, ima_offset=0, ima_reset_count=1)
                answer = replace(answer, evidence=encode_evidence(mine))
            return replace(answer, verdict=Verdict(trusted=True)).encode()
        try:
            return await service.handle(identity, CONFIRM, body)
        except ShamonError:
            return ConfirmAnswer(mac=bytes(32)).encode()


@pytest.mark.parametrize("own_evidence", [True, False])
def test_member_that_relays_shares_and_evidence_gains_nothing(own_evidence: bool) -> None:
    """With Evidence of its own it has no keys (unknown key share); with beta's it has no binding."""

    async def main() -> None:
        world = World(ALPHA, BETA, GAMMA)
        world.hosts[GAMMA].open_terms = Unkept()
        world.network.stop(GAMMA)
        relay = Relay(world, own_evidence)
        world.network.listen(memory_identity(GAMMA), relay, world.registries[GAMMA])
        with pytest.raises(NotTrusted) as caught:
            await world.initiate(ALPHA, GAMMA)
        assert ("confirmation is not right" if own_evidence else "binding fail") in str(caught.value)
        await world.settle()
        assert deceived(world) == set()

    run_virtual(main())


class Unkept(list):  # type: ignore[type-arg]
    """Terms of a host that plays by no rules."""

    def append(self, item: object) -> None:
        pass


def test_flood_of_hellos_keeps_one_session() -> None:
    async def main() -> None:
        world = World()
        own = await world.hosts[ALPHA].terms(BETA)
        world.hosts[ALPHA].open_terms.clear()
        hello = Hello(
            role=Role.INITIATOR, sender=ALPHA, receiver=BETA, terms=own, nonce=bytes(32), share=Share().public
        ).encode()
        results = await asyncio.gather(
            *(world.services[BETA].handle(memory_identity(ALPHA), HELLO, hello) for _ in range(50)),
            return_exceptions=True,
        )
        assert any(isinstance(result, bytes) for result in results)
        assert len(world.hosts[BETA].open_terms) == 1
        await world.settle()

    run_virtual(main())


def test_a_peer_that_starts_one_handshake_after_the_other_is_slowed_down() -> None:
    """Each costs this host a quote, an appraisal and records in a log that only grows."""

    async def main() -> None:
        world = World(ALPHA, BETA, latency_s=0)
        for _ in range(16):
            await world.initiate()
        with pytest.raises(Busy, match="too many handshakes"):
            await world.initiate()
        await world.clock.sleep(3)
        await world.initiate()
        await world.settle()

    run_virtual(main())
