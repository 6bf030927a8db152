"""One watch of the store that feeds every watch of the API's clients.

The newest changes stay in a ring, bounded in number and bytes; each kind's are a log of their own. A client's
watch is a position in one log and costs nothing while nothing happens there: a change wakes those who wait for its
collection, and puts each at itself. A change is encoded once, for all who want it whole. Who begins before the
ring, or falls out of it, is told so (`Behind`) and catches up from the store by itself before it joins.

A store that goes away ends no client's watch: the feed resumes at the next revision. When that one was compacted
meanwhile, changes are lost; those who lack them are then told `Compacted`, and list again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from kubeproxy.clock import Clock
from kubeproxy.store import objects
from kubeproxy.store.base import Compacted, Event, EventType, Range, Store, StoreError, Unavailable, prefix_end

log = logging.getLogger(__name__)

ROOT = b"/registry/"
ROOT_END = prefix_end(ROOT)
BOOKMARK_SECONDS = 60
"""How often a watch that wants bookmarks gets one."""
_PRELOADED = 1000
"""Revisions read back at the start, for clients that resume their watches after a restart of the server."""
_AT_ONCE = 500
"""Watches woken between two turns of the event loop, and changes read by one of them in one go."""
_CHANGE_BYTES = 1000
"""What a change takes beside its values."""
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


class Limits(msgspec.Struct, frozen=True):
    """How much the ring holds at most."""

    changes: int = 8192
    bytes: int = 32 << 20


class Behind(Exception):
    """The ring no longer holds what comes next for this watch."""


class Change:
    """An event of the store, and what watches make of it: each form is made once."""

    __slots__ = ("_before", "_line", "_now", "event", "namespace", "number", "revision")

    def __init__(self, event: Event, prefix: bytes, number: int = 0) -> None:
        self.event = event
        self.number = number
        self.revision = event.kv.mod_revision
        first, slash, _ = event.kv.key[len(prefix) :].partition(b"/")
        self.namespace = first.decode() if slash else ""
        self._line = b""
        self._now: Any = None
        self._before: Any = None

    @property
    def size(self) -> int:
        """About how many bytes it holds, its line included."""
        before = len(self.event.previous.value) if self.event.previous else 0
        return 2 * len(self.event.kv.value) + before + _CHANGE_BYTES

    @property
    def line(self) -> bytes:
        """The watch event for who filters nothing."""
        if not self._line:
            kind = "MODIFIED" if self.event.previous else "ADDED"
            self._line = json_line("DELETED" if self.event.type is EventType.DELETE else kind, self.shown)
        return self._line

    @property
    def shown(self) -> bytes:
        """The object as it is now or, deleted, as it last was; in both cases with the change's revision."""
        return objects.raw(self.event.kv) if self.event.type is EventType.PUT else self.last

    @property
    def last(self) -> bytes:
        """The object as it was before, with the change's revision: what who loses sight of it is shown."""
        previous = self.event.previous
        return objects.with_revision(previous.value if previous else b"{}", self.revision)

    @property
    def now(self) -> Any:
        """The object after the change, decoded; None when it was deleted."""
        if self._now is None and self.event.type is EventType.PUT:
            self._now = msgspec.json.decode(self.event.kv.value)
        return self._now

    @property
    def before(self) -> Any:
        """The object before the change, decoded; None when there was none."""
        if self._before is None and self.event.previous is not None:
            self._before = msgspec.json.decode(self.event.previous.value)
        return self._before


def json_line(kind: str, value: bytes) -> bytes:
    """Return a watch event as it is sent."""
    return b'{"type":"%b","object":%b}\n' % (kind.encode(), value)


class _Log:
    """The changes of one kind that the ring holds, and who waits for the next one, by namespace ("": in any)."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.changes: deque[Change] = deque()
        self.end = 0
        self.idle: dict[str, set[Subscription]] = {}

    @property
    def first(self) -> int:
        return self.end - len(self.changes)

    def append(self, event: Event) -> Change:
        change = Change(event, self.prefix, self.end)
        self.changes.append(change)
        self.end += 1
        return change

    def number_after(self, revision: int) -> int:
        """Return the number of the first change after a revision."""
        for change in reversed(self.changes):
            if change.revision <= revision:
                return change.number + 1
        return self.first

    def since(self, number: int) -> list[Change]:
        """Return what comes from ``number`` on: the first `_AT_ONCE`, never cut inside a revision."""
        found: list[Change] = []
        for change in reversed(self.changes):
            if change.number < number:
                break
            found.append(change)
        found.reverse()
        cut = _AT_ONCE
        while cut < len(found) and found[cut].revision == found[cut - 1].revision:
            cut += 1
        return found[:cut]

    def waiting(self) -> list["Subscription"]:
        return [subscription for group in self.idle.values() for subscription in group]


class Subscription:
    """A watch's position in the feed; made by `Feed.subscribe`, for one task, over when that drops it."""

    __slots__ = ("_at", "_feed", "_generation", "_idle", "_log", "_namespace", "_rung", "_woken", "after")

    def __init__(self, feed: "Feed", kind_log: _Log, namespace: str, after: int) -> None:
        self.after = after
        """All that the collection knows up to this revision was returned."""
        self._feed = feed
        self._log = kind_log
        self._namespace = namespace
        self._generation = feed.generation
        self._at = kind_log.number_after(after)
        self._rung = self._idle = False
        self._woken: asyncio.Future[None] | None = None

    async def next(self) -> Sequence[Change]:
        """Wait for changes of the collection and return them; none: it is time for a bookmark. Raises Behind."""
        while True:
            if self._generation != self._feed.generation or self._at < self._log.first:
                raise Behind
            found = self._read()
            if found or self._rung:
                self._rung = False
                return found
            if self._at == self._log.end:
                await self._wait()

    def ring(self) -> None:
        """Wake a watch that waits for a bookmark; one that has been put at a change has something better to do."""
        if self._idle:
            self._rung = True
            self.put(self._log.end, self._feed.revision)
            self.wake()

    def put(self, number: int, after: int) -> None:
        """Let the waiting watch go on at a change, having missed nothing up to ``after``."""
        self._at = number
        self.after = max(self.after, after)
        self._leave()

    def wake(self) -> None:
        """Resume the task of the watch."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _read(self) -> list[Change]:
        fresh = self._log.since(self._at)
        if not fresh:
            self.after = max(self.after, self._feed.revision)
            return []
        self._at = fresh[-1].number + 1
        known, self.after = self.after, max(self.after, fresh[-1].revision)
        namespace = self._namespace
        return [c for c in fresh if c.revision > known and (not namespace or c.namespace == namespace)]

    async def _wait(self) -> None:
        self._woken = asyncio.get_running_loop().create_future()
        self._log.idle.setdefault(self._namespace, set()).add(self)
        self._idle = True
        try:
            await self._woken
        finally:
            self._woken = None
            self._leave()

    def _leave(self) -> None:
        self._idle = False
        group = self._log.idle.get(self._namespace)
        if group is not None:
            group.discard(self)
            if not group:
                del self._log.idle[self._namespace]


class Feed:
    """The ring. Run `run` as a task; everything happens on one event loop."""

    def __init__(
        self, store: Store, prefixes: Iterable[bytes], clock: Clock, limits: Limits | None = None
    ) -> None:
        self.revision = 0
        """Everything up to this revision has been published."""
        self.generation = 0
        """Counts how often changes were lost; a subscription of an older one is over."""
        self.failures = 0
        self._store = store
        self._clock = clock
        self._limits = limits or Limits()
        self._logs = {prefix: _Log(prefix) for prefix in prefixes}
        self._ring: deque[_Log] = deque()
        """Whose change came when, oldest first: the next to be forgotten is the left one's first."""
        self._bytes = 0
        self._floor: int | None = None
        """The ring holds whatever came after this revision; None before the first start."""
        self._compacted = 0
        self._preloaded = _PRELOADED
        self._stood = False
        self._away = False
        self._bells: list[set[Subscription]] = [set() for _ in range(BOOKMARK_SECONDS)]
        self._next_bell = 0

    def holds(self, after: int) -> bool:
        """Say whether a watch can join that has seen everything up to ``after``. Raises Compacted."""
        if after + 1 < self._compacted:
            raise Compacted(self._compacted)
        return self._floor is not None and after >= self._floor

    def subscribe(self, prefix: bytes, namespace: str, after: int) -> Subscription:
        """Join the log of a kind, after a revision for which `holds` is true."""
        return Subscription(self, self._logs[prefix], namespace, after)

    def ring_for(self, subscription: Subscription) -> None:
        """Wake a watch every `BOOKMARK_SECONDS`, each at another moment, until `unring`."""
        self._next_bell = (self._next_bell + 1) % BOOKMARK_SECONDS
        self._bells[self._next_bell].add(subscription)

    def unring(self, subscription: Subscription) -> None:
        """Wake it no more."""
        for bell in self._bells:
            bell.discard(subscription)

    async def run(self) -> None:
        """Follow the store until cancelled; nothing but cancellation ends it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ring_bells())
            tasks.create_task(self._follow())

    async def _ring_bells(self) -> None:
        while True:
            for bell in self._bells:
                await self._clock.sleep(1.0)
                for subscription in tuple(bell):
                    subscription.ring()

    async def _follow(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                if self._floor is None:
                    await self._begin()
                async for batch in self._store.watch(ROOT, ROOT_END, self.revision + 1):
                    self._answered()
                    pause = _FIRST_PAUSE
                    await self._publish(batch.revision, batch.events)
                raise Unavailable("the store's watch ended")
            except Compacted as gone:
                await self._lose(gone.revision)
            except StoreError as error:
                self._report(error)
            except Exception:
                # A bug of ours must not leave clients waiting for what never comes.
                self.failures += 1
                log.exception("the feed of watches failed and begins anew; each watch catches up by itself")
                await self._lose(0)
            await self._clock.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _begin(self) -> None:
        now = (await self._store.range(Range(key=b"\0", count_only=True))).revision
        self.revision = self._floor = max(now - self._preloaded, self._compacted - 1, 0)

    async def _publish(self, revision: int, events: Sequence[Event]) -> None:
        awake: list[Subscription] = []
        for event in events:
            kind_log = next((held for prefix, held in self._logs.items() if event.kv.key.startswith(prefix)), None)
            if kind_log is not None:
                self._append(kind_log, event, awake)
        self.revision = max(self.revision, revision)
        self._stood = True
        await _wake(awake)

    def _append(self, kind_log: _Log, event: Event, awake: list[Subscription]) -> None:
        change = kind_log.append(event)
        self._ring.append(kind_log)
        self._bytes += change.size
        while len(self._ring) > self._limits.changes or (self._bytes > self._limits.bytes and len(self._ring) > 1):
            oldest = self._ring.popleft().changes.popleft()
            self._bytes -= oldest.size
            self._floor = oldest.revision
        for group in {"", change.namespace}:
            for subscription in tuple(kind_log.idle.get(group, ())):
                subscription.put(change.number, change.revision - 1)
                awake.append(subscription)

    async def _lose(self, oldest: int) -> None:
        """Begin anew at the oldest revision held, or now (0): what lies between is not in the ring."""
        if oldest and self._stood:
            log.warning("the store has compacted what watches lack: clients list again")
        awake = [subscription for held in self._logs.values() for subscription in held.waiting()]
        for subscription in awake:
            subscription.put(0, self.revision)
        self.generation += 1
        self._compacted = max(self._compacted, oldest)
        for held in self._logs.values():
            held.changes.clear()
        self._ring.clear()
        self._bytes = 0
        self._floor, self._preloaded = None, 0
        if oldest:
            self.revision = self._floor = oldest - 1
        await _wake(awake)

    def _report(self, error: StoreError) -> None:
        self.failures += 1
        if not self._away:
            log.warning("watches wait for the store and go on when it is back: %s", error)
        self._away = True

    def _answered(self) -> None:
        if self._away:
            log.info("watches go on: the store is back")
        self._away = False


async def _wake(subscriptions: Sequence[Subscription]) -> None:
    """Resume watches, some at a time, so that thousands of them do not hold up every other request."""
    for index, subscription in enumerate(subscriptions, 1):
        subscription.wake()
        if index % _AT_ONCE == 0:
            await asyncio.sleep(0)
