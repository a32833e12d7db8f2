"""Shamon's SELinux modules (`*.cil`), and what is asked of the kernel about them.

`questions` says which answers of the loaded policy are right, `link_conditions` which of them must hold before anything
labelled is made, `checking` what a whole host must show; `installing` puts the modules in and takes them out. The
kernel's answers come by `selinuxfs`, the store of modules is reached by `semodule`.
"""

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files

LINK_MODULE = "shamon"
KVM_MODULE = "kvm_host"
XEN_MODULE = "xen_host"
MAC_VM_MODULE = "mac_vm"
PRIORITY = 400
"""At which the modules are installed: above the distribution's own (100), the default of semodule(8)."""

DAEMON_TYPE, LINK_TYPE, SPD_TYPE = "shamon_t", "shamon_link_t", "shamon_spd_t"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyModule:
    """A module in CIL, as it is shipped or was extracted."""

    name: str
    text: bytes = field(repr=False)

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, lower-case hexadecimal: what `semodule -lfull -m` prints for a module in CIL."""
        return hashlib.sha256(self.text).hexdigest()


def shipped_module(name: str) -> PolicyModule:
    """A module of this package. Raises FileNotFoundError for a name that it has not."""
    return PolicyModule(name=name, text=(files(__name__) / f"{name}.cil").read_bytes())
