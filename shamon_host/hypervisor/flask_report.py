"""The FLASK part of a hypervisor report: what Xen answered, as canonical JSON of bounded size, and back.

    {"enforcing": true, "booleans": {NAME: false}, "types": [TYPE, ...],
     "access": {CLASS: {"PERMISSION PERMISSION": [[SOURCE, TARGET, ...], ...]}},
     "foreign": "what was there in place of the host's policy"}

Sources and targets are places in `types`, so that a hundred labels that all communicate take some 100 KiB. What is
denied is left out, and `foreign` where it is empty. Reading takes it as hostile input: what it makes of a document is
not much more than the document.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from shamon_host.domain.errors import BadInput
from shamon_host.domain.flask_rules import Question
from shamon_host.hypervisor.ports import FlaskState

MAX_TYPES = 4096
"""A label has three, wherever its VMs are."""
MAX_BOOLEANS = 64
MAX_ANSWERS = 50_000
"""Twice as many as the policy of a hundred labels allows something."""
MAX_SETS = 256
"""Different sets of permissions; rules have some twenty."""
MAX_FOREIGN = 2000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,254}")
_PERMISSIONS = re.compile(r"[a-z][a-z0-9_]{0,31}(?: [a-z][a-z0-9_]{0,31}){0,31}")
"""A class has at most 32 of them (`xen/xsm/flask/include/flask.h`: an access vector is 32 bits)."""
_FOREIGN = re.compile(rf"[ -~]{{1,{MAX_FOREIGN}}}")


def flask_document(state: FlaskState) -> dict[str, Any]:
    """The report of a state, in JSON's types."""
    answers = sorted((question, each) for question, each in state.access.items() if each)
    types = sorted({name for (source, target, _), _ in answers for name in (source, target)})
    place = {name: number for number, name in enumerate(types)}
    access: dict[str, dict[str, dict[int, list[int]]]] = {}
    for (source, target, object_class), permissions in answers:
        same = access.setdefault(object_class, {}).setdefault(" ".join(sorted(permissions)), {})
        same.setdefault(place[source], []).append(place[target])
    return {
        "enforcing": state.enforcing,
        "booleans": dict(sorted(state.booleans.items())),
        "types": types,
        "access": {
            object_class: {
                permissions: [[source, *targets] for source, targets in rows.items()]
                for permissions, rows in sorted(by_permissions.items())
            }
            for object_class, by_permissions in sorted(access.items())
        },
        **({"foreign": state.foreign[:MAX_FOREIGN]} if state.foreign else {}),
    }


def read_flask_document(document: Mapping[str, Any]) -> FlaskState:
    """What a peer's report says. Raises BadInput, and ValueError, KeyError, TypeError or AttributeError for what is no
    such document at all."""
    if set(document) - {"foreign"} != {"enforcing", "booleans", "types", "access"}:
        raise BadInput("malformed FLASK state", expected="enforcing, booleans, types and access")
    enforcing, types = document["enforcing"], document["types"]
    if not isinstance(types, list) or len(types) > MAX_TYPES or len(document["booleans"]) > MAX_BOOLEANS:
        raise BadInput("malformed FLASK state", expected=f"at most {MAX_TYPES} types and {MAX_BOOLEANS} booleans")
    booleans = {_name(name): is_on for name, is_on in document["booleans"].items()}
    if type(enforcing) is not bool or not all(type(is_on) is bool for is_on in booleans.values()):
        raise BadInput("malformed FLASK state", expected="true or false")
    names = [_name(each) for each in types]
    if len(set(names)) != len(names):
        raise BadInput("malformed FLASK state", expected="every type once")
    return FlaskState(
        enforcing=enforcing,
        booleans=booleans,
        access=_access(document["access"], names),
        foreign=_foreign(document["foreign"]) if "foreign" in document else "",
    )


def _access(document: Mapping[str, Mapping[str, Any]], names: list[str]) -> dict[Question, frozenset[str]]:
    if sum(map(len, document.values())) > MAX_SETS:
        raise BadInput("malformed FLASK state", expected=f"at most {MAX_SETS} sets of permissions")
    access: dict[Question, frozenset[str]] = {}
    for object_class, by_permissions in document.items():
        of_class = _name(object_class)
        for text, rows in by_permissions.items():
            permissions = _permissions(text)
            for source, target in _pairs(rows, names):
                question = (source, target, of_class)
                if question in access:
                    raise BadInput("malformed FLASK state", expected="one answer to a question")
                if len(access) >= MAX_ANSWERS:
                    raise BadInput("malformed FLASK state", expected=f"at most {MAX_ANSWERS} answers")
                access[question] = permissions
    return access


def _pairs(rows: Any, names: list[str]) -> Iterator[tuple[str, str]]:
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) > 1 for row in rows):
        raise BadInput("malformed FLASK state", expected="lists of a source and its targets")
    for row in rows:
        if not all(type(each) is int and 0 <= each < len(names) for each in row):
            raise BadInput("malformed FLASK state", expected="places in the list of types")
        source, *targets = (names[each] for each in row)
        yield from ((source, target) for target in targets)


def _permissions(text: str) -> frozenset[str]:
    if not _PERMISSIONS.fullmatch(text):
        raise BadInput("malformed FLASK state", expected="names of permissions", found=ascii(text)[:80])
    return frozenset(text.split(" "))


def _foreign(text: object) -> str:
    if not isinstance(text, str) or not _FOREIGN.fullmatch(text):
        raise BadInput("malformed FLASK state", expected=f"at most {MAX_FOREIGN} characters of ASCII")
    return text


def _name(text: object) -> str:
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise BadInput("malformed FLASK state", expected="a name of FLASK", found=ascii(text)[:80])
    return text
