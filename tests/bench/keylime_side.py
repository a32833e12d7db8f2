"""Keylime's side of the bench: runs in Keylime's own virtual environment and knows nothing of this project.

`keylime_side.py DIRECTORY` reads `log.ascii`, `policy.json` and `pcr10` there, and then, for each line on standard
input, lets Keylime process the whole measurement list once and prints the CPU seconds that it took as a line of JSON.
"""

import json
import logging
import sys
import types
from pathlib import Path
from time import process_time

# Only signatures of policies need it, and Debian alone has it ready-made.
sys.modules["gpg"] = types.ModuleType("gpg")
logging.disable(logging.CRITICAL)

from keylime.common.algorithms import Hash
from keylime.ima.ima import process_measurement_list


def main() -> None:
    """Serve until standard input ends."""
    directory = Path(sys.argv[1])
    lines = (directory / "log.ascii").read_text().splitlines(keepends=True)
    policy = json.loads((directory / "policy.json").read_text())
    pcr = (directory / "pcr10").read_text().strip()
    for _ in sys.stdin:
        start = process_time()
        value, failure = process_measurement_list(
            None, lines, runtime_policy=policy, pcrval=pcr, hash_alg=Hash.SHA256
        )
        cost_s = process_time() - start
        print(json.dumps({"cost_s": cost_s, "pcr": value, "failed": bool(failure)}), flush=True)


if __name__ == "__main__":
    main()
