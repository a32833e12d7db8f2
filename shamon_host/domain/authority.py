"""Who must sign a version of the policy before it may replace the one in force.

Two authorities sign. The coalition: a threshold of the keys that the version in force names, and of those that the new
one names, as roots of The Update Framework are rotated (TUF specification, section 5.3); so a key that no version
names any more counts for nothing. And each organisation that has a key of its own: it signs whatever concerns its
types (`concerns` says what does), and is not asked about the rest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shamon_host.domain.concerns import concerns
from shamon_host.domain.errors import BadInput, Refused
from shamon_host.domain.policy import Policy

_SHOWN = 4
"""Reasons that a requirement spells out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """So many of these keys must sign."""

    keys: frozenset[str]
    """Public keys, base64 of a DER SubjectPublicKeyInfo."""
    threshold: int
    reason: str
    """Who that is and why, for people."""
    names: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Public key → its name in the policy, for people."""

    def __post_init__(self) -> None:
        if self.threshold < 1:
            raise BadInput("a threshold that nobody has to meet", where=self.reason, expected="at least 1")

    def who(self, keys: Iterable[str]) -> str:
        """The names of some of the keys, in one line."""
        return ", ".join(sorted(self.names.get(key, key) for key in keys))


def coalition_requirement(policy: Policy) -> Requirement | None:
    """What the policy's own `[signing]` asks for; None for an unsigned policy. Raises BadInput.

    That of the policy in force is worth asking before the new one is even read: nothing passes without it.
    """
    if policy.signing is None:
        return None
    return _requirement(
        policy, policy.signing.keys, policy.signing.threshold, f"signing keys of version {policy.version}"
    )


def required_signatures(new: Policy, current: Policy | None) -> tuple[Requirement, ...]:
    """Everybody who must sign `new` before it may be the first version (`current` is None), or replace `current`.

    None at all only where both are unsigned. Raises Refused when `new` is unsigned and `current` is not, BadInput for
    a policy that does not hang together or is too large to be compared.
    """
    own = coalition_requirement(new)
    if current is None or current.signing is None:
        return () if own is None else (own, *_owners(new))
    standing = coalition_requirement(current)
    if own is None or standing is None:
        raise Refused(
            "an unsigned policy cannot replace a signed one",
            where=f"version {new.version} of {new.coalition}",
            expected=f"[signing], as in version {current.version}",
        )
    same = (own.keys, own.threshold) == (standing.keys, standing.threshold)
    return (standing, *([] if same else [own]), *_concerned(new, current))


def _owners(first: Policy) -> list[Requirement]:
    """Each organisation with a key, of a policy that follows no signed one."""
    found = []
    for name, organisation in sorted(first.organisations.items()):
        if organisation.key is not None:
            owned = [each for each in sorted(first.types) if first.organisation_of(each) == organisation]
            reason = f"organisation {name}, owner of {_listed(owned) or 'no type'}"
            found.append(_requirement(first, (organisation.key,), 1, reason))
    return found


def _concerned(new: Policy, current: Policy) -> list[Requirement]:
    """Each organisation with a key that a change concerns: by its key in force, and by its new one if that differs."""
    found = []
    for name, changes in sorted(concerns(new, current).items()):
        reason = f"organisation {name}: {_listed(changes)}"
        asked: set[str] = set()
        for policy, words in ((current, reason), (new, f"{reason}; by its new key")):
            organisation = policy.organisations.get(name)
            if organisation is not None and organisation.key is not None:
                requirement = _requirement(policy, (organisation.key,), 1, words)
                if not requirement.keys <= asked:
                    found.append(requirement)
                    asked |= requirement.keys
    return found


def _requirement(policy: Policy, names: Iterable[str], threshold: int, reason: str) -> Requirement:
    lacking = sorted(set(names) - policy.keys.keys())
    if lacking:
        raise BadInput("unknown signing key", where=reason, found=_listed(lacking))
    return Requirement(
        keys=frozenset(policy.keys[name] for name in names),
        threshold=threshold,
        reason=reason,
        names={public: name for name, public in policy.keys.items()},
    )


def _listed(words: Iterable[str]) -> str:
    every = list(words)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return "; ".join(every[:_SHOWN]) + more
