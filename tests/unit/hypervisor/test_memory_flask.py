"""The in-memory FLASK passes the contract, and takes what a Xen host's administrator could do to the real one."""

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.flask_expected import expected_flask
from shamon_host.interchange.flask import flask_source
from shamon_host.testing.contracts.flask import ALPHA, BLUE, POLICY, RED, FlaskPolicyContract, differences
from shamon_host.testing.flask import MemoryFlask


class TestMemoryFlask(FlaskPolicyContract):
    @pytest.fixture
    def flask(self) -> MemoryFlask:
        return MemoryFlask()


def test_what_somebody_else_allows_is_seen() -> None:
    flask = MemoryFlask()
    flask.load(flask_source(POLICY))
    flask.allow(RED, "dom0_t", "argo", "send")
    flask.booleans = {"guest_writeconsole": True, "prot_doms_locked": False}
    flask.enforcing = False
    assert differences(flask, expected_flask(POLICY, ALPHA)) == [
        "FLASK is permissive",
        "the boolean guest_writeconsole is on",
        f"{RED} may send dom0_t (argo), more than the policy says",
    ]
    flask.reboot()
    assert differences(flask, expected_flask(POLICY, ALPHA))
    assert flask.state(()).enforcing


def test_a_hypervisor_that_does_not_answer() -> None:
    flask = MemoryFlask(broken="out of memory")
    with pytest.raises(BackendFailed, match="out of memory"):
        flask.state([(RED, BLUE, "grant")])
    with pytest.raises(BackendFailed, match="out of memory"):
        flask.load(flask_source(POLICY))


def test_a_class_that_xen_has_not() -> None:
    with pytest.raises(BackendFailed, match="file"):
        MemoryFlask().state([(RED, BLUE, "file")])
