"""`shamon reference`: Reference Values of a host, recorded on a known-good boot, and shown.

Parts of them, signatures and differences: `reference_parts`, `reference_signing`, `reference_diff`.

`record` runs on the host itself, right after an installation that somebody has reason to trust: it quotes, reads both
logs, and writes nothing unless they explain the quote. With the image's manifest, every program of the image may run
later, not only those that ran in this boot; with the unified kernel image, PCR 4, 9 and 11 are computed and compared.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shamon_host.cli import reference_diff, reference_parts, reference_signing, reference_vm
from shamon_host.cli.operate import DEFAULT_CONFIG
from shamon_host.cli.output import print_json, print_table, printable
from shamon_host.domain.labels import plain_name

if TYPE_CHECKING:
    from shamon_host.attestation.reference_model import ReferencePart, ReferenceValues

DEFAULT_DIRECTORY = Path("/etc/shamon/reference")
_MAX_IMAGE_BYTES = 256 * 1024 * 1024
_SHOWN = 10


def add_parsers(commands: Any) -> None:
    """Add this group to the parser."""
    reference = commands.add_parser("reference", help="Reference Values: what good Evidence of a host looks like")
    actions = reference.add_subparsers(dest="action", required=True, metavar="ACTION")
    take = actions.add_parser("record", help="on a known-good host: record this boot")
    take.add_argument("--host", required=True, metavar="NAME", help="the host that they are for")
    take.add_argument("--out", type=Path, metavar="FILE", help=f"default {DEFAULT_DIRECTORY}/NAME.json")
    take.add_argument("--tcti", default="device:/dev/tpmrm0", help="how to reach the TPM (default device:/dev/tpmrm0)")
    take.add_argument(
        "--uki",
        type=Path,
        metavar="FILE",
        help="the unified image (of a kernel, or of Xen) that this host was booted from",
    )
    take.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help='the image\'s files as JSON, {"files": {PATH: [SHA-256, ...]}}: all of them may run later',
    )
    take.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="PATH[=FILE]",
        help="PATH may be measured too, with the content it has here, or with that of FILE (repeatable; "
        f"default {DEFAULT_CONFIG}, where the host is this one)",
    )
    take.add_argument(
        "--part", type=Path, action="append", default=[], metavar="PART", help="a part to merge with them (repeatable)"
    )
    take.set_defaults(run=_record)
    show = actions.add_parser("show", help="what a file of Reference Values demands and accepts")
    show.add_argument("file", type=Path, metavar="FILE", help="Reference Values, signed or not, or a part")
    show.set_defaults(run=_show)
    for parser in (take, show):
        parser.add_argument("--json", action="store_true", help="print JSON")
    reference_parts.add_parsers(actions)
    reference_diff.add_parser(actions)
    reference_vm.add_parser(actions)
    reference_signing.add_parsers(actions)


def _record(arguments: argparse.Namespace) -> int:
    from shamon_host.attestation.reference_model import merged_digests
    from shamon_host.attestation.reference_record import not_in_manifest
    from shamon_host.cli.recording import chosen_files, read_manifest, record_boot
    from shamon_host.cli.reference_files import open_reference, versioned, write_reference
    from shamon_host.daemon.composition import open_logs, open_tpm
    from shamon_host.daemon.files import read_limited

    host = plain_name(arguments.host, "host name")
    out = arguments.out or DEFAULT_DIRECTORY / f"{host}.json"
    manifest = read_manifest(arguments.manifest) if arguments.manifest else {}
    uki = read_limited(arguments.uki, _MAX_IMAGE_BYTES, "unified image") if arguments.uki else None
    files = chosen_files(arguments.file, DEFAULT_CONFIG)
    recorded = record_boot(open_tpm(arguments.tcti), open_logs(), manifest=manifest, uki=uki)
    parts = [open_reference(path) for path in arguments.part]
    reference = replace(recorded, files=merged_digests(recorded.files, files))
    for part in parts:
        reference = reference.merged(part)
    reference = versioned(reference.grouped(), out)
    write_reference(reference, out)
    known = merged_digests(manifest, *(files for part in parts for files in (part.files, *part.packages.values())))
    boot_alone = sorted(not_in_manifest(recorded, known)) if known else []
    if arguments.json:
        print_json({"host": host, "boot_alone": boot_alone, **_summary(out, reference)})
        return 0
    print(f"{out}: Reference Values of {host}, version {reference.version}, digest {reference.digest}.")
    print(f"{len(reference.files)} files may run, {len(files)} of them as given by --file or by this host.")
    if reference.packages:
        print(
            f"{len(reference.packages)} packages, with {sum(map(len, reference.packages.values()))} files, may run too."
        )
    if boot_alone:
        print(f"{len(boot_alone)} files are in no manifest or part, taken as this boot measured them. Look at them:")
        for path in boot_alone[:_SHOWN]:
            print(f"  {printable(path)}")
        if len(boot_alone) > _SHOWN:
            print(f"  and {len(boot_alone) - _SHOWN} more, see --json")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from shamon_host.attestation.reference_model import ReferenceValues
    from shamon_host.attestation.reference_part import part_document
    from shamon_host.cli.reference_files import open_reference

    reference = open_reference(arguments.file)
    whole = reference if isinstance(reference, ReferenceValues) else None
    if arguments.json:
        document = whole.to_document() if whole else part_document(reference)
        print_json({**_summary(arguments.file, reference), "values": document})
        return 0
    rows = [
        {"pcr": pcr, "value": known.value.hex(), "events": len(known.events)}
        for pcr, references in sorted(reference.pcrs.items())
        for known in references
    ]
    print_table(rows, ("pcr", "value", "events"), empty="no PCR values")
    for name, value in (*(_demanded(whole) if whole else ()), *_accepted(reference)):
        print(f"{name}: {printable(value)}")
    if whole:
        print(f"version: {whole.version}, made from {whole.parent or 'nothing'}\ndigest: {whole.digest}")
    else:
        print("a part: it demands nothing, and is merged into Reference Values")
    return 0


def _demanded(reference: "ReferenceValues") -> tuple[tuple[str, object], ...]:
    return (
        ("IMA policy", reference.ima_policy),
        ("early user space", reference.early),
        ("Shamon's code", f"{reference.code.prefix}, one of {printable(reference.code.entries)}"),
    )


def _accepted(reference: "ReferencePart") -> tuple[tuple[str, object], ...]:
    from shamon_host.cli.reference_files import signer

    return (
        ("SELinux", reference.selinux.states or "nothing"),
        ("SELinux policy", sorted(reference.selinux.policy_digests) or "nothing"),
        ("files", f"{len(reference.files)} that may run or be read"),
        ("packages", f"{len(reference.packages)}, with {sum(map(len, reference.packages.values()))} files"),
        ("contents under any path", len(reference.digests)),
        ("signed files below", [f"{rule.prefix} by {signer(rule)}" for rule in reference.signed] or "nothing"),
        ("ANY content, also programs, under", reference.patterns or "nothing"),
        ("violations tolerated, on the log's word, of", reference.violations or "nothing"),
        ("excused before the IMA policy", reference.early_data or "nothing"),
    )


def _summary(path: Path, reference: "ReferencePart") -> dict[str, Any]:
    from shamon_host.attestation.reference_model import ReferenceValues

    told: dict[str, Any] = {"file": str(path), "files": len(reference.files), "packages": len(reference.packages)}
    if isinstance(reference, ReferenceValues):
        told |= {"version": reference.version, "parent": reference.parent, "digest": reference.digest}
    return told
