"""The libvirt adapter in a lab host: each test of `libvirt_suite.py` is one test here."""

import pytest

from tests.integration.lab import Lab
from tests.integration.lab.remote_pytest import RemoteOutcomes, run_suite, suite_tests

SUITE = "tests/integration/hypervisor/libvirt_suite.py"


@pytest.fixture(scope="module")
def outcomes(lab: Lab) -> RemoteOutcomes:
    """The suite's run on alpha, which is enough for it."""
    (alpha,) = lab.boot("alpha")
    return run_suite(alpha, SUITE)


@pytest.mark.parametrize("test", suite_tests(SUITE))
def test_in_host(outcomes: RemoteOutcomes, test: str) -> None:
    """One test of the suite, as it went there."""
    outcomes.report(test)
