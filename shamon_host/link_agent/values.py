"""Values of `links.model` and `links.ports` as JSON, and back: by the types of their fields, and of nothing else.

What comes back is from the other side of a boundary: each value is made by its own class, which checks it, and whatever
does not fit its type is BadInput.
"""

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from shamon_host.domain.errors import BadInput


def to_json(value: Any) -> Any:
    """Dataclasses become `{"is": CLASS, FIELD: ...}`, sets sorted lists, bytes base64."""
    match value:
        case None | bool() | int() | float():
            return value
        case StrEnum():
            return value.value
        case str():
            return value
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case Mapping():
            return {str(key): to_json(item) for key, item in value.items()}
        case AbstractSet():
            return sorted((to_json(item) for item in value), key=repr)
        case Sequence():
            return [to_json(item) for item in value]
        case _:
            pass
    if is_dataclass(value) and not isinstance(value, type):
        return {"is": type(value).__name__, **{each.name: to_json(getattr(value, each.name)) for each in fields(value)}}
    raise TypeError(f"no JSON for {type(value).__name__}")


def from_json(wanted: Any, data: Any) -> Any:
    """A value of the type `wanted`, out of what `to_json` made of one. Raises BadInput."""
    try:
        return _read(wanted, data)
    except BadInput:
        raise
    except (TypeError, ValueError, ArithmeticError, KeyError, AttributeError, RecursionError) as error:
        raise _malformed(wanted, error) from error


def _read(wanted: Any, data: Any) -> Any:
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        return _read_one_of(arguments, data)
    if origin is frozenset:
        return frozenset(_read(arguments[0], item) for item in _list(wanted, data))
    if origin is tuple:
        return _read_tuple(wanted, arguments, data)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, dict):
            raise _malformed(wanted, data)
        return {_read(arguments[0], key): _read(arguments[1], item) for key, item in data.items()}
    return _read_plain(wanted, data)


def _read_plain(wanted: Any, data: Any) -> Any:
    if wanted is float and type(data) in (int, float) and math.isfinite(data):
        return float(data)
    if wanted in (bool, int, str):
        if type(data) is not wanted or not _is_bounded(data):
            raise _malformed(wanted, data)
        return data
    if wanted is bytes and isinstance(data, str):
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error:
            raise BadInput("malformed bytes", expected="base64") from None  # they may be a key: not shown
    if isinstance(wanted, type) and issubclass(wanted, StrEnum):
        return wanted(data)
    if is_dataclass(wanted) and isinstance(wanted, type) and isinstance(data, dict):
        hints = _hints(wanted)
        if data.get("is") != wanted.__name__ or set(data) != {"is", *hints}:
            raise _malformed(wanted, sorted(map(str, data))[:20])
        return wanted(**{name: _read(kind, data[name]) for name, kind in hints.items()})
    raise _malformed(wanted, data)


def _is_bounded(data: bool | int | str) -> bool:
    """It goes wherever a kernel's number or text goes: 64 bits hold it; it can be encoded (RFC 3629, section 3)."""
    if isinstance(data, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in data)
    return -(1 << 63) <= data < 1 << 64


def _read_one_of(arguments: tuple[Any, ...], data: Any) -> Any:
    if data is None and NoneType in arguments:
        return None
    kinds = [each for each in arguments if each is not NoneType]
    if len(kinds) > 1:
        name = data.get("is") if isinstance(data, dict) else None
        kinds = [each for each in kinds if getattr(each, "__name__", "") == name]
    if len(kinds) != 1:
        raise _malformed("one of several", data)
    return _read(kinds[0], data)


def _read_tuple(wanted: Any, arguments: tuple[Any, ...], data: Any) -> tuple[Any, ...]:
    items = _list(wanted, data)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_read(arguments[0], item) for item in items)
    return tuple(_read(kind, item) for kind, item in zip(arguments, items, strict=True))


def _list(wanted: Any, data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise _malformed(wanted, data)
    return data


@cache
def _hints(wanted: type) -> Mapping[str, Any]:
    return get_type_hints(wanted)


def _malformed(wanted: Any, found: Any) -> BadInput:
    """`found` is told by its kind alone: it may hold a key."""
    return BadInput(
        "a malformed value between host and MAC VM",
        expected=getattr(wanted, "__name__", str(wanted))[:120],
        found=type(found).__name__,
    )
