"""The multi-version key-value engine on SQLite: etcd's semantics as plain blocking functions of one thread.

A table `log` holds every write in order (history), `current` points at each living key's newest row, so that
reading what is now costs what it returns. Compaction removes from the log what was superseded. The asyncio
side, the watches and the timers stand in `kubeproxy.store.sqlite`; time is an argument here.
"""

import math
import random
import sqlite3
from collections.abc import Callable, Iterable

import msgspec

from kubeproxy.store.base import (
    Compacted,
    Compare,
    Delete,
    DeleteResult,
    Event,
    EventType,
    FutureRevision,
    KeyValue,
    Lease,
    LeaseExists,
    LeaseNotFound,
    LeaseStatus,
    Operation,
    OperationResult,
    Operator,
    Put,
    PutResult,
    Range,
    RangeResult,
    Target,
    TxnResult,
)
from kubeproxy.store.limits import MIN_LEASE_TTL
from kubeproxy.store.sqlite_file import AT_BITS

BATCH_EVENTS = 500
BATCH_BYTES = 4 << 20
"""A batch of history ends with the revision that reaches one of these."""

Row = tuple[bytes, bytes, int, int, int, int]
"""key, value, created, at, version, lease"""
_COLUMNS = "l.key, l.value, l.created, l.at, l.version, l.lease"
_COLUMNS_NO_VALUE = "l.key, x'', l.created, l.at, l.version, l.lease"


class _Lease(msgspec.Struct):
    ttl: int
    deadline: float


class Engine:
    """The store's state. ``committed(revision, events)`` is called after each transaction that wrote."""

    def __init__(
        self, db: sqlite3.Connection, committed: Callable[[int, tuple[Event, ...]], None], now: float
    ) -> None:
        self._db = db
        self._committed = committed
        self.compacted, floor = db.execute("SELECT compacted, floor FROM state").fetchone()
        (newest,) = db.execute("SELECT coalesce(max(at), 0) FROM log").fetchone()
        self.revision: int = max(newest >> AT_BITS, floor)
        # As in etcd, a lease is whole again when the store comes back: its holder had nobody to renew it with.
        self._leases = {
            lease_id: _Lease(ttl, now + ttl) for lease_id, ttl in db.execute("SELECT id, ttl FROM lease")
        }
        self.next_expiry = min((lease.deadline for lease in self._leases.values()), default=math.inf)
        """No lease ends before this; it may be early, since keeping alive does not move it."""

    # Reading

    def range(self, request: Range) -> RangeResult:
        """Read now or at a revision."""
        self._check_held(request.revision)
        if request.revision == self.revision:
            request = msgspec.structs.replace(request, revision=0)  # Reading what is now costs a half.
        return self._range(request, self.revision)

    def _check_held(self, revision: int) -> None:
        if revision > self.revision:
            raise FutureRevision(
                f"required revision {revision} is a future revision; the store is at {self.revision}"
            )
        if 0 < revision < self.compacted:
            raise Compacted(self.compacted)

    def _range(self, request: Range, revision: int) -> RangeResult:
        limit = max(request.limit, 0)
        if request.count_only:
            return RangeResult(revision=revision, count=self._count(request))
        rows = self._rows(request, limit + 1 if limit else -1)
        more = bool(limit) and len(rows) > limit
        return RangeResult(
            revision=revision,
            kvs=tuple(map(_key_value, rows[:limit] if more else rows)),
            count=self._count(request) if more else len(rows),
            more=more,
        )

    def _rows(self, request: Range, limit: int) -> list[Row]:
        columns = _COLUMNS_NO_VALUE if request.keys_only else _COLUMNS
        source, arguments = _source(request)
        # By the key of the table that is scanned in its order: by the other's, every row would be sorted first.
        order = "l.key" if request.revision > 0 else "c.key"
        return self._db.execute(
            f"SELECT {columns} {source} ORDER BY {order} LIMIT ?", (*arguments, limit)
        ).fetchall()

    def _count(self, request: Range) -> int:
        source, arguments = _source(request, "")
        (count,) = self._db.execute(f"SELECT count(*) {source}", arguments).fetchone()
        return int(count)

    def events(self, key: bytes, range_end: bytes, start: int) -> tuple[int, tuple[Event, ...]]:
        """Read changes from revision ``start`` on; return them and the revision up to which they are complete."""
        if start < self.compacted:
            raise Compacted(self.compacted)
        where, arguments = _within("+l.key", key, range_end)
        cursor = self._db.execute(
            f"SELECT {_COLUMNS}, p.key, p.value, p.created, p.at, p.version, p.lease "  # noqa: S608
            f"FROM log l LEFT JOIN log p ON p.at = l.previous WHERE l.at >= ? AND {where} ORDER BY l.at",
            (start << AT_BITS, *arguments),
        )
        events: list[Event] = []
        size, through = 0, 0
        for row in cursor:
            event = _event(row[:6], row[6:] if row[6] is not None else None)
            if event.kv.mod_revision != through and (len(events) >= BATCH_EVENTS or size >= BATCH_BYTES):
                return through, tuple(events)
            through = event.kv.mod_revision
            events.append(event)
            size += len(event.kv.value)
        return self.revision, tuple(events)

    # Writing

    def txn(
        self, compare: tuple[Compare, ...], success: tuple[Operation, ...], failure: tuple[Operation, ...]
    ) -> TxnResult:
        """Run one branch, all of it or (on any error) nothing."""
        succeeded = all(self._holds(condition) for condition in compare)
        branch = success if succeeded else failure
        self._check_branch(branch)
        write = _Write(self._db, self.revision + 1)
        if all(isinstance(operation, Range) for operation in branch):
            results = self._run(branch, write)
        else:
            with _Transaction(self._db):
                results = self._run(branch, write)
            self._publish(write)
        return TxnResult(revision=self.revision, succeeded=succeeded, results=results)

    def _holds(self, condition: Compare) -> bool:
        rows = self._rows(Range(key=condition.key), 1)
        if not rows and condition.target is Target.VALUE:
            return False  # etcd: a missing key has no value that anything could be said of.
        return _compare(_key_value(rows[0]) if rows else None, condition)

    def _check_branch(self, branch: tuple[Operation, ...]) -> None:
        for operation in branch:
            if isinstance(operation, Put) and operation.lease:
                self._lease(operation.lease)
        for operation in branch:
            if isinstance(operation, Range):
                self._check_held(operation.revision)

    def _run(self, branch: tuple[Operation, ...], write: "_Write") -> tuple[OperationResult, ...]:
        results: list[OperationResult] = []
        for operation in branch:
            match operation:
                case Range():
                    results.append(self._range(operation, self.revision + bool(write.events)))
                case Put():
                    results.append(PutResult(previous=write.put(operation)))
                case Delete():
                    rows = self._rows(Range(key=operation.key, range_end=operation.range_end), -1)
                    results.append(DeleteResult(previous=write.delete(rows)))
        return tuple(results)

    def _publish(self, write: "_Write") -> None:
        if write.events:
            self.revision = write.revision
            self._committed(write.revision, tuple(write.events))

    def compact(self, revision: int) -> None:
        """Forget what was superseded at or before ``revision``, and deletions before it."""
        if revision <= self.compacted:
            raise Compacted(self.compacted)
        if revision > self.revision:
            raise FutureRevision(f"cannot compact {revision}; the store is at {self.revision}")
        start, end = self.compacted << AT_BITS, revision << AT_BITS
        with _Transaction(self._db):
            self._db.execute(
                "DELETE FROM log WHERE at IN "
                "(SELECT previous FROM log WHERE at >= ? AND at < ? AND previous != 0)",
                (start, (revision + 1) << AT_BITS),
            )
            self._db.execute("DELETE FROM log WHERE at >= ? AND at < ? AND version = 0", (start, end))
            self._db.execute("UPDATE state SET compacted = ?", (revision,))
        self.compacted = revision

    # Leases

    def lease_grant(self, ttl: int, lease_id: int, now: float) -> Lease:
        """Grant; a TTL below etcd's least is raised to it."""
        if lease_id in self._leases:
            raise LeaseExists("lease already exists")
        while not lease_id or lease_id in self._leases:
            lease_id = random.getrandbits(62)
        ttl = max(ttl, MIN_LEASE_TTL)
        self._db.execute("INSERT INTO lease (id, ttl) VALUES (?, ?)", (lease_id, ttl))
        self._leases[lease_id] = _Lease(ttl, now + ttl)
        self.next_expiry = min(self.next_expiry, now + ttl)
        return Lease(id=lease_id, ttl=ttl)

    def lease_keep_alive(self, lease_id: int, now: float) -> int:
        """Re-arm. Nothing is written: a restart re-arms as well."""
        lease = self._lease(lease_id)
        lease.deadline = now + lease.ttl
        return lease.ttl

    def lease_revoke(self, lease_id: int) -> None:
        """End a lease; its keys go in one revision, in their order."""
        self._lease(lease_id)
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM current c JOIN log l ON l.at = c.at WHERE c.lease = ? AND c.lease != 0 "  # noqa: S608
            "ORDER BY c.key",
            (lease_id,),
        ).fetchall()
        write = _Write(self._db, self.revision + 1)
        with _Transaction(self._db):
            write.delete(rows)
            self._db.execute("DELETE FROM lease WHERE id = ?", (lease_id,))
        del self._leases[lease_id]
        self._publish(write)

    def lease_time_to_live(self, lease_id: int, now: float) -> LeaseStatus:
        """Say what a lease has left, rounded down, and its keys."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return LeaseStatus(id=lease_id, remaining=-1, granted=0)
        rows = self._db.execute("SELECT key FROM current WHERE lease = ? AND lease != 0 ORDER BY key", (lease_id,))
        keys = tuple(key for (key,) in rows)
        return LeaseStatus(id=lease_id, remaining=int(lease.deadline - now), granted=lease.ttl, keys=keys)

    def lease_list(self) -> tuple[int, ...]:
        """Return the ids of all leases."""
        return tuple(self._leases)

    def expire(self, now: float) -> None:
        """End every lease whose time is over; called before anything else, so nobody sees one that is."""
        if now < self.next_expiry:
            return
        due = sorted(
            (lease.deadline, lease_id) for lease_id, lease in self._leases.items() if lease.deadline <= now
        )
        for _, lease_id in due:
            self.lease_revoke(lease_id)
        self.next_expiry = min((lease.deadline for lease in self._leases.values()), default=math.inf)

    def _lease(self, lease_id: int) -> _Lease:
        lease = self._leases.get(lease_id)
        if lease is None:
            raise LeaseNotFound("requested lease not found")
        return lease


class _Transaction:
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


class _Write:
    """The writes of one transaction, at one revision, and the events that they make."""

    def __init__(self, db: sqlite3.Connection, revision: int) -> None:
        self._db = db
        self.revision = revision
        self.events: list[Event] = []

    def put(self, operation: Put) -> KeyValue | None:
        old: Row | None = self._db.execute(
            f"SELECT {_COLUMNS} FROM current c JOIN log l ON l.at = c.at WHERE c.key = ?",  # noqa: S608
            (operation.key,),
        ).fetchone()
        created, version = (old[2], old[4] + 1) if old else (self.revision, 1)
        row = (operation.key, operation.value, created, self._at(), version, operation.lease)
        self._append(row, old)
        self._db.execute(
            "INSERT INTO current (key, at, lease) VALUES (?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET at = excluded.at, lease = excluded.lease",
            (operation.key, row[3], operation.lease),
        )
        return self.events[-1].previous

    def delete(self, rows: Iterable[Row]) -> tuple[KeyValue, ...]:
        removed = []
        for old in rows:
            self._append((old[0], b"", 0, self._at(), 0, 0), old)
            self._db.execute("DELETE FROM current WHERE key = ?", (old[0],))
            removed.append(_key_value(old))
        return tuple(removed)

    def _at(self) -> int:
        return self.revision << AT_BITS | len(self.events)

    def _append(self, row: Row, old: Row | None) -> None:
        self._db.execute(
            "INSERT INTO log (key, value, created, at, version, lease, previous) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, old[3] if old else 0),
        )
        self.events.append(_event(row, old))


def _source(request: Range, join: str = " JOIN log l ON l.at = c.at") -> tuple[str, tuple[object, ...]]:
    """Return FROM and WHERE of a read, with its arguments; a count needs no ``join``."""
    if request.revision <= 0:
        where, arguments = _within("c.key", request.key, request.range_end)
        return f"FROM current c{join} WHERE {where}", arguments
    where, arguments = _within("key", request.key, request.range_end)
    newest = f"SELECT max(at) FROM log WHERE {where} AND at < ? GROUP BY key"  # noqa: S608
    return f"FROM log l WHERE l.at IN ({newest}) AND l.version > 0", (
        *arguments,
        (request.revision + 1) << AT_BITS,
    )


def _within(column: str, key: bytes, range_end: bytes) -> tuple[str, tuple[object, ...]]:
    if not range_end:
        return f"{column} = ?", (key,)
    if range_end == b"\0":
        return f"{column} >= ?", (key,)
    return f"{column} >= ? AND {column} < ?", (key, range_end)


def _key_value(row: Row) -> KeyValue:
    key, value, created, at, version, lease = row
    return KeyValue(
        key=key, value=value, create_revision=created, mod_revision=at >> AT_BITS, version=version, lease=lease
    )


def _event(row: Row, old: Row | None) -> Event:
    return Event(
        type=EventType.PUT if row[4] else EventType.DELETE,
        kv=_key_value(row),
        previous=_key_value(old) if old else None,
    )


def _compare(kv: KeyValue | None, condition: Compare) -> bool:
    match condition.target:
        case Target.VERSION:
            held: int | bytes = kv.version if kv else 0
        case Target.CREATE:
            held = kv.create_revision if kv else 0
        case Target.MOD:
            held = kv.mod_revision if kv else 0
        case Target.LEASE:
            held = kv.lease if kv else 0
        case Target.VALUE:
            held = kv.value if kv else b""
    wanted = condition.value
    match condition.operator:
        case Operator.EQUAL:
            return held == wanted
        case Operator.NOT_EQUAL:
            return held != wanted
        case Operator.GREATER:
            return held > wanted  # type: ignore[operator]  # limits.check_txn: both are bytes or both are int
        case Operator.LESS:
            return held < wanted  # type: ignore[operator]
