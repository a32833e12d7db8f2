"""Kernel modules in the order in which they can be loaded one after another, by what each says of itself: an image that
loads a fixed list needs no program that looks for dependencies.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

_DEPENDS = b"\0depends="


def found_modules(tree: Path) -> dict[str, Path]:
    """Name (with underscores, as the kernel has it) → file, of all modules below a directory."""
    return {path.stem.replace("-", "_"): path for path in sorted(tree.rglob("*.ko"))}


def depends_on(module: bytes) -> tuple[str, ...]:
    """What an uncompressed module needs, from its ``.modinfo`` section (scripts/mod/modpost.c of the kernel)."""
    _, found, rest = module.partition(_DEPENDS)
    names = rest.partition(b"\0")[0].decode() if found else ""
    return tuple(name.replace("-", "_") for name in names.split(",") if name)


def in_load_order(
    wanted: Iterable[str], needs: Mapping[str, Iterable[str]], loaded: Iterable[str] = ()
) -> tuple[str, ...]:
    """The wanted modules with all that they need, each behind what it needs; those that are `loaded` left out.

    Raises:
        KeyError: a module that `needs` does not have.
    """
    order: dict[str, None] = {}
    done = set(loaded)

    def add(name: str) -> None:
        if name in done:
            return
        done.add(name)  # modules never need each other in a circle: modpost refuses that
        for needed in needs[name]:
            add(needed)
        order[name] = None

    for name in wanted:
        add(name)
    return tuple(order)
