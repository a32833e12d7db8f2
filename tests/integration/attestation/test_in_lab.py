"""The TPM and log adapters in a lab host: each test of `attestation_suite.py` is one test here."""

import pytest

from tests.integration.lab import LabHost
from tests.integration.lab.remote_pytest import RemoteOutcomes, run_suite, suite_tests

SUITE = "tests/integration/attestation/attestation_suite.py"


@pytest.fixture(scope="module")
def outcomes(hosts: list[LabHost]) -> RemoteOutcomes:
    """The suite's run on the first host."""
    return run_suite(hosts[0], SUITE)


@pytest.mark.parametrize("test", suite_tests(SUITE))
def test_in_host(outcomes: RemoteOutcomes, test: str) -> None:
    outcomes.report(test)
