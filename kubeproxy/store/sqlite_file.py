"""The file of a SQLite store: who may open it, what is in it, and what a bad one is answered with.

Durability. The journal is a write-ahead log with ``synchronous=NORMAL``: an acknowledged write has reached the
operating system, so a killed process loses nothing; only a power loss or a kernel crash can take back the last
writes (never tear the file). FULL would add an fsync (here 0.4 ms, on a laptop's disk 1 to 10) to every write of
a store that one machine uses. The danger of writes taken back is a watcher on another machine that has seen
them: so a file that was not closed and wakes up under another boot of the machine skips `LOST_REVISIONS`
revisions and counts everything before as compacted, and every such watcher is told to list anew.

One process owns a file, by a lock on ``PATH.lock`` that the kernel drops with the process.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kubeproxy.store.base import NoSpace, StoreError, Unavailable

MEMORY = ":memory:"
AT_BITS = 24
"""A row of the log stands at ``revision << AT_BITS | n``: the n-th write of its transaction."""
FIRST_REVISION = 1
LOST_REVISIONS = 1_000_000
"""More than any operating system holds back unwritten."""

_APPLICATION_ID = 0x6B70_7873
_SCHEMA_VERSION = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_SCHEMA = """
CREATE TABLE log (
    at       INTEGER PRIMARY KEY,
    key      BLOB NOT NULL,
    value    BLOB NOT NULL,
    created  INTEGER NOT NULL,  -- revision that created the key
    version  INTEGER NOT NULL,  -- 0: this row deletes the key
    lease    INTEGER NOT NULL,
    previous INTEGER NOT NULL   -- where the row that this one replaced stands; 0: none
);
CREATE INDEX log_key ON log (key);
CREATE TABLE current (
    key   BLOB PRIMARY KEY,
    at    INTEGER NOT NULL,
    lease INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX current_lease ON current (lease) WHERE lease != 0;
CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL);
CREATE TABLE state (
    compacted INTEGER NOT NULL,
    floor     INTEGER NOT NULL,  -- the revision, when the log has no newer one
    boot      TEXT NOT NULL,     -- the boot of the machine that last opened the file
    closed    INTEGER NOT NULL
);
"""


class StoreFile:
    """An open store file and the right to it. Used by one thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = -1 if path == MEMORY else _take(path)
        try:
            with explained(path):
                self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                self._prepare()
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """Fold the write-ahead log into the file and let go of it."""
        try:
            with explained(self.path):
                self.db.execute("UPDATE state SET closed = 1")
                self.db.close()
        finally:
            self._release()

    def _prepare(self) -> None:
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")
        (application,) = self.db.execute("PRAGMA application_id").fetchone()
        (version,) = self.db.execute("PRAGMA user_version").fetchone()
        (tables,) = self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            self._create()
        elif application != _APPLICATION_ID:
            raise StoreError(f"{self.path} is a SQLite file of another program: give the store a path of its own")
        elif version != _SCHEMA_VERSION:
            raise StoreError(f"{self.path} has schema {version}, this program knows {_SCHEMA_VERSION}")
        else:
            self._reopen()

    def _create(self) -> None:
        self.db.executescript(f"BEGIN; {_SCHEMA}")
        self.db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        self.db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        self.db.execute("INSERT INTO state VALUES (0, ?, ?, 0)", (FIRST_REVISION, _boot()))
        self.db.execute("COMMIT")

    def _reopen(self) -> None:
        (verdict,) = self.db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(
                f"store {self.path} is damaged ({verdict}): restore a copy, or move it away to start empty"
            )
        boot, closed = self.db.execute("SELECT boot, closed FROM state").fetchone()
        self.db.execute("BEGIN IMMEDIATE")
        if not closed and boot != _boot():
            self._skip_lost_revisions()
        self.db.execute("UPDATE state SET boot = ?, closed = 0", (_boot(),))
        self.db.execute("COMMIT")

    def _skip_lost_revisions(self) -> None:
        (newest,) = self.db.execute("SELECT coalesce(max(at), 0) >> ? FROM log", (AT_BITS,)).fetchone()
        self.db.execute("DELETE FROM log WHERE at NOT IN (SELECT at FROM current)")
        self.db.execute(
            "UPDATE state SET floor = max(floor, ?) + ?, compacted = max(floor, ?) + ?",
            (newest, LOST_REVISIONS, newest, LOST_REVISIONS),
        )

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn SQLite's errors into the store's: what may pass (a full disk) and what does not (a damaged file)."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise NoSpace(f"store {path}: {error}") from error
        raise Unavailable(f"store {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreError(f"store {path} is damaged or no store ({error}): move it away to start empty") from error


def _take(path: str) -> int:
    """Create the file if need be, readable by its owner only, and lock it; return the lock's descriptor."""
    lock_path = f"{path}.lock"
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"store {path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 32).decode("ascii", "replace").strip()
        os.close(lock)
        raise StoreError(f"store {path} is in use by process {owner or 'unknown'}") from None
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def _boot() -> str:
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""
