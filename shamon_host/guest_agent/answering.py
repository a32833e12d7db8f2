"""What the agent answers, over the TPM and the logs of its VM: bytes in, bytes out.

The host that runs the VM can read all of its memory anyway; it is asked for nothing, and told nothing but Evidence.
Whatever it asks, the agent quotes over a digest that only this program makes (`guest_messages`), so that no answer is
of use in any other protocol.
"""

from dataclasses import dataclass

from shamon_host.attestation.evidence import Evidence
from shamon_host.attestation.guest_messages import (
    EvidenceRequest,
    GuestEvidence,
    encode_answer,
    encode_refusal,
    read_request,
)
from shamon_host.attestation.ports import MeasurementLogs, Quoting
from shamon_host.attestation.tpm_structures import QuoteAttest, TpmFormatError
from shamon_host.domain.errors import BackendFailed, BadInput, ShamonError

_NO_HEAD = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """Synchronous; one request at a time, as the TPM has it."""

    tpm: Quoting
    logs: MeasurementLogs

    def answer(self, data: bytes) -> bytes:
        """The answer to one request. Never raises ShamonError: what went wrong is the answer."""
        try:
            request = read_request(data)
            if not isinstance(request, EvidenceRequest):
                raise BadInput("an agent is asked for Evidence, and for nothing else")
            return encode_answer(self._evidence(request))
        except ShamonError as error:
            return encode_refusal(str(error))

    def _evidence(self, request: EvidenceRequest) -> GuestEvidence:
        """The quote comes first: the log may run ahead of it, but never behind."""
        quote = self.tpm.quote(request.qualifying_data)
        try:
            reset_count = QuoteAttest.parse(quote.attest).clock_info.reset_count
        except TpmFormatError as error:
            raise BackendFailed(f"the TPM's quote is unreadable: {error}", where="TPM") from error
        offset = request.ima_offset if reset_count == request.ima_reset_count else 0
        return GuestEvidence(
            ak_public=self.tpm.ak_public(),
            evidence=Evidence(
                quote=quote,
                merkle_index=0,
                merkle_path=(),
                event_log=b"",
                ima_offset=offset,
                ima_log=self.logs.ima_log(offset),
                hypervisor_report=b"",
                network_state=b"",
                audit_head=_NO_HEAD,
            ),
        )
