"""As much of SELinux's Common Intermediate Language as Shamon's modules use, read and evaluated.

It answers for the text of a module what the kernel would for the policy built from it: allow rules with attributes and
`self`, and constraints. Names that a text refers to and does not declare are taken for types of the policy beneath.

Source: the CIL Reference Guide (libsepol, secilc/docs).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

Node = str | list["Node"]
Statement = list[Node]

_TOKEN = re.compile(r'[()]|"[^"]*"|[^\s()";]+|;[^\n]*')
_LEVEL = re.compile(r"s(\d+)(?::(.*))?")


def parse(text: str) -> list[Statement]:
    """The statements of a text. Raises ValueError for parentheses that do not match."""
    stack: list[Statement] = [[]]
    for token in _TOKEN.findall(text):
        if token.startswith(";"):
            continue
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) == 1:
                raise ValueError("a parenthesis too many")
            closed = stack.pop()
            stack[-1].append(closed)
        else:
            stack[-1].append(token)
    if len(stack) != 1:
        raise ValueError("a parenthesis is missing")
    return [item for item in stack[0] if isinstance(item, list)]


@dataclass(frozen=True, slots=True)
class Level:
    """A sensitivity with categories."""

    sensitivity: int
    categories: frozenset[int]


@dataclass(frozen=True, slots=True)
class Context:
    """The fields of a context that rules look at."""

    type: str
    low: Level
    high: Level

    @classmethod
    def parse(cls, text: str) -> "Context":
        """Raises ValueError."""
        _, _, name, levels = text.split(":", 3)
        low, _, high = levels.partition("-")
        return cls(name, _level(low), _level(high or low))


@dataclass(kw_only=True)
class Policy:
    """The rules of one or more texts."""

    statements: list[Statement] = field(default_factory=list)
    declared: set[str] = field(default_factory=set)
    permissive: set[str] = field(default_factory=set)
    _members: dict[str, list[Node]] = field(default_factory=lambda: defaultdict(list))
    _permissions: dict[str, list[Node]] = field(default_factory=lambda: defaultdict(list))

    def add(self, text: str) -> None:
        """Raises ValueError for what cannot be read."""
        statements = parse(text)
        self.statements += statements
        for statement in statements:
            match statement:
                case ["type", str(name)]:
                    self.declared.add(name)
                case ["typepermissive", str(name)]:
                    self.permissive.add(name)
                case ["typeattribute", str(name)]:
                    self._members[name] += []
                case ["typeattributeset", str(name), members]:
                    self._members[name].append(members)
                case ["classpermissionset", str(name), vector]:
                    self._permissions[name].append(vector)
                case _:
                    pass

    def of(self, kind: str) -> Iterator[Statement]:
        """Statements of one kind, without the word for it."""
        return (statement[1:] for statement in self.statements if statement[0] == kind)

    def types_of(self, name: str) -> frozenset[str]:
        """The types of an attribute; a type by itself."""
        if name not in self._members:
            return frozenset({name})
        return frozenset(one for members in self._members[name] for one in self._in(members))

    def allowed(self, source: Context, target: Context, object_class: str) -> frozenset[str]:
        """Permissions that rules give and constraints leave."""
        found: set[str] = set()
        for subject, object_, vector in self.of("allow"):
            if source.type not in self.types_of(str(subject)):
                continue
            wanted = {source.type} if object_ == "self" else self.types_of(str(object_))
            if target.type in wanted:
                found |= self.permissions(vector, object_class)
        for kind in ("constrain", "mlsconstrain"):
            for vector, condition in self.of(kind):
                limited = self.permissions(vector, object_class) & found
                if limited and not self._holds(condition, source, target):
                    found -= limited
        return frozenset(found)

    def permissions(self, vector: Node, object_class: str) -> frozenset[str]:
        """Those of one class in `(class (permission ...))`, or in a named set."""
        if isinstance(vector, str):
            return frozenset(
                name for item in self._permissions[vector] for name in self.permissions(item, object_class)
            )
        name, permissions = vector
        return frozenset(names_in(permissions)) if name == object_class else frozenset()

    def _in(self, members: Node) -> Iterator[str]:
        match members:
            case str(name):
                yield from self.types_of(name)
            case ["all"]:
                yield from self.declared
            case list(items):
                for item in items:
                    yield from self._in(item)

    def _holds(self, condition: Node, source: Context, target: Context) -> bool:
        match condition:
            case ["or", *parts]:
                return any(self._holds(part, source, target) for part in parts)
            case ["and", *parts]:
                return all(self._holds(part, source, target) for part in parts)
            case [str(operator), "t1" | "t2" as side, str(name)] if operator in ("eq", "neq"):
                found = (source if side == "t1" else target).type in self.types_of(name)
                return found == (operator == "eq")
            case ["eq", "l1", "l2"]:
                return source.low == target.low
            case ["eq", "h1", "h2"]:
                return source.high == target.high
            case _:
                raise ValueError(f"a condition that is not understood: {condition}")


def names_in(nodes: Iterable[Node]) -> Iterator[str]:
    """Every word of statements."""
    for node in nodes:
        if isinstance(node, str):
            yield node
        else:
            yield from names_in(node)


def _level(text: str) -> Level:
    found = _LEVEL.fullmatch(text)
    if found is None:
        raise ValueError(f"no level: {text}")
    categories: set[int] = set()
    for part in (found[2] or "").split(","):
        if part:
            first, _, last = part.partition(".")
            categories |= set(range(_category(first), _category(last or first) + 1))
    return Level(int(found[1]), frozenset(categories))


def _category(text: str) -> int:
    if not re.fullmatch(r"c\d{1,4}", text) or int(text[1:]) > 1023:
        raise ValueError(f"no category: {text}")
    return int(text[1:])
