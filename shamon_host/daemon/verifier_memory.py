"""What this host, as a Verifier, remembers of each AK: the state, and the ledger of what was measured.

It belongs to the record under which it was learned. A host that is enrolled anew, under a newer record, starts from
nothing and is asked for its whole log, also with the AK of before: its TPM may have been cleared, which puts its counts
back, and it was the operator who said that this is explained. What failed in this boot, the log shows again.

The state is read and written with every appraisal, so it stays small. The ledger grows with the log; it is stored in
pieces beside it, of which an appraisal only adds to the last one, and read when the Reference Values have changed.
Whatever does not fit together is forgotten: then the log is asked for from its beginning, as from a new host.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shamon_host.attestation.ima_entry import ImaEntry
from shamon_host.attestation.ledger import Ledger, pack, unpack
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.daemon.store import Store
from shamon_host.domain.errors import BadInput
from shamon_host.peer.ports import EnrolledPeer

STATES = "verifier"
PIECES = "verifier-ledger"
MAX_ENTRIES = 1_000_000
"""Of one ledger. A host that measures more is asked for its log again when its Reference Values change."""
MAX_MEASURED_BYTES = 64 * 1024 * 1024
"""Of one ledger, before it is packed: as much as the longest log that is read at once."""
_PIECE_ENTRIES = 8192
_PIECE_BYTES = 2 * 1024 * 1024
_SMALL_PIECE = 256
"""A piece with fewer entries than this is written anew with what follows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What the state's document says of the ledger."""

    entries: int = 0
    measured_bytes: int = 0
    pieces: int = 0
    last: int = 0
    """Entries in the last piece."""

    @classmethod
    def of(cls, document: dict[str, Any] | None) -> "_Stored":
        numbers = (document or {}).get("ledger")
        if not isinstance(numbers, dict):
            return cls()
        names = ("entries", "measured_bytes", "pieces", "last")
        values = {name: numbers.get(name) for name in names}
        if any(type(value) is not int or value < 0 for value in values.values()):
            return cls()
        return cls(**{name: int(value or 0) for name, value in values.items()})

    def to_document(self) -> dict[str, int]:
        return {
            "entries": self.entries,
            "measured_bytes": self.measured_bytes,
            "pieces": self.pieces,
            "last": self.last,
        }


@dataclass(frozen=True, slots=True)
class VerifierMemory:
    """All of it is durable: see `Store`, which says what is raised, too."""

    store: Store
    on_unreadable: Callable[[bytes, BadInput], None] = lambda _name, _error: None
    """Told of an AK whose state was not written by this version, before it is forgotten: the whole log shows again what
    stuck in this boot."""

    def wanted_from(self, peer: EnrolledPeer, reference_digest: str | None) -> tuple[int, int]:
        """From which byte the IMA log is wanted, and in the boot with which resetCount. None: no Reference Values."""
        document, state = self._state(peer)
        if state is None:
            return 0, 0
        same = reference_digest is None or not state.seen or state.reference_digest == reference_digest
        if not same and _Stored.of(document).entries != state.facts.entries:
            return 0, state.reset_count
        return state.ima_offset, state.reset_count

    def recall(self, peer: EnrolledPeer, reference_digest: str) -> VerifierState | None:
        """The state of an AK, None for a new one or a new record; with its ledger where it stands on other Reference
        Values."""
        document, state = self._state(peer)
        if state is None:
            return None
        if not state.seen or state.reference_digest == reference_digest:
            return state
        stored = _Stored.of(document)
        if stored.entries != state.facts.entries:
            return state
        try:
            entries = tuple(entry for number in range(stored.pieces) for entry in self._piece(peer.ak_name, number))
        except BadInput:
            return state
        if len(entries) != stored.entries:
            return state
        return state.with_ledger(Ledger(pieces=(entries,)))

    def keep(self, peer: EnrolledPeer, state: VerifierState) -> None:
        """The state that an appraisal returned; what is new in its ledger is added to what is stored."""
        ak_name, key = peer.ak_name, peer.ak_name.hex()
        document = self.store.get(STATES, key)
        stale = _Stored.of(document).pieces
        before = _Stored.of(document if _is_of(document, peer) else None)
        ledger, new = state.ledger, state.ledger.entries
        changes: dict[tuple[str, str], dict[str, Any] | None] = {}
        if not ledger.elsewhere:
            start = _Stored()
        elif ledger.elsewhere == before.entries:
            start = before
        else:
            start, new = _Stored(), ()  # not what is stored goes on here
        measured_bytes = start.measured_bytes + sum(len(entry.measured) for entry in new)
        if start.entries + len(new) > MAX_ENTRIES or measured_bytes > MAX_MEASURED_BYTES:
            start, new, measured_bytes = _Stored(), (), 0
        stored = start
        if new:
            first = start.pieces
            if 0 < start.last < _SMALL_PIECE and start.last + len(new) <= _PIECE_ENTRIES:
                first -= 1
                try:
                    new = (*self._piece(ak_name, first), *new)
                except BadInput:
                    start, new, first, measured_bytes = _Stored(), (), 0, 0
            pieces = list(_pieces(new))
            for number, piece in enumerate(pieces, start=first):
                changes[PIECES, _piece_key(ak_name, number)] = {"entries": base64.b64encode(pack(piece)).decode()}
            stored = _Stored(
                entries=state.facts.entries if pieces else 0,
                measured_bytes=measured_bytes,
                pieces=first + len(pieces),
                last=len(pieces[-1]) if pieces else 0,
            )
        for number in range(stored.pieces, stale):
            changes[PIECES, _piece_key(ak_name, number)] = None
        changes[STATES, key] = {**state.to_document(), "ledger": stored.to_document(), "record": _record(peer)}
        self.store.change(changes)

    def _state(self, peer: EnrolledPeer) -> tuple[dict[str, Any] | None, VerifierState | None]:
        """The document and what it says; neither for an AK that is new, is under another record now, or whose state
        cannot be read."""
        document = self.store.get(STATES, peer.ak_name.hex())
        if not document:
            return None, None
        try:
            state = VerifierState.from_document(document)
            if "record" not in document:
                raise BadInput("a stored Verifier state does not say under which record it was learned")
        except BadInput as error:
            self.on_unreadable(peer.ak_name, error)
            self.store.delete(STATES, peer.ak_name.hex())
            return None, None
        return (document, state) if _is_of(document, peer) else (None, None)

    def _piece(self, ak_name: bytes, number: int) -> tuple[ImaEntry, ...]:
        document = self.store.get(PIECES, _piece_key(ak_name, number)) or {}
        try:
            return unpack(base64.b64decode(str(document.get("entries", "")), validate=True))
        except ValueError as error:
            raise BadInput("a stored ledger of measurements is malformed", found=str(error)) from None


def _record(peer: EnrolledPeer) -> dict[str, Any]:
    return {"host": peer.host, "serial": peer.serial}


def _is_of(document: dict[str, Any] | None, peer: EnrolledPeer) -> bool:
    """Whether it was learned under the record that counts now."""
    return document is not None and document.get("record") == _record(peer)


def _piece_key(ak_name: bytes, number: int) -> str:
    return f"{ak_name.hex()}/{number:06d}"


def _pieces(entries: Sequence[ImaEntry]) -> Iterator[Sequence[ImaEntry]]:
    """Parts of at most _PIECE_ENTRIES entries and, unless one alone is larger, _PIECE_BYTES bytes."""
    start = size = 0
    for at, entry in enumerate(entries):
        size += len(entry.measured)
        if at > start and (at - start >= _PIECE_ENTRIES or size > _PIECE_BYTES):
            yield entries[start:at]
            start, size = at, len(entry.measured)
    if len(entries) > start:
        yield entries[start:]
