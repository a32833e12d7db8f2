"""Whole mutual handshakes between two hosts of this process: real TLS over the loopback interface, a software TPM each.

Runs in an environment that has the TPM's software stack (`tools/set-up bench`), and prints milliseconds as JSON. What
is left out is what a kernel would do with the outcome: links are agreed, but not installed.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG
from tpm2_pytss.types import TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

from shamon_host.attestation.appraisal import VerifierState, appraise
from shamon_host.attestation.attester import Attester
from shamon_host.attestation.evidence import Evidence, Role
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.ports import MeasurementLogs, Quote, Tpm
from shamon_host.attestation.reference_record import record
from shamon_host.attestation.reference_values import ReferenceValues
from shamon_host.attestation.tpm_device import DeviceTpm
from shamon_host.daemon.threads import in_thread
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import Demands, HostEntry
from shamon_host.domain.results import AttestationResult, Claim, ClaimName, ClaimStatus, TpmKind
from shamon_host.peer.coalition_ca import init_coalition, issue_host_certificate, parse_certificate
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.handshake import Handshaker, PeerService
from shamon_host.peer.host_record import enrolled_peer
from shamon_host.peer.http_transport import HttpTransport, serve_peers
from shamon_host.peer.ports import EnrolledPeer, Outcome, Terms
from shamon_host.peer.tls import TlsFiles
from shamon_host.testing.machine import MeasuredMachine
from tests.integration.swtpm import Swtpm

ALPHA, BETA = HostName("alpha"), HostName("beta")
_LOOPBACK = "127.0.0.1"
_FASTER = 1000.0
"""The hosts' clock runs so much faster than time: a peer may start one handshake a second."""
_REPORT = b"{}"
_PROGRAMS = 1000


def _extend(tcti: str, pcr: int, digest: bytes) -> None:
    value = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=digest))
    with ESAPI(tcti) as esapi:
        esapi.pcr_extend(ESYS_TR(pcr), TPML_DIGEST_VALUES([value]))


class TimedTpm:
    """A TPM whose quotes are timed."""

    def __init__(self, tpm: DeviceTpm, times_ms: list[float]) -> None:
        self._tpm = tpm
        self._times_ms = times_ms

    def quote(self, qualifying_data: bytes) -> Quote:
        started = time.perf_counter()
        quote = self._tpm.quote(qualifying_data)
        self._times_ms.append((time.perf_counter() - started) * 1000)
        return quote

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tpm, name)


@dataclass(kw_only=True)
class BenchHost:
    """`peer.ports.HandshakeHost` that attests and appraises for real, and installs nothing."""

    name: HostName
    attester: Attester
    reference: ReferenceValues
    registry: PeerRegistry
    parts_ms: dict[str, list[float]]
    state: VerifierState | None = None

    async def meet(self, peer: HostName, terms: Terms) -> None:
        pass

    async def terms(self, peer: HostName) -> Terms:
        own = self.registry.enrolled(self.name)
        return Terms(
            coalition="bench",
            policy_version=1,
            policy_digest="ab" * 32,
            peer_policy_digest="ab" * 32,
            shared=None,
            certificate_sha256=own.certificate_sha256,
            ak_name=own.ak_name,
            offers=(),
            ima_offset=self.state.ima_offset if self.state else 0,
            ima_reset_count=self.state.reset_count if self.state else 0,
        )

    async def evidence(
        self, peer: HostName, role: Role, transcript: bytes, *, ima_offset: int, ima_reset_count: int
    ) -> Evidence:
        return await self.attester.evidence(
            role=role,
            transcript=transcript,
            hypervisor_report=_REPORT,
            network_state=_REPORT,
            audit_head=bytes(32),
            ima_offset=ima_offset,
            ima_reset_count=ima_reset_count,
        )

    async def appraise(
        self, peer: HostName, role: Role, transcript: bytes, terms: Terms, evidence: Evidence
    ) -> AttestationResult:
        started = time.perf_counter()
        result, self.state = appraise(
            evidence,
            role=role,
            transcript=transcript,
            host=peer,
            ak_public=self.registry.enrolled(peer).ak_public,
            enrolled_tpm_kind=TpmKind.SOFTWARE,
            demands=Demands(allow_software_tpm=True),
            reference=self.reference,
            state=self.state,
            check_hypervisor_report=_good(ClaimName.RUNNING_LABELS),
            check_network_state=_good(ClaimName.NETWORK_STATE),
        )
        self.parts_ms["appraise"].append((time.perf_counter() - started) * 1000)
        return result

    async def lease_s(self, peer: HostName) -> float:
        return 86_000.0

    async def install_inbound(self, outcome: Outcome) -> None:
        pass

    async def install_outbound(self, outcome: Outcome) -> None:
        pass

    async def abandoned(self, peer: HostName, terms: Terms, outcome: Outcome | None) -> None:
        pass

    async def refused_by_peer(self, peer: HostName, failures: Sequence[str]) -> None:
        raise RuntimeError(f"{peer} refuses {self.name}: {failures}")


def _good(name: ClaimName) -> Callable[[bytes], Claim]:
    return lambda _: Claim(name=name, status=ClaimStatus.PASS, reason="not part of this measurement")


@dataclass(kw_only=True)
class Side:
    """One host before it knows the other."""

    name: HostName
    tpm: Tpm
    logs: MeasurementLogs
    tls: TlsFiles
    enrolled: EnrolledPeer
    reference: ReferenceValues
    parts_ms: dict[str, list[float]] = field(default_factory=lambda: {"quote": [], "appraise": []})


def _side(name: HostName, swtpm: Swtpm, ca: Path, directory: Path) -> Side:
    """A machine whose PCRs are in a software TPM, and what a coalition needs to know of it."""
    machine = MeasuredMachine()
    machine.boot()
    for number in range(_PROGRAMS):
        machine.run_program(f"/usr/bin/program-{number}", b"\x7fELF %d" % number)
    for event in machine.logs.events:
        _extend(swtpm.tcti, event.pcr, event.digests[Bank.SHA256])
    for entry in machine.logs.entries:
        _extend(swtpm.tcti, entry.pcr, entry.pcr_digest(Bank.SHA256))
    side_times: dict[str, list[float]] = {"quote": [], "appraise": []}
    tpm: Any = TimedTpm(DeviceTpm(swtpm.tcti), side_times["quote"])
    issued = issue_host_certificate(ca, name, directory / name)
    certificate = parse_certificate(issued.certificate.read_bytes(), where=name)
    quote = tpm.quote(bytes(32))
    side_times["quote"].clear()
    return Side(
        name=name,
        tpm=tpm,
        logs=machine.logs,
        tls=TlsFiles(ca=ca / "ca.pem", certificate=issued.certificate, key=issued.key),
        enrolled=enrolled_peer(name, certificate, tpm.ak_public(), TpmKind.SOFTWARE),
        reference=record(pcrs=quote.pcr_values, event_log=machine.logs.event_log(), ima_log=machine.logs.ima_log(0)),
        parts_ms=side_times,
    )


async def handshakes(one: Side, other: Side, count: int) -> dict[str, list[float]]:
    """Milliseconds of each handshake that `one` starts, and of their parts on both sides."""
    registry = PeerRegistry([one.enrolled, other.enrolled])
    clock = lambda: time.monotonic() * _FASTER  # noqa: E731
    handshakers, transports, services = {}, {}, {}
    for side, peer in ((one, other), (other, one)):
        host = BenchHost(
            name=side.name,
            attester=Attester(tpm=side.tpm, logs=side.logs, blocking=in_thread),
            reference=peer.reference,
            registry=registry,
            parts_ms=side.parts_ms,
        )
        transports[side.name] = HttpTransport(tls=side.tls, directory=registry)
        handshakers[side.name] = Handshaker(
            name=side.name,
            host=host,
            directory=registry,
            transport=transports[side.name],
            boottime_s=clock,
            timeout=lambda: 20.0,
        )
        services[side.name] = PeerService(handshaker=handshakers[side.name], hinted=lambda *_: None)
    server = await serve_peers(
        services[other.name], name=other.name, tls=other.tls, directory=registry, address=_LOOPBACK, port=0
    )
    entry = HostEntry(name=other.name, address=_LOOPBACK, port=server.port, types=frozenset())
    took_ms = []
    try:
        for number in range(count + 1):
            started = time.perf_counter()
            outcome = await handshakers[one.name].initiate(entry)
            if not outcome.result.trusted:
                raise RuntimeError(f"{outcome.result.failures}")
            if number:  # the first one tells the whole log
                took_ms.append((time.perf_counter() - started) * 1000)
    finally:
        await server.close()
        for transport in transports.values():
            await transport.close()
    parts = {name: one.parts_ms[name][1:] + other.parts_ms[name][1:] for name in one.parts_ms}
    return {"handshake": took_ms, **parts}


def main() -> None:
    """`handshake_side.py COUNT`: measure, and print."""
    count = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        init_coalition(directory / "ca", "bench")
        tpms = []
        try:
            for host in (ALPHA, BETA):
                (directory / f"{host}-tpm").mkdir()
                tpms.append(Swtpm(directory / f"{host}-tpm"))
            sides = [
                _side(host, tpm, directory / "ca", directory) for host, tpm in zip((ALPHA, BETA), tpms, strict=True)
            ]
            found = asyncio.run(handshakes(sides[0], sides[1], count))
        finally:
            for tpm in tpms:
                tpm.stop()
    print(
        json.dumps(
            {
                part: {"p50": statistics.median(values), "p99": statistics.quantiles(values, n=100)[98]}
                for part, values in found.items()
            }
        )
    )


if __name__ == "__main__":
    main()
