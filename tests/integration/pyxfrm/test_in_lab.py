"""pyxfrm in a lab host, whose kernel has ESP and SELinux: each test of these modules is one test here."""

import pytest

from tests.integration.lab import Lab
from tests.integration.lab.remote_pytest import RemoteOutcomes, run_suite, suite_tests

SUITES = tuple(
    f"tests/integration/pyxfrm/{name}.py"
    for name in ("test_netns", "test_netns_sas", "test_netns_databases", "test_netns_clients", "test_readme")
)


@pytest.fixture(scope="module")
def outcomes(lab: Lab) -> dict[str, RemoteOutcomes]:
    """Their runs on alpha, in namespaces of their own, as root and not in the daemon's domain."""
    (alpha,) = lab.boot("alpha")
    return {suite: run_suite(alpha, suite, timeout_s=600) for suite in SUITES}


@pytest.mark.parametrize(("suite", "test"), [(suite, test) for suite in SUITES for test in suite_tests(suite)])
def test_in_host(outcomes: dict[str, RemoteOutcomes], suite: str, test: str) -> None:
    """One test, as it went there."""
    outcomes[suite].report(test)
