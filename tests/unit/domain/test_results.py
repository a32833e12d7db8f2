"""Attestation Results: trusted only if every claim is there, once, and passes."""

from dataclasses import replace

import pytest

from shamon_host.domain.results import ClaimName, ClaimStatus
from tests.unit.domain.values import result


def test_all_claims_passing_are_trusted() -> None:
    assert result().trusted
    assert result().failures == ()


@pytest.mark.parametrize("name", list(ClaimName))
@pytest.mark.parametrize("status", [ClaimStatus.FAIL, ClaimStatus.ABSENT])
def test_one_claim_is_enough_not_to_trust(name: ClaimName, status: ClaimStatus) -> None:
    found = result(statuses={name: status})
    assert not found.trusted
    assert [(claim.name, claim.status) for claim in found.failures] == [(name, status)]


@pytest.mark.parametrize("name", list(ClaimName))
def test_a_claim_that_is_not_made_is_absent(name: ClaimName) -> None:
    found = result(without=name)
    assert not found.trusted
    assert [(claim.name, claim.status) for claim in found.failures] == [(name, ClaimStatus.ABSENT)]


def test_a_claim_is_made_once() -> None:
    good, bad = result(), result(statuses={ClaimName.SELINUX: ClaimStatus.FAIL})
    twice = replace(good, claims=(*good.claims, *bad.claims))
    assert not twice.trusted
    assert [claim.name for claim in twice.failures] == [ClaimName.SELINUX]
    assert not replace(good, claims=(*good.claims, *good.claims)).trusted
