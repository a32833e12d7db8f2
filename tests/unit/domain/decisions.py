"""What the tests of the monitor's checks share: peers that are admitted, and what a decision has to look like."""

import pytest

from shamon_host.domain import admission
from shamon_host.domain.admission import PeerState
from shamon_host.domain.decision import Decision, Rule
from shamon_host.domain.errors import Refused
from shamon_host.domain.labels import HostName
from shamon_host.domain.results import TpmKind
from tests.unit.domain.values import BETA, result

NOW_S = 1000.0
"""CLOCK_BOOTTIME."""
WALL_S = 1.8e9
"""Seconds since the epoch: in 2027."""


def admitted(host: HostName, *, tpm: TpmKind = TpmKind.HARDWARE) -> PeerState:
    """A peer whose lease lasts for a minute from NOW_S on."""
    return admission.admit(PeerState(host=host), result(host, tpm=tpm), lease_until_s=NOW_S + 60)


ADMITTED = admitted(BETA)


def assert_denied(decision: Decision, rule: Rule, *words: str, key: str | None = None) -> None:
    assert not decision.permitted
    assert decision.rule is rule, decision.reason
    for word in words:
        assert word in decision.reason
    if key is not None:
        assert decision.key == key
    with pytest.raises(Refused, match=rule):
        decision.enforce()


def assert_permitted(decision: Decision) -> None:
    assert decision.permitted, decision.reason
    assert decision.rule is Rule.ALL
    assert decision.key == ""
    assert decision.enforce() is decision
