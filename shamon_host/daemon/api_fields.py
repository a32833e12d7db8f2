"""Fields of requests to the daemon's API: what they may hold. Raises BadInput for anything else."""

from collections.abc import Mapping
from typing import Any

from shamon_host.domain.errors import BadInput

MAX_REASON = 500


def integer(fields: Mapping[str, Any], name: str, default: int) -> int:
    try:
        value = int(fields.get(name, default))
    except (TypeError, ValueError, OverflowError):
        value = -1
    if value < 0:
        raise BadInput(f"bad {name}", expected="a number that is not negative", found=repr(fields.get(name))[:40])
    return value


def flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise BadInput(f"bad {name}", expected="true or false", found=repr(value)[:40])
    return value


def text(fields: Mapping[str, Any], name: str, default: str) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_REASON or not value.isprintable():
        raise BadInput(f"bad {name}", expected=f"1 to {MAX_REASON} printable characters", found=repr(value)[:40])
    return value
