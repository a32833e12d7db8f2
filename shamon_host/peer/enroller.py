"""What only the operator does, with the CA's key at hand: enrol a host, release or expel it.

The registry on the operator's machine is a folder of records (`host_record`); each act writes the next record of one
host, with a higher serial number. How it gets to the hosts is another matter: any one of them spreads it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.domain import monitor
from shamon_host.domain.errors import BadInput, Refused
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import Policy
from shamon_host.domain.results import TpmKind
from shamon_host.peer.coalition_ca import CertifiedKey, CoalitionCa, make_directory
from shamon_host.peer.enrolment import PeerRegistry, decide_enrolment
from shamon_host.peer.host_record import (
    MAX_REASON,
    HostRecord,
    authorities_of,
    enrolled_peer,
    read_host_record,
    sign_host_record,
    write_record,
)
from shamon_host.peer.ports import EnrolledPeer, Membership

_ANY_AK = b"any"
"""In place of the AK of a host that has not come yet; no TPM Name looks like this."""


@dataclass(kw_only=True)
class Enroller:
    """The CA, and the registry that it signs. `directory`: where the registry's files are."""

    ca: CoalitionCa
    registry: PeerRegistry
    directory: Path

    @classmethod
    def load(cls, ca_directory: Path, directory: Path) -> Self:
        """Read both; the registry's folder is made where there is none. Raises BadInput, NotTrusted."""
        ca = CoalitionCa.load(ca_directory)
        make_directory(directory)
        registry = PeerRegistry.load(directory, authorities_of(ca.certificates))
        return cls(ca=ca, registry=registry, directory=directory)

    def require_invitable(self, policy: Policy, host: HostName, tpm: TpmKind) -> None:
        """Ask the monitor, before anything is known of the host's TPM but its kind. Raises Refused."""
        expelled = {peer.host for peer in self.registry.hosts() if peer.expelled}
        monitor.host_enrol(policy, host, ak_name=_ANY_AK, tpm=tpm, enrolled={}, expelled=expelled).enforce()

    def require_enrollable(
        self, policy: Policy, host: HostName, *, ak_public: bytes, ek_sha256: bytes = b"", tpm: TpmKind
    ) -> None:
        """Ask the monitor. Raises Refused, or TpmFormatError for an AK that is none."""
        ak = TpmPublic.parse(ak_public)
        ak.require_attestation_key()
        decide_enrolment(policy, self.registry, host=host, ak_name=ak.name, ek_sha256=ek_sha256, tpm=tpm).enforce()

    def enrol(
        self,
        policy: Policy,
        host: HostName,
        *,
        key: CertifiedKey,
        ak_public: bytes,
        ek_sha256: bytes = b"",
        tpm: TpmKind,
    ) -> HostRecord:
        """Issue a certificate for `key` and write the record. Raises Refused, and then nothing is written."""
        self.require_enrollable(policy, host, ak_public=ak_public, ek_sha256=ek_sha256, tpm=tpm)
        certificate = self.ca.issue_host(host, key)
        peer = replace(enrolled_peer(host, certificate, ak_public, tpm), ek_sha256=ek_sha256)
        return self._write(peer, certificate)

    def expel(self, host: HostName, reason: str) -> HostRecord:
        """Revoke certificate, AK and EK, for good. Raises BadInput when it was never enrolled, Refused when it is
        expelled already, or its TPM is another host's since it left."""
        record = self.registry.record(host)
        if record is None:
            raise BadInput("the host is not enrolled", where=host)
        if record.peer.expelled:
            raise Refused("the host is expelled already", where=host, found=record.peer.reason)
        if (heir := self._heir(record.peer)) is not None:
            raise Refused(
                "the host has left, and its TPM is another host's now",
                where=host,
                found=heir,
                remedy=f"Expel {heir}: nobody can come back by the record of a host that left.",
            )
        return self._end(record, Membership.EXPELLED, reason)

    def release(self, host: HostName, reason: str) -> HostRecord:
        """Say for a host that it left, as it would itself if it still could: its name and its TPM are free for whom
        the operator invites next. Raises BadInput when it is not enrolled, Refused when it is out already."""
        record = self.registry.record(host)
        if record is None:
            raise BadInput("the host is not enrolled", where=host)
        if record.peer.membership is not Membership.ENROLLED:
            raise Refused(
                "the host is out already", where=host, found=f"{record.peer.membership}: {record.peer.reason}"
            )
        return self._end(record, Membership.LEFT, reason)

    def _end(self, record: HostRecord, membership: Membership, reason: str) -> HostRecord:
        words = "".join(character if character.isprintable() else "?" for character in reason)[:MAX_REASON]
        certificate = x509.load_der_x509_certificate(record.certificate)
        return self._write(replace(record.peer, membership=membership, reason=words), certificate)

    def rotate(self, ca_directory: Path) -> tuple[HostRecord, ...]:
        """A new CA, certified by the old one, which signs every record anew."""
        self.ca = self.ca.rotate(ca_directory)
        return tuple(
            self._write(record.peer, x509.load_der_x509_certificate(record.certificate))
            for record in self.registry.records()
        )

    @property
    def cas(self) -> tuple[bytes, ...]:
        """What tells a host that knows the older CA of this one."""
        return () if self.ca.cross is None else (self.ca.cross.public_bytes(Encoding.DER),)

    def take(self, envelopes: Iterable[bytes], source: str) -> tuple[HostRecord, ...]:
        """Write down what hosts know that is newer than what is here: that one of them left. Raises BadInput,
        NotTrusted."""
        authorities, taken = authorities_of(self.ca.certificates), []
        for envelope in envelopes:
            record = read_host_record(envelope, authorities, source=f"record from {source}")
            if record.rank > self.registry.ranks().get(record.peer.host, -1) and self.registry.take(record):
                write_record(self.directory, record)
                taken.append(record)
        return tuple(taken)

    def _heir(self, peer: EnrolledPeer) -> HostName | None:
        """Which other host has the TPM of one that left: revoked, it could be no host's, and no registry would load."""
        return next(
            (
                other.host
                for other in self.registry.hosts()
                if other.host != peer.host
                and other.membership is Membership.ENROLLED
                and (other.ak_name == peer.ak_name or (peer.ek_sha256 and other.ek_sha256 == peer.ek_sha256))
            ),
            None,
        )

    def _write(self, peer: EnrolledPeer, certificate: x509.Certificate) -> HostRecord:
        known = self.registry.get(peer.host)
        record = sign_host_record(replace(peer, serial=known.serial + 1 if known else 1), certificate, self.ca.key)
        self.registry.take(record)
        write_record(self.directory, record)
        return record
