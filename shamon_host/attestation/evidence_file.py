"""An evidence file: stored Evidence with all that it takes to appraise it again, later and elsewhere.

Evidence is bound to a handshake. So the file has the transcript and the role that its leaf is made of, and the
qualifying data of the quote, beside the Evidence itself; and what the Verifier knew before: the enrolled AK, and the
clock of the last quote, without which a TPM that went back is not told from one that did not. Nothing in the file is
believed for being there: it is what somebody kept.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shamon_host.attestation import evidence as evidence_form
from shamon_host.attestation.evidence import MAX_EVIDENCE_BYTES, Evidence, Role
from shamon_host.attestation.result_document import ResultRecord, read_result_document, result_document
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.domain.errors import BadInput
from shamon_host.domain.results import TpmKind

FORMAT = "shamon-evidence/1"
MAX_FILE_BYTES = MAX_EVIDENCE_BYTES + 4 * 1024 * 1024
_MAX_AK_BYTES = 4096
_DIGEST_BYTES = 32
_FIELDS = {"format", "result", "role", "transcript", "qualifying_data", "ak_public", "tpm", "state", "evidence"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceFile:
    """Evidence as it was appraised once."""

    record: ResultRecord
    """What the Verifier said of it then; for comparison alone."""
    role: Role
    """The Attester's, in the handshake."""
    transcript: bytes
    """32 bytes."""
    qualifying_data: bytes
    """What the quote was to be over: the root of the tree with this handshake's leaf."""
    ak_public: bytes
    """TPMT_PUBLIC of the AK that was enrolled for the host."""
    tpm: TpmKind
    """As enrolled."""
    state: VerifierState | None
    """What the Verifier remembered of this AK before it appraised this. Where the IMA log is whole, only its clock is
    of use."""
    evidence: Evidence


def encode_file(file: EvidenceFile) -> bytes:
    """The file as JSON, ASCII, one line."""
    fields = json.dumps(
        {
            "format": FORMAT,
            "result": result_document(file.record),
            "role": file.role.value,
            "transcript": file.transcript.hex(),
            "qualifying_data": file.qualifying_data.hex(),
            "ak_public": base64.b64encode(file.ak_public).decode(),
            "tpm": file.tpm.value,
            "state": file.state.to_document() if file.state else None,
        },
        separators=(",", ":"),
    ).encode("ascii")
    # The Evidence is megabytes, and is JSON already.
    return b'%s,"evidence":%s}\n' % (fields[:-1], evidence_form.encode(file.evidence))


def decode_file(data: bytes, *, source: str = "evidence file") -> EvidenceFile:
    """Read what `encode_file` wrote. Every byte is hostile. Raises BadInput."""
    if len(data) > MAX_FILE_BYTES:
        raise BadInput(
            "the evidence file is too large",
            where=source,
            expected=f"at most {MAX_FILE_BYTES} bytes",
            found=f"{len(data)} bytes",
        )
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput("not an evidence file", where=source, expected="JSON", found=str(error)[:120]) from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise BadInput(
            "not an evidence file of a format that is known",
            where=source,
            expected=FORMAT,
            found=repr(fields.get("format"))[:80] if isinstance(fields, dict) else type(fields).__name__,
        )
    if fields.keys() != _FIELDS:
        raise BadInput(
            "wrong keys",
            where=source,
            expected=", ".join(sorted(_FIELDS)),
            found=", ".join(sorted(map(str, fields.keys() ^ _FIELDS)))[:200],
        )
    try:
        return _decoded(fields, source)
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise BadInput(
            "malformed evidence file", where=source, found=f"{type(error).__name__}: {error}"[:200]
        ) from None


def _decoded(fields: Mapping[str, Any], source: str) -> EvidenceFile:
    transcript, qualifying = bytes.fromhex(fields["transcript"]), bytes.fromhex(fields["qualifying_data"])
    ak_public = base64.b64decode(fields["ak_public"], validate=True)
    if len(transcript) != _DIGEST_BYTES or len(qualifying) != _DIGEST_BYTES or len(ak_public) > _MAX_AK_BYTES:
        raise ValueError("transcript and qualifying data have 32 bytes each, an AK at most 4096")
    return EvidenceFile(
        record=read_result_document(fields["result"], source=f"{source}: result"),
        role=Role(fields["role"]),
        transcript=transcript,
        qualifying_data=qualifying,
        ak_public=ak_public,
        tpm=TpmKind(fields["tpm"]),
        state=None if fields["state"] is None else VerifierState.from_document(fields["state"]),
        evidence=evidence_form.decode(json.dumps(fields["evidence"]).encode()),
    )
