"""The daemon's service manager in a lab host: each test of `systemd_suite.py` is one test here."""

import pytest

from tests.integration.lab import LabHost
from tests.integration.lab.remote_pytest import RemoteOutcomes, run_suite, suite_tests

SUITE = "tests/integration/daemon/systemd_suite.py"


@pytest.fixture(scope="module")
def outcomes(hosts: list[LabHost]) -> RemoteOutcomes:
    """The suite's run on the first host."""
    return run_suite(hosts[0], SUITE, timeout_s=600)


@pytest.mark.parametrize("test", suite_tests(SUITE))
def test_in_host(outcomes: RemoteOutcomes, test: str) -> None:
    outcomes.report(test)
