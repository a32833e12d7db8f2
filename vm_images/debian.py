"""Debian roots made by mmdebstrap from the sources that this machine's own apt uses."""

from collections.abc import Iterable
from pathlib import Path

from vm_images.commands import CommandError, run

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


def fetch_source(package: str, version_prefix: str, out: Path) -> Path:
    """Download the newest source of a package whose version begins so into the directory `out`; returns its ``.dsc``.

    Its signature is checked by apt, through the lists of this machine's own sources.

    Raises:
        CommandError: no source of such a version can be had.
    """
    sources = out / "sources.list"
    sources.write_text("".join(f"deb-src{line.removeprefix('deb')}\n" for line in _sources()))
    lists = out / "lists"
    lists.mkdir()
    settings = [f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=/dev/null", f"Dir::State::lists={lists}"]
    options = ["-q", *(f"-o{setting}" for setting in (*settings, "APT::Sandbox::User=root"))]
    run(["apt-get", *options, "update"])
    records = run(["apt-cache", *options, "showsrc", package]).splitlines()
    versions = [line.removeprefix("Version: ") for line in records if line.startswith(f"Version: {version_prefix}")]
    failures = ["the archive lists none"]
    for version in reversed(versions):  # an archive may list a security update whose files it does not have
        try:
            run(["apt-get", *options, "source", "--download-only", f"{package}={version}"], cwd=out)
        except CommandError as error:
            failures = [str(error)]
            continue
        (described,) = out.glob("*.dsc")
        return described
    raise CommandError(f"no source of {package} {version_prefix}*: {failures[0]}")


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
