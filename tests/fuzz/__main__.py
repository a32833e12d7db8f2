"""`make fuzz`: fuzzes every parser of a stranger's bytes, one after the other, for a set time.

ARGS="--seconds 600 event-log ima-log" for other targets and times; --list names them. What was learned stays in the
corpus directory, so that the next run goes on from there. Exits with 1 if a parser raised what it may not, hung, or
took too much memory, and says which input did it.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.targets import TARGETS

_HANG_S = 10
"""One input may take so long: a parser that follows a length field without end takes longer."""
_MEMORY_MB = 1024
_LONGEST_INPUT = 64 * 1024


def main(given: Sequence[str] | None = None) -> int:
    """Fuzz, and report target by target."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all of them")
    parser.add_argument("--seconds", type=int, default=300, metavar="N", help="for all targets together (default: 300)")
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"), metavar="DIR", help="default: build/fuzz")
    parser.add_argument("--list", action="store_true", help="name the targets")
    arguments = parser.parse_args(given)
    if arguments.list:
        print("\n".join(TARGETS))
        return 0
    unknown = sorted(set(arguments.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)} (see --list)")
    names = arguments.targets or list(TARGETS)
    seconds = max(arguments.seconds // len(names), 1)
    found = [name for name in names if not _fuzz(name, arguments.corpus / name, seconds)]
    if found:
        print(f"fuzz: FOUND something in {', '.join(found)} (above)", file=sys.stderr)
        return 1
    print(f"fuzz: nothing found in {len(names)} targets")
    return 0


def _fuzz(name: str, corpus: Path, seconds: int) -> bool:
    """Whether nothing was found."""
    corpus.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "tests.fuzz.one", name),
        f"-max_total_time={seconds}",
        f"-timeout={_HANG_S}",
        f"-rss_limit_mb={_MEMORY_MB}",
        f"-max_len={_LONGEST_INPUT}",
        f"-artifact_prefix={corpus.parent}/{name}-",
        "-print_final_stats=1",
        "-verbosity=0",
        str(corpus),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    runs = next((line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line), "?")
    if done.returncode == 0:
        print(f"{name}: {runs} inputs in {seconds} s, nothing found", flush=True)
        return True
    print(f"{name}: FOUND after {runs} inputs, exit code {done.returncode}:\n{done.stderr[-4000:]}", flush=True)
    return False


if __name__ == "__main__":
    sys.exit(main())
