"""`python -m tests.fuzz.one TARGET [libFuzzer options] CORPUS`: coverage-guided fuzzing of one parser.

Runs until libFuzzer's limit, or until the parser raises what it may not: then libFuzzer leaves the input in a file and
this ends with its exit code. Needs atheris (`make fuzz` sets it up).
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["shamon_host"]):
    from tests.fuzz.targets import TARGETS, run


def main() -> None:
    """Fuzz the target that the command line names, from its seeds and the corpus."""
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    corpus = Path(options[-1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options], lambda data: run(target, data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
