"""What a Secure Boot variable holds, in words: certificates by their subject, the number of digests.

The variables PK, KEK, db and dbx are measured into PCR 7, and so is the certificate that an image was verified by. For
people who read an event log; nothing is decided by it.

Source: UEFI Specification 2.10, 32.4.1 (EFI_SIGNATURE_LIST, EFI_SIGNATURE_DATA).
"""

import uuid

from cryptography import x509

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.domain.errors import BadInput

X509_GUID = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
SHA256_GUID = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")
_GUID_BYTES = 16
_LIST_HEADER_BYTES = 28
_SHOWN_NAMES = 3


class SignatureListError(BadInput):
    """The bytes are no list of signatures."""


def signature_lists_text(data: bytes) -> str:
    """`2 certificates (…, …), 77 digests` of a whole variable. Raises `SignatureListError`."""
    reader = ByteReader(data, order="little", error=SignatureListError, where="signature list")
    names: list[str] = []
    digests = others = 0
    while reader.remaining:
        kind = uuid.UUID(bytes_le=reader.take(_GUID_BYTES, "signature type"))
        list_size, header_size = reader.u32("list size"), reader.u32("header size")
        size = reader.u32("signature size")
        body = list_size - _LIST_HEADER_BYTES - header_size
        if body < 0 or size <= _GUID_BYTES or body % size:
            raise SignatureListError("the sizes of a signature list do not agree", found=f"{list_size}, {size}")
        reader.take(header_size, "list header")
        for _ in range(body // size):
            signature = reader.take(size, "signature")[_GUID_BYTES:]
            if kind == X509_GUID:
                names.append(_subject(signature))
            elif kind == SHA256_GUID:
                digests += 1
            else:
                others += 1
    return ", ".join(filter(None, (_certificates(names), _number(digests, "digest"), _number(others, "other entry"))))


def signature_text(data: bytes) -> str:
    """`certificate …` of one EFI_SIGNATURE_DATA, as the event of a verified image holds it.

    Raises `SignatureListError` where it is no certificate.
    """
    reader = ByteReader(data, order="little", error=SignatureListError, where="signature")
    reader.take(_GUID_BYTES, "owner")
    return f"certificate {_subject(reader.rest())}"


def _subject(der: bytes) -> str:
    try:
        return x509.load_der_x509_certificate(der).subject.rfc4514_string()
    except ValueError as error:
        raise SignatureListError("not a certificate", found=type(error).__name__) from error


def _certificates(names: list[str]) -> str:
    if not names:
        return ""
    more = "; …" if len(names) > _SHOWN_NAMES else ""
    return f"{_number(len(names), 'certificate')} ({'; '.join(names[:_SHOWN_NAMES])}{more})"


def _number(count: int, what: str) -> str:
    if not count:
        return ""
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"
