"""Reference Values recorded from a VM of this host that was started from a known-good image, for others like it.

Until there are any, such a VM runs with its ports down, and nothing counts against it.
"""

import secrets
from typing import Any

from shamon_host.attestation.appraisal import SELECTION
from shamon_host.attestation.guest_messages import NONCE_BYTES, EvidenceRequest, read_answer
from shamon_host.attestation.guest_record import OF_MAC_VM, record_guest
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.quote import verify_quote
from shamon_host.daemon.vm_attestation import VmAttestation
from shamon_host.domain.errors import Refused
from shamon_host.domain.labels import VmName


async def record_vm(attestation: VmAttestation, vm: VmName) -> dict[str, Any]:
    """The Reference Values of this start of the VM, as a JSON object with their digest. Raises ShamonError."""
    cid = await attestation.reachable(vm)
    states = attestation.vms.states
    boot, tpm = states.booted(vm), states.tpm(vm)
    if cid is None or boot is None or tpm is None:
        raise Refused(
            "the VM does not run, is suspended or in quarantine, or has no TPM as new as its disk",
            where=vm,
            remedy=f"Start a clean one, with `shamon vm replace {vm}`.",
        )
    request = EvidenceRequest(vm=vm, nonce=secrets.token_bytes(NONCE_BYTES))
    answer = read_answer(await attestation.ask(cid, request))
    quote = answer.evidence.quote

    def record() -> dict[str, Any]:
        quoted = verify_quote(
            quote.attest,
            quote.signature,
            tpm.ak_public or answer.ak_public,
            request.qualifying_data,
            SELECTION,
            {Bank.SHA256: quote.pcr_values},
        )
        demanded = OF_MAC_VM if states.policy().is_mac_vm(vm) else None
        pcrs, log = quoted.pcrs[Bank.SHA256], answer.evidence.ima_log
        reference = record_guest(pcrs=pcrs, ima_log=log, boot=boot, demanded=demanded)
        return {"digest": reference.digest, "reference": reference.to_document()}

    return await attestation.blocking(record)
