"""`SelinuxFs`: the kernel's own answers about its loaded policy, over selinuxfs.

Plain files: `access` and `context` take one question in one write and give the answer in the read after it, so each
question has a descriptor of its own. Answers are small; more than a page is none.

Source: Linux security/selinux/selinuxfs.c (sel_write_access, sel_write_context, sel_make_class_dir_entries),
security/selinux/include/security.h (struct selinux_kernel_status, AVD_FLAGS_PERMISSIVE).
"""

import errno
import os
import struct
from pathlib import Path

from shamon_host.domain.errors import BackendFailed
from shamon_host.selinux.ports import AccessVector, SelinuxStatus

SELINUXFS = Path("/sys/fs/selinux")
_PAGE_BYTES = 4096
_STATUS = struct.Struct("=5I")
"""version, sequence, enforcing, policyload, deny_unknown. An odd sequence: it is being written."""
_STATUS_TRIES = 100
_AVD_FLAGS_PERMISSIVE = 1
_REMEDY = "Boot with SELinux: lsm=...,selinux,... security=selinux enforcing=1 on the kernel's command line."


class SelinuxFs:
    """`selinux.ports.KernelSelinux`. Class and permission numbers are read once for each load of a policy."""

    def __init__(self, root: Path = SELINUXFS) -> None:
        self._root = root
        self._classes: dict[str, tuple[int, dict[str, int]]] = {}
        self._classes_of: int | None = None

    def status(self) -> SelinuxStatus:
        path = self._root / "status"
        for _ in range(_STATUS_TRIES):
            found = self._read(path)
            if len(found) < _STATUS.size:
                raise BackendFailed("SELinux's status cannot be understood", where=str(path), found=f"{found[:32]!r}")
            _, sequence, enforcing, policy_loads, deny_unknown = _STATUS.unpack_from(found)
            if sequence % 2 == 0:
                return SelinuxStatus(
                    enforcing=enforcing == 1, policy_loads=policy_loads, deny_unknown=deny_unknown == 1
                )
        raise BackendFailed("SELinux's status does not come to rest", where=str(path))

    def flag(self, name: str) -> bool:
        path = self._root / name
        text = self._text(path)
        if text not in ("0", "1"):
            raise BackendFailed("SELinux's answer is neither 0 nor 1", where=str(path), found=text[:40])
        return text == "1"

    def boolean(self, name: str) -> bool | None:
        path = self._root / "booleans" / name
        if not path.exists():
            return None
        words = self._text(path).split()  # in force, and pending
        if not words or words[0] not in ("0", "1"):
            raise BackendFailed("a boolean is neither 0 nor 1", where=str(path))
        return words[0] == "1"

    def is_valid(self, context: str) -> bool:
        try:
            self._ask("context", context)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise _unreadable(self._root / "context", error) from None
        return True

    def initial_context(self, name: str) -> str:
        return self._text(self._root / "initial_contexts" / name)

    def access(self, source: str, target: str, object_class: str) -> AccessVector:
        number, permissions = self._class(object_class)
        where = f"{source} {target} {object_class}"
        try:
            answer = self._ask("access", f"{source} {target} {number}")
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise BackendFailed("the loaded policy does not know the context", where=where) from None
            raise _unreadable(self._root / "access", error) from None
        words = answer.split()
        try:
            # allowed, decided, auditallow, auditdeny, sequence number, flags; all but the fifth hexadecimal
            allowed, flags = int(words[0], 16), int(words[5], 16)
        except (ValueError, IndexError):
            raise BackendFailed("SELinux's answer cannot be understood", where=where, found=answer[:80]) from None
        return AccessVector(
            allowed=frozenset(name for name, bit in permissions.items() if allowed & bit),
            permissive=bool(flags & _AVD_FLAGS_PERMISSIVE),
        )

    def _class(self, name: str) -> tuple[int, dict[str, int]]:
        """Number of a class, and the bit of each of its permissions."""
        loads = self.status().policy_loads
        if loads != self._classes_of:
            self._classes, self._classes_of = {}, loads
        if name not in self._classes:
            directory = self._root / "class" / name
            if not directory.is_dir():
                raise BackendFailed("the loaded policy has no such class", where=f"class {name}")
            try:
                number = int(self._text(directory / "index"))
                bits = {file.name: 1 << (int(self._text(file)) - 1) for file in sorted((directory / "perms").iterdir())}
            except OSError as error:
                raise _unreadable(directory, error) from None
            except ValueError:
                raise BackendFailed("a class of the policy cannot be understood", where=str(directory)) from None
            self._classes[name] = (number, bits)
        return self._classes[name]

    def _ask(self, name: str, question: str) -> str:
        """Raises OSError."""
        descriptor = os.open(self._root / name, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(descriptor, question.encode())
            return os.read(descriptor, _PAGE_BYTES).rstrip(b"\0").decode("ascii", "replace")
        finally:
            os.close(descriptor)

    def _text(self, path: Path) -> str:
        return self._read(path).rstrip(b"\0").decode("ascii", "replace").strip()

    def _read(self, path: Path) -> bytes:
        try:
            with path.open("rb", buffering=0) as file:
                return file.read(_PAGE_BYTES)
        except OSError as error:
            raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> BackendFailed:
    return BackendFailed("SELinux cannot be asked", where=str(path), found=error.strerror or "", remedy=_REMEDY)
