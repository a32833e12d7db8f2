"""`shamon reference from-image`, `from-packages`, `from-host`, `from-key`, and `merge`.

Each of the first four writes a *part*: what may be measured, by where it is from. `merge` puts parts together, into
Reference Values or into one part, and makes the next version of them.
"""

import argparse
import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shamon_host.cli.output import print_json, printable
from shamon_host.domain.errors import BadInput, NotTrusted

if TYPE_CHECKING:
    from shamon_host.attestation.reference_model import ReferencePart

_SHOWN = 10
_MAX_KEY_BYTES = 64 * 1024


def add_parsers(actions: Any) -> None:
    """Add these commands to those of `shamon reference`."""
    image = actions.add_parser("from-image", help="a part: every file of a root file system")
    image.add_argument(
        "image", type=Path, metavar="IMAGE", help="a directory, or a tar archive (disk images: see the error)"
    )
    image.set_defaults(run=_from_image)
    packages = actions.add_parser("from-packages", help="a part: the files of a Debian host's packages, by package")
    packages.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="root directory (default /)")
    packages.add_argument(
        "--leave-out-changed",
        action="store_true",
        help="write the part without the files that were changed on disk (default: refuse)",
    )
    packages.set_defaults(run=_from_packages)
    host = actions.add_parser("from-host", help="a part: what this boot of this host has measured, without PCRs")
    host.add_argument("--tcti", default="device:/dev/tpmrm0", help="how to reach the TPM (default device:/dev/tpmrm0)")
    host.set_defaults(run=_from_host)
    key = actions.add_parser("from-key", help="a part: files that are signed with a key (IMA signatures)")
    key.add_argument("key", type=Path, metavar="KEY", help="certificate or public key, PEM or DER")
    key.add_argument("--prefix", default="/", metavar="DIR/", help="below this directory alone (default /)")
    key.set_defaults(run=_from_key)
    merge = actions.add_parser("merge", help="put Reference Values and parts together: the next version")
    merge.add_argument("base", type=Path, metavar="BASE", help="Reference Values, or a part")
    merge.add_argument("parts", type=Path, nargs="+", metavar="PART", help="what they are to accept too")
    merge.add_argument(
        "--replace-packages",
        action="store_true",
        help="of a package that a PART has, drop the other versions (default: accept both)",
    )
    merge.set_defaults(run=_merge)
    for parser in (image, packages, host, key, merge):
        parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where it goes")
        parser.add_argument("--json", action="store_true", help="print JSON")


def _from_image(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.image_files import image_files

    return _write(image_files(arguments.image), arguments, {})


def _from_packages(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.dpkg_files import package_files

    found = package_files(arguments.root)
    if not found.packages:
        raise BadInput("no package is installed there", where=str(arguments.root), expected="dpkg's records")
    left_out = {"changed": found.changed, "configured": found.configured, "unchecked": found.unchecked}
    if found.changed and not arguments.leave_out_changed:
        raise NotTrusted(
            f"{len(found.changed)} files are not as their packages brought them",
            where=str(arguments.root),
            found=_some(found.changed),
            remedy="Find out why, or leave them out with --leave-out-changed.",
        )
    return _write(found.part, arguments, left_out)


def _from_host(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.recording import record_host
    from shamon_host.daemon.composition import open_logs, open_tpm

    return _write(record_host(open_tpm(arguments.tcti), open_logs()), arguments, {})


def _from_key(arguments: argparse.Namespace) -> int:
    from shamon_host.attestation.ima_signature import load_signing_key
    from shamon_host.attestation.reference_model import ReferencePart, SignedFiles
    from shamon_host.daemon.files import read_limited

    prefix = arguments.prefix
    if not (prefix.startswith("/") and prefix.endswith("/")):
        raise BadInput("this is no directory", where="--prefix", expected="/usr/, say", found=repr(prefix))
    data = read_limited(arguments.key, _MAX_KEY_BYTES, "key")
    load_signing_key(data, where=str(arguments.key))
    if b"-----BEGIN " in data:
        data = base64.b64decode(data.split(b"-----")[2])
        load_signing_key(data, where=str(arguments.key))
    # A certificate stays one: it may give its key another id than the key's own.
    rule = SignedFiles(key=base64.b64encode(data).decode(), prefix=prefix)
    return _write(ReferencePart(signed=(rule,)), arguments, {})


def _merge(arguments: argparse.Namespace) -> int:
    from shamon_host.attestation.reference_model import ReferenceValues
    from shamon_host.cli.reference_files import open_reference

    base = open_reference(arguments.base)
    merged = base
    for part in map(open_reference, arguments.parts):
        merged = (merged.without_other_versions(part) if arguments.replace_packages else merged).merged(part)
    merged = merged.grouped()
    if isinstance(merged, ReferenceValues) and isinstance(base, ReferenceValues):
        merged = merged.following(base)
    return _write(merged, arguments, {})


def _write(reference: "ReferencePart", arguments: argparse.Namespace, left_out: dict[str, list[str]]) -> int:
    from shamon_host.attestation.reference_model import ReferenceValues
    from shamon_host.cli.reference_files import signer, write_reference

    write_reference(reference, arguments.out)
    told: dict[str, Any] = {
        "out": str(arguments.out),
        "files": len(reference.files),
        "packages": len(reference.packages),
        "package_files": sum(map(len, reference.packages.values())),
    }
    if isinstance(reference, ReferenceValues):
        told |= {"version": reference.version, "parent": reference.parent, "digest": reference.digest}
    if arguments.json:
        print_json(told | ({"left_out": left_out} if left_out else {}))
        return 0
    kind = f"version {reference.version}, " if isinstance(reference, ReferenceValues) else "a part, "
    print(
        f"{printable(arguments.out)}: {kind}{told['files']} files, "
        f"{told['packages']} packages with {told['package_files']} files."
    )
    if isinstance(reference, ReferenceValues):
        print(f"digest {reference.digest}")
    for why, paths in left_out.items():
        if paths:
            print(f"left out, {_WHY[why]}: {len(paths)} ({printable(_some(paths))})")
    for rule in reference.signed:
        print(
            f"every file below {printable(rule.prefix)} that {printable(signer(rule))} signed is accepted, "
            "old versions too"
        )
    for pattern in reference.patterns:
        print(f"ANY content is accepted under {printable(pattern)}: whoever can write there can run what they like.")
    for pattern in reference.violations:
        print(
            f"violations of {printable(pattern)} are tolerated, on the word of the log: see docs/reference-values.md."
        )
    return 0


_WHY = {
    "changed": "not as their packages brought them",
    "configured": "configuration that was changed",
    "unchecked": "without a checksum in their package",
}


def _some(paths: list[str]) -> str:
    more = f", and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more
