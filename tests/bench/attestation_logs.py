"""How fast a whole IMA log, and what was added to it, is appraised: against a bare replay, and against Keylime."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shamon_host.attestation.appraisal import appraise_quoted
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.domain.policy import Demands
from shamon_host.domain.results import ClaimStatus
from tests.bench.answers import WrongAnswer
from tests.bench.big_logs import BigLog, bare_replay, write_for_keylime
from tests.bench.measuring import Measurement, Unit, Work, measured
from tests.bench.memory import taken

_DEMANDS = Demands(allow_software_tpm=True)
_SIDE = Path(__file__).with_name("keylime_side.py")
_MIB = 1 << 20


def appraiser(log: BigLog) -> Callable[[], VerifierState]:
    """Appraises the whole log with nothing known of it, and makes sure that it passes. Raises WrongAnswer."""
    quoted, evidence = log.quoted()
    reference = log.reference

    def appraise() -> VerifierState:
        claims, state = appraise_quoted(quoted, evidence, demands=_DEMANDS, reference=reference, state=None)
        if any(claim.status is not ClaimStatus.PASS for claim in claims):
            raise WrongAnswer(
                f"a good log fails: {[claim for claim in claims if claim.status is not ClaimStatus.PASS]}"
            )
        if state.facts.entries != len(log.machine.logs.entries):
            raise WrongAnswer(f"{state.facts.entries} entries were appraised of {len(log.machine.logs.entries)}")
        return state

    return appraise


def full_appraisal(log: BigLog, keylime: "Keylime | None", rounds: int) -> Iterator[Measurement]:
    """Against a bare replay, and against Keylime where it is there."""
    appraise = appraiser(log)
    appraise()
    data = log.machine.logs.ima_log(0)
    if bare_replay(data) != log.machine.tpm.pcrs[10]:
        raise WrongAnswer("the bare replay does not lead to PCR 10")
    count = len(log.machine.logs.entries)
    work = Work(name=f"appraise a log of {count:,} entries", prepare=lambda: None, run=lambda _: appraise())
    bare = Work(name="a bare replay", prepare=lambda: None, run=lambda _: bare_replay(data))
    yield measured(work, bare, unit=Unit.SECONDS, rounds=rounds, ratio_goal=1.6)
    if keylime is not None:
        again = Work(name=f"the same {count:,} entries", prepare=lambda: None, run=lambda _: appraise())
        yield measured(again, keylime, unit=Unit.SECONDS, rounds=rounds, ratio_goal=0.25)


def increment(log: BigLog, count: int, rounds: int) -> Measurement:
    """What was measured since the last appraisal."""
    state = appraiser(log)()
    data = log.machine.logs.ima_log(0)
    log.run_more(count)
    quoted, evidence = log.quoted(ima_offset=state.ima_offset)
    reference = log.reference

    def appraise() -> None:
        claims, following = appraise_quoted(quoted, evidence, demands=_DEMANDS, reference=reference, state=state)
        if following.facts.entries != state.facts.entries + count:
            raise WrongAnswer(f"an increment of {count} was not appraised: {claims}")

    appraise()
    work = Work(name=f"appraise {count} entries more", prepare=lambda: None, run=lambda _: appraise())
    bare = Work(name="a bare replay of the log before", prepare=lambda: None, run=lambda _: bare_replay(data))
    return measured(work, bare, unit=Unit.SECONDS, rounds=4 * rounds, goal=0.001)


def memory_of(log: BigLog) -> dict[str, int]:
    """Bytes beyond the log itself and the Reference Values: held by the next state, and at most meanwhile."""
    appraise = appraiser(log)
    appraise()
    found = taken(appraise)
    count = len(log.machine.logs.entries)
    return {
        f"log of {count:,} entries": len(log.machine.logs.ima_log(0)),
        f"beside it while {count:,} entries are appraised": found.most,
    }


@dataclass(frozen=True, slots=True)
class Keylime:
    """Keylime's verifier in a process of its own, with the same log and the same known files."""

    name: str
    _process: "subprocess.Popen[str]"
    _input: IO[str]
    _output: IO[str]
    _pcr: str

    def cost_s(self) -> float:
        """CPU seconds of one `process_measurement_list`. Raises WrongAnswer where it does not accept the log."""
        self._input.write("again\n")
        self._input.flush()
        line = self._output.readline()
        if not line:
            raise WrongAnswer(f"Keylime's process ended with {self._process.wait()}")
        said = json.loads(line)
        if said["failed"] or said["pcr"] != self._pcr:
            raise WrongAnswer("Keylime does not accept the same log under the same known files")
        return float(said["cost_s"])


@contextmanager
def keylime_of(log: BigLog, environment: Path) -> Iterator[Keylime | None]:
    """Keylime from its virtual environment; None, and a word about it, where that is not there."""
    python = environment / "bin" / "python"
    if not python.exists():
        print(f"bench-attestation: no Keylime in {environment} (make bench-attestation sets it up)", file=sys.stderr)
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        write_for_keylime(log, Path(directory))
        with subprocess.Popen(
            [python, _SIDE, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            yield Keylime("Keylime 7.14", process, process.stdin, process.stdout, log.machine.tpm.pcrs[10].hex())
            process.stdin.close()
