"""`shamon appraise`: a verdict repeated from an evidence file, without a daemon, a TPM or the host that it is of."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shamon_host.cli.output import print_json, printable
from shamon_host.cli.registry import add_ca, read_registry
from shamon_host.cli.results import print_result
from shamon_host.domain.errors import NotTrusted

DEFAULT_POLICY = Path("/etc/shamon/policy.toml")
DEFAULT_REGISTRY = Path("/etc/shamon/peers")

if TYPE_CHECKING:
    from shamon_host.daemon.offline_appraisal import Enrolled
    from shamon_host.domain.labels import HostName


def add_parsers(commands: Any) -> None:
    """Add this command to the parser."""
    appraise = commands.add_parser("appraise", help="repeat a verdict from stored Evidence, offline")
    appraise.add_argument("--evidence", type=Path, required=True, metavar="FILE", help="from `shamon evidence save`")
    appraise.add_argument(
        "--reference", type=Path, required=True, metavar="FILE", help="its Reference Values, signed or not"
    )
    appraise.add_argument(
        "--policy", type=Path, metavar="FILE", help=f"the Verifier's (default {DEFAULT_POLICY}, if it is there)"
    )
    appraise.add_argument("--peer-policy", type=Path, metavar="FILE", help="the host's, where that is another one")
    enrolled = appraise.add_mutually_exclusive_group()
    enrolled.add_argument("--ak", type=Path, metavar="FILE", help="the AK that is enrolled for the host")
    enrolled.add_argument(
        "--registry", type=Path, metavar="DIR", help=f"of all hosts (default {DEFAULT_REGISTRY}, if it is there)"
    )
    add_ca(appraise)
    appraise.add_argument("--json", action="store_true", help="print JSON")
    appraise.set_defaults(run=_appraise)


def _appraise(arguments: argparse.Namespace) -> int:
    from shamon_host.attestation.evidence_file import MAX_FILE_BYTES, decode_file
    from shamon_host.attestation.result_document import result_document
    from shamon_host.cli.reference_files import open_values
    from shamon_host.daemon.files import read_limited
    from shamon_host.daemon.offline_appraisal import repeat
    from shamon_host.daemon.policy_source import read_policy_or_envelope

    data = read_limited(arguments.evidence, MAX_FILE_BYTES, "evidence file")
    file = decode_file(data, source=str(arguments.evidence))
    taken = _defaults(arguments)
    policy, peer_policy = (
        read_policy_or_envelope(path)[0] if path else None for path in (arguments.policy, arguments.peer_policy)
    )
    repeated = repeat(
        file,
        now_s=time.time(),
        reference=open_values(arguments.reference),
        policy=policy,
        peer_policy=peer_policy,
        enrolled=_enrolled(arguments, file.record.result.host),
    )
    document, then = result_document(repeated.record), result_document(file.record)
    notes = [*taken, *repeated.notes]
    if arguments.json:
        print_json({"result": document, "then": then, "notes": notes})
    else:
        print_result(document, who=f"by the Evidence that {then['verifier']} had at {then['appraised_at']}")
        for note in notes:
            print(f"note: {printable(note)}")
    return 0 if repeated.record.result.trusted else NotTrusted.exit_code


def _defaults(arguments: argparse.Namespace) -> list[str]:
    """On a host of the coalition its own policy and registry are taken; which, in words."""
    taken = []
    if arguments.policy is None and DEFAULT_POLICY.exists():
        arguments.policy = DEFAULT_POLICY
        taken.append(f"by the policy {DEFAULT_POLICY}")
    if arguments.ak is None and arguments.registry is None and DEFAULT_REGISTRY.exists():
        arguments.registry = DEFAULT_REGISTRY
        taken.append(f"by the registry {DEFAULT_REGISTRY}")
    return taken


def _enrolled(arguments: argparse.Namespace, host: "HostName") -> "Enrolled | None":
    from shamon_host.daemon.offline_appraisal import Enrolled
    from shamon_host.peer.enrolment import read_ak_file

    if arguments.ak:
        return Enrolled(ak_public=read_ak_file(arguments.ak), tpm=None)
    if arguments.registry:
        entry = read_registry(arguments.registry, arguments).enrolled(host)
        return Enrolled(ak_public=entry.ak_public, tpm=entry.tpm)
    return None
