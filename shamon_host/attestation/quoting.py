"""A quote with the values that it is over, from a TPM that has separate commands for the two.

IMA extends PCR 10 whenever a new program starts, so both are repeated until the values read are those of the quote.
"""

from collections.abc import Callable, Mapping

from shamon_host.attestation.pcr import Bank, PcrSelection, composite_digest
from shamon_host.attestation.ports import QUOTED_PCRS, Quote
from shamon_host.attestation.tpm_structures import QuoteAttest
from shamon_host.domain.errors import BackendFailed, BadInput

SELECTION = PcrSelection.of({Bank.SHA256: QUOTED_PCRS})
_TRIES = 20


def quote_with_values(
    quote: Callable[[], tuple[bytes, bytes]], read: Callable[[], Mapping[int, bytes]], *, where: str
) -> Quote:
    """`quote`: TPMS_ATTEST and TPMT_SIGNATURE of a quote of `SELECTION`; `read`: the values of these PCRs. Raises
    BackendFailed."""
    for _ in range(_TRIES):
        attest, signature = quote()
        values = read()
        try:
            quoted = QuoteAttest.parse(attest)
        except BadInput as error:
            raise BackendFailed(f"the TPM's quote is unreadable: {error}", where=where) from error
        if quoted.selection != SELECTION:
            raise no_bank(f"a quote of {quoted.selection}", where=where)
        if composite_digest(Bank.SHA256, SELECTION, {Bank.SHA256: values}) == quoted.pcr_digest:
            return Quote(attest=attest, signature=signature, pcr_values=values)
    raise BackendFailed(
        "the PCRs change faster than they can be quoted",
        where=where,
        expected=f"PCR values that match a quote within {_TRIES} tries",
        remedy="Something starts new programs without end; try again when the host is calmer.",
    )


def no_bank(found: str, *, where: str) -> BackendFailed:
    """The TPM lacks the bank that is quoted."""
    return BackendFailed(
        "the TPM does not have the PCR bank that is quoted",
        where=where,
        expected="PCR 0-14 in the SHA-256 bank",
        found=found,
        remedy="Enable the SHA-256 bank in the firmware's settings.",
    )
