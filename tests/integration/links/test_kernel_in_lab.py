"""The real kernel adapter in a lab host: each test of `kernel_suite.py` is one test here."""

import pytest

from tests.integration.lab import Lab
from tests.integration.lab.remote_pytest import RemoteOutcomes, run_suite, suite_tests

SUITE = "tests/integration/links/kernel_suite.py"


@pytest.fixture(scope="module", params=["IPv4", "IPv6"])
def outcomes(request: pytest.FixtureRequest, lab: Lab) -> RemoteOutcomes:
    """The suite's run on alpha over an underlay of this family, where nothing else uses links meanwhile."""
    (alpha,) = lab.boot("alpha")
    alpha.run("systemctl stop shamon", check=False)
    environment = {"SHAMON_OWN_ADDRESS": alpha.ipv4 if request.param == "IPv4" else alpha.ipv6}
    return run_suite(alpha, SUITE, confined=True, environment=environment, timeout_s=600)


@pytest.mark.parametrize("test", suite_tests(SUITE))
def test_in_host(outcomes: RemoteOutcomes, test: str) -> None:
    """One test of the suite, as it went there."""
    outcomes.report(test)
