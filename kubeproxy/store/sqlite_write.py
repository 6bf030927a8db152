"""Writing to the embedded store's log: a transaction, and the rows and events of its one revision."""

import sqlite3
from collections.abc import Sequence

from kubeproxy.store.base import Event, KeyValue, Put
from kubeproxy.store.sqlite_file import AT_BITS
from kubeproxy.store.sqlite_rows import Row, as_json, current_row, event, key_value


class Transaction:
    """BEGIN, then COMMIT or ROLLBACK."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if kind is None:
            try:
                self._db.execute("COMMIT")
                return
            except sqlite3.Error:
                self._rollback()
                raise
        self._rollback()

    def _rollback(self) -> None:
        if self._db.in_transaction:  # SQLite rolls back by itself on some errors, such as a full disk.
            self._db.execute("ROLLBACK")


class Write:
    """The writes of one transaction, at one revision, and the events that they make."""

    def __init__(self, db: sqlite3.Connection, revision: int) -> None:
        self._db = db
        self.revision = revision
        self.events: list[Event] = []

    def put(self, operation: Put) -> KeyValue | None:
        """Write a key; return what it held."""
        old = current_row(self._db, operation.key)
        created, version = (old[2], old[4] + 1) if old else (self.revision, 1)
        row = (operation.key, operation.value, created, self._at(), version, operation.lease)
        self._append(row, old)
        self._db.execute(
            "INSERT INTO current (key, at, lease) VALUES (?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET at = excluded.at, lease = excluded.lease",
            (operation.key, row[3], operation.lease),
        )
        return self.events[-1].previous

    def delete(self, rows: Sequence[Row]) -> tuple[KeyValue, ...]:
        """Delete living rows, however many in two statements."""
        first, places = self._at(), as_json([old[3] for old in rows])
        named = "FROM json_each(?) named CROSS JOIN log l ON l.at = named.value"
        self._db.execute(
            "INSERT INTO log (key, value, created, at, version, lease, previous) "
            f"SELECT l.key, x'', 0, ? + named.key, 0, 0, l.at {named}",
            (first, places),
        )
        self._db.execute(f"DELETE FROM current WHERE key IN (SELECT l.key {named})", (places,))  # noqa: S608
        self.events += [event((old[0], b"", 0, first + n, 0, 0), old) for n, old in enumerate(rows)]
        return tuple(map(key_value, rows))

    def _at(self) -> int:
        return self.revision << AT_BITS | len(self.events)

    def _append(self, row: Row, old: Row | None) -> None:
        self._db.execute(
            "INSERT INTO log (key, value, created, at, version, lease, previous) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, old[3] if old else 0),
        )
        self.events.append(event(row, old))
