"""The Evidence that is kept of each peer, so that its verdict can be repeated elsewhere: two pieces, and its IMA log.

Kept are the last Evidence that passed and that which began the last failure: of a failure the first that proves it, by
a good quote over a log that leads there, so that nothing which a host sends before or after can take its place. Logs
come as increments, but a file that proves something has the log from its first entry on: so what quotes vouched for is
kept as it comes, once, and put together when a file is asked for. The last Evidence that passed stays in memory until
something changes, since every handshake brings another one. A peer can fill no more than its own two files and one log,
each of bounded size.
"""

import sqlite3
import zlib
from dataclasses import replace

from shamon_host.attestation.claims.measurements import log_is_vouched
from shamon_host.attestation.evidence_file import MAX_FILE_BYTES, EvidenceFile, encode_file
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.daemon.database import Database
from shamon_host.daemon.suspension import is_transient
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName
from shamon_host.domain.results import ClaimName

_UNPROVED = "?"
"""Beside the claims that fail: the quote is not good, or the log does not lead to it."""
_FAST = 1
"""zlib's level: files are written while handshakes wait."""


class KeptEvidence:
    """Not thread-safe: `ResultHistory` holds a lock. `most_bytes` bounds each file and each log; 0 keeps none."""

    def __init__(self, database: Database, most_bytes: int) -> None:
        self._database = database
        self._most_bytes = min(most_bytes, MAX_FILE_BYTES)
        self._passed: dict[HostName, EvidenceFile] = {}
        """The last that passed; its IMA log without what the pieces have."""

    def note(
        self,
        connection: sqlite3.Connection,
        file: EvidenceFile,
        following: VerifierState,
        *,
        begins: bool,
        after_trust: bool,
    ) -> None:
        """Evidence came. `begins`: another verdict than the last one, which `after_trust` says was trust."""
        if not self._most_bytes:
            return
        result = file.record.result
        peer, boot = result.host, _boot(file)
        if begins and (passed := self._passed.pop(peer, None)) is not None:
            self._write(connection, passed)
        bound = all(claim.name is not ClaimName.BINDING for claim in result.failures)
        # Where it is not bound, its log is anybody's.
        kept = self._noted_log(connection, file, following, boot) if bound else file
        if result.trusted:
            if begins:
                self._write(connection, kept)
            self._passed[peer] = kept
            return
        proves = bound and log_is_vouched(result.claims)
        if after_trust or self._says_more(connection, file, boot, proves=proves):
            self._write(connection, kept, proves=proves)

    def load(self, peer: HostName, *, trusted: bool) -> bytes:
        """The file, as JSON. Raises BadInput when there is none."""
        if trusted and peer in self._passed:
            file = self._passed[peer]
            encoded = self._database.read(lambda connection: [(self._encoded(connection, file),)])[0][0]
            assert isinstance(encoded, bytes)
            return encoded
        rows = self._database.read(
            lambda connection: connection.execute(
                "SELECT data, size FROM evidence WHERE peer = ? AND trusted = ?", (peer, int(trusted))
            ).fetchall()
        )
        what = "passed" if trusted else "failed"
        if not rows:
            raise BadInput(f"no Evidence is kept that {what}", where=peer)
        data, size = rows[0]
        if not isinstance(data, bytes):
            raise BadInput(
                f"the Evidence that {what} was too large to be kept",
                where=peer,
                expected=f"at most {self._most_bytes} bytes",
                found=f"{size} bytes",
                remedy="See results.evidence_mib in the host's configuration.",
            )
        try:
            return zlib.decompressobj().decompress(data, MAX_FILE_BYTES)
        except zlib.error as error:
            raise self._database.corrupt(f"the stored Evidence of {peer} is corrupt", found=str(error)) from error

    def _noted_log(
        self, connection: sqlite3.Connection, file: EvidenceFile, following: VerifierState, boot: str
    ) -> EvidenceFile:
        """Keep what this Evidence adds to the vouched part of the log; return the file without what is kept."""
        peer, evidence = file.record.result.host, file.evidence
        start, vouched = evidence.ima_offset, following.ima_offset
        if vouched <= _offset_before(file):
            return file  # nothing new, or nothing that the quote vouches for
        known_boot, end = self._log_end(connection, peer)
        # A Verifier that knew nothing has the log from its beginning now, perhaps of another boot with this count: that
        # of a TPM goes back when it is cleared.
        anew = file.state is None or not file.state.seen
        if known_boot != boot or anew or start > end or vouched > self._most_bytes:
            connection.execute("DELETE FROM ima_piece WHERE peer = ?", (peer,))
            end = 0
            if start or vouched > self._most_bytes:
                return file  # it began before this host kept it, or it is too long
        if vouched > end:
            connection.execute(
                "INSERT INTO ima_piece (peer, start, boot, data) VALUES (?, ?, ?, ?)",
                (peer, end, boot, evidence.ima_log[end - start : vouched - start]),
            )
        return replace(
            file, evidence=replace(evidence, ima_offset=vouched, ima_log=evidence.ima_log[vouched - start :])
        )

    def _says_more(self, connection: sqlite3.Connection, file: EvidenceFile, boot: str, *, proves: bool) -> bool:
        """Whether it proves what the kept one does not, or fails a claim that the kept one did not, or in another
        boot."""
        row = connection.execute(
            "SELECT boot, failing FROM evidence WHERE peer = ? AND trusted = 0", (file.record.result.host,)
        ).fetchone()
        if row is None:
            return True
        failing, kept = _failing(file), set(str(row[1]).split(","))
        if proves != (_UNPROVED not in kept):
            return proves
        return row[0] != boot or not failing <= kept

    def _write(self, connection: sqlite3.Connection, file: EvidenceFile, *, proves: bool = True) -> None:
        result = file.record.result
        data, size = None, _size_at_least(file)
        if size <= self._most_bytes:  # else nobody waits for what is thrown away
            encoded = self._encoded(connection, file)
            size = len(encoded)
            data = zlib.compress(encoded, _FAST) if size <= self._most_bytes else None
        connection.execute(
            "INSERT OR REPLACE INTO evidence (peer, trusted, at_s, boot, failing, size, data) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                result.host,
                int(result.trusted),
                file.record.appraised_s,
                _boot(file),
                ",".join(sorted(_failing(file) | (set() if proves else {_UNPROVED}))),
                size,
                data,
            ),
        )

    def _encoded(self, connection: sqlite3.Connection, file: EvidenceFile) -> bytes:
        """The file with its log put together, as far as all of it is there.

        Not where the log did not lead to its quote: what was wrong may be where it began."""
        evidence, pieces = file.evidence, []
        end = 0
        if evidence.ima_offset and not any(map(is_transient, file.record.result.failures)):
            for start, data in connection.execute(
                "SELECT start, data FROM ima_piece WHERE peer = ? AND boot = ? AND start < ? ORDER BY start",
                (file.record.result.host, _boot(file), evidence.ima_offset),
            ):
                if start != end:
                    break
                pieces.append(data)
                end += len(data)
        if evidence.ima_offset <= end:
            log = b"".join(pieces)[: evidence.ima_offset] + evidence.ima_log
            file = replace(file, evidence=replace(evidence, ima_offset=0, ima_log=log))
        return encode_file(file)

    def _log_end(self, connection: sqlite3.Connection, peer: HostName) -> tuple[str, int]:
        """Of which boot the kept log is, and how long it is."""
        row = connection.execute(
            "SELECT boot, start + length(data) FROM ima_piece WHERE peer = ? ORDER BY start DESC LIMIT 1", (peer,)
        ).fetchone()
        return (str(row[0]), int(row[1])) if row else ("", 0)


def _failing(file: EvidenceFile) -> set[str]:
    return {claim.name.value for claim in file.record.result.failures}


def _boot(file: EvidenceFile) -> str:
    """Which boot of which AK the Evidence is of."""
    return f"{file.record.result.ak_name.hex()} {file.record.result.reset_count}"


def _size_at_least(file: EvidenceFile) -> int:
    """Bytes of the file, less what is small and what the kept log has."""
    evidence = file.evidence
    parts = (evidence.ima_log, evidence.event_log, evidence.hypervisor_report, evidence.network_state)
    return sum(map(len, parts)) * 4 // 3


def _offset_before(file: EvidenceFile) -> int:
    """How much of this boot's log had been vouched for, under the Reference Values of now, before this Evidence."""
    state, record = file.state, file.record
    same = (
        state is not None
        and state.reset_count == record.result.reset_count
        and state.reference_digest == record.reference_digest
    )
    return state.ima_offset if state is not None and same else 0
