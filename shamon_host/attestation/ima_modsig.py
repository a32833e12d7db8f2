"""Signatures that are appended to a file (kernel modules, kernel images), as `ima-modsig` entries have them.

The field `modsig` is a PKCS#7 message without content; `d-modsig` is the digest that it signs, made by the kernel over
the file without its signature (or over the message's signed attributes, where it has some: the kernel has compared
those with the file by then). So the signature is checked over `d-modsig`. It is good under whichever given key made it;
that it names a key which did not make it is what tells a bad one from an unknown one.

Source: Linux security/integrity/ima/ima_modsig.c, crypto/asymmetric_keys/pkcs7_verify.c (`pkcs7_get_digest`);
RFC 2315 and RFC 5652, 5.1 (SignedData), 5.3 (SignerInfo); X.690, 8.1 (DER).
"""

from dataclasses import dataclass

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.attestation.ima_entry import ImaFields
from shamon_host.attestation.ima_signature import (
    CheckedSignature,
    ImaSignatureError,
    SignatureVerdict,
    SigningKey,
    SigningKeys,
    signed_by,
)

_SEQUENCE, _SET, _INTEGER, _OCTETS, _OID = 0x30, 0x31, 0x02, 0x04, 0x06
_CONTEXT_0, _CONTEXT_1, _KEY_ID = 0xA0, 0xA1, 0x80
_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_HASH_OIDS = {
    bytes.fromhex("2b0e03021a"): "sha1",
    bytes.fromhex("608648016503040201"): "sha256",
    bytes.fromhex("608648016503040202"): "sha384",
    bytes.fromhex("608648016503040203"): "sha512",
    bytes.fromhex("608648016503040204"): "sha224",
    bytes.fromhex("608648016503040208"): "sha3-256",
    bytes.fromhex("608648016503040209"): "sha3-384",
    bytes.fromhex("60864801650304020a"): "sha3-512",
}
_MAX_SIGNERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """SignerInfo: who signed, with which hash, and the signature."""

    key_id: bytes
    """subjectKeyIdentifier; empty where the certificate is named by its issuer and serial number."""
    issuer: bytes
    """The certificate's issuer, DER; empty where it is named by its key id."""
    serial: int
    algorithm: str
    signature: bytes

    def names(self, key: SigningKey) -> bool:
        """Whether it says that this key made it."""
        if self.key_id:
            return int.from_bytes(self.key_id[-4:], "big") in key.key_ids
        return key.issued_as == (self.issuer, self.serial)


def examine_modsig(fields: ImaFields, keys: SigningKeys) -> CheckedSignature:
    """Whether one of `keys` made the file's appended signature, over `d-modsig` of the same entry."""
    message = fields.raw.get("modsig", b"")
    if not message:
        return CheckedSignature(SignatureVerdict.NONE)
    digest = fields.modsig_digest
    try:
        signers = read_signers(message)
    except ImaSignatureError as error:
        return CheckedSignature(SignatureVerdict.BAD, str(error))
    if digest is None:
        return CheckedSignature(SignatureVerdict.BAD, "the entry has no d-modsig to check it against")
    for signer in signers:
        if signer.algorithm != digest.algorithm:
            continue
        for key in keys:
            if signed_by(key, signer.signature, digest):
                return CheckedSignature(SignatureVerdict.GOOD, key=key)
    if any(signer.names(key) for signer in signers for key in keys):
        return CheckedSignature(SignatureVerdict.BAD, "it is not by the key that it names, or over another hash")
    return CheckedSignature(SignatureVerdict.UNKNOWN_KEY, "no key is the one that it names")


def read_signers(message: bytes) -> tuple[Signer, ...]:
    """The signers of a PKCS#7 SignedData message. Raises `ImaSignatureError` where it is none, or has none."""
    reader = _reader(message)
    content = _reader(_value(reader, _SEQUENCE, "PKCS#7 message"))
    reader.end()
    if _value(content, _OID, "content type") != _SIGNED_DATA:
        raise ImaSignatureError("the appended signature is no signed PKCS#7 message")
    signed = _reader(_value(_reader(_value(content, _CONTEXT_0, "content")), _SEQUENCE, "SignedData"))
    _value(signed, _INTEGER, "version")
    _value(signed, _SET, "digest algorithms")
    _value(signed, _SEQUENCE, "content info")
    _optional(signed, _CONTEXT_0)
    _optional(signed, _CONTEXT_1)
    infos = _reader(_value(signed, _SET, "signer infos"))
    signers: list[Signer] = []
    while infos.remaining:
        if len(signers) == _MAX_SIGNERS:
            raise ImaSignatureError("a PKCS#7 message has too many signers", expected=f"at most {_MAX_SIGNERS}")
        signers.append(_signer(_reader(_value(infos, _SEQUENCE, "signer info"))))
    if not signers:
        raise ImaSignatureError("a PKCS#7 message has no signer")
    return tuple(signers)


def _signer(info: ByteReader) -> Signer:
    _value(info, _INTEGER, "version")
    key_id = _optional(info, _KEY_ID)
    issuer, serial = b"", 0
    if key_id is None:
        named = _reader(_value(info, _SEQUENCE, "issuer and serial number"))
        issuer = _whole(named, _SEQUENCE, "issuer")
        serial = int.from_bytes(_value(named, _INTEGER, "serial number"), "big", signed=True)
    algorithm = _value(_reader(_value(info, _SEQUENCE, "digest algorithm")), _OID, "digest algorithm")
    _optional(info, _CONTEXT_0)
    _value(info, _SEQUENCE, "signature algorithm")
    signature = _value(info, _OCTETS, "signature")
    return Signer(
        key_id=key_id or b"",
        issuer=issuer,
        serial=serial,
        algorithm=_HASH_OIDS.get(algorithm, algorithm.hex()),
        signature=signature,
    )


def _reader(data: bytes) -> ByteReader:
    return ByteReader(data, order="big", error=ImaSignatureError, where="PKCS#7 message")


def _value(reader: ByteReader, tag: int, what: str) -> bytes:
    """The content of the next value, which must have this tag."""
    found = reader.u8(what)
    if found != tag:
        where = f"PKCS#7 message, {what}"
        raise ImaSignatureError(
            "another value than expected", where=where, expected=f"tag 0x{tag:02x}", found=f"0x{found:02x}"
        )
    size = reader.u8(f"length of {what}")
    if size & 0x80:
        if not 0x81 <= size <= 0x84:
            raise ImaSignatureError("no length in DER", where=f"PKCS#7 message, {what}", found=f"0x{size:02x}")
        size = reader.uint(size & 0x7F, f"length of {what}")
    return reader.take(size, what)


def _optional(reader: ByteReader, tag: int) -> bytes | None:
    """The content of the next value if it has this tag; else None, and nothing is read."""
    start = reader.offset
    if not reader.remaining or reader.u8("tag") != tag:
        reader.offset = start
        return None
    reader.offset = start
    return _value(reader, tag, "optional value")


def _whole(reader: ByteReader, tag: int, what: str) -> bytes:
    """The next value with its tag and length."""
    start = reader.offset
    _value(reader, tag, what)
    end = reader.offset
    reader.offset = start
    return reader.take(end - start, what)
