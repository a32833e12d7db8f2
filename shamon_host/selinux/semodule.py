"""`SemoduleStore`: the policy store of this host, by semodule(8) and semanage.conf(5)'s defaults.

semodule builds the whole policy in a sandbox and puts it in place of the old one only when that went well; several
options of one call are one transaction. Building takes seconds on hardware, most of a minute in an emulator.
"""

import bz2
import re
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from shamon_host.domain.errors import BackendFailed
from shamon_host.selinux import PRIORITY, PolicyModule
from shamon_host.selinux.ports import InstalledModule

_CONFIG, _STORE = "etc/selinux/config", "var/lib/selinux"
_BZIP2 = b"BZh"
"""semanage.conf(5), bzip-blocksize: modules are compressed, or not."""
_LIMIT_S = 900.0
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_MODULE = re.compile(r"(\d+)\s+(\S+)\s+\S+\s+(disabled\s+)?sha256:([0-9a-f]{64})\s*")
_TYPE = re.compile(r"^\s*SELINUXTYPE\s*=\s*(\S+)\s*$", re.MULTILINE)


class SemoduleStore:
    """`selinux.ports.ModuleStore`. `root`: where another host's files are, whose policy is built and not loaded."""

    def __init__(self, root: Path | None = None) -> None:
        self._options = () if root is None else ("-n", "-p", str(root), "-s", "default")
        base = root or Path("/")
        self._config, self._store = base / _CONFIG, base / _STORE

    def policy_type(self) -> str:
        try:
            found = _TYPE.findall(self._config.read_text(encoding="utf-8", errors="replace"))
        except OSError as error:
            raise BackendFailed(
                "SELinux's configuration cannot be read", where=str(self._config), found=error.strerror or ""
            ) from None
        return str(found[-1]) if found else ""

    def installed(self) -> tuple[InstalledModule, ...]:
        return modules_listed(self._run("--list-modules=full", "--checksum"))

    def extract(self, name: str) -> PolicyModule:
        """From the store's own file: semodule would write it into a directory that its domain may not write to."""
        path = self._store / self.policy_type() / "active/modules" / str(PRIORITY) / name / "cil"
        try:
            kept = path.read_bytes()
            module = PolicyModule(name=name, text=bz2.decompress(kept) if kept.startswith(_BZIP2) else kept)
        except (OSError, ValueError) as error:
            raise BackendFailed("an installed module cannot be read", where=str(path), found=str(error)) from None
        checksums = [item.checksum for item in self.installed() if (item.name, item.priority) == (name, PRIORITY)]
        if checksums != [module.checksum]:
            raise BackendFailed("an installed module is not the one that semodule lists", where=str(path))
        return module

    def change(self, install: Sequence[PolicyModule], remove: Collection[str]) -> None:
        with tempfile.TemporaryDirectory(prefix="shamon-selinux-") as directory:
            arguments = ["-X", str(PRIORITY)]
            for module in install:
                path = Path(directory) / f"{module.name}.cil"
                path.write_bytes(module.text)
                arguments += ["--install", str(path)]
            for name in sorted(remove):
                arguments += ["--remove", name]
            self._run(*arguments)

    def _run(self, *arguments: str, directory: str | None = None) -> str:
        try:
            done = subprocess.run(
                ["semodule", *self._options, *arguments],
                check=False,
                capture_output=True,
                timeout=_LIMIT_S,
                env=_ENVIRONMENT,
                cwd=directory,
            )
        except FileNotFoundError:
            raise BackendFailed("semodule is not installed", remedy="Install Debian's policycoreutils.") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendFailed("semodule cannot be run", found=str(error)[:300]) from None
        if done.returncode != 0:
            words = done.stderr.decode("utf-8", "replace")
            raise BackendFailed("semodule failed", where=arguments[0], found=" ".join(words.split())[-1000:])
        return done.stdout.decode("utf-8", "replace")


def modules_listed(text: str) -> tuple[InstalledModule, ...]:
    """From the output of `semodule -lfull -m`. Raises BackendFailed for a line that is not understood."""
    found = []
    for line in text.splitlines():
        match = _MODULE.fullmatch(line)
        if match is None:
            raise BackendFailed(
                "semodule's list is not understood", found=line[:200],
                remedy="policycoreutils 3.4 or later is needed, as in Debian 12.",
            )  # fmt: skip
        found.append(
            InstalledModule(name=match[2], priority=int(match[1]), checksum=match[4], enabled=match[3] is None)
        )
    return tuple(found)
