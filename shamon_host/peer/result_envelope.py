"""A signed Attestation Result: a DSSE envelope by which the Verifier's host stands for what it says of another one.

The key is that of the host's TLS certificate, which signs its votes too. Whoever keeps such a file can verify it later
and elsewhere, with nothing but the registry of the coalition or the Verifier's certificate. The signature says who
said it and when; whether the host is to be trusted *now* is for a newer result to say.
"""

import json
from collections.abc import Mapping

from cryptography import x509

from shamon_host.attestation.result_document import (
    MAX_RESULT_BYTES,
    ResultRecord,
    read_result_document,
    result_document,
)
from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.peer import signed_record
from shamon_host.peer.coalition_ca import certificate_names
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.signed_record import PrivateKey, public_text, read_envelope, read_public

RESULT_TYPE = "application/vnd.shamon.attestation-result+json"
MAX_ENVELOPE_BYTES = signed_record.encoded_size(MAX_RESULT_BYTES)


def sign_result(record: ResultRecord, key: PrivateKey) -> bytes:
    """An envelope around the result, signed by one key: that of `record.verifier`. Raises BadInput."""
    return signed_record.sign_record(result_document(record), key, payload_type=RESULT_TYPE, most=MAX_RESULT_BYTES)


def verify_result(data: bytes, verifiers: Mapping[HostName, str], *, source: str = "result") -> ResultRecord:
    """The result in an envelope that the Verifier which it names has signed.

    `verifiers`: the hosts whose word counts, each with its public key (`signed_record.public_text`). Raises BadInput
    for what is malformed or of an unknown format, NotTrusted where the Verifier is none of these hosts, or did not
    sign, or somebody else did in its name.
    """
    envelope = read_envelope(data, payload_type=RESULT_TYPE, most=MAX_RESULT_BYTES, source=source)
    # Whose key it takes stands in the payload, which counts for nothing until that key verifies it.
    try:
        document = json.loads(envelope.payload)
    except (ValueError, RecursionError) as error:
        raise BadInput("not JSON", where=f"{source}: payload", found=str(error)[:120]) from None
    named = HostName(str(document.get("verifier", ""))[:80]) if isinstance(document, dict) else HostName("")
    signers = envelope.signers({key: read_public(key) for key in verifiers.values()})
    if named not in verifiers:
        raise NotTrusted(
            "the result is not by a Verifier whose key is known",
            where=source,
            expected=", ".join(sorted(verifiers))[:200] or "a host of the registry",
            found=ascii(named),
            remedy="Give the registry of its coalition, or the Verifier's own certificate.",
        )
    if verifiers[named] not in signers:
        others = sorted(host for host, key in verifiers.items() if key in signers)
        raise NotTrusted(
            f"{named} did not sign this result, or it was changed since",
            where=source,
            expected=f"a signature by the key of {named}",
            found=f"one by {', '.join(others)}" if others else "none by a known host",
            remedy="Get it again from that host, with `shamon results save`.",
        )
    record = read_result_document(document, source=source)
    if canonical_json(document) != envelope.payload:
        raise BadInput("not canonical JSON", where=f"{source}: payload", expected="sorted keys, no white space, ASCII")
    return record


def verifiers_of_registry(registry: PeerRegistry) -> dict[HostName, str]:
    """The hosts of a registry with the keys that sign for them, but those that are expelled."""
    return {peer.host: peer.record_key for peer in registry.hosts() if peer.record_key and not peer.expelled}


def verifier_of_certificate(certificate: x509.Certificate, *, where: str) -> dict[HostName, str]:
    """The host of a TLS certificate with its key. Whoever gives the certificate stands for it: its issuer is not asked.

    Raises BadInput for a certificate that is no host's."""
    names = certificate_names(certificate)
    if len(names) != 1:
        raise BadInput(
            "not the certificate of a host", where=where, expected="one name", found=", ".join(names)[:200] or "none"
        )
    return {HostName(plain_name(names[0], "host name")): public_text(certificate.public_key())}
