"""What an adaptation consists of: lines that a policy can take over from another one (`adaptation`)."""

from dataclasses import dataclass
from enum import StrEnum

from shamon_host.domain.flows import FlowLabel
from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import TypeDefinition

Flow = tuple[TypeName, TypeName]


class Minimality(StrEnum):
    """In which sense an adaptation is the least."""

    SMALLEST = "smallest"
    """No adaptation has fewer additions."""
    MINIMAL = "minimal"
    """None of its additions can be left out; another one may have fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WallAddition:
    """A conflict set to take over."""

    members: frozenset[str]
    apart_of: TypeName | None
    """The type in whose definition the peer says so, as `apart`; None: it is a conflict set by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """One line to add to this policy, under this policy's names."""

    what: TypeDefinition | WallAddition | FlowLabel
    taken_from: str
    """What it is called in the peer's policy."""
    flows: tuple[Flow, ...] = ()
    """What it permits that was not permitted before, given the additions before it."""
    releases: tuple[Flow, ...] = ()
    """What it releases, as a downgrader that both types name."""
    signers: frozenset[TypeName]
    """Types whose owners must sign: both ends of what it permits or releases, or the types that it is about."""

    def __str__(self) -> str:
        match self.what:
            case TypeDefinition():
                return f"type {self.what.name}"
            case WallAddition():
                apart = self.what.apart_of
                return f"apart of {apart}" if apart else f"conflict set {', '.join(sorted(self.what.members))}"
            case FlowLabel():
                reads, writes = (", ".join(sorted(names)) for names in (self.what.reads, self.what.writes))
                return f"label {self.what.name}: reads {reads}; writes {writes}"
