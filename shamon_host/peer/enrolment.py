"""Who is enrolled in the coalition: the newest record of each host (`host_record`).

A peer is never more than its record: the certificate that TLS must show and the key that must sign its quotes. Every
handshake and every request looks here, so a host that is expelled is out at once.

On disk a record is one file, HOST.record, written by the commands that enrol. What comes in while the daemon runs lies
in the daemon's own store, and the newer one of the two counts.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.serialization import load_pem_public_key

from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.attestation.tpm_structures import TpmFormatError
from shamon_host.domain import monitor
from shamon_host.domain.decision import Decision
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import Policy
from shamon_host.domain.results import TpmKind
from shamon_host.peer.host_record import MAX_RECORD_ENVELOPE_BYTES, Authorities, HostRecord, read_host_record
from shamon_host.peer.ports import EnrolledPeer, Membership

RECORD_SUFFIX = ".record"
_MAX_AK_FILE_BYTES = 64 * 1024


class PeerRegistry:
    """`PeerDirectory` of this host: all hosts of the coalition, this one included, and those that are out."""

    def __init__(self, peers: Iterable[EnrolledPeer] = (), *, records: Iterable[HostRecord] = ()) -> None:
        """`peers`: hosts of worlds without a CA. Raises BadInput when two hosts share a certificate, an AK or an EK."""
        self._records: dict[HostName, HostRecord] = {}
        for record in (*(HostRecord(peer=peer) for peer in peers), *records):
            if record.peer.host in self._records:
                raise BadInput("a host is enrolled twice", where=record.peer.host)
            self.take(record)

    @classmethod
    def load(cls, directory: Path, authorities: Authorities) -> Self:
        """Read every `HOST.record` in `directory`. Raises BadInput, NotTrusted naming the file."""
        try:
            paths = sorted(path for path in directory.iterdir() if path.suffix == RECORD_SUFFIX)
        except OSError as error:
            raise BadInput(
                "the registry of hosts cannot be read",
                where=str(directory),
                found=error.strerror or "",
                remedy="Enrol this host with `shamon host join`.",
            ) from error
        records = []
        for path in paths:
            records.append(record_in_file(_read_bounded(path, MAX_RECORD_ENVELOPE_BYTES), path, authorities))
        return cls(records=records)

    def get(self, host: HostName) -> EnrolledPeer | None:
        """What is known of `host`, be it enrolled or out."""
        record = self._records.get(host)
        return None if record is None else record.peer

    def record(self, host: HostName) -> HostRecord | None:
        """The newest record of `host`."""
        return self._records.get(host)

    def hosts(self) -> tuple[EnrolledPeer, ...]:
        """All hosts, by name, those that are out included."""
        return tuple(record.peer for record in self.records())

    def records(self) -> tuple[HostRecord, ...]:
        """The newest record of every host, by name."""
        return tuple(record for _, record in sorted(self._records.items()))

    def ranks(self) -> Mapping[HostName, int]:
        """How new what is known of each host is (`HostRecord.rank`)."""
        return {host: record.rank for host, record in self._records.items()}

    def newer_than(self, ranks: Mapping[HostName, int]) -> tuple[HostRecord, ...]:
        """The signed records that somebody who knows these lacks."""
        return tuple(
            record for record in self.records() if record.envelope and record.rank > ranks.get(record.peer.host, -1)
        )

    def enrolled(self, host: HostName) -> EnrolledPeer:
        """See `PeerDirectory`."""
        return self._require(self.get(host), host)

    def by_certificate(self, certificate_sha256: bytes) -> EnrolledPeer:
        """See `PeerDirectory`."""
        found = (
            record.peer for record in self._records.values() if record.peer.certificate_sha256 == certificate_sha256
        )
        return self._require(next(found, None), f"certificate {certificate_sha256.hex()}")

    def take(self, record: HostRecord) -> bool:
        """Let a verified record count; False when it is known already.

        Raises NotTrusted for one that is older than what is known, or another one with the same number; BadInput when
        two hosts would share a certificate, an AK or an EK. Then nothing has changed.
        """
        peer, known = record.peer, self._records.get(record.peer.host)
        if known is not None and record.rank <= known.rank:
            if record == known:
                return False
            raise NotTrusted(
                "a newer record of this host is known, or another one with this number",
                where=peer.host,
                expected=f"a serial number above {known.peer.serial}",
                found=str(peer.serial),
            )
        self._require_own_keys(peer)
        self._records[peer.host] = record
        return True

    def _require_own_keys(self, peer: EnrolledPeer) -> None:
        """What an expelled host had stays revoked; what a host had that left is free."""
        if peer.membership is not Membership.ENROLLED:
            return
        for record in self._records.values():
            other = record.peer
            if other.host == peer.host or other.membership is Membership.LEFT:
                continue
            for what, same in (
                ("certificate", other.certificate_sha256 == peer.certificate_sha256),
                ("AK", other.ak_name == peer.ak_name),
                ("EK", bool(peer.ek_sha256) and other.ek_sha256 == peer.ek_sha256),
            ):
                if same:
                    raise BadInput(
                        f"two hosts have the same {what}",
                        where=peer.host,
                        expected="a certificate and a TPM of its own for each host",
                        found=f"that of {other.host}",
                    )

    def _require(self, peer: EnrolledPeer | None, who: str) -> EnrolledPeer:
        if peer is None:
            raise NotTrusted(
                "not enrolled in the coalition", where=who, remedy="Invite it with `shamon coalition invite`."
            )
        match peer.membership:
            case Membership.ENROLLED:
                return peer
            case Membership.LEFT:
                raise NotTrusted("the host has left the coalition", where=peer.host)
            case Membership.EXPELLED:
                raise NotTrusted("the host is expelled from the coalition", where=peer.host)


def decide_enrolment(
    policy: Policy,
    registry: PeerRegistry,
    *,
    host: HostName,
    ak_name: bytes,
    ek_sha256: bytes,
    tpm: TpmKind,
    anew: bool = False,
) -> Decision:
    """`host.enrol`, beside what the registry has. `anew`: the CA has replaced what was known of this very host."""
    others = [other for other in registry.hosts() if other.membership is not Membership.LEFT]
    if anew:
        others = [other for other in others if other.host != host or other.expelled]
    return monitor.host_enrol(
        policy,
        host,
        ak_name=ak_name,
        ek=ek_sha256,
        tpm=tpm,
        enrolled={other.host: other.ak_name for other in others},
        endorsed={other.host: other.ek_sha256 for other in others if other.ek_sha256},
        expelled={other.host for other in others if other.expelled},
    )


def read_ak_file(path: Path) -> bytes:
    """TPMT_PUBLIC of the AK in a file: TPMT_PUBLIC, TPM2B_PUBLIC (tpm2-tools), either in base64, or a PEM public key.

    A PEM key says nothing of its attributes: it is taken for a key made from this program's own AK template. Raises
    BadInput.
    """
    data = _read_bounded(path, _MAX_AK_FILE_BYTES)
    if data.startswith(b"-----BEGIN"):
        try:
            key = load_pem_public_key(data)
            return TpmPublic.attestation_key(key).encode()  # type: ignore[arg-type]
        except (ValueError, AttributeError, TypeError) as error:
            raise BadInput(
                "not a public key for an AK", where=str(path), expected="EC P-256 or RSA", found=type(error).__name__
            ) from error
    candidates = [data]
    with suppress(binascii.Error):
        candidates.append(base64.b64decode(data.strip(), validate=True))
    reasons = []
    for candidate in candidates:
        for parse in (TpmPublic.parse, TpmPublic.parse_sized):
            try:
                return parse(candidate).encode()
            except TpmFormatError as error:
                reasons.append(str(error))
    raise BadInput(
        "not the public part of an AK",
        where=str(path),
        expected="TPMT_PUBLIC or TPM2B_PUBLIC, as bytes or base64, or PEM",
        found=reasons[-1],
    )


def record_in_file(data: bytes, path: Path, authorities: Authorities) -> HostRecord:
    """What a file of the registry, `HOST.record`, holds. Raises BadInput, NotTrusted naming the file."""
    record = read_host_record(data, authorities, source=str(path))
    if path.stem != record.peer.host:
        raise BadInput(
            "the file has another name than its host",
            where=str(path),
            expected=f"{record.peer.host}{RECORD_SUFFIX}",
        )
    return record


def _read_bounded(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise BadInput("cannot be read", where=str(path), found=error.strerror or type(error).__name__) from error
    if len(data) > most:
        raise BadInput("the file is too large", where=str(path), expected=f"at most {most} bytes")
    return data
