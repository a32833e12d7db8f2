"""Text from outside: what of it may be shown, and what is a digest."""

import re

_SHA256 = re.compile(r"[0-9a-f]{64}")


def printable(text: str) -> str:
    """`text` fit for a log or a terminal: names in a file or from a peer may hold anything before they are checked."""
    return "".join(character if character.isprintable() else "?" for character in text)


def is_sha256(text: object) -> bool:
    """Whether it is a SHA-256 digest in lower-case hexadecimal."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None
