"""How many examples hypothesis tries: few while people wait, as many as the tests ask for when somebody has the time.

make test                        about a seventh of them, so that the suite takes less than a minute
make test SHAMON_EXAMPLES=1      all of them; 10 for ten times as many
"""

import os

SHARE = float(os.environ.get("SHAMON_EXAMPLES") or 0.15)
_LEAST = 4


def examples(wanted: int) -> int:
    """The number of examples to try where a test wants so many."""
    return max(_LEAST, round(wanted * SHARE))
