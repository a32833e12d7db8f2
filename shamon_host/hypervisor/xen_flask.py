"""FLASK in the Xen hypervisor: a coalition's policy compiled and loaded, and what the running one says.

A FLASK policy is one text and is loaded as a whole: the host's base policy, in whose middle the coalition's module
stands. The base comes with the hypervisor (`vm_images/hypervisor.py`): its `before.conf` also gives the numbers that
classes and permissions have in the hypervisor, which are those of their order (`xsm/flask/policy/security_classes`,
`access_vectors`).
"""

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shamon_host.domain.errors import BackendFailed
from shamon_host.hypervisor.ports import FlaskState
from shamon_host.hypervisor.programs import run_program
from shamon_host.hypervisor.xen_control import XenControl

BASE = Path("/usr/share/shamon/flask")
_POLICY_VERSION = "30"
"""The newest that Xen 4.17 takes (`xsm/flask/include/security.h`)."""
_TIMEOUT_S = 60
_COMMENT = re.compile(r"#[^\n]*")
_CLASS = re.compile(r"\bclass\s+(\w+)(?:\s*\{([^}]*)\})?")
_ROLE = {"object_r": ("irq_t", "ioport_t", "iomem_t", "device_t")}


@dataclass(frozen=True, kw_only=True)
class XenFlask:
    """`hypervisor.ports.FlaskPolicy` of the hypervisor below this dom0. `work`: where compiled policies lie for the
    moment."""

    control: XenControl
    work: Path
    base: Path = BASE

    def load(self, module: str) -> None:
        self.control.load(self._compiled(module))

    def state(self, questions: Iterable[tuple[str, str, str]]) -> FlaskState:
        sids: dict[str, int | None] = {}

        def sid(name: str) -> int | None:
            if name not in sids:
                sids[name] = self.control.sid_of(f"system_u:{_role(name)}:{name}")
            return sids[name]

        access = {}
        for source, target, of_class in questions:
            one, other = sid(source), sid(target)
            if one is None or other is None:
                continue
            number, permissions = self._class(of_class)
            bits = self.control.access(one, other, number)
            access[source, target, of_class] = _named(bits, permissions)
        return FlaskState(enforcing=self.control.enforcing(), booleans=self.control.booleans(), access=access)

    def _class(self, name: str) -> tuple[int, tuple[str, ...]]:
        found = self._classes.get(name)
        if found is None:
            raise BackendFailed(
                "the base of FLASK policies lacks a class of Xen's",
                where=str(self.base / "before.conf"),
                expected=name,
                remedy="It comes with the hypervisor's image; put it back.",
            )
        return found

    @cached_property
    def _classes(self) -> Mapping[str, tuple[int, tuple[str, ...]]]:
        return classes_of(self._text("before.conf"))

    def _text(self, name: str) -> str:
        path = self.base / name
        try:
            return path.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise BackendFailed(
                "the base of FLASK policies cannot be read",
                where=str(path),
                found=str(error)[:200],
                remedy="It comes with the hypervisor's image; put it back.",
            ) from error

    def _compiled(self, module: str) -> bytes:
        whole = self._text("before.conf") + module + self._text("after.conf")
        try:
            with tempfile.TemporaryDirectory(dir=self.work, prefix="flask-") as directory:
                source, binary = Path(directory, "policy.conf"), Path(directory, "policy")
                source.write_text(whole, "ascii")
                _checkpolicy("-t", "Xen", "-c", _POLICY_VERSION, "-o", str(binary), str(source))
                return binary.read_bytes()
        except (OSError, UnicodeEncodeError) as error:
            raise BackendFailed(
                "the FLASK policy cannot be compiled",
                where=str(self.work),
                found=str(error)[:200],
                remedy="It needs room for some MiB there, and checkpolicy for this program to run.",
            ) from error


def classes_of(policy: str) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Class → its number and its permissions in the order of their bits, from the text of a policy."""
    names: list[str] = []
    permissions: dict[str, tuple[str, ...]] = {}
    for name, inside in _CLASS.findall(_COMMENT.sub("", policy)):
        if not inside:
            names.append(name)
        else:
            permissions[name] = tuple(inside.split())
    return {name: (number, permissions.get(name, ())) for number, name in enumerate(names, 1)}


def _named(bits: int, permissions: tuple[str, ...]) -> frozenset[str]:
    """The names of the bits; one that has no name is told by its number."""
    found = [place for place in range(32) if bits >> place & 1]
    return frozenset(permissions[place] if place < len(permissions) else f"bit{place}" for place in found)


def _role(name: str) -> str:
    """A context needs a role that goes with the type: the base policy's devices and events are objects."""
    return "object_r" if name in _ROLE["object_r"] or name.endswith("_channel") else "system_r"


def _checkpolicy(*arguments: str) -> None:
    run_program(
        "checkpolicy",
        *arguments,
        timeout_s=_TIMEOUT_S,
        failed="checkpolicy refused the FLASK policy",
        package="checkpolicy",
        lines=3,
    )
