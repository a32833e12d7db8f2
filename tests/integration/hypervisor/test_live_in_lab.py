"""Live migration by libvirt in a lab host: each test of `live_suite.py` is one test here."""

import pytest

from tests.integration.lab import Lab
from tests.integration.lab.remote_pytest import RemoteOutcomes, run_suite, suite_tests

pytestmark = pytest.mark.full
SUITE = "tests/integration/hypervisor/live_suite.py"


@pytest.fixture(scope="module")
def outcomes(lab: Lab) -> RemoteOutcomes:
    """The suite's run on alpha, which is enough for it: in the daemon's domain, which alone labels such sockets."""
    (alpha,) = lab.boot("alpha")
    alpha.run("mkdir -p -m 0700 /run/shamon && restorecon -R /run/shamon")
    return run_suite(alpha, SUITE, confined=True, timeout_s=900)


@pytest.mark.parametrize("test", suite_tests(SUITE))
def test_in_host(outcomes: RemoteOutcomes, test: str) -> None:
    """One test of the suite, as it went there."""
    outcomes.report(test)
