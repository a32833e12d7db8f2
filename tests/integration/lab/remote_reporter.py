"""A pytest plugin that tells what each test did, one JSON object a line, in the file that `SHAMON_REPORT` names.

It runs inside a lab host, beside a suite that `remote_pytest` sent there.
"""

import json
import os

import pytest

_REPORT = os.environ.get("SHAMON_REPORT", "/dev/null")
_WORDS_LIMIT = 20_000


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell of a phase that says something: the call, or a set-up or tear-down that did not pass."""
    if report.when == "call" or report.outcome != "passed":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        words = "\n".join([reason, *(f"--- {title}\n{text}" for title, text in report.sections)]) if reason else ""
        _tell(report.nodeid, report.outcome, words, report.duration)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Tell of a module that could not be read."""
    if report.outcome == "failed":
        _tell(report.nodeid, "failed", report.longreprtext, 0.0)


def _tell(nodeid: str, outcome: str, words: str, duration_s: float) -> None:
    line = {"nodeid": nodeid, "outcome": outcome, "words": words[-_WORDS_LIMIT:], "duration_s": round(duration_s, 3)}
    with open(_REPORT, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
