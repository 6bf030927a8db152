"""Random histories: whatever happens to the ring and to the store's watch, each watch sees its events once."""

import asyncio
import contextlib
import os

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubeproxy.apiserver import feed
from kubeproxy.apiserver.feed import Feed, Limits
from kubeproxy.apiserver.kinds import KINDS, kind_of
from kubeproxy.apiserver.watch import Watcher, WatchQuery
from kubeproxy.clock import ManualClock, SystemClock
from kubeproxy.store.base import Delete, Put, Range, Unavailable
from kubeproxy.store.resources import CONFIG_MAPS, ENDPOINT_SLICES, NAMESPACES
from kubeproxy.store.sqlite import SqliteStore

pytestmark = pytest.mark.unit

EXAMPLES = 600 if os.environ.get("KUBEPROXY_LONG") else 60
COLLECTIONS = [(CONFIG_MAPS, "a"), (CONFIG_MAPS, "b"), (ENDPOINT_SLICES, "a"), (NAMESPACES, "")]

collections = st.sampled_from(COLLECTIONS)
scopes = st.sampled_from([*COLLECTIONS, (CONFIG_MAPS, ""), (ENDPOINT_SLICES, "")])
names = st.lists(st.tuples(collections, st.sampled_from("xyz")), min_size=1, max_size=4, unique=True)
steps = st.one_of(
    st.tuples(st.just("write"), names),
    st.tuples(st.just("write"), names),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("watch"), scopes, st.integers(0, 12)),
    st.tuples(st.just("read"), st.integers(0, 5), st.integers(1, 6)),
    st.tuples(st.just("turn"), st.integers(1, 30)),
    st.tuples(st.just("pass"), st.sampled_from((0.5, 70.0))),
    st.tuples(st.just("break")),
    st.tuples(st.just("compact"), st.integers(0, 6)),
)


class Fragile:
    """A store whose watches break when told to."""

    def __init__(self, store):
        self._store = store
        self._broken = asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._store, name)

    def break_watches(self):
        self._broken.set()
        self._broken = asyncio.Event()

    async def watch(self, key, range_end=b"", start_revision=0):
        broken = asyncio.ensure_future(self._broken.wait())
        batches = self._store.watch(key, range_end, start_revision)
        following = None
        try:
            while True:
                following = asyncio.ensure_future(anext(batches))
                await asyncio.wait({following, broken}, return_when=asyncio.FIRST_COMPLETED)
                if broken.done():
                    raise Unavailable("the stream broke")
                if isinstance(following.exception(), StopAsyncIteration):
                    return
                yield following.result()
        finally:
            ending = [task for task in (following, broken) if task is not None]
            for task in ending:
                task.cancel()
            # Lets our own cancellation through, which may come while they end.
            await asyncio.gather(*ending, return_exceptions=True)


class Seen:
    """A watch that reads as many events as it is given credit for, and what it should have seen."""

    def __init__(self, world, scope, after):
        resource, self.namespace = scope
        self.kind, self.after, self.events, self.error = kind_of(resource), after, [], None
        self.last = after
        self.credit = asyncio.Semaphore(0)
        self.world = world
        self.task = asyncio.create_task(self.read())

    async def read(self):
        while self.error is None:
            # As a client does whose watch ended: go on after the last event or bookmark.
            query = WatchQuery(namespace=self.namespace, revision=self.last, bookmarks=True)
            watcher = Watcher(self.world.store, self.world.feed, self.kind, query, SystemClock())
            with contextlib.suppress(Unavailable):
                async for out in watcher.lines():
                    for line in out.splitlines():
                        event = msgspec.json.decode(line)
                        if event["type"] == "ERROR":
                            self.error = event["object"]["message"]
                            return
                        meta = event["object"]["metadata"]
                        assert int(meta["resourceVersion"]) >= self.last
                        self.last = int(meta["resourceVersion"])
                        if event["type"] == "BOOKMARK":
                            continue
                        seen = (meta["resourceVersion"], event["type"], meta.get("namespace", ""), meta["name"])
                        self.events.append(seen)
                    await self.credit.acquire()

    def expected(self, history):
        mine = [e for e in history if e[4] == self.kind.prefix and self.namespace in ("", e[2])]
        return [(str(e[0]), *e[1:4]) for e in mine if e[0] > self.after]


class World:
    def __init__(self, store):
        self.store, self.clock = Fragile(store), ManualClock()
        self.feed = Feed(self.store, (kind.prefix for kind in KINDS), self.clock, Limits(changes=5))
        self.history, self.present, self.watches, self.compacted = [], set(), [], 0

    async def revision(self):
        return (await self.store.range(Range(key=b"\0", count_only=True))).revision

    async def change(self, what, delete):
        operations, told = [], []
        for (resource, namespace), name in what:
            prefix = kind_of(resource).prefix
            key = prefix + (f"{namespace}/{name}" if namespace else name).encode()
            if delete and key not in self.present:
                continue
            kind = "DELETED" if delete else "MODIFIED" if key in self.present else "ADDED"
            (self.present.discard if delete else self.present.add)(key)
            meta = {"name": name} | ({"namespace": namespace} if namespace else {})
            value = msgspec.json.encode({"kind": resource.kind, "apiVersion": "v1", "metadata": meta})
            operations.append(Delete(key=key) if delete else Put(key=key, value=value))
            told.append((kind, namespace, name, prefix, key))
        if not operations:
            return
        revision = (await self.store.txn((), tuple(operations))).revision
        self.history += [(revision, *entry[:4]) for entry in sorted(told, key=lambda e: e[4])]

    async def step(self, step):
        match step:
            case ("write" | "delete" as verb, what):
                await self.change(what, verb == "delete")
            case ("watch", scope, age):
                self.watches.append(Seen(self, scope, max(await self.revision() - age, 1)))
            case ("read", which, count) if self.watches:
                for _ in range(count):
                    self.watches[which % len(self.watches)].credit.release()
            case ("turn", count):
                for _ in range(count):
                    await asyncio.sleep(0)
            case ("pass", seconds):
                await self.clock.step(seconds)
            case ("break",):
                self.store.break_watches()
            case ("compact", age):
                target = await self.revision() - age
                if target > self.compacted:
                    await self.store.compact(target)
                    self.compacted = target

    def judge(self):
        """Say whether every watch has seen all; fail on anything lost, doubled or out of order."""
        finished = True
        for watch in self.watches:
            expected = watch.expected(self.history)
            # Deletes of one transaction share a revision, and so do puts: compare them without their order.
            seen = watch.events
            assert sorted(seen) == sorted(expected[: len(seen)]) or watch.error, (seen, expected)
            assert [int(e[0]) for e in seen] == sorted(int(e[0]) for e in seen)
            assert len(set(seen)) == len(seen)
            if watch.error:
                assert set(seen) <= set(expected)
                assert watch.last + 1 < self.compacted, watch.error
            finished = finished and bool(watch.error or len(seen) == len(expected))
        return finished


async def play(history):
    async with await SqliteStore.open(":memory:") as store:
        world = World(store)
        await world.change([(COLLECTIONS[0], "first")], False)
        running = asyncio.create_task(world.feed.run())
        for step in history:
            await world.step(step)
        async with asyncio.timeout(20):
            for watch in world.watches:
                for _ in range(1000):
                    watch.credit.release()
            while not world.judge():
                await world.clock.step(0.2)
                await asyncio.sleep(0.002)
        for task in (running, *(watch.task for watch in world.watches)):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Let the feed yield after each watch and each revision, as it does after hundreds."""
    monkeypatch.setattr(feed, "_AT_ONCE", 1)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, min_size=5, max_size=40))
def test_every_watch_sees_its_events_once_and_in_order(history):
    asyncio.run(play(history))


async def test_the_oldest_change_that_the_ring_dropped_is_not_missed():
    async with await SqliteStore.open(":memory:") as store:
        for after in range(1, 9):
            world = World(store)
            running = asyncio.create_task(world.feed.run())
            for name in "xyzxyzxyz":
                await world.change([(COLLECTIONS[0], name)], False)
            while world.feed.revision < await world.revision():
                await world.clock.step(0.1)
            watch = Seen(world, COLLECTIONS[0], await world.revision() - after)
            for _ in range(after):
                watch.credit.release()
            while len(watch.events) < after:
                await asyncio.sleep(0.001)
            for task in (running, watch.task):
                task.cancel()
