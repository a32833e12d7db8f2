"""Programs and calls that end within a time, whatever they run into."""

import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from shamon_host.doctor.look import Look, not_installed, reason_of

T = TypeVar("T")

PROGRAM_LIMIT_S = 60.0
MAX_OUTPUT_BYTES = 8 << 20
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}

Run = Callable[[Sequence[str]], Look[str]]
"""A program with its arguments → what it printed."""


def run_program(arguments: Sequence[str]) -> Look[str]:
    """Unread where the program is not installed, fails, or does not end in time."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            done = subprocess.run(
                list(arguments),
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=PROGRAM_LIMIT_S,
                env=_ENVIRONMENT,
            )
        except FileNotFoundError:
            return Look(unread=not_installed(arguments[0]))
        except subprocess.TimeoutExpired:
            return Look(unread=f"{arguments[0]} did not answer within {PROGRAM_LIMIT_S:.0f} s")
        except OSError as error:
            return Look(unread=f"{arguments[0]}: {error.strerror or error}")
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read(MAX_OUTPUT_BYTES + 1).decode("utf-8", "replace"))
    printed, complaint = texts
    if done.returncode != 0:
        words = " ".join(complaint.split())[:300] or f"exit code {done.returncode}"
        return Look(unread=reason_of(f"{arguments[0]}: {words}"))
    if len(printed) > MAX_OUTPUT_BYTES:
        return Look(unread=f"{arguments[0]} printed more than {MAX_OUTPUT_BYTES} bytes")
    return Look(printed)


def no_program(arguments: Sequence[str]) -> Look[str]:
    """For who wants none to be run: where programs are measured, to run one leaves a trace."""
    return Look(unread=f"no program is run, so {arguments[0]} is not asked")


def within(limit_s: float, what: str, look: Callable[[], Look[T]]) -> Look[T]:
    """What `look` finds, if it ends in time; else the thread that waits for it is left to end with the program."""
    found: list[Look[T]] = []
    thread = threading.Thread(target=lambda: found.append(look()), name=what, daemon=True)
    thread.start()
    thread.join(limit_s)
    return found[0] if found else Look(unread=f"{what} did not answer within {limit_s:.0f} s")
