"""`shamon policy update` and `shamon policy status`, answered by the daemon of this host, which coordinates."""

import argparse
from pathlib import Path
from typing import Any

from shamon_host.cli.operate import daemon_client, daemon_command
from shamon_host.cli.output import print_json, printable
from shamon_host.daemon.files import read_limited
from shamon_host.domain.errors import BadInput

_MAX_ENVELOPE_BYTES = 8 << 20


def add_parsers(actions: Any) -> None:
    """Add these commands to those of `shamon policy`."""
    update = daemon_command(
        actions, "update", "have every host agree to a signed version, and put it in force", _update
    )
    update.add_argument("envelope", type=Path, metavar="ENVELOPE", help="the new version, as `policy sign` wrote it")
    update.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="HOST",
        help="do not wait for this host (again for each); it gets the version when it is back",
    )
    daemon_command(actions, "status", "the version in force on this host, and what is under way", _status)


def _update(arguments: argparse.Namespace) -> int:
    data = read_limited(arguments.envelope, _MAX_ENVELOPE_BYTES, "envelope")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise BadInput(
            "not an envelope", where=str(arguments.envelope), expected="what `policy sign` writes"
        ) from error
    answer = daemon_client(arguments).post("/v1/policy/update", {"envelope": text, "without": arguments.without})
    if arguments.json:
        print_json(answer)
        return 0
    confirmed = ", ".join(answer["confirmed"]) or "no other host"
    print(f"version {answer['version']} is in force here and on {confirmed} ({answer['digest'][:16]})")
    for host, reason in answer["unconfirmed"].items():
        print(f"{host} agreed and has not confirmed; it catches up at the next handshake: {printable(reason)}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    status = daemon_client(arguments).get("/v1/policy")
    if arguments.json:
        print_json(status)
        return 0
    signed = "signed" if status["signed"] else "unsigned"
    print(f"version {status['version']} ({status['digest']}), {signed}")
    if status["agreed_to"] is not None:
        print(f"agreed to version {status['agreed_to']}, and waiting to hear whether everybody did")
    return 0
