"""`shamon reference record-vm`: Reference Values of guests, from a VM of this host that runs and is to be attested.

The daemon asks the VM, over the channel that only this VM has, and the answer is taken as it is: so the VM has to be
one that was started from a known-good image and that nobody has reached. With the image's manifest, every program of
the image may run later, not only those that ran in this start.
"""

import argparse
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shamon_host.cli.operate import DEFAULT_SOCKET, daemon_client
from shamon_host.cli.output import print_json

DEFAULT_DIRECTORY = Path("/etc/shamon/reference/guests")


def add_parser(actions: Any) -> None:
    """Add this command to the group's parser."""
    parser = actions.add_parser("record-vm", help="from a VM of this host: record this start of it")
    parser.add_argument("vm", metavar="VM", help="its name in the policy, which has it attested")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"{DEFAULT_DIRECTORY}/DEMAND.json, say")
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help='the image\'s files as JSON, {"files": {PATH: [SHA-256, ...]}}: all of them may run later',
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--socket", type=Path, default=DEFAULT_SOCKET, help=f"default {DEFAULT_SOCKET}")
    parser.set_defaults(run=_record)


def _record(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import replace

    from shamon_host.attestation.guest_reference import read_guest_reference
    from shamon_host.attestation.reference_model import merged_digests
    from shamon_host.attestation.reference_values import dump_document
    from shamon_host.cli.recording import read_manifest

    manifest = read_manifest(arguments.manifest) if arguments.manifest else {}
    told = daemon_client(arguments).get(f"/v1/vms/{quote(arguments.vm, safe='')}/reference")
    measured = read_guest_reference(json.dumps(told["reference"]).encode(), where="what the VM measured")
    values = replace(measured.values, files=merged_digests(manifest, measured.values.files))
    reference = replace(measured, values=values)
    # What is written is read back first by the rules of the daemon, which would refuse it otherwise.
    read_guest_reference(json.dumps(reference.to_document()).encode(), where=f"{arguments.out}, not written")
    dump_document(reference.to_document(), arguments.out)
    boot_alone = sorted(path for path, each in measured.values.files.items() if each - manifest.get(path, frozenset()))
    if arguments.json:
        print_json({"file": str(arguments.out), "digest": reference.digest, "boot_alone": boot_alone})
        return 0
    print(f"{arguments.out}: Reference Values of guests like {arguments.vm}.")
    print(f"{len(values.files)} files may run, {len(boot_alone)} of them as this start measured them alone.")
    print(f'In the policy: sha256 = "{reference.digest}"')
    return 0
