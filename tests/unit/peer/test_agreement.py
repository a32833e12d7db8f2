"""What two hosts must agree on before either makes Evidence: coalition, policies that are meant, types to share."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain.errors import Refused, ShamonError
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.peer.errors import Busy
from shamon_host.peer.party import require_agreement
from shamon_host.peer.ports import Terms
from shamon_host.testing.clock import run_virtual
from tests.examples import examples
from tests.unit.peer.handshake_world import ALPHA, BETA, BLUE, GREEN, RED, World

ONE, OTHER, THIRD = "ab" * 32, "cd" * 32, "ef" * 32
TYPES = st.frozensets(st.sampled_from([RED, BLUE, GREEN]))


def terms(policy: str, peers: str, shared: tuple[TypeName, ...] | None, coalition: str = "example") -> Terms:
    return Terms(
        coalition=coalition,
        policy_version=1,
        policy_digest=policy,
        peer_policy_digest=peers,
        shared=shared,
        certificate_sha256=bytes(32),
        ak_name=b"\x00\x0b" + bytes(32),
        offers=(),
        ima_offset=0,
        ima_reset_count=1,
    )


SAME = terms(ONE, ONE, None)
OURS, THEIRS = terms(ONE, OTHER, (RED,)), terms(OTHER, ONE, (RED, BLUE))


@pytest.mark.parametrize(
    ("own", "peer"),
    [
        (SAME, SAME),
        (OURS, THEIRS),
        (THEIRS, OURS),
        (replace(OURS, shared=()), THEIRS),
        (replace(OURS, policy_version=7), THEIRS),
    ],
)
def test_hosts_that_agree_go_on(own: Terms, peer: Terms) -> None:
    require_agreement(own, peer, BETA)


@pytest.mark.parametrize(
    ("own", "peer"),
    [
        (SAME, replace(SAME, coalition="rivals")),
        (OURS, replace(THEIRS, coalition="rivals")),
        # It is of another coalition, and means another policy of ours: trying again would not help.
        (OURS, replace(THEIRS, coalition="rivals", peer_policy_digest=THIRD)),
    ],
)
def test_hosts_of_other_coalitions_refuse_each_other(own: Terms, peer: Terms) -> None:
    with pytest.raises(
        Refused, match="beta: the hosts are of different coalitions; expected example; found rivals"
    ) as ex:
        require_agreement(own, peer, BETA)
    assert not isinstance(ex.value, Busy)


@pytest.mark.parametrize(
    ("own", "peer"),
    [
        (OURS, replace(THEIRS, policy_digest=THIRD)),
        (OURS, replace(THEIRS, peer_policy_digest=THIRD)),
        (SAME, replace(SAME, policy_digest=OTHER)),
        (SAME, replace(SAME, peer_policy_digest=OTHER)),
        (SAME, THEIRS),
        (OURS, SAME),
        (OURS, OURS),
    ],
)
def test_terms_for_another_version_are_to_be_made_again(own: Terms, peer: Terms) -> None:
    with pytest.raises(Busy, match="beta: the terms are for another version of the policy"):
        require_agreement(own, peer, BETA)


@pytest.mark.parametrize(
    ("own", "peer"),
    [
        (replace(SAME, shared=(RED,)), replace(SAME, shared=(RED,))),
        (replace(SAME, shared=(RED,)), SAME),
        (SAME, replace(SAME, shared=())),
        (replace(OURS, shared=None), replace(THEIRS, shared=None)),
        (replace(OURS, shared=None), THEIRS),
        (OURS, replace(THEIRS, shared=None)),
    ],
)
def test_what_is_shared_must_be_said_under_two_policies_and_only_then(own: Terms, peer: Terms) -> None:
    with pytest.raises(Refused, match="beta: the terms do not say what is shared") as caught:
        require_agreement(own, peer, BETA)
    assert not isinstance(caught.value, Busy)


def of_two_policies(ours: frozenset[TypeName], theirs: frozenset[TypeName]) -> World:
    """Alpha and beta enforce different policies, and would share these types."""
    world = World()
    for name, own, peers, shared in ((ALPHA, ONE, OTHER, ours), (BETA, OTHER, ONE, theirs)):
        host = world.hosts[name]
        host.policy_digest, host.peer_policy_digest, host.shared = own, peers, tuple(sorted(shared))
    return world


@settings(max_examples=examples(40))
@given(ours=TYPES, theirs=TYPES, alphas=TYPES, betas=TYPES)
def test_only_what_both_offer_and_both_would_share_is_carried(
    ours: frozenset[TypeName], theirs: frozenset[TypeName], alphas: frozenset[TypeName], betas: frozenset[TypeName]
) -> None:
    async def main() -> None:
        world = of_two_policies(ours, theirs)
        world.hosts[ALPHA].types, world.hosts[BETA].types = sorted(alphas), sorted(betas)
        await world.initiate()
        carried = ours & theirs & alphas & betas
        for one, other in ((ALPHA, BETA), (BETA, ALPHA)):
            outcome = world.hosts[one].outbound[other]
            assert {link.type for link in outcome.links} == carried
            offered = {offer.spi: offer.type for offer in outcome.terms.offers}
            assert {offered[spi] for spi in outcome.unused_spis} == set(offered.values()) - carried
            assert {link.in_spi for link in outcome.links}.isdisjoint(outcome.unused_spis)
        await world.settle()

    run_virtual(main())


@pytest.mark.parametrize("changed", [ALPHA, BETA])
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"policy_digest": OTHER}, Busy, "another version of the policy"),
        ({"peer_policy_digest": OTHER}, Busy, "another version of the policy"),
        ({"coalition": "rivals"}, Refused, "different coalitions"),
        ({"shared": (RED,)}, Refused, "do not say what is shared"),
    ],
)
def test_hosts_that_do_not_agree_make_no_evidence(
    changed: HostName, change: dict[str, object], error: type[ShamonError], words: str
) -> None:
    async def main() -> None:
        world = World()
        world.hosts[changed].terms_changes = change
        with pytest.raises(error, match=words):
            await world.initiate()
        for host in world.hosts.values():
            assert host.nothing_installed
            assert not host.called("evidence")
        await world.settle()

    run_virtual(main())


def test_each_side_is_told_what_the_other_enforces_before_it_relies_on_it() -> None:
    async def main() -> None:
        world = World()
        outcome = await world.initiate()
        assert world.hosts[ALPHA].met == [(BETA, outcome.peer_terms)]
        assert world.hosts[BETA].met == [(ALPHA, outcome.terms)]

    run_virtual(main())


@pytest.mark.parametrize("name", [ALPHA, BETA])
@pytest.mark.parametrize("error", [Busy("that version is new to this host"), Refused("nothing can be shared")])
def test_a_policy_that_a_side_does_not_know_or_like_ends_it(name: HostName, error: ShamonError) -> None:
    async def main() -> None:
        world = World()
        world.hosts[name].meet_error = error
        with pytest.raises(type(error), match=str(error)):
            await world.initiate()
        for host in world.hosts.values():
            assert host.nothing_installed
        assert not world.hosts[name].called("evidence")
        if name == BETA:
            assert not world.hosts[BETA].called("abandoned"), (
                "the responder makes no terms for a policy it does not know"
            )
        await world.settle()

    run_virtual(main())
