"""Path patterns in Reference Values: what one may be, and which paths it names.

A pattern excuses whatever content is measured under a path, so it must name data alone. Once the IMA policy is in
force only programs, libraries, modules and what the daemon reads are measured at all: where programs are installed, or
where anybody may put one, no pattern is accepted. Patterns are the shell's (`fnmatch`); `*` stands for `/` too.
"""

import re
from collections.abc import Iterable
from fnmatch import translate

PROGRAM_DIRECTORIES = (
    "/usr/",
    "/opt/",
    "/boot/",
    "/bin/",
    "/sbin/",
    "/lib/",
    "/lib32/",
    "/lib64/",
    "/libx32/",
    "/tmp/",  # noqa: S108  (named to be refused)
    "/var/tmp/",  # noqa: S108  (named to be refused)
    "/dev/",
    "/home/",
    "/root/",
    "/proc/",
    "/sys/",
)
"""Where programs are, and where whoever is on the host may put them."""
MAX_PATTERN = 4096
_WILDCARD = re.compile(r"[*?\[]")
_MIN_DIRECTORIES = 2


def literal_part(pattern: str) -> str:
    """What stands in front of the first wildcard: every path that the pattern names begins with it."""
    found = _WILDCARD.search(pattern)
    return pattern[: found.start()] if found else pattern


def too_wide(pattern: str) -> str:
    """Why a pattern could excuse programs, in words; empty where it can be accepted."""
    literal = literal_part(pattern)
    exact = literal == pattern
    if not pattern.startswith("/") or "//" in pattern or {".", ".."} & set(pattern.split("/")):
        return "it is no absolute path"
    if len(pattern) > MAX_PATTERN:
        return f"it is longer than {MAX_PATTERN} characters"
    if literal.startswith(PROGRAM_DIRECTORIES):
        return f"programs may be below {next(name for name in PROGRAM_DIRECTORIES if literal.startswith(name))}"
    if literal.count("/") - 1 < (1 if exact else _MIN_DIRECTORIES):
        return "a wildcard must stand below two directories that are named, as in /var/log/*"
    return ""


def overlaps(pattern: str, directory: str) -> bool:
    """Whether some path below `directory` (with its final slash) could be named by the pattern."""
    literal = literal_part(pattern)
    return literal.startswith(directory) or (literal != pattern and directory.startswith(literal))


def exact_pattern(path: str) -> str:
    """A pattern that names this path and no other."""
    return _WILDCARD.sub(lambda found: f"[{found[0]}]", path)


class PathPatterns:
    """Patterns, asked all at once."""

    def __init__(self, patterns: Iterable[str]) -> None:
        every = tuple(patterns)
        self._search = re.compile("|".join(map(translate, every))).match if every else None

    def match(self, path: str) -> bool:
        """Whether one of them names the path."""
        return self._search is not None and self._search(path) is not None
