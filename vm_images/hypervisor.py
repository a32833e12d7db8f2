"""Xen with XSM and FLASK, made from Debian's source package, and the base of its FLASK policies.

The hypervisor has no policy of its own and is to be given one: with ``flask=enforcing`` it does not boot without. A
policy is one text, compiled as a whole: the base up to its last module, a coalition's module, then users and initial
SIDs. So a host needs no macro processor to make one.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from vm_images import debian
from vm_images.cache import cached, digest_of
from vm_images.commands import CommandError, run_in_root

HERE = Path(__file__).parent
RECIPE = HERE / "xen"
VERSION = "4.17"
_PACKAGES = RECIPE / "build-packages.txt"
_MODULES = ("xen", "dom0", "xenstore", "all_system_role")
_MARK = "# The coalition's module stands here."
_POLICY = "tools/flask/policy"
_SOURCE = "/src"


def build_hypervisor(say: Callable[[str], None]) -> Path:
    """The directory with ``xen.efi`` and ``flask/before.conf``, ``flask/after.conf``: what a FLASK policy begins and
    ends with.
    """
    files = [_PACKAGES, RECIPE / "config", RECIPE / "flask", HERE / "hypervisor.py", HERE / "debian.py"]
    return cached("xen", digest_of(*files), _build, say)


def compile_flask(before: Path, module: str, after: Path, root: Path, out: Path) -> None:
    """Write the binary policy with a coalition's `module`; checkpolicy runs in `root`.

    Raises:
        CommandError: checkpolicy refused it.
    """
    inside = "/tmp/flask"
    (root / inside.lstrip("/")).mkdir()
    text, binary = (root / inside.lstrip("/") / name for name in ("policy.conf", "policy"))
    text.write_text(before.read_text() + module + after.read_text())
    run_in_root(root, ["checkpolicy", "-t", "Xen", "-c", "30", "-o", f"{inside}/policy", f"{inside}/policy.conf"])
    shutil.copy(binary, out)
    shutil.rmtree(text.parent)


def _build(out: Path) -> None:
    root = out / "root"
    debian.make_root(root, debian.read_list(_PACKAGES))
    fetched = root / "fetched"
    fetched.mkdir()
    described = debian.fetch_source("xen", VERSION, fetched)
    run_in_root(root, ["dpkg-source", "--no-check", "-x", f"/fetched/{described.name}", _SOURCE])
    source = root / _SOURCE.lstrip("/")
    shutil.copy(RECIPE / "config", source / "xen/.config")
    for target in ("olddefconfig", "build"):
        run_in_root(root, ["make", "-C", f"{_SOURCE}/xen", "-j2", target])
    _check_config(source / "xen/.config")
    shutil.copy(source / "xen/xen.efi", out / "xen.efi")
    before, after = _base_policy(root, source)
    (out / "flask").mkdir()
    (out / "flask/before.conf").write_text(before)
    (out / "flask/after.conf").write_text(after)
    shutil.rmtree(root)


def _check_config(made: Path) -> None:
    """What was asked for is what was built: Kconfig drops a word that it does not know without one of its own."""
    lines = made.read_text().splitlines()
    for asked in (RECIPE / "config").read_text().split():
        name, _, value = asked.partition("=")
        if (f"# {name} is not set" if value == "n" else asked) not in lines:
            raise CommandError(f"Xen was configured without {asked}")


def _base_policy(root: Path, source: Path) -> tuple[str, str]:
    """The text before and after a coalition's module; macros are the same in both, so it is expanded once."""
    modules = source / _POLICY / "modules"
    (modules / "shamon.te").write_text(f"{_MARK}\n")
    shutil.copy(RECIPE / "flask/initial_sids", source / _POLICY / "policy/initial_sids")
    parameters = ["-D", "self_contained_policy", "-D", "mls_num_sens=16", "-D", "mls_num_cats=256"]
    text = run_in_root(root, ["m4", *parameters, *(f"{_SOURCE}/{path}" for path in _sections(source))])
    before, mark, after = text.partition(_MARK)
    if not mark:
        raise CommandError("m4 lost the place of the coalition's module")
    return before, after


def _sections(source: Path) -> Iterator[Path]:
    """The parts of a policy in the order of Xen's `tools/flask/policy/Makefile.common`."""
    hypervisor, tools = Path("xen/xsm/flask/policy"), Path(_POLICY)
    for name in ("security_classes", "initial_sids", "access_vectors"):
        yield hypervisor / name
        if (source / tools / "policy" / name).exists() and name != "initial_sids":
            yield tools / "policy" / name
    yield from (path.relative_to(source) for path in sorted((source / tools / "policy/support").glob("*.spt")))
    yield tools / "policy/mls"
    yield tools / "modules/xen.if"
    yield tools / "policy/global_tunables"
    yield from (tools / f"modules/{name}.te" for name in (*_MODULES, "shamon"))
    for name in ("users", "initial_sids", "device_contexts"):
        yield tools / "policy" / name
