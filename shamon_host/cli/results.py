"""What this host says of its peers: `shamon results` (history, signed ones for others to keep, their schema), `shamon
explain` (the story of a verdict), `shamon evidence save` (the Evidence behind it, for `shamon appraise`).
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shamon_host.cli.operate import daemon_client, daemon_command
from shamon_host.cli.output import print_json, print_table, printable, write_new
from shamon_host.cli.registry import add_ca, read_registry
from shamon_host.domain.errors import BadInput, NotTrusted

_MAX_CERTIFICATE_BYTES = 64 * 1024
_COLUMNS = ("number", "verdict", "first", "last", "count", "why")


def add_parsers(commands: Any) -> None:
    """Add these commands to the parser."""
    results = commands.add_parser("results", help="Attestation Results: their history, and signed ones to keep")
    actions = results.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = daemon_command(actions, "show", "what this host has said of a peer, newest first", _show)
    show.add_argument("host", metavar="HOST", help="another host of the coalition")
    show.add_argument("--limit", type=int, default=20, metavar="N", help="at most N verdicts (default 20)")
    save = daemon_command(actions, "save", "the newest result of a peer, signed by this host", _save)
    save.add_argument("host", metavar="HOST", help="another host of the coalition")
    save.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file")
    verify = actions.add_parser("verify", help="whether a signed result is by the Verifier that it names, and trusts")
    verify.add_argument("file", type=Path, metavar="FILE", help="from `shamon results save`")
    known = verify.add_mutually_exclusive_group(required=True)
    known.add_argument("--registry", type=Path, metavar="DIR", help="the coalition's registry of hosts")
    known.add_argument("--certificate", type=Path, metavar="FILE", help="the Verifier's TLS certificate (PEM)")
    add_ca(verify)
    verify.add_argument("--json", action="store_true", help="print JSON")
    verify.set_defaults(run=_verify)
    schema = actions.add_parser("schema", help="print the JSON Schema of Attestation Results")
    schema.add_argument("--json", action="store_true", help="print JSON, which it is anyway")
    schema.set_defaults(run=_schema)
    evidence = commands.add_parser("evidence", help="stored Evidence of a peer")
    kept = evidence.add_subparsers(dest="action", required=True, metavar="ACTION")
    save_evidence = daemon_command(kept, "save", "write it to a file, for `shamon appraise`", _save_evidence)
    save_evidence.add_argument("host", metavar="HOST", help="another host of the coalition")
    save_evidence.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file")
    save_evidence.add_argument(
        "--which", choices=("failed", "passed"), default="failed", help="the last that did so (default failed)"
    )
    explain = daemon_command(
        commands, "explain", "the story of a verdict: what failed, where, what clears it", _explain
    )
    explain.add_argument("host", metavar="HOST", help="another host of the coalition")


def _show(arguments: argparse.Namespace) -> int:
    runs = daemon_client(arguments).get("/v1/results", {"host": arguments.host, "limit": arguments.limit})
    if arguments.json:
        print_json(runs)
        return 0
    rows = [
        {
            "number": run["number"],
            "verdict": "trusted" if run["trusted"] else "not trusted",
            "first": run["first"]["appraised_at"],
            "last": run["last"]["appraised_at"],
            "count": run["count"],
            "why": _why(run["first"]),
        }
        for run in runs
    ]
    print_table(rows, _COLUMNS, empty=f"{printable(arguments.host)} was never appraised by this host")
    return 0


def _why(document: Mapping[str, Any]) -> str:
    failing = [claim for claim in document["claims"] if claim["status"] != "pass"]
    wrong = [claim for claim in failing if claim["status"] == "fail"] or failing
    if not wrong:
        return "every claim passes"
    others = f" (and {len(failing) - 1} more)" if len(failing) > 1 else ""
    return f"{wrong[0]['name']}: {wrong[0]['reason']}{others}"


def _save(arguments: argparse.Namespace) -> int:
    envelope = daemon_client(arguments).get("/v1/results/signed", {"host": arguments.host})["envelope"]
    write_new(arguments.out, envelope)
    return _saved(arguments, f"a signed result of {printable(arguments.host)}")


def _save_evidence(arguments: argparse.Namespace) -> int:
    import json

    file = daemon_client(arguments).get("/v1/results/evidence", {"host": arguments.host, "which": arguments.which})
    write_new(arguments.out, json.dumps(file, separators=(",", ":")) + "\n")
    return _saved(arguments, f"Evidence of {printable(arguments.host)} that {arguments.which}")


def _saved(arguments: argparse.Namespace, what: str) -> int:
    if arguments.json:
        print_json({"file": str(arguments.out)})
    else:
        print(f"{arguments.out}: {what}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    """3 for a result that is not authentic, and for one that is and says that the host is not trusted."""
    from shamon_host.attestation.result_document import result_document
    from shamon_host.daemon.files import read_limited
    from shamon_host.peer.coalition_ca import parse_certificate
    from shamon_host.peer.result_envelope import (
        MAX_ENVELOPE_BYTES,
        verifier_of_certificate,
        verifiers_of_registry,
        verify_result,
    )

    if arguments.registry:
        verifiers = verifiers_of_registry(read_registry(arguments.registry, arguments))
    else:
        where = str(arguments.certificate)
        certificate = parse_certificate(
            read_limited(arguments.certificate, _MAX_CERTIFICATE_BYTES, "certificate"), where=where
        )
        verifiers = verifier_of_certificate(certificate, where=where)
    data = read_limited(arguments.file, MAX_ENVELOPE_BYTES, "signed result")
    record = verify_result(data, verifiers, source=str(arguments.file))
    document = result_document(record)
    if arguments.json:
        print_json({"signed_by": record.verifier, "result": document})
    else:
        print(f"{arguments.file}: signed by {record.verifier}, and not changed since.")
        print_result(document, who=f"by {document['verifier']} at {document['appraised_at']}")
    return 0 if record.result.trusted else NotTrusted.exit_code


def print_result(document: Mapping[str, Any], *, who: str) -> None:
    """A result for people: the verdict and by `who`, then a line for each claim, and what fails in full."""
    verdict = "trusted" if document["trusted"] else "not trusted"
    print(f"{document['host']}: {verdict} {who} ({document['tpm']} TPM, boot {document['reset_count']})")
    for claim in document["claims"]:
        print(f"  {claim['status']:6}  {claim['name']}: {printable(claim['reason'])}")
        if claim["status"] != "pass":
            print_places(claim, indent="          ")


def print_places(claim: Mapping[str, Any], *, indent: str) -> None:
    """Where it failed, what was expected and what was found, each on a line of its own."""
    for name in ("where", "expected", "found"):
        if claim[name]:
            print(f"{indent}{name:8}  {printable(claim[name])}")


def _schema(arguments: argparse.Namespace) -> int:
    from shamon_host.interchange.schema import RESULT_FILE, schema_text

    print(schema_text(RESULT_FILE), end="")
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    story = daemon_client(arguments).get("/v1/results/explain", {"host": arguments.host})
    if not isinstance(story, dict) or "verdict" not in story:
        raise BadInput("the daemon gave another answer than a story")
    trusted = story["verdict"] == "trusted"
    if arguments.json:
        print_json(story)
        return 0 if trusted else NotTrusted.exit_code
    since = f" since {story['since']}" if story["since"] else ""
    print(f"{story['host']}: {story['verdict']}{since}")
    print(printable(story["summary"]))
    if first := story["first_failure"]:
        print(f"\nFailed first: {first['name']} ({first['status']})\n  {printable(first['reason'])}")
        print_places(first, indent="  ")
    others = [claim for claim in story["failing"] if not first or claim["name"] != first["name"]]
    _section("Fails too", [f"{claim['name']} ({claim['status']}): {claim['reason']}" for claim in others])
    _section("What followed", story["followed"])
    _section("What clears it", story["clears"])
    _section("Before", story["before"])
    return 0 if trusted else NotTrusted.exit_code


def _section(title: str, lines: list[str]) -> None:
    if lines:
        print(f"\n{title}:")
        for line in lines:
            print(f"  {printable(line)}")
