"""What `shamon reference record` does: one quote, both logs, and the files that may come later.

Apart from the command's parser, which runs with every `shamon` command and needs none of this.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from shamon_host.attestation.pcr import Bank, PcrSelection
from shamon_host.attestation.ports import QUOTED_PCRS, MeasurementLogs, Tpm
from shamon_host.attestation.quote import verify_quote
from shamon_host.attestation.reference_model import IMA_PCR, ReferencePart, ReferenceValues, merged_digests
from shamon_host.attestation.reference_record import record, record_part
from shamon_host.attestation.xen_image import is_xen_image, require_command_line
from shamon_host.cli.output import printable
from shamon_host.daemon.files import read_limited
from shamon_host.domain.errors import BadInput
from shamon_host.domain.text import is_sha256

_OWN_COMMAND_LINE = Path("/proc/cmdline")
_MAX_FILE_BYTES = 64 * 1024 * 1024

Digests = Mapping[str, frozenset[str]]
"""Path → SHA-256 digests, lower-case hexadecimal."""


def record_boot(
    tpm: Tpm, logs: MeasurementLogs, *, manifest: Digests | None = None, uki: bytes | None = None
) -> ReferenceValues:
    """Reference Values of the boot that this host is in. Raises BackendFailed, BadInput, NotTrusted; see `record`."""
    if uki is not None and is_xen_image(uki):
        require_command_line(uki, _OWN_COMMAND_LINE.read_text())
    return record(
        pcrs=_quoted(tpm),
        event_log=logs.event_log(),
        ima_log=logs.ima_log(0),
        manifest=manifest,
        uki=uki,
    )


def record_host(tpm: Tpm, logs: MeasurementLogs) -> ReferencePart:
    """What this boot of this host has measured, as a part. Raises as `record_boot` does."""
    return record_part(pcr10=_quoted(tpm)[IMA_PCR], ima_log=logs.ima_log(0))


def _quoted(tpm: Tpm) -> Mapping[int, bytes]:
    """The PCRs, as a fresh quote has them."""
    nonce = secrets.token_bytes(32)
    quote = tpm.quote(nonce)
    values = {Bank.SHA256: quote.pcr_values}
    selection = PcrSelection.of({Bank.SHA256: QUOTED_PCRS})
    quoted = verify_quote(quote.attest, quote.signature, tpm.ak_public(), nonce, selection, values)
    return quoted.pcrs[Bank.SHA256]


def chosen_files(chosen: Sequence[str], default: Path) -> dict[str, frozenset[str]]:
    """Digests of files given as PATH or PATH=FILE, by the path that they will be measured under.

    `default` is among them, as it is here, unless it is absent or given. Raises BadInput.
    """
    pairs = [part.partition("=")[::2] for part in chosen]
    if all(path != str(default) for path, _ in pairs) and default.exists():
        pairs.append((str(default), ""))
    files: dict[str, frozenset[str]] = {}
    for path, source in pairs:
        if not path.startswith("/") or "/../" in path:
            raise BadInput("no path that a kernel would name", where="--file", expected="an absolute path", found=path)
        content = read_limited(Path(source or path), _MAX_FILE_BYTES, "file")
        files = merged_digests(files, {path: frozenset({hashlib.sha256(content).hexdigest()})})
    return files


def read_manifest(path: Path) -> dict[str, frozenset[str]]:
    """Path → digests. Raises BadInput naming the entry that is wrong."""
    expected = '{"files": {PATH: [SHA-256 in lower-case hexadecimal, ...]}}'
    try:
        document = json.loads(read_limited(path, _MAX_FILE_BYTES, "manifest"))
    except (ValueError, RecursionError) as error:
        raise BadInput("the manifest is not a JSON file", where=str(path), found=str(error)[:200]) from error
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, dict) or not files:
        raise BadInput("the manifest has no files", where=str(path), expected=expected)
    for name, digests in files.items():
        good = isinstance(digests, list) and digests and all(map(is_sha256, digests))
        if not good or not name.startswith("/"):
            raise BadInput("bad entry in the manifest", where=f"{path}: files.{printable(name)}", expected=expected)
    return {name: frozenset(digests) for name, digests in files.items()}
