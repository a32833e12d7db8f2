"""What stops the bench: it measures nothing that gives wrong answers."""


class WrongAnswer(Exception):
    """Something was computed that is not so."""


def require(what: str, found: object, expected: object) -> None:
    """Raises WrongAnswer unless the two are equal."""
    if found != expected:
        raise WrongAnswer(f"{what}: expected {_shown(expected)}, found {_shown(found)}")


def _shown(value: object) -> str:
    return f"{value!r:.200}"
