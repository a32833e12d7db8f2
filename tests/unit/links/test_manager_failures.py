"""What the link manager does when a call fails: what was asked for is done the next time, no more is wanted."""

from unittest import mock

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.desired import BLOCK_ENTRIES
from tests.unit.links.conftest import BLUE, RED, Host, carries, join


@pytest.fixture
def joined(alpha: Host, beta: Host) -> tuple[Host, Host]:
    """Two hosts with a red VM each and links for red and blue."""
    for host, tap in ((alpha, "shvm0-0"), (beta, "shvm1-0")):
        host.links.reconcile({})
        host.start_vm(tap, RED)
    join(alpha, beta, (RED, BLUE))
    return alpha, beta


@pytest.mark.parametrize("step", range(5))
def test_types_that_could_not_be_closed_are_closed_the_next_time(joined: tuple[Host, Host], step: int) -> None:
    """They are off the books then, and must not be taken for closed."""
    alpha, beta = joined
    alpha.kernel.fail_after = step
    with pytest.raises(BackendFailed):
        alpha.links.close_types(beta.name, [RED], "the policy changes")
    alpha.links.close_types(beta.name, [RED], "the policy changes")
    assert not carries(beta, "shvm1-0", alpha, "shvm0-0")
    state = alpha.kernel.read()
    assert {tunnel.context for tunnel in state.tunnels} == {alpha.label_map.link_context(BLUE)}
    assert len(state.spd) == len(BLOCK_ENTRIES) + 2


def test_the_bridge_of_a_vm_that_does_not_start_is_not_wanted(alpha: Host) -> None:
    alpha.links.reconcile({})
    alpha.kernel.fail_after = 0
    with pytest.raises(BackendFailed):
        alpha.links.ensure_bridge(RED)
    alpha.links.reconcile({})
    assert not alpha.kernel.read().bridges
    alpha.links.ensure_bridge(RED)
    alpha.links.reconcile({})
    assert len(alpha.kernel.read().bridges) == 1  # the VM is on its way


def test_the_end_of_the_unit_closes_gates_even_if_nothing_can_be_read(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    with mock.patch.object(alpha.kernel, "read", side_effect=BackendFailed("unreadable")), pytest.raises(BackendFailed):
        alpha.links.close_all()
    assert not alpha.kernel.read().gate
    assert not carries(alpha, "shvm0-0", beta, "shvm1-0")
