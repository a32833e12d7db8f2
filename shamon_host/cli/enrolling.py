"""What `shamon coalition enrol` does: decide, issue the host's certificate, write its record."""

import argparse

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from shamon_host.cli.output import print_json
from shamon_host.daemon.policy_source import read_policy_or_envelope
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.domain.results import TpmKind
from shamon_host.peer.coalition_ca import key_pem, make_directory, read_der_certificate, write_atomically
from shamon_host.peer.enroller import Enroller
from shamon_host.peer.enrolment import RECORD_SUFFIX, read_ak_file


def enrol_host(arguments: argparse.Namespace) -> int:
    """Enrol `arguments.host`; nothing is written when the monitor refuses. Raises ShamonError."""
    host = HostName(plain_name(arguments.host, "host name"))
    policy, _ = read_policy_or_envelope(arguments.policy)
    enroller = Enroller.load(arguments.ca, arguments.registry)
    key = ec.generate_private_key(ec.SECP256R1())
    record = enroller.enrol(
        policy, host, key=key.public_key(), ak_public=read_ak_file(arguments.ak), tpm=TpmKind(arguments.tpm)
    )
    make_directory(arguments.out)
    chain = [read_der_certificate(each, where="certificate") for each in (record.certificate, *enroller.cas)]
    write_atomically(arguments.out / f"{host}.key", key_pem(key), mode=0o600)
    pem = b"".join(each.public_bytes(Encoding.PEM) for each in chain)
    write_atomically(arguments.out / f"{host}.pem", pem, mode=0o644)
    peer, entry = record.peer, arguments.registry / f"{host}{RECORD_SUFFIX}"
    if arguments.json:
        print_json({"host": host, "entry": str(entry), "ak_name": peer.ak_name.hex(), "tpm": peer.tpm.value})
    else:
        print(f"{entry}: {host}, AK {peer.ak_name.hex()[:16]}…, {peer.tpm} TPM. Every host needs this file.")
        print(f"{arguments.out}: certificate and key of {host}. Only {host} needs these.")
    return 0
