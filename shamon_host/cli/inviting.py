"""What `shamon coalition invite` does: write an invitation, and wait for the host on this machine, the CA's."""

import argparse
import asyncio
import ipaddress
import re
import sys
from datetime import UTC, datetime, timedelta

from shamon_host.attestation.ek_certificate import load_roots
from shamon_host.cli.output import print_error, print_json, printable
from shamon_host.daemon.policy_source import read_policy_or_envelope
from shamon_host.domain.errors import BadInput, ShamonError
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.domain.policy import Policy
from shamon_host.domain.results import TpmKind
from shamon_host.domain.text import is_sha256
from shamon_host.peer.coalition_ca import write_atomically
from shamon_host.peer.enroller import Enroller
from shamon_host.peer.host_record import HostRecord
from shamon_host.peer.join_http import Joined, JoinServer, granted, server_context
from shamon_host.peer.join_messages import Granted
from shamon_host.peer.joining import EkTrust, Joiner, Reception, invite

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_VALID = timedelta(days=7)


def invite_host(arguments: argparse.Namespace) -> int:
    """Return when the host has joined. Raises ShamonError for what used the invitation up, or ended its time."""
    host = HostName(plain_name(arguments.host, "host name"))
    policy, _ = read_policy_or_envelope(arguments.policy)
    if host not in policy.hosts:
        raise BadInput(
            "the policy knows no such host", where=str(arguments.policy), expected=", ".join(sorted(policy.hosts))
        )
    if arguments.out.exists():
        raise BadInput("the file is there already", where=str(arguments.out), expected="the name of a new file")
    enroller = Enroller.load(arguments.ca, arguments.registry)
    enroller.require_invitable(policy, host, TpmKind(arguments.tpm))
    trust = EkTrust(
        tpm=TpmKind(arguments.tpm),
        roots=load_roots(arguments.ek_roots) if arguments.ek_roots else (),
        pinned_sha256=_digest(arguments.ek) if arguments.ek else b"",
        first=arguments.trust_first_ek,
    )
    return asyncio.run(_serve(arguments, host, policy, enroller, trust))


async def _serve(
    arguments: argparse.Namespace, host: HostName, policy: Policy, enroller: Enroller, trust: EkTrust
) -> int:
    address, port = parse_address(arguments.listen)
    if ipaddress.ip_address(address).is_unspecified and not arguments.reach:
        raise BadInput("nobody can call this address", where="--listen", found=address, remedy="Name one with --reach.")
    valid = parse_duration(arguments.valid)
    expires = datetime.now(UTC) + valid

    def check(name: HostName, *, ak_public: bytes, ek_sha256: bytes, tpm: TpmKind) -> None:
        enroller.require_enrollable(policy, name, ak_public=ak_public, ek_sha256=ek_sha256, tpm=tpm)

    def grant(joiner: Joiner) -> tuple[HostRecord, Granted]:
        record = enroller.enrol(
            policy,
            joiner.host,
            key=joiner.key,
            ak_public=joiner.ak_public,
            ek_sha256=joiner.ek.sha256,
            tpm=joiner.tpm,
        )
        return record, granted(enroller.ca.pem, enroller.registry.records(), enroller.cas)

    def told(error: ShamonError) -> None:
        if not arguments.json:
            print_error(error, as_json=False)

    # The port is known when somebody listens, the invitation when the port is known: the reception gets it then.
    invitation = invite(
        host, address=arguments.reach or address, port=port or 1, ca_pem=enroller.ca.pem, expires=expires
    )
    reception = Reception(invitation=invitation, trust=trust, check=check)
    server = JoinServer(reception, grant=grant, told=told)
    await server.start(server_context(enroller.ca, valid), address, port)
    try:
        if not port:
            reception.invitation = invitation = invite(
                host, address=invitation.address, port=server.port, ca_pem=enroller.ca.pem, expires=expires
            )
        write_atomically(arguments.out, invitation.encode(), mode=0o600)
        if not arguments.json:
            print(
                f"{arguments.out}: invitation of {host}, for one try until {expires:%Y-%m-%d %H:%M:%S} UTC. Carry it "
                f"there by a way you trust, and run `shamon host join` on it. Waiting on {address} port {server.port}."
            )
            sys.stdout.flush()
        joined = await server.outcome()
    finally:
        await server.close()
        arguments.out.unlink(missing_ok=True)  # it is worth nothing any more
    _report(joined, arguments)
    return 0


def _report(joined: Joined, arguments: argparse.Namespace) -> None:
    peer, words = joined.record.peer, joined.joiner.ek_words
    if arguments.json:
        print_json(
            {
                "host": peer.host,
                "serial": peer.serial,
                "tpm": peer.tpm.value,
                "ek": peer.ek_sha256.hex(),
                "ek_trust": words,
                "ak_name": peer.ak_name.hex(),
                "certificate": peer.certificate_sha256.hex(),
            }
        )
        return
    print(f"{peer.host} has joined: {peer.tpm} TPM, AK {peer.ak_name.hex()[:16]}…, EK {peer.ek_sha256.hex()[:16]}…")
    print(f"  {printable(words)}")


def parse_address(text: str) -> tuple[str, int]:
    """`ADDRESS:PORT`, IPv6 in brackets; port 0 is any free one. Raises BadInput."""
    address, colon, port = text.rpartition(":")
    try:
        ip = ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        number = int(port) if port.isdecimal() and len(port) <= 5 else -1
        if colon and 0 <= number <= 65535:
            return str(ip), number
    except ValueError:
        pass
    raise BadInput("bad address", where="--listen", expected="ADDRESS:PORT, IPv6 in brackets", found=repr(text[:80]))


def parse_duration(text: str) -> timedelta:
    """`15m`, `90s`, `2h`, `1d`. Raises BadInput."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    duration = timedelta(seconds=int(found[1]) * _UNITS[found[2]]) if found else timedelta()
    if not timedelta() < duration <= MAX_VALID:
        raise BadInput("bad duration", where="--valid", expected="15m, say; at most 7d", found=repr(text[:40]))
    return duration


def _digest(text: str) -> bytes:
    if not is_sha256(text):
        raise BadInput(
            "bad digest of an EK", where="--ek", expected="64 hexadecimal digits, as `shamon host ek` prints them"
        )
    return bytes.fromhex(text)
