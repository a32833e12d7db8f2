"""`python -m tests.bench.policy`: how fast a big policy is loaded, asked, compared with another and adapted to it.

Prints medians over several rounds, the goal of each figure where there is one, and the ratio to a baseline that ran in
the same rounds; `--json FILE` writes them down. A goal that is not met is no failure: machines differ, and this one may
be busy. Exits with 1 only if something was computed that is not so.
"""

import os
import platform
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from shamon_host.domain.flows import flow_system
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import parse_policy
from tests.bench.big_policies import Size, big_policy, peer_of
from tests.bench.command import bench_parser, run_bench
from tests.bench.measuring import Measurement
from tests.bench.memory import taken
from tests.bench.policy_decisions import Questions, ask_may_send, check_decisions, deciding
from tests.bench.policy_loading import loaded, loading
from tests.bench.policy_sharing import check_sharing, sharing
from tests.bench.table import print_report

FORMAT = "shamon-bench-policy-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was found out."""

    size: Size
    rounds: int
    file_bytes: int
    shared_types: int
    """Of the two policies."""
    measurements: tuple[Measurement, ...]
    memory: Mapping[str, int]
    """Bytes."""

    def as_json(self) -> Mapping[str, Any]:
        """`format`, what it was measured with, the `policy`, `memory_bytes`, and `measurements`, each of them:

        name, unit (`s`: CPU seconds; `1/s`: operations in a CPU second), median, lowest, highest, goal and met (null
        where there is none), and baseline: its name, and how many times its cost the work costs (`ratio`).
        """
        return {
            "format": FORMAT,
            "clock": "CPU time of the process",
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "load_average": list(os.getloadavg()),
            "rounds": self.rounds,
            "policy": {**asdict(self.size), "file_bytes": self.file_bytes, "shared_types": self.shared_types},
            "measurements": [each.as_json() for each in self.measurements],
            "memory_bytes": dict(self.memory),
        }


def bench(size: Size, rounds: int) -> Report:
    """Build two policies of this size, check every answer, then measure. Raises WrongAnswer."""
    written = big_policy(size)
    written_peer = peer_of(written)
    policy, peer = loaded(written), loaded(written_peer)
    questions = Questions.of(written, policy, size)
    check_decisions(written, policy, questions)
    shared = check_sharing(written, written_peer, flow_system(policy), flow_system(peer))

    def measurements() -> Iterator[Measurement]:
        yield from loading(written, policy, rounds)
        yield from deciding(policy, questions, rounds)
        yield from sharing(policy, peer, rounds)

    def remembered() -> Policy:
        fresh = replace(policy)
        ask_may_send(fresh, questions.pairs)
        return fresh

    measured = tuple(measurements())
    load = taken(lambda: parse_policy(written.toml, source="bench"))
    return Report(
        size=size,
        rounds=rounds,
        file_bytes=len(written.toml),
        shared_types=shared,
        measurements=measured,
        memory={
            "policy": load.held,
            "while it is loaded": load.most,
            "a cached decision": taken(remembered).held // len(questions.pairs),
            "this process at most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        },
    )


def main(given: Sequence[str] | None = None) -> int:
    """Measure and report."""
    return run_bench(
        "bench-policy",
        bench_parser("bench-policy", __doc__, rounds=5),
        given,
        takes="about a minute",
        bench=lambda arguments: bench(Size(), arguments.rounds),
        show=print_report,
    )


if __name__ == "__main__":
    sys.exit(main())
