"""Small durable state of one host: JSON documents by kind and key, in the host's database.

The label map, link ids, what was vouched for each AK (offsets, sticky failures), what each VM should do. Opaque here:
whoever puts a document reads it again.
"""

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from shamon_host.daemon.database import Database
from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput

MAX_NAME = 512
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
_PUT = "INSERT OR REPLACE INTO document (kind, key, json) VALUES (?, ?, ?)"


class Store:
    """Documents. Every call is one durable transaction; raises BackendFailed when the database does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """The document, or None."""
        rows = self._database.read(
            lambda connection: connection.execute(
                "SELECT json FROM document WHERE kind = ? AND key = ?", (_name(kind), _name(key))
            ).fetchall()
        )
        return self._parse(kind, key, rows[0][0]) if rows else None

    def put(self, kind: str, key: str, document: Mapping[str, Any]) -> None:
        """Put the document in place of the one that is there. Raises BadInput for what is not JSON."""
        self.change({(kind, key): document})

    def change(self, documents: Mapping[tuple[str, str], Mapping[str, Any] | None]) -> None:
        """Put or, where the document is None, remove several documents in one transaction: all of them or none.
        Raises as `put` does."""
        rows = [(kind, key, self._encoded(kind, key, value)) for (kind, key), value in documents.items()]
        with self._database.transaction() as connection:
            for kind, key, text in rows:
                if text is None:
                    connection.execute("DELETE FROM document WHERE kind = ? AND key = ?", (_name(kind), _name(key)))
                else:
                    connection.execute(_PUT, (_name(kind), _name(key), text))

    def delete(self, kind: str, key: str) -> None:
        """Remove the document, if it is there."""
        self.change({(kind, key): None})

    def items(self, kind: str) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Key and document of every document of the kind, by key, as of one moment."""

        def query(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
            return connection.execute(
                "SELECT key, json FROM document WHERE kind = ? ORDER BY key", (_name(kind),)
            ).fetchall()

        return tuple((str(key), self._parse(kind, str(key), text)) for key, text in self._database.read(query))

    def _encoded(self, kind: str, key: str, document: Mapping[str, Any] | None) -> str | None:
        if document is None:
            return None
        data = canonical_json(dict(document))
        if len(data) > MAX_DOCUMENT_BYTES:
            raise BadInput(
                "a document is too large for the store",
                where=f"{kind} {key}",
                expected=f"at most {MAX_DOCUMENT_BYTES} bytes",
                found=str(len(data)),
            )
        return data.decode("ascii")

    def _parse(self, kind: str, key: str, text: object) -> dict[str, Any]:
        try:
            document = json.loads(str(text))
        except (ValueError, RecursionError) as error:
            raise self._database.corrupt(f"the stored document {kind} {key} is corrupt") from error
        if not isinstance(document, dict):
            raise self._database.corrupt(f"the stored document {kind} {key} is corrupt", found=type(document).__name__)
        return document


def _name(text: str) -> str:
    if not 0 < len(text) <= MAX_NAME or "\0" in text or not text.isprintable():
        raise BadInput(
            "bad name of a stored document", expected=f"1 to {MAX_NAME} printable characters", found=repr(text[:80])
        )
    return str(text)
