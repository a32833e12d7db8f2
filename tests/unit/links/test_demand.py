"""What the kernel asks for: which ACQUIRE is one of a link's, and how many handshakes follow from what is asked."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.budget import Budget
from shamon_host.domain.label_map import EMPTY, allocate
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName
from shamon_host.links.demand import Cause, Demand, Unfounded, Wanted, judge_acquire, judge_expiry
from shamon_host.links.link_records import LinkRecord, PeerRecord, SaRecord
from shamon_host.links.ports import AcquireEvent, ExpireEvent
from tests.unit.links.conftest import BLUE, RED

BETA, GAMMA = HostName("beta"), HostName("gamma")
OWN = "192.0.2.1"
LABEL_MAP = allocate(EMPTY, [RED, BLUE], [])


def _link(name: TypeName, port: int) -> LinkRecord:
    return LinkRecord(
        type=name,
        local_port=port,
        peer_port=port + 100,
        in_sas=(SaRecord(spi=port, expires_s=90.0, retire_s=10.0), SaRecord(spi=port + 1, expires_s=90.0)),
        out_sas=(SaRecord(spi=port + 2, expires_s=90.0, retire_s=1.0), SaRecord(spi=port + 3, expires_s=90.0)),
        attached=True,
    )


RECORDS = (
    PeerRecord(
        peer=BETA,
        address="192.0.2.2",
        gate_until_s=90.0,
        links={RED: _link(RED, 24576), BLUE: _link(BLUE, 24580)},
    ),
    PeerRecord(peer=GAMMA, address="192.0.2.3", gate_until_s=90.0, links={BLUE: _link(BLUE, 24590)}),
)
ASKED = AcquireEvent(
    source=OWN,
    destination="192.0.2.2",
    source_port=24576,
    destination_port=24676,
    context=LABEL_MAP.link_context(RED),
)
FOR_RED = Wanted(peer=BETA, type=RED, cause=Cause.ACQUIRE)


def _judge(event: AcquireEvent, permitted: frozenset[TypeName] = frozenset({RED, BLUE})) -> object:
    return judge_acquire(event, address=OWN, records=RECORDS, label_map=LABEL_MAP, permitted=lambda _: permitted)


def test_the_label_decides() -> None:
    assert _judge(ASKED) == FOR_RED
    blue = LABEL_MAP.link_context(BLUE)
    assert _judge(replace(ASKED, context=blue, source_port=24580, destination_port=24680)) == replace(
        FOR_RED, type=BLUE
    )


RED_CONTEXT = LABEL_MAP.link_context(RED)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": None}, "label"),
        ({"context": LABEL_MAP.spd_context(RED)}, "label"),
        ({"context": replace(RED_CONTEXT, user="root")}, "label"),
        ({"context": replace(RED_CONTEXT, role="system_r")}, "label"),
        ({"context": replace(RED_CONTEXT, sensitivity=1)}, "label"),
        ({"context": replace(RED_CONTEXT, categories=frozenset({1, 2}))}, "label"),
        ({"context": replace(RED_CONTEXT, categories=frozenset({77}))}, "label"),
        ({"context": replace(RED_CONTEXT, categories=frozenset())}, "label"),
        ({"context": LABEL_MAP.link_context(BLUE)}, "has ports 24580 and 24680"),
        ({"source_port": 24580, "destination_port": 24680}, "has ports 24576 and 24676"),
        ({"destination_port": 24576}, "has ports"),
        ({"source_port": 0}, "has ports"),
        ({"destination": "192.0.2.3"}, "no link of acme/red to gamma"),
        ({"destination": "192.0.2.9"}, "between these addresses"),
        ({"source": "192.0.2.2"}, "between these addresses"),
        ({"destination": OWN}, "between these addresses"),
        ({"source_port": 4500, "destination_port": 4500}, "has ports"),
    ],
    ids=str,
)
def test_anything_else_starts_nothing_and_says_why(changes: dict[str, object], words: str) -> None:
    judgement = _judge(replace(ASKED, **changes))  # type: ignore[arg-type]  # any of its fields
    assert isinstance(judgement, Unfounded)
    assert words in judgement.reason


def test_a_type_that_may_not_be_carried_now_starts_nothing() -> None:
    judgement = _judge(ASKED, frozenset({BLUE}))
    assert isinstance(judgement, Unfounded)
    assert "not to be carried to beta" in judgement.reason


def test_another_programs_ipsec_is_no_concern_of_links() -> None:
    other = SelinuxContext(user="system_u", role="system_r", type="ipsec_t")
    for context in (None, other):
        assert _judge(replace(ASKED, source_port=0, destination_port=0, context=context)) is None
        assert _judge(replace(ASKED, source_port=4500, destination_port=4500, context=context)) is None


@given(
    st.builds(
        AcquireEvent,
        source=st.sampled_from([OWN, "192.0.2.2", "2001:db8::1"]),
        destination=st.sampled_from([OWN, "192.0.2.2", "192.0.2.3"]),
        source_port=st.sampled_from([0, 24576, 24580, 24590, 25599]),
        destination_port=st.sampled_from([0, 24576, 24676, 24680, 24690]),
        context=st.none()
        | st.builds(
            SelinuxContext,
            user=st.just("system_u"),
            role=st.just("object_r"),
            type=st.sampled_from(["shamon_link_t", "shamon_spd_t"]),
            categories=st.frozensets(st.integers(1, 3), max_size=2),
        ),
    )
)
def test_what_starts_a_handshake_is_exactly_a_links(event: AcquireEvent) -> None:
    judgement = _judge(event)
    exact = {
        (record.peer, link.type): AcquireEvent(
            source=OWN,
            destination=record.address,
            source_port=link.local_port,
            destination_port=link.peer_port,
            context=LABEL_MAP.link_context(link.type),
        )
        for record in RECORDS
        for link in record.links.values()
    }
    wanted = [key for key, each in exact.items() if each == event]
    assert isinstance(judgement, Wanted) == bool(wanted)
    if isinstance(judgement, Wanted):
        assert [(judgement.peer, judgement.type)] == wanted


@pytest.mark.parametrize(
    ("destination", "spi", "wanted"),
    [
        (OWN, 24577, RED),
        ("192.0.2.2", 24579, RED),
        ("192.0.2.2", 24583, BLUE),
        (OWN, 24576, None),  # superseded
        ("192.0.2.2", 24578, None),
        (OWN, 24579, None),  # a sending SA's SPI
        ("192.0.2.3", 24579, None),  # another peer's
        ("192.0.2.9", 24577, None),
        (OWN, 1, None),
    ],
)
def test_an_sa_at_its_soft_limit_wants_fresh_keys_while_it_is_in_use(
    destination: str, spi: int, wanted: TypeName | None
) -> None:
    judgement = judge_expiry(ExpireEvent(destination=destination, spi=spi, hard=False), address=OWN, records=RECORDS)
    assert judgement == (None if wanted is None else Wanted(peer=BETA, type=wanted, cause=Cause.USAGE))


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 4), st.floats(0.5, 20))
def test_no_more_than_the_budget_whatever_is_asked(gaps: list[float], burst: int, every_s: float) -> None:
    budget, now_s, taken = Budget(burst=burst, every_s=every_s), 1000.0, 0
    for gap in gaps:
        now_s += gap
        taken += budget.take("beta", now_s)
        assert taken <= burst + (now_s - 1000.0) / every_s + 1e-6
    assert budget.take("gamma", now_s)


def test_a_burst_is_one_handshake_and_the_handshake_answers_all_of_it() -> None:
    demand = Demand()
    for _ in range(50):
        demand.ask(FOR_RED)
        demand.ask(replace(FOR_RED, type=BLUE))
    ((peer, wanted),) = demand.due(0.0, lambda _: False)
    assert (peer, {item.type for item in wanted}) == (BETA, {RED, BLUE})
    assert demand.due(0.0, lambda _: False) == ()


def test_what_is_asked_while_a_handshake_runs_waits_and_is_answered_by_it() -> None:
    demand = Demand()
    demand.ask(FOR_RED)
    assert demand.due(0.0, lambda peer: peer == BETA) == ()
    assert demand.pending == {BETA}
    demand.renewed(BETA)
    assert demand.due(1.0, lambda _: False) == ()
    demand.ask(FOR_RED)
    assert demand.due(1.0, lambda _: True) == ()
    assert [peer for peer, _ in demand.due(2.0, lambda _: False)] == [BETA]  # that one came to nothing


def test_a_vm_that_asks_for_ever_causes_handshakes_at_a_rate() -> None:
    demand, started = Demand(), 0
    for second in range(600):
        demand.ask(FOR_RED)
        started += len(demand.due(float(second), lambda _: False))
    assert started <= 3 + 60
    assert demand.due(10_000.0, lambda _: False)
    # Another peer has a budget of its own.
    demand.ask(Wanted(peer=GAMMA, type=BLUE, cause=Cause.ACQUIRE))
    assert demand.due(0.0, lambda _: False)
