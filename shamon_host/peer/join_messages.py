"""The messages by which a host joins a coalition, each with its exact bytes.

    host                                                             operator's machine, with the CA's key
      POST /v1/join/request  token, EK (and its certificate), AK,  →  checks all of it
                             certificate request, quote by the AK
                             ← a credential: a secret for the TPM with that EK and that AK
      POST /v1/join/proof    token, the secret                     →  issues the certificate, writes the record
                             ← the certificate, the CA, everybody's records

The quote's qualifying data is SHA-256 of the certificate request, so the AK answers for the key of the certificate; the
secret answers for the AK. The invitation comes to the host by another way, and is all that it has to believe.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from shamon_host.attestation.credential import MAX_BLOB_BYTES, MAX_ENCRYPTED_SECRET_BYTES, Credential
from shamon_host.attestation.ek import MAX_EK_BYTES
from shamon_host.attestation.ek_certificate import MAX_CERTIFICATE_BYTES
from shamon_host.attestation.ports import QUOTED_PCRS, Quote
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.peer.registry_messages import Exchange
from shamon_host.peer.wire import MAX_HEADER_BYTES, Fields, encode_object, join, split

REQUEST = "/v1/join/request"
PROOF = "/v1/join/proof"
JOIN_NAME = "the-operator-of-this-coalition.who-invites-hosts-to-join-it.shamon.invalid"
"""dNSName of the operator's certificate: longer than the name of any host, so that none can answer in its place."""
TOKEN_BYTES = 32
SECRET_BYTES = 32
MAX_CSR_BYTES = 4096
MAX_JOIN_BYTES = MAX_HEADER_BYTES
_VERSION = 1
_DIGEST_BYTES = 32
_MAX_CA_BYTES = 16 * 1024
_MAX_AK_BYTES = 1024
_MAX_QUOTE_BYTES = 2048
_MAX_WALL_S = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What the operator gives to one host, on paper so to speak. Whoever has it can try once to be that host."""

    host: HostName
    address: str
    port: int
    ca_pem: bytes
    """The CA itself: nobody else can answer."""
    token: bytes = field(repr=False)
    expires_s: int
    """Seconds since the epoch."""

    def encode(self) -> bytes:
        """What the invitation's file holds: one JSON object, and a line feed."""
        return (
            encode_object(
                {
                    "address": self.address,
                    "ca": self.ca_pem.hex(),
                    "expires": self.expires_s,
                    "host": self.host,
                    "port": self.port,
                    "token": self.token.hex(),
                    "version": _VERSION,
                }
            )
            + b"\n"
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises BadInput."""
        names = frozenset({"address", "ca", "expires", "host", "port", "token", "version"})
        fields = Fields.parse(data.removesuffix(b"\n"), "invitation", names)
        fields.number("version", least=_VERSION, most=_VERSION)
        return cls(
            host=_host(fields),
            address=fields.text("address", most=255),
            port=fields.number("port", least=1, most=65535),
            ca_pem=fields.octets("ca", least=1, most=_MAX_CA_BYTES),
            token=fields.octets("token", least=TOKEN_BYTES),
            expires_s=fields.number("expires", least=0, most=_MAX_WALL_S),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """Let me be `host`: here is my TPM. Nothing in it is verified."""

    token: bytes = field(repr=False)
    host: HostName
    ek_public: bytes
    ek_certificate: bytes
    """DER; empty where the TPM has none."""
    ak_public: bytes
    csr: bytes
    """Certificate request (PKCS #10), DER."""
    quote: Quote

    def encode(self) -> bytes:
        return encode_object(
            {
                "ak": self.ak_public.hex(),
                "attest": self.quote.attest.hex(),
                "csr": self.csr.hex(),
                "ek": self.ek_public.hex(),
                "ek_certificate": self.ek_certificate.hex(),
                "host": self.host,
                "pcrs": [{"pcr": pcr, "value": value.hex()} for pcr, value in sorted(self.quote.pcr_values.items())],
                "signature": self.quote.signature.hex(),
                "token": self.token.hex(),
            }
        )

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        names = frozenset({"ak", "attest", "csr", "ek", "ek_certificate", "host", "pcrs", "signature", "token"})
        fields = Fields.parse(body, "join", names)
        return cls(
            token=fields.octets("token", least=TOKEN_BYTES),
            host=_host(fields),
            ek_public=fields.octets("ek", least=1, most=MAX_EK_BYTES),
            ek_certificate=fields.octets("ek_certificate", least=0, most=MAX_CERTIFICATE_BYTES),
            ak_public=fields.octets("ak", least=1, most=_MAX_AK_BYTES),
            csr=fields.octets("csr", least=1, most=MAX_CSR_BYTES),
            quote=Quote(
                attest=fields.octets("attest", least=1, most=_MAX_QUOTE_BYTES),
                signature=fields.octets("signature", least=1, most=_MAX_QUOTE_BYTES),
                pcr_values=_pcrs(fields),
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """Show that EK and AK are in one TPM, and that it is yours."""

    credential: Credential

    def encode(self) -> bytes:
        return encode_object(
            {"blob": self.credential.blob.hex(), "encrypted_secret": self.credential.encrypted_secret.hex()}
        )

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        fields = Fields.parse(body, "challenge", frozenset({"blob", "encrypted_secret"}))
        blob = fields.octets("blob", least=1, most=MAX_BLOB_BYTES)
        encrypted_secret = fields.octets("encrypted_secret", least=1, most=MAX_ENCRYPTED_SECRET_BYTES)
        return cls(credential=Credential(blob=blob, encrypted_secret=encrypted_secret))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the TPM made of the credential."""

    token: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    def encode(self) -> bytes:
        return encode_object({"secret": self.secret.hex(), "token": self.token.hex()})

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        fields = Fields.parse(body, "proof", frozenset({"secret", "token"}))
        return cls(
            token=fields.octets("token", least=TOKEN_BYTES), secret=fields.octets("secret", least=1, most=SECRET_BYTES)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """You are in. `exchange` has everybody's record, the new host's included."""

    ca_pem: bytes
    exchange: Exchange
    """Its `cas` go behind the host's certificate: who knows only the older CA finds the way."""

    def encode(self) -> bytes:
        return join(encode_object({"ca": self.ca_pem.hex()}), self.exchange.encode())

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        header, payload = split(body)
        fields = Fields.parse(header, "granted", frozenset({"ca"}))
        return cls(ca_pem=fields.octets("ca", least=1, most=_MAX_CA_BYTES), exchange=Exchange.decode(payload))


def _host(fields: Fields) -> HostName:
    return HostName(plain_name(fields.text("host", most=63), "host name"))


def _pcrs(fields: Fields) -> Mapping[int, bytes]:
    values = {
        each.number("pcr", least=0, most=max(QUOTED_PCRS)): each.octets("value", least=_DIGEST_BYTES)
        for each in fields.objects("pcrs", frozenset({"pcr", "value"}), most=len(QUOTED_PCRS))
    }
    if sorted(values) != list(QUOTED_PCRS):
        raise BadInput("malformed message", where="join.pcrs", expected="each quoted PCR once")
    return values
