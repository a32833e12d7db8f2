"""The two programs of a VM that is attested: `shamon-guest-agent`, and `shamon-guest`, which asks the host.

The only place of this package that knows the real TPM and the real logs.
"""

import argparse
import json
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from shamon_host.attestation.guest_messages import (
    GUEST_PORT,
    HOST_PORT,
    MAX_HOSTS_BYTES,
    MAX_REQUEST_BYTES,
    NONCE_BYTES,
    HostsRequest,
)
from shamon_host.attestation.linux_logs import LinuxMeasurementLogs
from shamon_host.attestation.result_document import result_document
from shamon_host.domain.errors import ShamonError
from shamon_host.domain.text import printable
from shamon_host.guest_agent.answering import Answering
from shamon_host.guest_agent.vsock import ask_host, listen, serve
from shamon_host.peer.coalition_ca import read_ca_certificates
from shamon_host.peer.guest_hosts import VerifiedHost, VerifiedHosts, verify_hosts
from shamon_host.peer.host_record import authorities_of

CA = Path("/etc/shamon/ca.pem")
_TIMEOUT_S = 20.0


def agent(arguments: Sequence[str] | None = None) -> int:
    """`shamon-guest-agent`: answer the host, and nobody else, until killed."""
    parser = argparse.ArgumentParser(prog="shamon-guest-agent", description="Show the host of this VM what it runs.")
    parser.add_argument("--tcti", default="device:/dev/tpmrm0", help="default device:/dev/tpmrm0")
    chosen = parser.parse_args(arguments)

    def run() -> int:
        from shamon_host.attestation.tpm_device import DeviceTpm

        with listen(GUEST_PORT) as listening, DeviceTpm(chosen.tcti) as tpm:
            answering = Answering(tpm=tpm, logs=LinuxMeasurementLogs())
            serve(listening, answering.answer, most=MAX_REQUEST_BYTES)
        return 0

    return _telling(run)


def guest(arguments: Sequence[str] | None = None, *, ask: Callable[[bytes], bytes] | None = None) -> int:
    """`shamon-guest`: what this VM's host says of the hosts that enforce its types. `ask`: another way than vsock."""
    parser = argparse.ArgumentParser(
        prog="shamon-guest", description="Ask the host of this VM, and verify what it says."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    hosts = commands.add_parser("hosts", help="signed results about the hosts that enforce a type of this VM")
    hosts.add_argument("--ca", type=Path, default=CA, help=f"the coalition's CA, default {CA}")
    hosts.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)

    def run() -> int:
        authorities = authorities_of(read_ca_certificates(chosen.ca))
        nonce = secrets.token_bytes(NONCE_BYTES)
        request = HostsRequest(nonce=nonce).encode()
        data = (
            ask(request)
            if ask is not None
            else ask_host(HOST_PORT, request, most=MAX_HOSTS_BYTES, timeout_s=_TIMEOUT_S)
        )
        _print(verify_hosts(data, authorities, nonce), as_json=chosen.json)
        return 0

    return _telling(run)


def _telling(run: Callable[[], int]) -> int:
    """What it returns, or the exit code of the error that it ends with, which is told."""
    try:
        return run()
    except ShamonError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code


def _print(verified: VerifiedHosts, *, as_json: bool) -> None:
    if as_json:
        document = {
            "verifier": verified.verifier,
            "vm": verified.vm,
            "hosts": [
                {
                    "host": each.host,
                    "state": each.state.value,
                    "types": list(each.types),
                    "result": result_document(each.result) if each.result else None,
                }
                for each in verified.hosts
            ],
        }
        print(json.dumps(document, indent=2))
        return
    print(f"{verified.vm} on {verified.verifier}, which says:")
    for each in verified.hosts:
        print(f"{each.host}: {each.state}, for {', '.join(each.types)}; {_verdict(each)}")
    if not verified.hosts:
        print("no other host enforces a type of this VM")


def _verdict(host: VerifiedHost) -> str:
    if host.result is None:
        return "never appraised"
    result = host.result.result
    if result.trusted:
        return "trusted by the last result"
    return printable("not trusted: " + "; ".join(f"{claim.name} {claim.reason}" for claim in result.failures))
