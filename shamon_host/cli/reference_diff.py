"""`shamon reference diff`: what a host would fail on, and the part that would allow it.

It looks at this host's log, at a log from a file, or at stored Evidence. It judges as the Verifier does, but verifies
no quote: what it says of Evidence holds if the quote in it is good.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shamon_host.cli.output import print_json, printable
from shamon_host.domain.errors import BadInput, NotTrusted

if TYPE_CHECKING:
    from shamon_host.attestation.reference_diff import Difference
    from shamon_host.attestation.reference_model import ReferenceValues

_MAX_LOG_BYTES = 64 * 1024 * 1024


def add_parser(actions: Any) -> None:
    """Add this command to those of `shamon reference`."""
    diff = actions.add_parser("diff", help="what a host would fail on, and the part that would allow it")
    diff.add_argument("--reference", type=Path, required=True, metavar="FILE", help="its Reference Values")
    source = diff.add_mutually_exclusive_group()
    source.add_argument(
        "--log", type=Path, metavar="FILE", help="a whole binary IMA log (default: this host's, of this boot)"
    )
    source.add_argument("--evidence", type=Path, metavar="FILE", help="from `shamon evidence save`, with the whole log")
    diff.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="with --evidence: the policy, for the PCRs that it demands to be empty",
    )
    diff.add_argument("--out", type=Path, metavar="PART", help="write the part that allows all of it")
    diff.add_argument("--json", action="store_true", help="print JSON")
    diff.set_defaults(run=_diff)


def _diff(arguments: argparse.Namespace) -> int:
    from shamon_host.attestation.reference_diff import merged_parts
    from shamon_host.attestation.reference_part import part_document
    from shamon_host.cli.reference_files import open_values, write_reference

    reference = open_values(arguments.reference)
    differences = _differences(arguments, reference)
    part = merged_parts(differences)
    document = part_document(part)
    allowed = len(document) > 1
    if arguments.out is not None and allowed:
        write_reference(part, arguments.out)
    if arguments.json:
        print_json({"differences": [_as_json(each) for each in differences], "part": document if allowed else None})
    elif not differences:
        print("nothing: every entry is known")
    else:
        for each in differences:
            _print(each)
        if allowed:
            print("This part would allow what can be allowed. Merge it if it should be:")
            print_json(document)
    return NotTrusted.exit_code if differences else 0


def _differences(arguments: argparse.Namespace, reference: "ReferenceValues") -> "Sequence[Difference]":
    from shamon_host.attestation.evidence_file import MAX_FILE_BYTES, decode_file
    from shamon_host.attestation.ima_entry import ImaLogError
    from shamon_host.attestation.ima_log import IMA_PCR, detect_log_bank, parse_ima_log, replay_until
    from shamon_host.attestation.reference_diff import boot_differences, log_differences
    from shamon_host.daemon.files import read_limited
    from shamon_host.daemon.policy_source import read_policy_or_envelope

    if arguments.evidence is not None:
        data = read_limited(arguments.evidence, MAX_FILE_BYTES, "evidence file")
        evidence = decode_file(data, source=str(arguments.evidence)).evidence
        if evidence.ima_offset:
            raise BadInput(
                "the Evidence has only the end of the IMA log",
                where=str(arguments.evidence),
                expected="Evidence of a first handshake, with the log from its beginning",
                found=f"from byte {evidence.ima_offset}",
            )
        pcrs = evidence.quote.pcr_values
        entries = parse_ima_log(evidence.ima_log)
        entries = entries[: replay_until(entries, {}, {IMA_PCR: pcrs[IMA_PCR]}).verified]
        empty = read_policy_or_envelope(arguments.policy)[0].demands.empty_pcrs if arguments.policy else ()
        return (
            *boot_differences(pcrs, evidence.event_log, reference, empty),
            *log_differences(entries, reference, pcrs),
        )
    if arguments.log is not None:
        log = read_limited(arguments.log, _MAX_LOG_BYTES, "IMA log")
    else:
        from shamon_host.daemon.composition import open_logs

        log = open_logs().ima_log(0)
    try:
        entries = parse_ima_log(log, log_bank=detect_log_bank(log))
    except ImaLogError as error:
        raise BadInput(
            error.what,
            where=": ".join(str(each) for each in (arguments.log, error.where) if each),
            expected="a binary IMA log, as in binary_runtime_measurements",
            found=error.found,
            remedy=error.remedy,
        ) from error
    return log_differences(entries, reference, None)


def _as_json(difference: "Difference") -> dict[str, Any]:
    from shamon_host.attestation.reference_part import part_document

    return {
        "entry": difference.entry,
        "path": difference.path,
        "content": difference.content,
        "claim": difference.claim.name.value,
        "reason": difference.claim.reason,
        "expected": difference.claim.expected,
        "found": difference.claim.found,
        "missing": difference.missing,
        "others": difference.others,
        "part": None if difference.part is None else part_document(difference.part),
    }


def _print(difference: "Difference") -> None:
    claim = difference.claim
    more = f" ({difference.others} more like it)" if difference.others else ""
    print(f"{printable(claim.where or claim.name.value)}: {printable(claim.reason)}{more}")
    for name, value in (("expected", claim.expected), ("found", claim.found), ("missing", difference.missing)):
        if value:
            print(f"  {name}: {printable(value)}")
