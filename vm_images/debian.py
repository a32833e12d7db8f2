"""Debian roots made by mmdebstrap from the sources that this machine's own apt uses."""

from collections.abc import Iterable
from pathlib import Path

from vm_images.commands import run

SUITE = "bookworm"


def read_list(path: Path) -> list[str]:
    """The lines of a list file without comments and blank lines."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def make_root(root: Path, packages: Iterable[str], *, excludes: Iterable[str] = (), variant: str = "minbase") -> None:
    """Fill `root` with the packages and what they depend on; recommended packages and files that match `excludes`
    stay out.
    """
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in excludes]
    run(
        [
            "mmdebstrap",
            "--mode=root",
            f"--variant={variant}",
            "--format=directory",
            '--aptopt=APT::Install-Recommends "false"',
            *options,
            f"--include={','.join(packages)}",
            SUITE,
            root,
            *_sources(),
        ]
    )


def _sources() -> list[str]:
    """One-line sources for the suite as configured here; none if there are none, and mmdebstrap takes Debian's own."""
    template = "$(SITE)|$(RELEASE)|$(COMPONENT)"
    targets = run(["apt-get", "indextargets", "--format", template, "Created-By: Packages"])
    found: dict[str, None] = {}
    for line in targets.splitlines():
        site, release, component = line.split("|")
        if component == "main" and release in (SUITE, f"{SUITE}-updates", f"{SUITE}-security"):
            found[f"deb {site} {release} {component}"] = None
    return list(found) if any(f" {SUITE} " in line for line in found) else []
