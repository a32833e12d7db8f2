"""`python -m tests.bench.attestation`: how fast logs and quotes are appraised, and how many quotes many peers cost.

Prints medians over several rounds, the goal of each figure where there is one, and the ratio to a baseline that ran in
the same rounds: a bare replay of the log, the check of a signature, Keylime's verifier on the same log and the same
known files (in a process of its own, `tools/set-up bench`). Handshakes go over real TLS between two software TPMs,
where those are set up. `--json FILE` writes all of it down. A goal that is not met is
no failure: machines differ, and this one may be busy. Exits with 1 only if something was computed that is not so.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shamon_host.attestation.attester import GATHER_S
from tests.bench.answers import WrongAnswer
from tests.bench.attestation_logs import full_appraisal, increment, keylime_of, memory_of
from tests.bench.attestation_quotes import quotes_of_a_crowd, verifying
from tests.bench.big_logs import BigLog
from tests.bench.command import bench_parser, run_bench
from tests.bench.measuring import Measurement
from tests.bench.table import print_measurements, print_memory

FORMAT = "shamon-bench-attestation-1"


_PARTS = {
    "handshake": f"mutual handshake, loopback, software TPMs, {GATHER_S * 1000:.0f} ms of gathering in it",
    "quote": "  of it a quote",
    "appraise": "  of it an appraisal, nothing new in a log of 1,000 entries",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    entries: int = 16_000
    many_entries: int = 200_000
    added: int = 10
    hosts: int = 51
    handshakes: int = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was found out."""

    rounds: int
    measurements: tuple[Measurement, ...]
    memory: Mapping[str, int]
    """Bytes."""
    quotes: Mapping[str, float]
    handshakes_ms: Mapping[str, Mapping[str, float]]
    """Of each part the p50 and p99, wall-clock milliseconds; empty where it could not be measured."""

    def as_json(self) -> Mapping[str, Any]:
        """`format`, what it was measured with, `measurements` as in the bench of policies, `memory_bytes`,
        `quotes`: numbers of TPM2_Quote commands, and `handshakes_ms`."""
        return {
            "format": FORMAT,
            "clock": "CPU time of the process",
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "load_average": list(os.getloadavg()),
            "rounds": self.rounds,
            "measurements": [each.as_json() for each in self.measurements],
            "memory_bytes": dict(self.memory),
            "quotes": dict(self.quotes),
            "handshakes_ms": {part: dict(figures) for part, figures in self.handshakes_ms.items()},
        }


def handshakes(count: int, environment: Path) -> Mapping[str, Mapping[str, float]]:
    """Whole mutual handshakes, see `handshake_side`; nothing, and a word about it, where they cannot be made."""
    python = environment / "bin" / "python"
    if not python.exists() or shutil.which("swtpm") is None:
        print(f"bench-attestation: no software TPMs in {environment}: handshakes are not measured", file=sys.stderr)
        return {}
    command = [str(python), "-m", "tests.bench.handshake_side", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WrongAnswer(f"the handshakes failed: {done.stderr.strip().splitlines()[-1:]}")
    found: Mapping[str, Mapping[str, float]] = json.loads(done.stdout)
    return found


def bench(size: Size, rounds: int, keylime: Path, tpms: Path) -> Report:
    """Make logs and hosts, check every answer, then measure. Raises WrongAnswer."""
    log = BigLog(entries=size.entries)
    with keylime_of(log, keylime) as side:
        measurements = list(full_appraisal(log, side, rounds))
    memory = memory_of(log)
    measurements.append(increment(log, size.added, rounds))
    measurements += verifying(rounds)
    many = BigLog(entries=size.many_entries)
    measurements += full_appraisal(many, None, min(rounds, 2))
    return Report(
        rounds=rounds,
        measurements=tuple(measurements),
        memory={**memory, **memory_of(many)},
        quotes=quotes_of_a_crowd(size.hosts),
        handshakes_ms=handshakes(size.handshakes, tpms),
    )


def print_report(report: Mapping[str, Any]) -> None:
    """The table, memory, and quotes. `report` is in the form of the JSON file."""
    load = ", ".join(f"{each:.1f}" for each in report["load_average"])
    print(
        f"Medians of {report['rounds']} rounds, in {report['clock']}: other work on this machine slows it down and does"
        f" not count as time.\nRatios are to a baseline of the same rounds. Python {report['python']},"
        f" {report['cpus']} CPUs, load average {load}.\n"
    )
    print_measurements(report["measurements"])
    print_memory(report["memory_bytes"])
    quotes = dict(report["quotes"])
    print(f"TPM2_Quote commands of a host with {quotes.pop('peers')} peers: ", end="")
    print("; ".join(f"{value:g} {name}" for name, value in quotes.items()))
    for part, figures in report["handshakes_ms"].items():
        print(f"{_PARTS[part]}: p50 {figures['p50']:.1f} ms, p99 {figures['p99']:.1f} ms")


def main(given: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = bench_parser("bench-attestation", __doc__, rounds=7)
    parser.add_argument(
        "--keylime", type=Path, default=Path(".venv-keylime"), metavar="DIR", help="Keylime's virtual environment"
    )
    parser.add_argument(
        "--tpms", type=Path, default=Path(".venv-tpm"), metavar="DIR", help="a virtual environment with the TPM stack"
    )
    return run_bench(
        "bench-attestation",
        parser,
        given,
        takes="two minutes",
        bench=lambda arguments: bench(Size(), arguments.rounds, arguments.keylime, arguments.tpms),
        show=print_report,
    )


if __name__ == "__main__":
    sys.exit(main())
