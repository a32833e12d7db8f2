"""IMA logs of a busy host, of any length, with the Reference Values that accept them and quotes that vouch for them."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shamon_host.attestation.evidence import Evidence
from shamon_host.attestation.ima_log import ImaEntry
from shamon_host.attestation.pcr import Bank, PcrSelection
from shamon_host.attestation.ports import QUOTED_PCRS, Quote
from shamon_host.attestation.quote import VerifiedQuote, verify_quote
from shamon_host.attestation.reference_record import record
from shamon_host.attestation.reference_values import ReferenceValues
from shamon_host.testing.machine import MeasuredMachine

_DIRECTORIES = ("/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu", "/usr/lib/systemd", "/usr/libexec/git-core")
_NONCE = bytes(32)


def _path(number: int) -> str:
    return f"{_DIRECTORIES[number % len(_DIRECTORIES)]}/package-{number // 16}/file-{number}.so"


@dataclass(kw_only=True)
class BigLog:
    """A host that booted, then measured files until its log had `entries` entries, each of another file."""

    entries: int

    @cached_property
    def machine(self) -> MeasuredMachine:
        machine = MeasuredMachine()
        machine.boot()
        for number in range(self.entries - len(machine.logs.entries)):
            machine.run_program(_path(number), _content(number))
        return machine

    @cached_property
    def reference(self) -> ReferenceValues:
        """What accepts every entry, and some thousand files that never ran, as an image's manifest would have."""
        tpm, logs = self.machine.tpm, self.machine.logs
        never_run = {_path(number): [_digest(number)] for number in range(self.entries, self.entries + 4000)}
        return record(pcrs=tpm.pcrs, event_log=logs.event_log(), ima_log=logs.ima_log(0), manifest=never_run)

    def run_more(self, count: int) -> None:
        """Programs that the Reference Values know, measured now."""
        before = len(self.machine.logs.entries)
        for number in range(before + self.entries, before + self.entries + count):
            self.machine.run_program(_path(number), _content(number))

    def quoted(self, *, ima_offset: int = 0) -> tuple[VerifiedQuote, Evidence]:
        """A quote of now that has been verified, and the Evidence with the log from that offset on."""
        quote = self.machine.tpm.quote(_NONCE)
        verified = verify_quote(
            quote.attest,
            quote.signature,
            self.machine.tpm.ak_public(),
            _NONCE,
            PcrSelection.of({Bank.SHA256: QUOTED_PCRS}),
            {Bank.SHA256: quote.pcr_values},
        )
        return verified, self._evidence(quote, ima_offset)

    def _evidence(self, quote: Quote, ima_offset: int) -> Evidence:
        return Evidence(
            quote=quote,
            merkle_index=0,
            merkle_path=(),
            event_log=self.machine.logs.event_log(),
            ima_offset=ima_offset,
            ima_log=self.machine.logs.ima_log(ima_offset),
            hypervisor_report=b"{}",
            network_state=b"{}",
            audit_head=bytes(32),
        )


def write_for_keylime(log: BigLog, directory: Path) -> None:
    """The same log and the same known files in Keylime's forms: `log.ascii`, `policy.json`, `pcr10`."""
    entries = log.machine.logs.entries
    (directory / "log.ascii").write_text("".join(_ascii_lines(entries)))
    files = {path: sorted(digests) for path, digests in log.reference.files.items()}
    files["boot_aggregate"] = [_file_digest(entries[0]).hex()]
    buffers = {
        fields.path: [fields.file_digest.digest.hex()]
        for entry in entries
        if (fields := entry.fields()).buf is not None and fields.path and fields.file_digest is not None
    }
    policy = {
        "meta": {"version": 1, "generator": 0},
        "release": 0,
        "digests": files,
        "excludes": [],
        "keyrings": {},
        "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": None},
        "ima-buf": buffers,
        "verification-keys": "",
    }
    (directory / "policy.json").write_text(json.dumps(policy))
    (directory / "pcr10").write_text(log.machine.tpm.pcrs[10].hex())


def _ascii_lines(entries: Iterable[ImaEntry]) -> Iterable[str]:
    for entry in entries:
        fields = entry.fields()
        last = fields.signature if fields.buf is None else fields.buf
        yield f"10 {entry.template_hash.hex()} {entry.template} {fields.file_digest} {fields.path} {last.hex()}\n"


def _content(number: int) -> bytes:
    return b"\x7fELF file %d" % number


def _digest(number: int) -> str:
    return hashlib.sha256(_content(number)).hexdigest()


def _file_digest(entry: ImaEntry) -> bytes:
    digest = entry.fields().file_digest
    return digest.digest if digest is not None else b""


def bare_replay(log: bytes, *, hash_bytes: int = 20) -> bytes:
    """PCR 10 of the SHA-256 bank after a log without violations: nothing is checked, nothing is kept.

    Frames, hashes and extends, as little as a replay can do.
    """
    sha256, from_bytes = hashlib.sha256, int.from_bytes
    value, position, end, before_name = bytes(32), 0, len(log), 4 + hash_bytes
    while position < end:
        position += before_name
        position += 4 + from_bytes(log[position : position + 4], "little")
        size = from_bytes(log[position : position + 4], "little")
        position += 4 + size
        value = sha256(value + sha256(log[position - size : position]).digest()).digest()
    return value
