"""Canonical JSON: one sequence of bytes for one value, so that a digest stands for the value.

Policy digests and audit records are taken over these bytes. Keys are sorted, nothing is padded, everything is ASCII.
"""

import hashlib
import json
from typing import Any

from shamon_host.domain.errors import BadInput

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, without white space, ASCII only. Raises BadInput on anything that JSON has no form for.

    Floats are printed as Python's `repr` prints them (the shortest text that reads back equal); NaN and infinities are
    refused.
    """
    try:
        text = _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput("a value has no canonical JSON form", found=str(error)[:200]) from error
    return text.encode("ascii")


def canonical_digest(value: Any) -> str:
    """SHA-256 over the canonical JSON of `value`, in hexadecimal. Raises BadInput."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
