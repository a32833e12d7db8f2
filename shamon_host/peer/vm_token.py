"""Tokens of VMs as they are signed: a DSSE envelope (`signed_record`) around `domain.vm_tokens.VmToken`, with the
signatures of the host that gives the VM away and of the host that takes it, by the keys of their certificates.

The host that takes it signs first (it has the disk, and may run the VM), the one that gives it away last: until it has
signed, nothing has changed; from then on the VM is no longer its own.
"""

from collections.abc import Callable

from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.labels import HostName, VmName, plain_name
from shamon_host.domain.vm_tokens import MAX_GENERATION, VmToken
from shamon_host.peer.signed_record import Envelope, PrivateKey, encoded_size, read_envelope, read_public
from shamon_host.peer.wire import Fields

MOVE_TYPE = "application/vnd.shamon.vm-move+json"
MAX_TOKEN_BYTES = 2048
MAX_TOKEN_ENVELOPE_BYTES = 8 * 1024
"""Around it, with two signatures."""
MAX_DISK_BYTES = 1 << 44
_NAMES = frozenset(
    {"coalition", "vm", "generation", "owner", "previous", "policy", "disk", "size", "base", "runs", "time"}
)

KeyOf = Callable[[HostName], str]
"""Host → public key of its certificate (`signed_record.public_text`); raises NotTrusted for a host that has none."""


def proposed(token: VmToken) -> bytes:
    """The token in an envelope that nobody has signed yet. Raises BadInput."""
    return Envelope(payload=canonical_json(token.to_document()), payload_type=MOVE_TYPE).encode()


def countersigned(envelope: bytes, key: PrivateKey) -> bytes:
    """The envelope with one signature more. Raises BadInput."""
    return _read(envelope).signed_by(key).encode()


def token_in(envelope: bytes) -> VmToken:
    """What an envelope says; nothing is verified. Raises BadInput."""
    return _token(_read(envelope).payload)


def read_token(envelope: bytes, key_of: KeyOf) -> VmToken:
    """A token that both hosts signed. Raises BadInput, NotTrusted."""
    return _require(envelope, key_of, giver_too=True)


def read_acceptance(envelope: bytes, key_of: KeyOf) -> VmToken:
    """A token that the host which takes the VM signed. Raises BadInput, NotTrusted."""
    return _require(envelope, key_of, giver_too=False)


def _require(envelope: bytes, key_of: KeyOf, *, giver_too: bool) -> VmToken:
    read = _read(envelope)
    token = _token(read.payload)
    hosts = (token.owner, token.previous) if giver_too else (token.owner,)
    keys = {host: key_of(host) for host in hosts}
    signed = read.signers({key: read_public(key) for key in keys.values()})
    missing = [host for host, key in keys.items() if key not in signed]
    if missing:
        raise NotTrusted("the token of the VM lacks a signature", where=token.vm, expected=f"one by {missing[0]}")
    return token


def _read(data: bytes) -> Envelope:
    if len(data) > min(MAX_TOKEN_ENVELOPE_BYTES, encoded_size(MAX_TOKEN_BYTES)):
        raise BadInput("too large", where="token of a VM", expected=f"at most {MAX_TOKEN_ENVELOPE_BYTES} bytes")
    return read_envelope(data, payload_type=MOVE_TYPE, most=MAX_TOKEN_BYTES, source="token of a VM")


def _token(payload: bytes) -> VmToken:
    fields = Fields.parse(payload, "token of a VM", _NAMES)
    return VmToken(
        coalition=plain_name(fields.text("coalition", most=63), "name of a coalition"),
        vm=VmName(plain_name(fields.text("vm", most=63), "VM name")),
        generation=fields.number("generation", least=1, most=MAX_GENERATION),
        owner=HostName(plain_name(fields.text("owner", most=63), "host name")),
        previous=HostName(plain_name(fields.text("previous", most=63), "host name")),
        policy=fields.octets("policy", least=32).hex(),
        disk=_digest(fields, "disk"),
        size=fields.number("size", least=0, most=MAX_DISK_BYTES),
        base=_digest(fields, "base"),
        runs=fields.flag("runs"),
        time=fields.number("time", least=0, most=1 << 53),
    )


def _digest(fields: Fields, name: str) -> str:
    """SHA-256 in hexadecimal, or nothing."""
    return fields.octets(name, least=0, most=32).hex()
