"""How a VM is kept from its host and from other types, in a lab host's kernel: each test of `isolation_suite.py` is one
test here."""

import pytest

from tests.integration.lab import Lab
from tests.integration.lab.remote_pytest import RemoteOutcomes, run_suite, suite_tests

SUITE = "tests/integration/links/isolation_suite.py"


@pytest.fixture(scope="module")
def outcomes(lab: Lab) -> RemoteOutcomes:
    """The suite's run on alpha, where nothing else uses bridges meanwhile. Not in the daemon's domain: it does what an
    attacker with all rights would."""
    (alpha,) = lab.boot("alpha")
    alpha.run("systemctl stop shamon", check=False)
    return run_suite(alpha, SUITE, timeout_s=900)


@pytest.mark.parametrize("test", suite_tests(SUITE))
def test_in_host(outcomes: RemoteOutcomes, test: str) -> None:
    """One test of the suite, as it went there."""
    outcomes.report(test)
