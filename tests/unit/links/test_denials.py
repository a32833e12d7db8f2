"""Denials out of logs: which concern links, which concern one type, and lines that are none."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.denials import MAX_LINE, RECENT_S, Denial, denials_of, with_denials
from shamon_host.links.path_report import PathReport, Verdict

NOW_S = 1_700_000_100.0
LINK = "system_u:object_r:shamon_link_t:s0:c10"
POLMATCH = (
    "audit: type=1400 audit(1700000099.123:45): avc:  denied  { polmatch } for  pid=0 comm=\"swapper/0\" "
    "scontext=system_u:object_r:shamon_link_t:s0:c11 tcontext=system_u:object_r:shamon_spd_t:s0:c10 "
    "tclass=association permissive=0"
)  # fmt: skip
AUDITD = (
    "type=AVC msg=audit(1700000098.5:46): avc:  denied  { recv } for  pid=812 comm=\"sshd\" saddr=192.0.2.2 src=22 "
    "netif=enp0s2 scontext=system_u:system_r:sshd_t:s0-s0:c0.c1023 tcontext=system_u:object_r:unlabeled_t:s0 "
    "tclass=peer permissive=1"
)  # fmt: skip
FILE = POLMATCH.replace("association", "file").replace("shamon_link_t", "sshd_t").replace("shamon_spd_t", "etc_t")
REPORT = PathReport(
    host=HostName("alpha"),
    peer=HostName("beta"),
    type=TypeName("acme/red"),
    context=LINK,
    vm=None,
    wall_s=NOW_S,
    interval_s=1.0,
    ends=None,
    stages=(),
)


def verdict(*lines: str, report: PathReport = REPORT) -> tuple[Verdict, str]:
    (stage,) = with_denials(report, lines).stages
    return stage.verdict, stage.found


def test_lines_of_the_kernel_and_of_auditd() -> None:
    recv, polmatch = denials_of([POLMATCH, AUDITD, FILE])
    assert polmatch == Denial(
        wall_s=1_700_000_099.123,
        permissions="polmatch",
        source="system_u:object_r:shamon_link_t:s0:c11",
        target="system_u:object_r:shamon_spd_t:s0:c10",
        tclass="association",
        permissive=False,
    )
    assert (recv.permissions, recv.tclass, recv.permissive) == ("recv", "peer", True)
    assert "permissive mode let pass" in str(recv)


def test_a_denial_about_the_type_is_wrong() -> None:
    found, words = verdict(POLMATCH, POLMATCH)
    assert found is Verdict.WRONG
    assert words.startswith("2 about this type: polmatch of association denied to ")
    assert words.count("polmatch") == 1  # told once


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "none about this type"),
        ([AUDITD], "1 about other associations or peers"),
        ([POLMATCH.replace("c10", "c12")], "1 about other associations or peers"),
        ([POLMATCH.replace("c10", "c12").replace("c11", "c10.c12")], "1 about other"),
        ([POLMATCH.replace("1700000099", "1700000000")], "1 older ones"),
        ([FILE], "none about this type in the last 60 s"),
    ],
)
def test_others_are_only_counted(lines: list[str], words: str) -> None:
    found, told = verdict(*lines)
    assert (found, words in told) == (Verdict.OK, True), told


def test_without_a_category_no_denial_is_about_the_type() -> None:
    assert verdict(POLMATCH, report=replace(REPORT, context=""))[0] is Verdict.OK


def test_a_log_that_cannot_be_read_is_unknown() -> None:
    report = with_denials(REPORT, None, unread="Permission denied")
    assert report.verdict is Verdict.UNKNOWN
    assert "Permission denied" in report.stages[0].found


@pytest.mark.parametrize(
    "line",
    [
        "",
        "avc: denied",
        POLMATCH.replace("audit(1700000099.123:45)", "audit(1e9:45)"),
        POLMATCH.replace("denied", "granted"),
        POLMATCH.replace("{ polmatch }", "{ \x1b[2J }"),
        POLMATCH.replace("tclass=association", "tclass=\u202e"),
        POLMATCH.replace("shamon_spd_t", "shamon_spd_t\x07"),
        POLMATCH + " " * MAX_LINE,
        POLMATCH.replace("tcontext=", "tcontext=" + "a" * 600),
    ],
)
def test_lines_that_are_no_denials(line: str) -> None:
    assert denials_of([line]) == ()


def test_a_name_in_a_line_does_not_stand_for_what_the_kernel_says() -> None:
    """What comes last counts: the kernel writes contexts and class at the end."""
    forged = POLMATCH.replace('comm="swapper/0"', "comm=x scontext=a:b:c:s0 tcontext=a:b:c:s0 tclass=file")
    assert denials_of([forged]) == denials_of([POLMATCH])


@given(st.lists(st.text(max_size=300) | st.sampled_from([POLMATCH, AUDITD, POLMATCH[:90], POLMATCH * 9]), max_size=8))
def test_whatever_stands_in_a_log_makes_a_stage_that_prints(lines: list[str]) -> None:
    (stage,) = with_denials(REPORT, lines).stages
    assert stage.found.isprintable()
    assert len(stage.found) <= 1000
    recent = sum(line == POLMATCH for line in lines)
    assert recent == 0 or stage.verdict is Verdict.WRONG


def test_what_is_recent_is_measured_from_the_report() -> None:
    later = replace(REPORT, wall_s=NOW_S + RECENT_S)
    assert verdict(POLMATCH, report=later)[0] is Verdict.OK
