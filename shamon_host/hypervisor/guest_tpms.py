"""What a host knows of the TPMs of its VMs: which state is a VM's now, and the AK that it showed first.

The state of a TPM is new with each fresh overlay, and with no other: a VM that starts on a disk that nobody has reached
shows the AK of a TPM that nobody has used, over a channel that only this VM has, before its ports are up. So that AK is
believed, and no other one for as long as this state of the TPM lives.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestTpm:
    """One state of a VM's TPM."""

    mark: str
    """Tells it from every other one."""
    ak_public: bytes = b""
    """TPMT_PUBLIC of its AK; empty before it was shown."""

    def to_document(self) -> dict[str, str]:
        return {"mark": self.mark, "ak": base64.b64encode(self.ak_public).decode()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """What `to_document` made, out of this host's own store."""
        return cls(mark=document["mark"], ak_public=base64.b64decode(document["ak"]))
