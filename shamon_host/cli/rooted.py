"""Paths inside another root directory: symbolic links lead where they would lead on the host whose root it is."""

import os
from pathlib import Path

_MAX_LINKS = 40


def real_path(root: Path, path: str) -> str | None:
    """The path that a kernel would name for `path` on that host, its directories' links followed, never out of `root`.

    The last component is not followed: a link there is no file of its own. None where there is no such thing.
    """
    done: list[str] = []
    rest = [part for part in path.split("/") if part]
    links = 0
    while rest:
        part = rest.pop(0)
        if part == ".":
            continue
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        try:
            target = os.readlink(here) if rest and here.is_symlink() else None
            if target is None and not os.path.lexists(here):
                return None
        except OSError:
            return None
        if target is None:
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        if target.startswith("/"):
            done = []
        rest = [*(piece for piece in target.split("/") if piece), *rest]
    return "/" + "/".join(done)
