"""The shipped modules' text: confined, nothing given to others that is the daemon's, nothing declared in vain."""

import re

import pytest

from shamon_host.selinux import DAEMON_TYPE, KVM_MODULE, LINK_MODULE, XEN_MODULE, shipped_module
from shamon_host.selinux.file_labels import expected_type
from shamon_host.testing.cil import Policy, names_in

TEXT = shipped_module(LINK_MODULE).text.decode()
OWN = {
    "shamon_t", "shamon_exec_t", "shamon_etc_t", "shamon_data_t", "shamon_key_t", "shamon_var_lib_t",
    "shamon_var_run_t", "shamon_link_t", "shamon_spd_t", "shamon_control_port_t",
}  # fmt: skip
UNCONFINED = (
    "unconfined",
    "can_",
    "mcs",
    "mls",
    "setcontext",
    "files_",
    "kern_",
    "devices_",
    "sysctl_type",
    "file_type",
)


def _policy(name: str = LINK_MODULE) -> Policy:
    policy = Policy()
    policy.add(shipped_module(name).text.decode())
    return policy


def test_the_modules_can_be_read() -> None:
    assert _policy().declared == OWN
    assert _policy(KVM_MODULE).declared == set()
    assert _policy(XEN_MODULE).declared == {"xen_privcmd_t", "xen_gntdev_t"}


def test_the_daemons_domain_has_no_attribute_that_unconfines() -> None:
    attributes = {
        str(name) for name, members in _policy().of("typeattributeset") if DAEMON_TYPE in set(names_in([members]))
    }
    assert attributes
    assert {name for name in attributes if name.startswith(UNCONFINED)} == set()
    assert "typepermissive" not in TEXT


def test_the_daemon_is_given_no_rule_by_an_attribute_of_everything() -> None:
    """Its targets are named types, but for the domains of VMs and its own groups."""
    targets = {str(target) for source, target, _ in _policy().of("allow") if source == DAEMON_TYPE}
    assert {name for name in targets if not name.endswith("_t")} <= {
        "self",
        "shamon_readable",
        "shamon_passable",
        "virt_domain",
    }


def test_nobody_else_is_allowed_what_is_the_daemons() -> None:
    """Links and SPD entries are labelled, and keys and state read, by the daemon alone."""
    own = {"shamon_key_t", "shamon_data_t", "shamon_link_t", "shamon_spd_t"}
    given = [
        (str(source), str(target), sorted(names_in([vector])))
        for source, target, vector in _policy().of("allow")
        if target in own and source not in (DAEMON_TYPE, "shamon_link_t")
    ]
    assert given == [
        ("init_t", "shamon_link_t", ["getattr", "getopt", "ioctl", "read", "setopt", "udp_socket", "write"])
    ]
    assert not any(
        "setcontext" in names_in([vector]) for source, _, vector in _policy().of("allow") if source != DAEMON_TYPE
    )


def test_types_are_kept_apart_by_constraints_on_equal_levels() -> None:
    found = {tuple(names_in([vector])) for vector, _ in _policy().of("mlsconstrain")}
    assert found == {("peer", "recv"), ("association", "sendto", "recvfrom"), ("association", "polmatch")}
    for _, condition in _policy().of("mlsconstrain"):
        words = list(names_in([condition]))
        assert words[-7:] == ["and", "eq", "l1", "l2", "eq", "h1", "h2"]
    constrained = {tuple(names_in([vector])) for vector, _ in _policy().of("constrain")}
    assert {("association", "setcontext"), ("udp_socket", "create"), ("process", "ptrace")} <= constrained


def test_what_is_declared_is_used() -> None:
    """A type without a rule, a set of permissions that nothing names."""
    policy = _policy()
    ruled = {str(name) for statement in policy.of("allow") for name in statement[:2]}
    labelled = {name for statement in policy.of("filecon") for name in names_in(statement)}
    assert policy.declared - ruled - labelled == set()
    sets = {str(name) for (name,) in policy.of("classpermission")}
    assert sets == {str(vector) for *_, vector in policy.of("allow") if isinstance(vector, str)}
    for name in policy.declared:
        assert sum(name in statement for statement in policy.of("roletype")) >= 1


def test_no_rule_stands_twice() -> None:
    rules = [str(statement) for statement in _policy().of("allow")]
    assert len(rules) == len(set(rules))


def test_dontaudit_hides_no_access_that_is_granted_or_of_others() -> None:
    hidden = list(_policy().of("dontaudit"))
    assert {(str(source), str(target)) for source, target, _ in hidden} == {(DAEMON_TYPE, "self")}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/opt/shamon/bin/shamon", "shamon_exec_t"),
        ("/etc/shamon", "shamon_etc_t"),
        ("/etc/shamon/host.toml", "shamon_etc_t"),
        ("/etc/shamon/host.key", "shamon_key_t"),
        ("/etc/shamon/peers", "shamon_data_t"),
        ("/etc/shamon/peers/alpha.record", "shamon_data_t"),
        ("/etc/shamon/old/host.key", "shamon_key_t"),
        ("/var/lib/shamon", "shamon_var_lib_t"),
        ("/var/lib/shamon/daemon.lock", "shamon_var_lib_t"),
        ("/run/shamon/shamon.sock", "shamon_var_run_t"),
        ("/opt/shamon/bin/python", None),
        ("/etc/shamon-other", None),
        ("/var/lib/shamonic", None),
    ],
)
def test_expected_types_are_those_of_the_modules_file_contexts(path: str, kind: str | None) -> None:
    assert expected_type(path) == kind
    matching = [
        (_literal(str(pattern).strip('"')), next(name for name in names_in([context]) if name.endswith("_t")))
        for pattern, _, context in _policy().of("filecon")
        if re.fullmatch(str(pattern).strip('"'), path)
    ]
    assert (max(matching)[1] if matching else None) == kind


def _literal(pattern: str) -> tuple[bool, int]:
    """By which SELinux prefers one of several that match (selabel_file(5)): without a wildcard, then the longest start
    that has none."""
    start = re.split(r"(?<!\\)[.^$?*+|\[({]", pattern, maxsplit=1)[0]
    return start == pattern, len(start)
