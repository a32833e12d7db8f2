"""`shamon selinux check`: what a whole host must show, and what is told when it does not."""

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.selinux import LINK_MODULE, shipped_module
from shamon_host.selinux.checking import check_host, in_rows, remedies
from shamon_host.selinux.questions import Finding
from shamon_host.testing.selinux import MemorySelinuxHost

CIL = shipped_module(LINK_MODULE).text.decode()


def _wrong(host: MemorySelinuxHost) -> list[Finding]:
    return [finding for finding in check_host(host.kernel, host.labels) if not finding.ok]


@pytest.fixture
def host() -> MemorySelinuxHost:
    """Installed, labelled, enforcing, and the daemon runs."""
    host = MemorySelinuxHost().with_module()
    host.labels.running[77] = "system_u:system_r:shamon_t:s0-s0:c0.c1023"
    host.labels.daemon = {77}
    return host


def test_a_host_as_it_should_be(host: MemorySelinuxHost) -> None:
    assert _wrong(host) == []
    groups = {str(finding.group) for finding in check_host(host.kernel, host.labels)}
    assert groups == {
        "mode", "contexts", "links", "types apart", "no lock-out", "daemon", "processes", "files"
    }  # fmt: skip


def test_without_the_module_there_is_one_remedy() -> None:
    host = MemorySelinuxHost()
    wrong = _wrong(host)
    assert {str(finding.group) for finding in wrong} == {"contexts"}
    assert remedies(wrong) == ("Load Shamon's module: shamon selinux install",)


def test_permissive_and_a_boolean(host: MemorySelinuxHost) -> None:
    host.kernel.enforcing = False
    host.kernel.flags["checkreqprot"] = True
    host.kernel.booleans["allow_ptrace"] = True
    wrong = _wrong(host)
    assert [finding.who for finding in wrong] == ["kernel", "kernel", "boolean allow_ptrace"]
    assert "setsebool -P allow_ptrace off" in remedies(wrong)
    assert not any(finding.of_policy for finding in wrong)


def test_a_permissive_domain_that_runs(host: MemorySelinuxHost) -> None:
    host.kernel.load([CIL, "(typepermissive sshd_t)"])
    assert {"sshd_t"} == {finding.who for finding in _wrong(host)}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("(allow shamon_t self (capability (sys_module)))", "loads modules into the kernel"),
        ("(allow shamon_t shadow_t (file (read)))", "reads passwords"),
        ("(allow shamon_t shamon_etc_t (file (write)))", "changes its configuration"),
        ("(allow shamon_t security_t (security (load_policy)))", "changes SELinux's mode"),
        ("(allow shamon_t init_t (process (ptrace)))", "becomes or traces systemd"),
        ("(typepermissive shamon_t)", "shamon_t"),
    ],
)
def test_a_daemon_that_can_do_more_than_it_needs(host: MemorySelinuxHost, rule: str, words: str) -> None:
    host.kernel.load([CIL, rule])
    wrong = _wrong(host)
    assert any(words in finding.in_words for finding in wrong)
    assert all(finding.remedy for finding in wrong)


def test_a_daemon_in_another_domain(host: MemorySelinuxHost) -> None:
    host.labels.running[77] = "system_u:system_r:initrc_t:s0"
    (wrong,) = [finding for finding in _wrong(host) if "own domain" in finding.what]
    assert (wrong.who, wrong.found) == ("process 77", "initrc_t")


def test_files_without_their_label(host: MemorySelinuxHost) -> None:
    host.labels.labels["/etc/shamon/host.key"] = "system_u:object_r:etc_t:s0"
    host.labels.labels["/opt/shamon/bin/shamon"] = ""
    wrong = _wrong(host)
    assert [(finding.who, finding.expected, finding.found) for finding in wrong] == [
        ("/etc/shamon/host.key", "shamon_key_t", "etc_t"),
        ("/opt/shamon/bin/shamon", "shamon_exec_t", "no label"),
    ]
    assert remedies(wrong) == ("Label it: shamon selinux install",)


def test_rows_gather_what_is_said_of_many(host: MemorySelinuxHost) -> None:
    findings = check_host(host.kernel, host.labels)
    rows = in_rows(findings)
    assert len(rows) < len(findings)
    (received,) = [row for row in rows if row["what"] == "receives what has no label"]
    assert received["result"] == "ok"
    assert received["who"].endswith("of them")
    (labels,) = [row for row in rows if row["what"] == "labels SAs" and row["expected"] == "allowed"]
    assert labels["who"] == "shamon_t"


def test_a_wrong_answer_stands_in_a_row_of_its_own(host: MemorySelinuxHost) -> None:
    host.kernel.load([CIL, "(typepermissive sshd_t)"])
    rows = in_rows(check_host(host.kernel, host.labels))
    assert {row["who"] for row in rows if row["result"] == "WRONG"} == {"sshd_t"}


def test_selinux_that_is_off_is_an_error(host: MemorySelinuxHost) -> None:
    host.kernel.fails = "No such file or directory"
    with pytest.raises(BackendFailed, match="cannot be asked"):
        check_host(host.kernel, host.labels)
