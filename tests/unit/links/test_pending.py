"""What is still to do, in words: the same as a reconciliation then does, and nothing is touched by asking."""

from collections.abc import Callable

import pytest

from shamon_host.links.pending import Pending
from shamon_host.links.tap_filter import TapFilter
from tests.unit.links.conftest import LEASE_S, RED, Host, join
from tests.unit.links.test_invariants import ANYTHING_OUT

TAP = "shvm0-0"


@pytest.fixture
def joined(alpha: Host, beta: Host) -> tuple[Host, Host]:
    for host in (alpha, beta):
        host.links.reconcile({})
        host.start_vm(TAP, RED)
        host.look()
    join(alpha, beta)
    return alpha, beta


def _pending(host: Host) -> Pending:
    """Asked twice: asking changes nothing, neither in the kernel nor in the books."""
    before = host.kernel.read(), host.documents.kept, host.links.agreed(), len(host.audited)
    first, second = (host.links.pending(host.taps, host.filters) for _ in range(2))
    assert first == second
    assert (host.kernel.read(), host.documents.kept, host.links.agreed(), len(host.audited)) == before
    return first


def _applied(host: Host) -> list[str]:
    """What the next reconciliation did first."""
    mark = len(host.audited)
    host.look()
    done = [detail["operations"] for kind, _, detail in host.audited[mark:] if kind == "link.apply"]
    return list(done[0]) if done else []


def test_nothing_to_do_when_the_kernel_holds_what_is_wanted(joined: tuple[Host, Host]) -> None:
    for host in joined:
        assert _pending(host).nothing


@pytest.mark.parametrize(
    ("disturb", "words"),
    [
        (lambda host: host.kernel.flush_policies(), "add SPD entry"),
        (lambda host: host.kernel.put_policy(ANYTHING_OUT), "delete foreign SPD entry"),
        (lambda host: host.kernel.damage_guard(), "install the guard"),
        (lambda host: host.kernel.put_port("shbr1", "eth9"), "detach eth9"),
        (lambda host: host.kernel.unseal("shbr1"), "create bridge shbr1"),
        (lambda host: host.filters.update({TAP: TapFilter(device=TAP, sends=False)}), "set the filter of tap"),
        (lambda host: host.taps.clear(), f"detach {TAP}"),
    ],
)
def test_what_is_missing_or_in_the_way_is_told_and_is_what_is_done_then(
    joined: tuple[Host, Host], disturb: Callable[[Host], object], words: str
) -> None:
    alpha, _ = joined
    disturb(alpha)
    told = _pending(alpha)
    assert any(words in operation for operation in told.operations)
    assert list(told.operations) == _applied(alpha)
    assert not _pending(alpha).operations


def test_what_only_a_handshake_brings_back(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    alpha.kernel.flush_sas()
    assert _pending(alpha) == Pending(handshakes=(beta.name,))
    alpha.look()
    assert alpha.links.needs_rekey() == (beta.name,)
    join(alpha, beta)
    assert _pending(alpha).nothing


def test_links_whose_lease_is_over_are_to_go(joined: tuple[Host, Host]) -> None:
    alpha, _ = joined
    alpha.clock.advance(LEASE_S)
    told = _pending(alpha)
    assert any(operation.startswith("delete tunnel") for operation in told.operations)
    assert told.handshakes == ()
    assert list(told.operations) == _applied(alpha)


def test_without_selinux_enforcing_every_link_is_to_go(joined: tuple[Host, Host]) -> None:
    alpha, _ = joined
    alpha.kernel.selinux.set_enforcing(False)
    told = _pending(alpha)
    assert any(operation.startswith("delete SAs") for operation in told.operations)
    assert list(told.operations) == _applied(alpha)
