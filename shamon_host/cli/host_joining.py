"""What `shamon host join` does: prove this host's TPM, and write down what the coalition gives for it."""

import argparse
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from shamon_host.attestation.ports import Tpm
from shamon_host.cli.output import print_json
from shamon_host.daemon.files import read_limited
from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.peer.coalition_ca import (
    CA_CERTIFICATE,
    key_pem,
    make_directory,
    read_der_certificate,
    write_atomically,
)
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.host_record import write_record
from shamon_host.peer.join_http import call
from shamon_host.peer.join_messages import PROOF, REQUEST, Invitation
from shamon_host.peer.joining import Applicant
from shamon_host.peer.sealed_key import sealed_key
from shamon_host.peer.tls import TlsFiles

_MAX_INVITATION_BYTES = 64 * 1024
CERTIFICATE, KEY, PEERS = "host.pem", "host.key", "peers"


def join_coalition(arguments: argparse.Namespace, tpm: Tpm) -> int:
    """Join; nothing is written before the operator's side has agreed. Raises ShamonError."""
    invitation = Invitation.decode(read_limited(arguments.invitation, _MAX_INVITATION_BYTES, "invitation"))
    key = _key(arguments.dir / KEY, tpm, anew=arguments.new_key)
    key_file = key_pem(key) if arguments.plain_key else sealed_key(key, tpm.seal)
    applicant = Applicant(invitation=invitation, tpm=tpm, key=key)
    challenge = call(invitation, REQUEST, applicant.request())
    answer = call(invitation, PROOF, applicant.proof(challenge))
    granted, registry, certificate = applicant.accept(answer)
    chain = [certificate, *(read_der_certificate(each, where="next CA") for each in granted.exchange.cas)]
    _write(arguments.dir, granted.ca_pem, registry, chain, key_file)
    arguments.invitation.unlink(missing_ok=True)  # used up, and nobody else's business
    own = registry.enrolled(invitation.host)
    if arguments.json:
        print_json(
            {
                "host": own.host,
                "serial": own.serial,
                "tpm": own.tpm.value,
                "expires": certificate.not_valid_after_utc.isoformat(),
                "hosts": [peer.host for peer in registry.hosts()],
                "directory": str(arguments.dir),
            }
        )
        return 0
    names = ", ".join(peer.host for peer in registry.hosts())
    print(
        f"{own.host} has joined with its {own.tpm} TPM. Its certificate ends on "
        f"{certificate.not_valid_after_utc:%Y-%m-%d}."
    )
    print(f"{arguments.dir}: {CA_CERTIFICATE}, {CERTIFICATE}, {KEY}, and {PEERS}/ ({names}).")
    return 0


def _key(path: Path, tpm: Tpm, *, anew: bool) -> ec.EllipticCurvePrivateKey:
    """The key that the host has, or a new one.

    It is kept: the host's votes on policies are signed by it, and a host that catches up later checks them. Raises
    BadInput for a file that holds no such key, BackendFailed for one that this TPM does not open.
    """
    if anew or not path.exists():
        return ec.generate_private_key(ec.SECP256R1())
    try:
        key = TlsFiles(ca=path, certificate=path, key=path).opened(tpm.unseal, path.parent).private_key()
    except BackendFailed as error:
        error.remedy = "If it was sealed by another TPM, or this one was cleared since, use --new-key."
        raise
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadInput("a key of another kind", where=str(path), expected="ECDSA P-256", remedy="Use --new-key.")
    return key


def _write(
    directory: Path,
    ca_pem: bytes,
    registry: PeerRegistry,
    chain: list[x509.Certificate],
    key_file: bytes,
) -> None:
    """Raises BackendFailed; then join again: what is half written is told by the daemon, which does not start."""
    make_directory(directory)
    make_directory(directory / PEERS)
    for record in registry.records():
        write_record(directory / PEERS, record)
    write_atomically(directory / CA_CERTIFICATE, ca_pem, mode=0o644)
    write_atomically(directory / KEY, key_file, mode=0o600)
    write_atomically(directory / CERTIFICATE, b"".join(each.public_bytes(Encoding.PEM) for each in chain), mode=0o644)
