"""Files of Reference Values and of parts, as commands read and write them; signed ones too.

A command that looks at signatures says so: `shamon reference verify`. What is read here is what the operator has, and
what is written is read back first by the rules of the daemon, which would refuse it otherwise.
"""

import base64
import json
from pathlib import Path

from shamon_host.attestation.ima_signature import load_signing_key
from shamon_host.attestation.reference_model import ReferencePart, ReferenceValues, SignedFiles
from shamon_host.attestation.reference_part import part_document
from shamon_host.attestation.reference_values import dump_part, dump_reference_values, parse_any
from shamon_host.daemon.files import read_limited
from shamon_host.domain.errors import BadInput
from shamon_host.peer.reference_envelope import MAX_ENVELOPE_BYTES, is_envelope, read_envelope

_KIND = "file of Reference Values"


def open_reference(path: Path) -> ReferencePart:
    """Reference Values, signed or not, or a part. Signatures are not looked at. Raises BadInput."""
    data = read_limited(path, MAX_ENVELOPE_BYTES, _KIND)
    if is_envelope(data):
        data = read_envelope(data, source=str(path)).payload
    return parse_any(data, where=str(path))


def open_values(path: Path) -> ReferenceValues:
    """Reference Values, signed or not. Raises BadInput, for a part too."""
    reference = open_reference(path)
    if not isinstance(reference, ReferenceValues):
        raise BadInput(
            "a part, where whole Reference Values are wanted",
            where=str(path),
            remedy="Merge it into Reference Values with `shamon reference merge`.",
        )
    return reference


def signer(rule: SignedFiles) -> str:
    """Whose signatures the rule accepts, in words. Raises BadInput."""
    key = load_signing_key(base64.b64decode(rule.key), where="signed")
    return f"{key.subject or 'a key'} (SHA-256 of the key {key.fingerprint})"


def versioned(reference: ReferenceValues, out: Path) -> ReferenceValues:
    """As the version after those that `out` has, or as they are where there is no such file. Raises BadInput."""
    return reference.following(open_values(out)) if out.exists() else reference


def require_replaceable(out: Path) -> None:
    """Raises BadInput where `out` is a file of another kind: nothing else is ever replaced."""
    if not out.exists():
        return
    try:
        open_reference(out)
    except BadInput as error:
        raise BadInput(
            "another file is there, and is not replaced",
            where=str(out),
            expected="a new file, Reference Values or a part",
            found=error.what,
        ) from error


def write_reference(reference: ReferencePart, out: Path) -> None:
    """Write Reference Values or a part, in place of such a file at most.

    Raises BadInput where the daemon would refuse them, where `out` is another file, or cannot be written.
    """
    require_replaceable(out)
    document = reference.to_document() if isinstance(reference, ReferenceValues) else part_document(reference)
    parse_any(json.dumps(document).encode(), where=f"{out}, not written")
    if isinstance(reference, ReferenceValues):
        dump_reference_values(reference, out)
    else:
        dump_part(reference, out)
