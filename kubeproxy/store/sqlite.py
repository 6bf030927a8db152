"""The embedded store: the contract of `kubeproxy.store.base` in one SQLite file, for one machine.

One thread runs the engine (`kubeproxy.store.sqlite_engine`); the event loop hands it calls and never waits for
the disk itself. After each transaction the thread hands its events back to the loop, which keeps the newest few
in memory and wakes the watches. A watch is only a position in history: it reads the next revisions from those
few or, when it is further behind, from the file. So nothing is queued for a slow one, nothing is lost or doubled
between history and what is live, and one that falls behind compaction is told so.

History is kept for `Retention.seconds` and at most `Retention.revisions`, as Kubernetes compacts its etcd.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

import msgspec

from kubeproxy.clock import Clock, SystemClock
from kubeproxy.store.base import (
    Compacted,
    Compare,
    Event,
    Lease,
    LeaseStatus,
    NoSpace,
    Operation,
    Range,
    RangeResult,
    StoreError,
    TxnResult,
    Unavailable,
    WatchBatch,
)
from kubeproxy.store.limits import check_lease, check_range, check_txn, check_watch, covers
from kubeproxy.store.sqlite_engine import BATCH_EVENTS, Engine
from kubeproxy.store.sqlite_file import StoreFile, explained

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

RECENT_REVISIONS = 1000
RECENT_BYTES = 8 << 20
PROGRESS_REVISIONS = 100
"""A watch that skipped this many revisions yields a progress mark, so that it can be resumed from there."""
COMPACTION_STEP = 1000
"""Revisions compacted in one go; other calls run in between."""


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How much history is kept: all of the last ``seconds``, but never more than ``revisions``."""

    revisions: int = 10_000
    seconds: float = 300.0
    interval: float = 60.0


class SqliteStore:
    """`Store` in a SQLite file, or in memory when the path is ":memory:". Use `open`, then `close`."""

    def __init__(self, path: str | Path, *, clock: Clock, retention: Retention | None = None) -> None:
        self._path = str(path)
        self._clock = clock
        self._retention = retention or Retention()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._file: StoreFile
        self._engine: Engine
        self._loop: asyncio.AbstractEventLoop
        self._closed = True
        self._revision = 0
        """The newest revision that watches may read; the thread may be ahead by a moment."""
        self._recent: dict[int, tuple[int, tuple[Event, ...]]] = {}
        """By revision: the size of its events, and they; the revisions are consecutive."""
        self._recent_bytes = 0
        self._full = False
        """Whether the last write found no room."""
        self._moved = asyncio.Event()
        self._expiry_at = math.inf
        self._expiry: asyncio.Task[None] | None = None
        self._compaction: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, path: str | Path, *, clock: Clock | None = None, retention: Retention | None = None
    ) -> Self:
        """Open or create the file. Raises StoreError when it is damaged, foreign, or another process has it."""
        store = cls(path, clock=clock or SystemClock(), retention=retention)
        store._loop = asyncio.get_running_loop()
        try:
            store._revision = await store._loop.run_in_executor(store._thread, store._start)
        except BaseException:
            store._thread.shutdown(wait=False)
            raise
        store._closed = False
        store._arm_expiry()
        store._compaction = asyncio.create_task(store._compact_regularly())
        return store

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """See `Store.close`."""
        if self._closed:
            return
        self._closed = True
        self._moved.set()
        for task in (self._expiry, self._compaction):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self._loop.run_in_executor(self._thread, self._file.close)
        self._thread.shutdown(wait=False)

    # The contract

    async def range(self, request: Range) -> RangeResult:
        """See `Store.range`."""
        check_range(request)
        return await self._call(self._engine.range, request)

    async def txn(
        self, compare: tuple[Compare, ...], success: tuple[Operation, ...], failure: tuple[Operation, ...] = ()
    ) -> TxnResult:
        """See `Store.txn`."""
        check_txn(compare, success, failure)
        return await self._call(self._engine.txn, compare, success, failure)

    async def watch(
        self, key: bytes, range_end: bytes = b"", start_revision: int = 0
    ) -> AsyncIterator[WatchBatch]:
        """See `Store.watch`."""
        check_watch(key, range_end, start_revision)
        self._check_open()
        position = start_revision if start_revision > 0 else self._revision + 1
        if position < self._engine.compacted:
            raise Compacted(self._engine.compacted)
        told = position - 1
        yield WatchBatch(revision=told)
        while await self._reaches(position):
            through, events = self._read_recent(key, range_end, position)
            if not through:
                through, events = await self._call(self._engine.events, key, range_end, position)
            position = through + 1
            if events or through - told >= PROGRESS_REVISIONS:
                told = through
                yield WatchBatch(revision=through, events=events)

    async def compact(self, revision: int) -> None:
        """See `Store.compact`."""
        await self._call(self._engine.compact, revision)

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> Lease:
        """See `Store.lease_grant`."""
        check_lease(lease_id, ttl)
        lease = await self._call(self._engine.lease_grant, ttl, lease_id, self._clock.now())
        self._arm_expiry()
        return lease

    async def lease_keep_alive(self, lease_id: int) -> int:
        """See `Store.lease_keep_alive`."""
        return await self._call(self._engine.lease_keep_alive, lease_id, self._clock.now())

    async def lease_revoke(self, lease_id: int) -> None:
        """See `Store.lease_revoke`."""
        await self._call(self._engine.lease_revoke, lease_id)

    async def lease_time_to_live(self, lease_id: int) -> LeaseStatus:
        """See `Store.lease_time_to_live`."""
        return await self._call(self._engine.lease_time_to_live, lease_id, self._clock.now())

    async def lease_list(self) -> tuple[int, ...]:
        """See `Store.lease_list`."""
        return await self._call(self._engine.lease_list)

    async def alarms(self) -> tuple[str, ...]:
        """See `Store.alarms`."""
        self._check_open()
        return ("NOSPACE",) if self._full else ()

    # The thread

    def _start(self) -> int:
        """Open the file and return its revision."""
        self._file = StoreFile(self._path)
        with explained(self._path):
            self._engine = Engine(self._file.db, self._committed, self._clock.now())
        return self._engine.revision

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._check_open()
        return await self._loop.run_in_executor(self._thread, self._work, lambda: function(*args, **kwargs))

    def _work(self, call: Callable[[], T]) -> T:
        with suppress(Unavailable):
            # On a full disk no lease can be ended; what is there can still be read, and `_expire` says why.
            self._end_leases()
        try:
            with explained(self._path):
                return call()
        except NoSpace:
            self._full = True
            raise

    def _end_leases(self) -> float:
        """End the leases that are due; return when the next one is."""
        with explained(self._path):
            self._engine.expire(self._clock.now())
        return self._engine.next_expiry

    def _committed(self, revision: int, events: tuple[Event, ...]) -> None:
        """Hand events to the loop; it runs this before it resumes whoever awaits the transaction."""
        self._full = False
        self._loop.call_soon_threadsafe(self._publish, revision, events)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"store {self._path} is closed")

    # Watches

    def _publish(self, revision: int, events: tuple[Event, ...]) -> None:
        size = sum(len(event.kv.value) for event in events)
        self._recent[revision] = (size, events)
        self._recent_bytes += size
        while len(self._recent) > RECENT_REVISIONS or (
            self._recent_bytes > RECENT_BYTES and len(self._recent) > 1
        ):
            oldest, _ = self._recent.pop(next(iter(self._recent)))
            self._recent_bytes -= oldest
        self._revision = revision
        self._moved.set()
        self._moved.clear()

    async def _reaches(self, position: int) -> bool:
        """Wait until there is such a revision; False when the store closed."""
        while position > self._revision and not self._closed:
            await self._moved.wait()
        return not self._closed

    def _read_recent(self, key: bytes, range_end: bytes, position: int) -> tuple[int, tuple[Event, ...]]:
        """Read from memory; (0, ()) when ``position`` is no longer there."""
        if position not in self._recent:
            return 0, ()
        found: list[Event] = []
        through = position
        for through in range(position, self._revision + 1):
            _, events = self._recent[through]
            found.extend(event for event in events if covers(key, range_end, event.kv.key))
            if len(found) >= BATCH_EVENTS:
                break
        return through, tuple(found)

    # Timers

    def _arm_expiry(self) -> None:
        """Make sure that somebody wakes up when the next lease ends, if no call does before."""
        at = self._engine.next_expiry
        if at < self._expiry_at and not self._closed:
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry_at = at
            self._expiry = asyncio.create_task(self._expire(at))

    async def _expire(self, at: float) -> None:
        told = False
        while at < math.inf:
            await self._clock.sleep(at - self._clock.now())
            try:
                at, told = await self._call(self._end_leases), False
            except StoreError as error:
                if not told:
                    log.error("leases of store %s cannot be ended, trying again: %s", self._path, error)
                at, told = self._clock.now() + 1.0, True
            self._expiry_at = at

    async def _compact_regularly(self) -> None:
        ages: deque[tuple[float, int]] = deque()
        while True:
            now = self._clock.now()
            ages.append((now, self._revision))
            old = 0
            while ages and ages[0][0] <= now - self._retention.seconds:
                old = ages.popleft()[1]
            try:
                await self._compact_to(max(old, self._revision - self._retention.revisions))
            except StoreError as error:
                log.error("history of store %s cannot be compacted, trying again: %s", self._path, error)
            await self._clock.sleep(self._retention.interval)

    async def _compact_to(self, target: int) -> None:
        while self._engine.compacted < target:
            step = min(self._engine.compacted + COMPACTION_STEP, target)
            with suppress(Compacted):  # Somebody else compacted meanwhile.
                await self._call(self._engine.compact, step)
