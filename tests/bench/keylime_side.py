"""Keylime's side of the bench: runs in Keylime's own virtual environment and knows nothing of this project.

`keylime_side.py DIRECTORY` reads `log.ascii`, `policy.json` and `pcr10` there, and then, for each line on standard
input, lets Keylime process the whole measurement list once and prints the CPU seconds that it took as a line of JSON.
"""

import importlib
import json
import logging
import sys
import types
from pathlib import Path
from time import process_time


def main() -> None:
    """Serve until standard input ends."""
    # Only signatures of policies need it, and Debian alone has it ready-made.
    sys.modules["gpg"] = types.ModuleType("gpg")
    logging.disable(logging.CRITICAL)
    sha256 = importlib.import_module("keylime.common.algorithms").Hash.SHA256
    process = importlib.import_module("keylime.ima.ima").process_measurement_list
    directory = Path(sys.argv[1])
    lines = (directory / "log.ascii").read_text().splitlines(keepends=True)
    policy = json.loads((directory / "policy.json").read_text())
    pcr = (directory / "pcr10").read_text().strip()
    for _ in sys.stdin:
        start = process_time()
        value, failure = process(None, lines, runtime_policy=policy, pcrval=pcr, hash_alg=sha256)
        cost_s = process_time() - start
        print(json.dumps({"cost_s": cost_s, "pcr": value, "failed": bool(failure)}), flush=True)


if __name__ == "__main__":
    main()
