"""What must hold before anything labelled is made: the shipped module gives the right answers, and each rule or
constraint that is taken out of it is missed."""

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.selinux import LINK_MODULE, shipped_module
from shamon_host.selinux.link_conditions import DAEMON, link_findings, missing, own_domain
from shamon_host.selinux.questions import Group
from shamon_host.testing.selinux import MemorySelinuxHost

CIL = shipped_module(LINK_MODULE).text.decode()
SSHD = "system_u:system_r:sshd_t:s0-s0:c0.c1023"


def _missing(*texts: str, domains: tuple[str, ...] = ()) -> str:
    kernel = MemorySelinuxHost().kernel
    kernel.load(texts)
    return "\n".join(missing(link_findings(kernel, own=DAEMON, domains=domains)))


def _without(line: str) -> str:
    assert CIL.count(line) == 1
    return CIL.replace(line, "")


def test_the_shipped_module_is_fit() -> None:
    assert _missing(CIL, domains=(SSHD,)) == ""


def test_without_the_module_its_contexts_are_named_and_how_to_load_it() -> None:
    found = _missing()
    assert "shamon_link_t" in found
    assert "shamon selinux install" in found


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("(allow domain unlabeled_t (peer (recv)))", "sshd_t: receives what has no label"),
        ("(allow domain unlabeled_t (association (sendto recvfrom polmatch)))", "sshd_t: uses SAs"),
        ("(allow unlabeled_t netif_t (netif (egress)))", "unlabeled_t: goes out"),
        ("(allow unlabeled_t node_t (node (sendto)))", "unlabeled_t: goes to any address"),
        ("(allow shamon_t shamon_link_t (association (setcontext)))", "shamon_t: labels SAs"),
        ("(allow shamon_t shamon_spd_t (association (setcontext)))", "shamon_t: labels SPD entries"),
        ("(allow shamon_t shamon_link_t shamon_socket)", "shamon_t: makes link sockets"),
        ("(allow shamon_link_t shamon_spd_t (association (polmatch)))", "c10 meets an SPD entry of c10"),
        (
            "(mlsconstrain (association (polmatch)) (or (neq t2 shamon_spd_t) (and (eq l1 l2) (eq h1 h2))))",
            "c10 meets an SPD entry of c11",
        ),
        (
            "(mlsconstrain (association (sendto recvfrom)) (or (neq t1 shamon_link_t) (and (eq l1 l2) (eq h1 h2))))",
            "c10 meets an SA of c11",
        ),
        (
            "(constrain (association (setcontext)) "
            "(or (eq t1 shamon_t) (and (neq t2 shamon_link_t) (neq t2 shamon_spd_t))))",
            "unconfined_t: labels SAs",
        ),
        (
            "(constrain (udp_socket (create)) (or (eq t1 shamon_t) (neq t2 shamon_link_t)))",
            "unconfined_t: makes link sockets",
        ),
    ],
)
def test_each_rule_that_links_stand_on_is_missed(line: str, words: str) -> None:
    assert words in _missing(_without(line))


@pytest.mark.parametrize("name", ["shamon_t", "shamon_link_t", "svirt_t", "unconfined_t"])
def test_a_permissive_domain_counts_as_not_enforcing(name: str) -> None:
    assert "permissive" in _missing(CIL, f"(typepermissive {name})")


def test_more_categories_are_not_enough() -> None:
    """A constraint by which more dominates less would let a link of two types meet both."""
    constraint = "(mlsconstrain (association (polmatch)) (or (neq t2 shamon_spd_t) (and (eq l1 l2) (eq h1 h2))))"
    weaker = "(mlsconstrain (association (polmatch)) (or (neq t2 shamon_spd_t) (eq t1 shamon_link_t)))"
    assert "c10,c11 meets an SPD entry of c10" in _missing(CIL.replace(constraint, weaker))


def test_a_policy_without_categories_or_peer_checks_is_not_fit() -> None:
    for flag, words in (("mls", "categories"), ("policy_capabilities/network_peer_controls", "peers on the network")):
        kernel = MemorySelinuxHost().with_module().kernel
        kernel.flags[flag] = False
        findings = link_findings(kernel, own=DAEMON, domains=())
        (wrong,) = [finding for finding in findings if not finding.ok]
        assert words in wrong.in_words
        assert "SELINUXTYPE=default" in wrong.remedy


def test_a_domain_that_runs_and_is_no_domain_to_the_policy_would_be_locked_out() -> None:
    found = _missing(CIL, "(type strange_t)", domains=("system_u:system_r:strange_t:s0",))
    assert "strange_t: receives what has no label" in found
    assert "sshd_t" not in found


def test_domains_that_the_policy_does_not_know_are_left_out() -> None:
    assert _missing(CIL, domains=("system_u:system_r:nowhere_t:s0", "no context")) == ""


def test_the_daemon_must_run_in_its_own_domain() -> None:
    assert own_domain(DAEMON).ok
    for other in ("unconfined_u:unconfined_r:unconfined_t:s0", "", "shamon_t"):
        finding = own_domain(other)
        assert not finding.ok
        assert finding.group is Group.DAEMON
        assert "systemctl restart shamon" in finding.remedy


def test_selinux_that_cannot_be_asked_is_an_error() -> None:
    host = MemorySelinuxHost().with_module()
    host.kernel.fails = "No such file or directory"
    with pytest.raises(BackendFailed):
        link_findings(host.kernel, own=DAEMON, domains=())
