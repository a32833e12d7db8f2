"""`shamon inspect ima FILE`: what an IMA log says, whether it is consistent, and who signed the files in it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shamon_host.cli.output import print_json, print_table, printable
from shamon_host.domain.errors import BadInput

if TYPE_CHECKING:
    from shamon_host.attestation.ima_survey import ImaSurvey

_MAX_LOG_BYTES = 512 * 1024 * 1024
_MAX_KEY_BYTES = 64 * 1024
_SHOWN = 5


def add_parser(actions: Any) -> None:
    """Add this command to those of `shamon inspect`."""
    parser = actions.add_parser(
        "ima",
        help="an IMA log, binary or ASCII: its templates, signatures, and the PCR values that it leads to",
        description="Exit code 0: consistent; 3: not to be trusted (a wrong template hash, a bad signature, "
        "a malformed entry); 2: no IMA log, or one that is cut off.",
    )
    # Optional for argparse alone: --signing-key takes several, hence also what follows the last of them.
    parser.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="binary_runtime_measurements or the ASCII one"
    )
    parser.add_argument(
        "--signing-key",
        type=Path,
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY",
        dest="signing_keys",
        help="keys that sign files: X.509 certificates or public keys, DER or PEM, one in each file (repeatable)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> int:
    from shamon_host.attestation.ima_entry import ImaLogError
    from shamon_host.attestation.ima_signature import SigningKeys, load_signing_key
    from shamon_host.attestation.ima_survey import survey_ima_log
    from shamon_host.daemon.files import read_limited

    key_paths, path = list(arguments.signing_keys), arguments.file
    if path is None:
        if not key_paths:
            raise BadInput("no IMA log is named", expected="shamon inspect ima FILE")
        path = key_paths.pop()
    keys = SigningKeys(
        load_signing_key(read_limited(key_path, _MAX_KEY_BYTES, "signing key"), where=str(key_path))
        for key_path in key_paths
    )
    log = read_limited(path, _MAX_LOG_BYTES, "IMA log")
    try:
        survey = survey_ima_log(log, keys)
    except ImaLogError as error:
        error.where = f"{path}, {error.where}" if error.where else str(path)
        raise
    if arguments.json:
        print_json(_document(survey))
    else:
        _print(path, survey)
    return 0 if survey.trustworthy else 3


def _document(survey: "ImaSurvey") -> dict[str, Any]:
    from shamon_host.attestation.ima_signature import SignatureVerdict

    return {
        "format": survey.format,
        "log_hash": survey.log_hash.value,
        "entries": survey.entries,
        "templates": dict(sorted(survey.templates.items())),
        "violations": survey.violations,
        "bad_template_hashes": survey.wrong_hashes,
        "malformed_entries": survey.malformed,
        "signatures": {verdict.value: survey.signatures[verdict] for verdict in SignatureVerdict},
        "evm_signatures": {verdict.value: survey.evm_signatures[verdict] for verdict in SignatureVerdict},
        "appended_signatures": {verdict.value: survey.appended_signatures[verdict] for verdict in SignatureVerdict},
        "signatures_by_measured_keys": {
            verdict.value: survey.by_keyrings[verdict] for verdict in (SignatureVerdict.GOOD, SignatureVerdict.BAD)
        },
        "keyrings": [
            {
                "entry": found.number,
                "keyring": found.keyring,
                "subject": found.key.subject if found.key else "",
                "key_ids": sorted(f"{key_id:08x}" for key_id in found.key.key_ids) if found.key else [],
                "key_sha256": found.key.fingerprint if found.key else None,
                "data_sha256": found.data_digest,
                "problem": found.problem,
            }
            for found in survey.keys
        ],
        "pcrs": {
            bank: {str(pcr): value.hex() for pcr, value in sorted(values.items())}
            for bank, values in survey.pcrs.items()
        },
        "boot_aggregate": survey.boot_aggregate,
        "bad_entries": [{"entry": entry.number, "path": entry.path, "reason": entry.reason} for entry in survey.bad],
    }


def _print(path: Path, survey: "ImaSurvey") -> None:
    from shamon_host.attestation.ima_signature import SignatureVerdict

    kind = "an ASCII" if survey.format == "ascii" else "a binary"
    print(f"{printable(path)}: {kind} IMA log, {survey.entries} entries, template hashes in {survey.log_hash}.")
    print("templates: " + ", ".join(f"{name} {count}" for name, count in sorted(survey.templates.items())))
    print(f"boot_aggregate: {survey.boot_aggregate or 'not the first entry'}")
    print(
        f"violations: {survey.violations}" + (", which alone do not count against a log here" * bool(survey.violations))
    )
    for what, counts in (
        ("signatures", survey.signatures),
        ("portable EVM signatures", survey.evm_signatures),
        ("appended signatures", survey.appended_signatures),
    ):
        signed = counts.total() - counts[SignatureVerdict.NONE]
        if signed or what == "signatures":
            print(
                f"{what}: {counts[SignatureVerdict.GOOD]} good, {counts[SignatureVerdict.BAD]} bad, "
                f"{counts[SignatureVerdict.UNKNOWN_KEY]} by unknown keys; {survey.entries - signed} entries without"
            )
    good, bad = survey.by_keyrings[SignatureVerdict.GOOD], survey.by_keyrings[SignatureVerdict.BAD]
    if good or bad:
        print(f"  of the unknown keys, those in the log's own keyrings made {good} of them; {bad} they did not make")
    for found in survey.keys[:_SHOWN]:
        what = printable(found.problem) if found.key is None else f"{printable(found.key.subject)}, "
        what += "" if found.key is None else f"SHA-256 of the key {found.key.fingerprint}"
        print(f"key added to {printable(found.keyring)} by entry {found.number}: {what}")
    if len(survey.keys) > _SHOWN:
        print(f"  and {len(survey.keys) - _SHOWN} keys more, see --json")
    rows = [
        {"pcr": pcr, "bank": bank, "value": value.hex()}
        for bank, values in survey.pcrs.items()
        for pcr, value in sorted(values.items())
    ]
    print_table(rows, ("pcr", "bank", "value"), empty="")
    if survey.trustworthy:
        return
    print(
        f"Not to be trusted: {survey.wrong_hashes} wrong template hashes, {survey.bad_signatures} bad "
        f"signatures, {survey.malformed} malformed entries."
    )
    for entry in survey.bad[:_SHOWN]:
        print(f"  entry {entry.number}, {printable(entry.path or '(no path)')}: {printable(entry.reason)}")
    if len(survey.bad) > _SHOWN:
        print("  and more, see --json")
