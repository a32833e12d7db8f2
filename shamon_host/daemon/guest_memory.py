"""What this host, as the Verifier of its VMs, remembers of each TPM of theirs: how far it has come, and what stuck.

Of the log nothing is kept: where Reference Values change, or this is not to be read, the VM is asked for all of it.
"""

from dataclasses import dataclass

from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.daemon.store import Store
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import VmName

STATES = "vm-verifier"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestMemory:
    """All of it is durable."""

    store: Store

    def recall(self, vm: VmName, tpm_mark: str) -> VerifierState | None:
        """The state of the TPM with this mark; None for a new one."""
        document = self.store.get(STATES, vm)
        if document is None or document.get("tpm") != tpm_mark:
            return None
        try:
            return VerifierState.from_document(document["state"])
        except (BadInput, KeyError):
            return None

    def keep(self, vm: VmName, tpm_mark: str, state: VerifierState) -> None:
        self.store.put(STATES, vm, {"tpm": tpm_mark, "state": state.to_document()})
