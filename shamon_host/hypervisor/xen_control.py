"""The calls to the Xen hypervisor that libvirt has no word for: FLASK, and the label of a domain as Xen itself has it.

Through libxenctrl of the running Xen's release (`tools/include/xenctrl.h` of 4.17; its name carries the release, so
another layout of these structures comes with another name). Needs the toolstack's SELinux domain or another one that
may open `/dev/xen/privcmd`.
"""

import ctypes
import errno
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from shamon_host.domain.errors import BackendFailed

LIBRARY = "libxenctrl.so.4.17"
_CONTEXT_BYTES = 1024
_MOST_BOOLEANS = 1024
_FLASK_ACCESS = 6
_DYING, _PAUSED = 1 << 0, 1 << 3
_UNKNOWN = (errno.EINVAL, errno.ENOENT)
"""What the hypervisor's policy does not know."""


class _DomainInfo(ctypes.Structure):
    """`xc_dominfo_t`; `flags` are its ten bit fields."""

    _fields_ = (
        ("domid", ctypes.c_uint32),
        ("ssidref", ctypes.c_uint32),
        ("flags", ctypes.c_uint),
        ("shutdown_reason", ctypes.c_uint),
        ("nr_pages", ctypes.c_ulong),
        ("nr_outstanding_pages", ctypes.c_ulong),
        ("nr_shared_pages", ctypes.c_ulong),
        ("nr_paged_pages", ctypes.c_ulong),
        ("shared_info_frame", ctypes.c_ulong),
        ("cpu_time", ctypes.c_uint64),
        ("max_memkb", ctypes.c_ulong),
        ("nr_online_vcpus", ctypes.c_uint),
        ("max_vcpu_id", ctypes.c_uint),
        ("handle", ctypes.c_uint8 * 16),
        ("cpupool", ctypes.c_uint),
        ("gpaddr_bits", ctypes.c_uint8),
        ("arch_config", ctypes.c_uint8 * 64),  # more than any architecture's
    )


class _AccessQuestion(ctypes.Structure):
    """`struct xen_flask_op` with `struct xen_flask_access` in it (`xen/include/public/xsm/flask_op.h`)."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("cmd", "interface_version", "ssid", "tsid", "tclass", "req")),
        *((name, ctypes.c_uint32) for name in ("allowed", "audit_allow", "audit_deny", "seqno")),
        ("other_members", ctypes.c_uint8 * 64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class XenDomain:
    """A domain of the hypervisor. `uuid`: its handle, which the toolstack gave it. `dying`: it runs no more, and is not
    wholly gone yet."""

    number: int
    uuid: str
    sid: int
    paused: bool
    dying: bool


class XenControl:
    """One handle of libxenctrl, opened when it is first needed. Thread-safe. All raise BackendFailed."""

    def __init__(self, library: str = LIBRARY) -> None:
        self._library_name = library
        self._lock = threading.Lock()
        self._library: ctypes.CDLL | None = None
        self._handle: int | None = None

    def domains(self) -> Iterator[XenDomain]:
        """Every domain of the hypervisor, dom0 too, dying ones too. One that FLASK does not show ends the list with an
        error, as there may be others behind it."""
        first = 0
        while True:
            info = _DomainInfo()
            count = self._call("xc_domain_getinfo", ctypes.c_uint32(first), ctypes.c_uint(1), ctypes.byref(info))
            if count < 1 and ctypes.get_errno() == errno.ESRCH:
                return
            if count < 1:
                raise self._failed("xc_domain_getinfo")
            yield XenDomain(
                number=info.domid,
                uuid=str(uuid.UUID(bytes=bytes(info.handle))),
                sid=info.ssidref,
                paused=bool(info.flags & _PAUSED),
                dying=bool(info.flags & _DYING),
            )
            first = info.domid + 1

    def pause(self, number: int) -> None:
        """Of a domain that runs. The hypervisor counts: twice is once too often."""
        self._checked("xc_domain_pause", ctypes.c_uint32(number))

    def unpause(self, number: int) -> None:
        self._checked("xc_domain_unpause", ctypes.c_uint32(number))

    def context_of(self, sid: int) -> str:
        """The security context that a SID stands for."""
        text = ctypes.create_string_buffer(_CONTEXT_BYTES)
        self._checked("xc_flask_sid_to_context", ctypes.c_int(sid), text, ctypes.c_uint32(_CONTEXT_BYTES - 1))
        return text.value.decode("ascii", "backslashreplace")

    def sid_of(self, context: str) -> int | None:
        """The SID of a context; None where the policy in the hypervisor does not know it."""
        sid = ctypes.c_uint32()
        encoded = context.encode("ascii")
        buffer = ctypes.create_string_buffer(encoded)
        done = self._call("xc_flask_context_to_sid", buffer, ctypes.c_uint32(len(encoded)), ctypes.byref(sid))
        if done and ctypes.get_errno() not in _UNKNOWN:
            raise self._failed("xc_flask_context_to_sid")
        return None if done else sid.value

    def access(self, source: int, target: int, class_number: int) -> int:
        """The permissions of a class that the policy allows one SID on another one, as bits."""
        question = _AccessQuestion(cmd=_FLASK_ACCESS, ssid=source, tsid=target, tclass=class_number)
        self._checked("xc_flask_op", ctypes.byref(question))
        return int(question.allowed)

    def enforcing(self) -> bool:
        return self._checked("xc_flask_getenforce") == 1

    def booleans(self) -> dict[str, bool]:
        """Every boolean of the policy in the hypervisor, with its value."""
        found: dict[str, bool] = {}
        for number in range(_MOST_BOOLEANS):
            name = ctypes.create_string_buffer(_CONTEXT_BYTES)
            value, pending, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_uint32(_CONTEXT_BYTES - 1)
            if self._call(
                "xc_flask_getbool_byid",
                ctypes.c_int(number),
                name,
                size,
                ctypes.byref(value),
                ctypes.byref(pending),
            ):
                if ctypes.get_errno() == errno.ENOENT:
                    return found
                raise self._failed("xc_flask_getbool_byid")
            found[name.value.decode("ascii", "backslashreplace")] = bool(value.value)
        raise BackendFailed("the hypervisor's policy has too many booleans", expected=f"fewer than {_MOST_BOOLEANS}")

    def load(self, policy: bytes) -> None:
        """Replace the hypervisor's policy by this binary one; it keeps the old one where it refuses it."""
        self._checked("xc_flask_load", ctypes.create_string_buffer(policy, len(policy)), ctypes.c_uint32(len(policy)))

    def _checked(self, name: str, *arguments: object) -> int:
        answer = self._call(name, *arguments)
        if answer < 0:
            raise self._failed(name)
        return answer

    def _call(self, name: str, *arguments: object) -> int:
        with self._lock:
            library, handle = self._opened()
            ctypes.set_errno(0)
            return int(getattr(library, name)(ctypes.c_void_p(handle), *arguments))

    def _opened(self) -> tuple[ctypes.CDLL, int]:
        if self._library is None or self._handle is None:
            try:
                library = ctypes.CDLL(self._library_name, use_errno=True)
            except OSError as error:
                raise BackendFailed(
                    "the library of the Xen hypervisor cannot be loaded",
                    where=self._library_name,
                    found=str(error)[:200],
                    remedy="Install Debian's libxenmisc4.17, and boot the host under Xen 4.17.",
                ) from error
            library.xc_interface_open.restype = ctypes.c_void_p
            handle = library.xc_interface_open(None, None, ctypes.c_uint(0))
            if not handle:
                raise self._failed("xc_interface_open")
            self._library, self._handle = library, handle
        return self._library, self._handle

    def _failed(self, name: str) -> BackendFailed:
        number = ctypes.get_errno()
        return BackendFailed(
            "the Xen hypervisor refused a call",
            where=name,
            found=os.strerror(number) if number else "no reason given",
            remedy="The host has to be booted under Xen with FLASK, and this domain has to reach /dev/xen/privcmd.",
        )
