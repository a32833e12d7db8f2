"""How a claim is made: three verbs, so that each appraiser reads as what it decides."""

from shamon_host.domain.results import Claim, ClaimName, ClaimStatus

_MAX_TEXT = 600
"""What a peer's logs say is shown, but not without bound."""


def passed(name: ClaimName, reason: str, *, found: str = "") -> Claim:
    """The claim holds."""
    return Claim(name=name, status=ClaimStatus.PASS, reason=reason, found=_cut(found))


def failed(
    name: ClaimName, reason: str, *, where: str = "", expected: str = "", found: str = "", sticky: bool = False
) -> Claim:
    """The Evidence shows the contrary."""
    return Claim(
        name=name,
        status=ClaimStatus.FAIL,
        reason=_cut(reason),
        where=_cut(where),
        expected=_cut(expected),
        found=_cut(found),
        sticky=sticky,
    )


def absent(name: ClaimName, reason: str, *, where: str = "", expected: str = "") -> Claim:
    """The Evidence does not show it, which is as bad."""
    return Claim(name=name, status=ClaimStatus.ABSENT, reason=_cut(reason), where=_cut(where), expected=_cut(expected))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
