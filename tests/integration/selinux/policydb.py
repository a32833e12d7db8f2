"""A compiled policy behind `selinux.ports.KernelSelinux`: libsepol computes what the kernel would answer.

Needs no kernel with SELinux and no VM: `semodule -n -p ROOT` builds the policy of a root directory, and libsepol, which
semodule links to, reads it. What only a kernel has (mode, booleans in force, permissive domains) is given.

Source: libsepol's include/sepol/policydb/services.h.
"""

import ctypes
import ctypes.util
from collections.abc import Mapping
from pathlib import Path

from shamon_host.domain.errors import BackendFailed
from shamon_host.selinux.ports import AccessVector, SelinuxStatus

_FLAGS = {"mls": True, "policy_capabilities/network_peer_controls": True, "checkreqprot": False}
_INITIAL = {"unlabeled": "unlabeled_t", "netif": "netif_t", "node": "node_t"}


class _Decision(ctypes.Structure):
    """struct sepol_av_decision"""

    _fields_ = [(name, ctypes.c_uint32) for name in ("allowed", "decided", "auditallow", "auditdeny", "seqno")]


class PolicyDb:
    """libsepol holds one policy for the process: the last that was opened. `usable` says whether it is here at all."""

    def __init__(self, policy: Path, *, booleans: Mapping[str, bool] | None = None) -> None:
        self._sepol = ctypes.CDLL(ctypes.util.find_library("sepol"))
        self._sepol.sepol_av_perm_to_string.restype = ctypes.c_char_p
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        file = libc.fopen(str(policy).encode(), b"r")
        if not file:
            raise BackendFailed("the policy cannot be opened", where=str(policy))
        failed = self._sepol.sepol_set_policydb_from_file(ctypes.c_void_p(file))
        libc.fclose(ctypes.c_void_p(file))
        if failed:
            raise BackendFailed("libsepol cannot read the policy", where=str(policy))
        self._sepol.sepol_debug(0)
        self._booleans = booleans or {}
        self.permissive: set[str] = set()
        """Types that are permissive."""

    @staticmethod
    def usable() -> bool:
        """libsepol 3.4 and later export what is needed."""
        name = ctypes.util.find_library("sepol")
        return name is not None and hasattr(ctypes.CDLL(name), "sepol_compute_av")

    def status(self) -> SelinuxStatus:
        return SelinuxStatus(enforcing=True, policy_loads=1, deny_unknown=False)

    def flag(self, name: str) -> bool:
        return _FLAGS[name]

    def boolean(self, name: str) -> bool | None:
        return self._booleans.get(name)

    def is_valid(self, context: str) -> bool:
        return self._sid(context) is not None

    def initial_context(self, name: str) -> str:
        return f"system_u:object_r:{_INITIAL[name]}:s0"

    def access(self, source: str, target: str, object_class: str) -> AccessVector:
        number = self._class(object_class)
        sids = [self._sid(source), self._sid(target)]
        if None in sids:
            raise BackendFailed("the policy does not know the context", where=f"{source} {target}")
        decision = _Decision()
        if self._sepol.sepol_compute_av(*sids, number, ctypes.c_uint32(0xFFFFFFFF), ctypes.byref(decision)):
            raise BackendFailed("libsepol has no answer", where=f"{source} {target} {object_class}")
        return AccessVector(
            allowed=self._named(number, decision.allowed),
            permissive=source.split(":")[2] in self.permissive,
        )

    def permissions(self, object_class: str) -> frozenset[str]:
        """All that a class has. Raises BackendFailed."""
        return self._named(self._class(object_class), 0xFFFFFFFF)

    def _class(self, name: str) -> ctypes.c_uint16:
        number = ctypes.c_uint16()
        if self._sepol.sepol_string_to_security_class(name.encode(), ctypes.byref(number)):
            raise BackendFailed("the policy has no such class", where=name)
        return number

    def _named(self, number: ctypes.c_uint16, vector: int) -> frozenset[str]:
        bits = (ctypes.c_uint32(1 << bit) for bit in range(32) if vector & 1 << bit)
        names = (self._sepol.sepol_av_perm_to_string(number, bit) for bit in bits)
        return frozenset(word for name in names if name for word in name.decode().split())

    def _sid(self, context: str) -> int | None:
        sid = ctypes.c_uint32()
        text = context.encode()
        failed = self._sepol.sepol_context_to_sid(text, ctypes.c_size_t(len(text)), ctypes.byref(sid))
        return None if failed else sid.value
