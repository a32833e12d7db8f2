"""The commands of an operator, answered by the daemon: status, peers, vms, links, disks, audit, attest, vm, disk."""

import argparse
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shamon_host.cli.api_client import ApiClient
from shamon_host.cli.output import print_explanations, print_json, print_table, printable
from shamon_host.domain.quarantine import Grade

DEFAULT_CONFIG = Path("/etc/shamon/host.toml")
DEFAULT_SOCKET = Path("/run/shamon/shamon.sock")
_LOOK_S = 0.3
"""How often it is asked how a move goes."""
_MIB = 1 << 20
_COLUMNS = {
    "peers": ("host", "address", "state", "lease_s", "tpm", "carried", "reason"),
    "vms": ("name", "label", "types", "state", "context", "image", "attested", "quarantined"),
    "disks": ("name", "types", "users", "state", "path", "reason"),
    "links": ("peer", "type", "state", "local_port", "peer_port", "gate_s"),
}
_EMPTY = {
    "peers": "no peers",
    "vms": "no VMs on this host",
    "disks": "no VM of this host has a disk beside its own",
    "links": "no links",
}


def add_parsers(commands: Any) -> None:
    """Add these commands to the parser."""
    daemon_command(commands, "status", "this host at a glance", _status)
    for name, help_text in (
        ("peers", "the other hosts: admission, lease, claims"),
        ("vms", "the VMs of this host and the labels that they run under"),
        ("disks", "the disks that VMs of this host have beside their own"),
    ):
        daemon_command(commands, name, help_text, _listing)
    links = daemon_command(commands, "links", "the labelled links, by peer and type", _links)
    links.add_argument(
        "--plan", action="store_true", help="what the kernel lacks of what is wanted; exit code 1 if anything"
    )
    audit = daemon_command(commands, "audit", "the audit log: every decision, before its effect", _audit)
    audit.add_argument("--after", type=int, default=0, metavar="N", help="only records after number N")
    audit.add_argument("--limit", type=int, default=100, metavar="N", help="at most N records (default 100)")
    daemon_command(commands, "attest", "attest with every peer now", _attest)
    daemon_command(commands, "mac-vm", "the VM that holds this host's links, and what its SELinux denied", _mac_vm)
    vm = commands.add_parser("vm", help="start, stop, quarantine, replace or migrate a VM of this host")
    actions = vm.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, help_text in (
        ("start", "start or resume it, under its label; releases a quarantine"),
        ("stop", "stop it; its disk stays"),
        ("quarantine", "as the policy says: note it, take it off its networks, suspend or destroy it"),
        ("replace", "start a clean one from the pinned image in its place"),
    ):
        leaf = daemon_command(actions, action, help_text, _vm)
        leaf.add_argument("name", metavar="VM", help="its name in the policy")
        if action == "start":
            leaf.add_argument(
                "--dry-run", action="store_true", help="print each check that a start meets; exit code 1 if one denies"
            )
            leaf.set_defaults(run=_start)
        if action in ("quarantine", "replace"):
            leaf.add_argument("--reason", default="asked for by the operator", help="for the audit log")
        if action == "quarantine":
            leaf.add_argument("--grade", choices=tuple(Grade), help="stronger than what the policy says")
            leaf.add_argument("--keep-memory", action="store_true", help="write its memory to a file; it stands still")
            leaf.add_argument("--keep-disk", action="store_true", help="move its overlay aside when it would go")
            leaf.set_defaults(run=_quarantine)

    migrate = daemon_command(actions, "migrate", "move it to another host", _migrate)
    migrate.add_argument("name", metavar="VM", help="its name in the policy")
    migrate.add_argument("to", metavar="HOST", help="one of those that the policy lets it move to")
    migrate.add_argument("--reason", default="asked for by the operator", help="for the audit log")

    migrate.add_argument(
        "--live", action="store_true", help="while it runs; without it, it is stopped here and boots anew there"
    )

    disk = commands.add_parser("disk", help="give the name of a disk to another file")
    adopt = daemon_command(
        disk.add_subparsers(dest="action", required=True, metavar="ACTION"),
        "adopt",
        "let the file at its path be this disk from the next start on, though another one was",
        _adopt,
    )
    adopt.add_argument("name", metavar="DISK", help="its name in the policy")


def daemon_command(commands: Any, name: str, help_text: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=help_text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--socket", type=Path, default=DEFAULT_SOCKET, help=f"default {DEFAULT_SOCKET}")
    parser.set_defaults(run=run)
    return parser


def daemon_client(arguments: argparse.Namespace) -> ApiClient:
    return ApiClient(arguments.socket)


def _mac_vm(arguments: argparse.Namespace) -> int:
    status = daemon_client(arguments).get("/v1/mac-vm")
    if arguments.json:
        print_json(status)
    elif status is None:
        print("the host itself holds its links")
    else:
        answers = f"answers, boot {printable(status['boot_id'])}" if status["boot_id"] else printable(status["wrong"])
        print(f"{status['name']}: {status['state']}; {answers}")
        if attested := _attested(status):
            print(f"  attested: {printable(attested)}")
        for line in status["denials"]:
            print(f"  {printable(line)}")
    return 0 if status is None or status["boot_id"] else 1


def _status(arguments: argparse.Namespace) -> int:
    status = daemon_client(arguments).get("/v1/status")
    if arguments.json:
        print_json(status)
        return 0
    print(
        f"{status['host']} of {status['coalition']}, policy version {status['policy']['version']} "
        f"({status['policy']['digest'][:16]})"
    )
    if enrolment := status["enrolment"]:
        renew = ": ask for an invitation, and run `shamon host join`" if enrolment["renew"] else ""
        print(
            f"{enrolment['state']}, record {enrolment['serial']}, {enrolment['tpm']} TPM, certificate until "
            f"{enrolment['certificate_until']}{renew}"
        )
    counts = ", ".join(f"{count} {state}" for state, count in status["peers"].items() if count)
    print(f"peers: {counts or 'none'}")
    for peer, words in status["refused_by"].items():
        print(f"refused by {peer}: {printable(words)}")
    if flask := status["flask"]:
        print(f"Xen: {printable(flask['wrong'] or 'it enforces the policy in force')}")
        if flask["changed_by_others"]:
            print(f"Xen had another policy, which this host replaced: {printable(flask['changed_by_others'])}")
    if status["no_links_because"]:
        print(f"no links: {printable(status['no_links_because'])}")
    if status["resisting"]:
        print(f"cannot be stopped: {printable(', '.join(status['resisting']))}; see the audit log")
    for name, figure in status["figures"].items():
        print(f"{name}: median {figure['median']}, last {figure['last']}, {figure['count']} times")
    return 0


def _listing(arguments: argparse.Namespace) -> int:
    rows = daemon_client(arguments).get(f"/v1/{arguments.command}")
    if arguments.command == "vms" and not arguments.json:
        rows = [
            {**row, "image": _image(row), "attested": _attested(row), "quarantined": _quarantined(row)} for row in rows
        ]
        rows += map(_elsewhere, daemon_client(arguments).get("/v1/vms/away"))
    if arguments.json:
        print_json(rows)
    else:
        print_table(rows, _COLUMNS[arguments.command], empty=_EMPTY[arguments.command])
    return 0


def _links(arguments: argparse.Namespace) -> int:
    if not arguments.plan:
        return _listing(arguments)
    plan = daemon_client(arguments).get("/v1/links/plan")
    if arguments.json:
        print_json(plan)
    else:
        for operation in plan["operations"]:
            print(f"to do: {printable(operation)}")
        for peer in plan["handshakes"]:
            print(f"a handshake with {printable(peer)}: a link to it lacks an SA, or its gate is shut")
        for what in plan["out_of_reach"]:
            print(f"to be removed by hand: {printable(what)}")
        if not any(plan.values()):
            print("nothing to do")
    return 1 if any(plan.values()) else 0


def _audit(arguments: argparse.Namespace) -> int:
    records = daemon_client(arguments).get("/v1/audit", {"after": arguments.after, "limit": arguments.limit})
    if arguments.json:
        print_json(records)
        return 0
    for record in records:
        when = datetime.fromtimestamp(record["wall_s"], UTC).strftime("%Y-%m-%d %H:%M:%S")
        print(
            f"{record['sequence']:6} {when} {record['kind']:20} {printable(record['subject'])}: "
            f"{printable(record['detail'])}"
        )
    return 0


def _attest(arguments: argparse.Namespace) -> int:
    answer = daemon_client(arguments).post("/v1/attest", {})
    if arguments.json:
        print_json(answer)
    else:
        print("attesting with " + (", ".join(answer["attesting"]) or "nobody: there are no peers"))
    return 0


def _start(arguments: argparse.Namespace) -> int:
    if not arguments.dry_run:
        return _vm(arguments)
    answers = daemon_client(arguments).get("/v1/policy/dry-run", {"vm": arguments.name})
    return print_explanations(answers, as_json=arguments.json)


def _adopt(arguments: argparse.Namespace) -> int:
    disk = daemon_client(arguments).post(f"/v1/disks/{quote(arguments.name, safe='')}/adopt", {})
    if arguments.json:
        print_json(disk)
    else:
        print(f"{disk['name']}: {disk['state']}, {printable(disk['path'])}")
    return 0


def _elsewhere(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A VM that this host might own, and another one does, as a row among those of this host."""
    return {
        **dict.fromkeys(_COLUMNS["vms"], ""),
        "name": row["name"],
        "label": row["label"],
        "state": f"on {row['host']}",
    }


def _image(row: Mapping[str, Any]) -> str:
    state = row["image_state"]
    return f"{row['image']}" + ("" if state in ("current", "none") else f" ({state})")


def _attested(row: Mapping[str, Any]) -> str:
    """Empty for a VM that need not be."""
    known = row.get("attestation")
    if known is None:
        return ""
    if known["attested"]:
        return f"for {known['lease_s']:.0f} s"
    reason = known["failed"] or (known["last"] or {}).get("reason", "")
    return f"no: {reason}" if reason else "no"


def _quarantined(row: Mapping[str, Any]) -> str:
    return f"{row['quarantine']['grade']}: {row['quarantined']}" if row["quarantine"] else ""


def _quarantine(arguments: argparse.Namespace) -> int:
    fields = {name: getattr(arguments, name) for name in ("reason", "grade", "keep_memory", "keep_disk")}
    vm = daemon_client(arguments).post(f"/v1/vms/{quote(arguments.name, safe='')}/quarantine", fields)
    if arguments.json:
        print_json(vm)
        return 0
    print(f"{vm['name']}: {vm['state']}, in quarantine: {printable(vm['quarantine']['grade'])}")
    for path in vm["quarantine"]["kept"]:
        print(f"kept: {printable(path)}")
    return 0


def _migrate(arguments: argparse.Namespace) -> int:
    client, vm = daemon_client(arguments), f"/v1/vms/{quote(arguments.name, safe='')}"
    move = client.post(f"{vm}/migrate", {"to": arguments.to, "reason": arguments.reason, "live": arguments.live})
    told = ""
    while not move["done"]:
        line = _how_it_goes(move)
        if line != told and not arguments.json:
            print(line, file=sys.stderr, flush=True)
        told = line
        time.sleep(_LOOK_S)
        move = client.get(f"{vm}/move")
    if arguments.json:
        print_json(move)
        return 0
    print(f"{printable(move['vm'])}: on {printable(move['to'])}, {printable(move['step'])}")
    print("  ".join(f"{part} {took_ms:.0f} ms" for part, took_ms in move["parts_ms"].items()))
    total_s = sum(move["parts_ms"].values()) / 1000
    print(f"{move['sent_bytes'] / _MIB:.1f} MiB in {total_s:.1f} s")
    if move["downtime_ms"]:
        frame = f", its first frame {move['first_frame_ms']:.0f} ms later" if move["first_frame_ms"] else ""
        print(f"downtime {move['downtime_ms'] / 1000:.1f} s{frame}")
    return 0


def _how_it_goes(move: Mapping[str, Any]) -> str:
    line = f"{move['vm']} {move['step']}"
    if move["live"] and move["sent_bytes"]:
        line += f": {move['sent_bytes'] // _MIB} MiB"
    elif move["disk_bytes"]:
        line += f": {move['sent_bytes'] // _MIB} of {move['disk_bytes'] // _MIB} MiB"
    return printable(line)


def _vm(arguments: argparse.Namespace) -> int:
    fields = {"reason": arguments.reason} if hasattr(arguments, "reason") else {}
    vm = daemon_client(arguments).post(f"/v1/vms/{quote(arguments.name, safe='')}/{arguments.action}", fields)
    if arguments.json:
        print_json(vm)
    else:
        print(f"{vm['name']}: {vm['state']}" + (f" as {vm['context']}" if vm["context"] else ""))
    return 0
