"""The multi-version key-value engine on SQLite: etcd's semantics as plain blocking functions of one thread.

A table `log` holds every write in order (history), `current` points at each living key's newest row, so that
reading what is now costs what it returns. Compaction removes from the log what was superseded. The asyncio
side, the watches and the timers stand in `kubeproxy.store.sqlite`; time is an argument here.
"""

import math
import random
import sqlite3
from collections.abc import Callable
from operator import itemgetter

import msgspec

from kubeproxy.store.base import (
    Compacted,
    Compare,
    Delete,
    DeleteResult,
    Event,
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
from kubeproxy.store.sqlite_rows import Row, current_row, current_rows, event, key_value, numbers, rows_at
from kubeproxy.store.sqlite_write import Transaction, Write

BATCH_EVENTS = 500
BATCH_BYTES = 4 << 20
"""A batch of history ends with the revision that reaches one of these."""


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
            kvs=tuple(map(key_value, rows[:limit] if more else rows)),
            count=self._count(request) if more else len(rows),
            more=more,
        )

    def _rows(self, request: Range, limit: int) -> list[Row]:
        if not request.range_end and not request.keys_only and request.revision <= 0:
            row = current_row(self._db, request.key)
            return [row] if row else []
        values = not request.keys_only
        if request.revision <= 0:
            where, arguments = _within("c.key", request.key, request.range_end)
            return _by_key(current_rows(self._db, where, arguments, limit, values=values))
        source, arguments = _source(request)
        query = f"SELECT l.at {source} ORDER BY l.key LIMIT ?"
        (places,) = numbers(self._db, "at", query, (*arguments, limit))
        return _by_key(rows_at(self._db, places, values=values))

    def _rows_of(self, lease_id: int, *, values: bool = True) -> list[Row]:
        query = "SELECT at FROM current WHERE lease = ? AND lease != 0"
        (places,) = numbers(self._db, "at", query, (lease_id,))
        return _by_key(rows_at(self._db, places, values=values))

    def _count(self, request: Range) -> int:
        source, arguments = _source(request)
        (count,) = self._db.execute(f"SELECT count(*) {source}", arguments).fetchone()
        return int(count)

    def events(self, key: bytes, range_end: bytes, start: int) -> tuple[int, tuple[Event, ...]]:
        """Read changes from revision ``start`` on; return them and the revision up to which they are complete."""
        if start < self.compacted:
            raise Compacted(self.compacted)
        changes, following = self._batch(key, range_end, start)
        places = [place for change in changes for place in change[:2] if place]
        rows = {row[3]: row for row in rows_at(self._db, places)}
        events = tuple(event(rows[at], rows.get(previous)) for at, previous, _ in changes)
        return events[-1].kv.mod_revision if following else self.revision, events

    def _batch(self, key: bytes, range_end: bytes, start: int) -> tuple[list[tuple[int, int, int]], bool]:
        """Return where the changes of a batch stand, what they replaced, and their size; whether more follow."""
        where, arguments = _within("+l.key", key, range_end)
        query = (
            "SELECT l.at, l.previous, length(l.value) AS size "  # noqa: S608
            f"FROM log l WHERE l.at >= ? AND {where} ORDER BY l.at LIMIT ?"
        )
        limit = 2 * BATCH_EVENTS
        while True:
            found = numbers(self._db, "at, previous, size", query, (start << AT_BITS, *arguments, limit))
            changes = sorted(zip(*found, strict=True))
            end = _batch_end(changes)
            if end < len(changes) or len(changes) < limit:
                return changes[:end], end < len(changes)
            limit *= 8  # A revision of so many changes, and no end of it yet.

    # Writing

    def txn(
        self, compare: tuple[Compare, ...], success: tuple[Operation, ...], failure: tuple[Operation, ...]
    ) -> TxnResult:
        """Run one branch, all of it or (on any error) nothing."""
        succeeded = all(self._holds(condition) for condition in compare)
        branch = success if succeeded else failure
        self._check_branch(branch)
        write = Write(self._db, self.revision + 1)
        if all(isinstance(operation, Range) for operation in branch):
            results = self._run(branch, write)
        else:
            with Transaction(self._db):
                results = self._run(branch, write)
            self._publish(write)
        return TxnResult(revision=self.revision, succeeded=succeeded, results=results)

    def _holds(self, condition: Compare) -> bool:
        rows = self._rows(Range(key=condition.key), 1)
        if not rows and condition.target is Target.VALUE:
            return False  # etcd: a missing key has no value that anything could be said of.
        return _compare(key_value(rows[0]) if rows else None, condition)

    def _check_branch(self, branch: tuple[Operation, ...]) -> None:
        for operation in branch:
            if isinstance(operation, Put) and operation.lease:
                self._lease(operation.lease)
        for operation in branch:
            if isinstance(operation, Range):
                self._check_held(operation.revision)

    def _run(self, branch: tuple[Operation, ...], write: Write) -> tuple[OperationResult, ...]:
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

    def _publish(self, write: Write) -> None:
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
        with Transaction(self._db):
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
        rows = self._rows_of(lease_id)
        write = Write(self._db, self.revision + 1)
        with Transaction(self._db):
            write.delete(rows)
            self._db.execute("DELETE FROM lease WHERE id = ?", (lease_id,))
        del self._leases[lease_id]
        self._publish(write)

    def lease_time_to_live(self, lease_id: int, now: float) -> LeaseStatus:
        """Say what a lease has left, rounded down, and its keys."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return LeaseStatus(id=lease_id, remaining=-1, granted=0)
        keys = tuple(row[0] for row in self._rows_of(lease_id, values=False))
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


def _source(request: Range) -> tuple[str, tuple[object, ...]]:
    """Return FROM and WHERE of a read, with its arguments."""
    if request.revision <= 0:
        where, arguments = _within("c.key", request.key, request.range_end)
        return f"FROM current c WHERE {where}", arguments
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


def _by_key(rows: list[Row]) -> list[Row]:
    rows.sort(key=itemgetter(0))
    return rows


def _batch_end(changes: list[tuple[int, int, int]]) -> int:
    """Return how many of these changes a batch takes: never a part of a revision."""
    size = 0
    for n, (at, _, length) in enumerate(changes):
        if (n >= BATCH_EVENTS or size >= BATCH_BYTES) and at >> AT_BITS != changes[n - 1][0] >> AT_BITS:
            return n
        size += length
    return len(changes)


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
