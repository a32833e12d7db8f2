"""What `shamon coalition enrol` does: decide, issue the host's certificate, write its registry entry."""

import argparse

from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.cli.output import print_json
from shamon_host.daemon.policy_source import read_policy_or_envelope
from shamon_host.domain import monitor
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.domain.results import TpmKind
from shamon_host.peer.coalition_ca import issue_host_certificate, parse_certificate
from shamon_host.peer.enrolment import PeerRegistry, enrolled_peer, read_ak_file


def enrol_host(arguments: argparse.Namespace) -> int:
    """Enrol `arguments.host`; nothing is written when the monitor refuses. Raises ShamonError."""
    host = HostName(plain_name(arguments.host, "host name"))
    policy, _ = read_policy_or_envelope(arguments.policy)
    arguments.registry.mkdir(parents=True, exist_ok=True)
    registry = PeerRegistry.load(arguments.registry)
    public = read_ak_file(arguments.ak)
    decision = monitor.host_enrol(
        policy,
        host,
        ak_name=TpmPublic.parse(public).name,
        enrolled={other.host: other.ak_name for other in registry.hosts() if not other.expelled},
        expelled={other.host for other in registry.hosts() if other.expelled},
    )
    decision.enforce()
    issued = issue_host_certificate(arguments.ca, host, arguments.out)
    pem = issued.certificate.read_bytes()
    certificate = parse_certificate(pem, where=str(issued.certificate))
    peer = enrolled_peer(host, certificate, public, TpmKind(arguments.tpm))
    registry.enrol(peer, pem)
    entry = arguments.registry / f"{host}.toml"
    if arguments.json:
        print_json({"host": host, "entry": str(entry), "ak_name": peer.ak_name.hex(), "tpm": peer.tpm.value})
    else:
        print(f"{entry}: {host}, AK {peer.ak_name.hex()[:16]}…, {peer.tpm} TPM. Every host needs this file.")
        print(f"{arguments.out}: certificate and key of {host}. Only {host} needs these.")
    return 0
