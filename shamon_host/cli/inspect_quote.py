"""`shamon inspect quote`: is this a quote by that key, and what does it say?"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shamon_host.cli.output import in_file, print_json, printable
from shamon_host.domain.errors import BadInput, NotTrusted, ShamonError

if TYPE_CHECKING:
    from shamon_host.attestation.tpm_structures import QuoteAttest, TpmSignature


def add_parser(actions: Any) -> None:
    """Add this command to the group `inspect`."""
    parser = actions.add_parser(
        "quote",
        help="verify a quote with its key, and show what it says",
        description="Exit code 0: valid; 3: not by this key, no quote, or for another nonce; 2: a file that is none.",
    )
    parser.add_argument("--attest", type=Path, required=True, metavar="FILE", help="TPMS_ATTEST or TPM2B_ATTEST")
    parser.add_argument(
        "--signature",
        type=Path,
        required=True,
        metavar="FILE",
        help="TPMT_SIGNATURE, or the signature alone (DER, raw)",
    )
    parser.add_argument(
        "--public", type=Path, required=True, metavar="FILE", help="the AK: PEM, TPMT_PUBLIC or TPM2B_PUBLIC"
    )
    parser.add_argument("--nonce", metavar="HEX", help="the qualifying data that the quote has to be over")
    parser.add_argument("--allow-sha1", action="store_true", help="believe a signature over SHA-1 too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from shamon_host.attestation.quote_files import (
        MAX_FILE_BYTES,
        read_attest,
        read_public,
        read_signatures,
        signed_by,
    )
    from shamon_host.daemon.files import read_limited

    nonce = _nonce(arguments.nonce)
    signed_bytes, attest = _of(arguments.attest, read_attest, read_limited(arguments.attest, MAX_FILE_BYTES, "quote"))
    public = _of(arguments.public, read_public, read_limited(arguments.public, MAX_FILE_BYTES, "public key"))
    signature_file = read_limited(arguments.signature, MAX_FILE_BYTES, "signature")
    signature: TpmSignature | None = None
    refusal: ShamonError | None = None
    try:
        signatures = _of(arguments.signature, lambda data: read_signatures(data, public), signature_file)
        signature = signed_by(signed_bytes, signatures, public, allow_sha1=arguments.allow_sha1)
        _require_quote(attest, nonce)
    except NotTrusted as error:
        refusal = error
    _print(attest, signature, refusal, checked_nonce=nonce is not None, as_json=arguments.json)
    return refusal.exit_code if refusal is not None else 0


def _nonce(text: str | None) -> bytes | None:
    try:
        return bytes.fromhex(text) if text is not None else None
    except ValueError:
        raise BadInput("not hexadecimal", where="--nonce", expected="an even number of digits 0-9, a-f") from None


def _of(path: Path, read: Any, data: bytes) -> Any:
    """What `read` makes of the file; its errors name the file."""
    from shamon_host.attestation.tpm_structures import TpmFormatError

    try:
        return read(data)
    except TpmFormatError as error:
        raise in_file(error, path) from error


def _require_quote(attest: "QuoteAttest", nonce: bytes | None) -> None:
    """Raises NotTrusted where the signed bytes are no quote, or one for another nonce."""
    from shamon_host.attestation.quote import require_qualifying_data
    from shamon_host.attestation.tpm_structures import TpmFormatError

    try:
        attest.require_quote()
    except TpmFormatError as error:
        raise NotTrusted(error.what, where=error.where, expected=error.expected, found=error.found) from error
    if nonce is not None:
        require_qualifying_data(attest, nonce)


def _print(
    attest: "QuoteAttest",
    signature: "TpmSignature | None",
    refusal: ShamonError | None,
    *,
    checked_nonce: bool,
    as_json: bool,
) -> None:
    clock = attest.clock_info
    said: dict[str, Any] = {
        "valid": refusal is None,
        "nonce": attest.extra_data.hex(),
        "pcr_selection": {bank.value: list(pcrs) for bank, pcrs in attest.selection.banks},
        "pcr_digest": attest.pcr_digest.hex(),
        "clock": {
            "clock": clock.clock_ms,
            "reset_count": clock.reset_count,
            "restart_count": clock.restart_count,
            "safe": clock.safe,
        },
        "firmware_version": f"{attest.firmware_version:016x}",
        "qualified_signer": attest.qualified_signer.hex(),
        "signature": {"algorithm": signature.algorithm.name.lower(), "hash": signature.hash_bank.value}
        if signature is not None
        else None,
        "reason": str(refusal) if refusal is not None else None,
    }
    if as_json:
        print_json(said)
        return
    if refusal is None:
        print("valid: a quote by this key" + ("" if checked_nonce else " (its nonce was not compared: give --nonce)"))
    else:
        print(f"NOT valid: {printable(str(refusal))}")
    for name, value in (
        ("nonce", said["nonce"] or "none"),
        ("PCRs", str(attest.selection)),
        ("PCR digest", said["pcr_digest"]),
        ("clock", f"{clock.clock_ms} ms, {'' if clock.safe else 'not '}safe"),
        ("boots", f"resetCount {clock.reset_count}, restartCount {clock.restart_count}"),
        ("firmware", said["firmware_version"]),
        ("signer", said["qualified_signer"]),
        (
            "signature",
            "{algorithm} over {hash}".format(**said["signature"]) if said["signature"] else "does not verify",
        ),
    ):
        print(f"{name}: {value}")
