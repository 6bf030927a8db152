"""Random histories: every engine answers, and tells its watchers, exactly what a naive model of etcd does."""

import asyncio
import itertools
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubeproxy.clock import ManualClock
from kubeproxy.store.base import (
    Compacted,
    Compare,
    Delete,
    Event,
    EventType,
    Operation,
    Operator,
    Put,
    Range,
    Refused,
    Store,
    StoreError,
    Target,
)
from tests.etcd_bed import etcd_process
from tests.store_engines import LONG, REAL, engine_params, opened
from tests.store_model import Model, inside

EXAMPLES = {"memory": 150, "file": 30, "gateway": 30, "gateway with faults": 5, "etcd": 12, "etcd with faults": 4}
NAMES = (b"a", b"a\x00", b"aa", b"b", b"c\xff")
LEASES = (1, 2, 3)

# What a history is made of. Keys get the example's root, revisions are relative to now and leases are numbered
# by the example, so that the same history runs on a store that is fresh and on one that has seen others.
names = st.sampled_from(NAMES)
values = st.binary(max_size=3)
ends = st.one_of(st.just(b""), st.sampled_from([*NAMES, b"z"]))
ages = st.integers(-1, 12)
leases = st.sampled_from((0, 0, 0, *LEASES))
puts = st.builds(lambda key, value, lease: ("put", key, value, lease), names, values, leases)
deletes = st.builds(lambda key, end: ("delete", key, end), names, ends)
ranges = st.builds(
    lambda key, end, age, limit, flags: ("range", key, end, age, limit, flags),
    names,
    ends,
    st.one_of(st.none(), ages),
    st.integers(0, 3),
    st.sampled_from(("", "", "keys_only", "count_only")),
)
operations = st.one_of(puts, puts, deletes, ranges)
compares = st.one_of(
    st.tuples(names, st.just(Target.VALUE), st.sampled_from(list(Operator)), values),
    st.tuples(names, st.sampled_from([Target.VERSION, Target.LEASE]), st.sampled_from(list(Operator)), leases),
    st.tuples(names, st.sampled_from([Target.CREATE, Target.MOD]), st.sampled_from(list(Operator)), ages),
)
branches = st.lists(operations, max_size=4)
txns = st.tuples(st.just("txn"), st.lists(compares, max_size=2), branches, branches)
single = st.builds(lambda operation: ("txn", [], [operation], []), operations)
steps = st.one_of(
    single,
    single,
    single,
    txns,
    txns,
    st.tuples(st.just("compact"), ages),
    st.tuples(st.just("grant"), st.sampled_from(LEASES), st.integers(2, 6)),
    st.tuples(st.sampled_from(("keep_alive", "revoke", "time_to_live")), st.sampled_from(LEASES)),
    st.tuples(st.just("step"), st.sampled_from((0.5, 2.0, 4.0))),
    st.tuples(st.just("watch"), names, ends, st.one_of(st.none(), ages)),
)
histories = st.lists(steps, min_size=20, max_size=60)

_examples = itertools.count()


@pytest.fixture(scope="module")
def etcd_url() -> Iterator[str]:
    with etcd_process() as url:
        yield url


@pytest.mark.parametrize("kind", engine_params())
def test_an_engine_does_what_the_model_does(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("etcd_url") if kind in REAL else ""

    @settings(
        max_examples=EXAMPLES[kind] * (40 if LONG else 1),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(histories)
    def check(history: list[tuple[object, ...]]) -> None:
        asyncio.run(_check(kind, url, history))

    check()


async def _check(kind: str, url: str, history: list[tuple[object, ...]]) -> None:
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as folder:
        async with opened(kind, Path(folder), clock, url) as store:
            async with asyncio.timeout(10):
                run = await Run.on(kind, store, clock)
                for step in history:
                    await run.step(step)
                await run.check_watchers()


class Watcher:
    """A watch that collects, and what it must have seen."""

    def __init__(self, store: Store, key: bytes, end: bytes, start: int) -> None:
        self.key, self.end, self.start = key, end, start
        self.events: list[Event] = []
        self.compacted: int | None = None
        self.standing = asyncio.Event()
        self.moved = asyncio.Event()
        self.task = asyncio.create_task(self._run(store))

    async def _run(self, store: Store) -> None:
        last = 0
        try:
            async for batch in store.watch(self.key, self.end, self.start):
                revisions = [event.kv.mod_revision for event in batch.events]
                assert revisions == sorted(revisions), "events out of order"
                assert not revisions or revisions[0] > last, "a revision was cut or came twice"
                assert not revisions or revisions[-1] <= batch.revision
                last = max([last, *revisions])
                self.events += batch.events
                self.standing.set()
                self.moved.set()
        except Compacted as error:
            self.compacted = error.revision
        finally:
            self.standing.set()
            self.moved.set()

    async def until(self, revision: int) -> None:
        """Wait for an event as late as ``revision``, or for the watch's end."""
        while not self.task.done() and (not self.events or self.events[-1].kv.mod_revision < revision):
            self.moved.clear()
            await self.moved.wait()


class Run:
    """One history, on an engine and on the model side by side."""

    def __init__(self, kind: str, store: Store, clock: ManualClock, model: Model) -> None:
        self.kind, self.store, self.clock, self.model = kind, store, clock, model
        number = next(_examples)
        self.root = b"/h%d/" % number
        self.lease_base = 10 * (number + 1)
        self.watchers: list[Watcher] = []
        self.compactions: list[int] = []

    @classmethod
    async def on(cls, kind: str, store: Store, clock: ManualClock) -> "Run":
        now = (await store.range(Range(key=b"\0", count_only=True))).revision
        compacted = 0
        if kind in REAL:  # Forget the examples before: compacted is then known.
            now = (await store.txn((), (Put(key=b"fresh", value=b""),))).revision
            await store.compact(now)
            compacted = now
        return cls(kind, store, clock, Model(base=now, compacted=compacted))

    async def step(self, step: tuple[object, ...]) -> None:
        match step:
            case ("txn", list(conditions), list(success), list(failure)):
                compare = tuple(map(self._condition, conditions))
                branches = [tuple(map(self._operation, branch)) for branch in (success, failure)]
                await self._same(
                    lambda: self.store.txn(compare, *branches), lambda: self.model.txn(compare, *branches)
                )
            case ("compact", int(age)):
                at = max(self.model.revision - age, 2)
                await self._same(lambda: self.store.compact(at), lambda: self.model.compact(at))
                self.compactions.append(at)
            case ("grant", int(number), int(ttl)):
                await self._grant(self._lease(number), ttl)
            case ("keep_alive", int(number)):
                lease = self._lease(number)
                await self._same(
                    lambda: self.store.lease_keep_alive(lease), lambda: self.model.lease_keep_alive(lease)
                )
            case ("revoke", int(number)):
                lease = self._lease(number)
                await self._same(lambda: self.store.lease_revoke(lease), lambda: self.model.lease_revoke(lease))
            case ("time_to_live", int(number)):
                status = await self.store.lease_time_to_live(self._lease(number))
                assert status.keys == self.model.lease_keys(self._lease(number))
                assert (status.remaining >= 0) == (self._lease(number) in self.model.leases)
            case ("step", float(seconds)) if self.kind not in REAL:
                self.model.step(seconds)
                await self.clock.step(seconds)
            case ("watch", bytes(key), bytes(end), age):
                await self._watch(self.root + key, self._end(end), age)

    async def _grant(self, lease: int, ttl: int) -> None:
        if lease not in self.model.leases:
            ttl = ttl if self.kind not in REAL else 600
            await self.store.lease_grant(ttl, lease)
            self.model.lease_grant(ttl, lease)

    async def _watch(self, key: bytes, end: bytes, age: object) -> None:
        start = max(self.model.revision - age, 1) if isinstance(age, int) else 0
        end = end if end > key else b""
        watcher = Watcher(self.store, key, end, start)
        watcher.start = start or self.model.revision + 1
        await watcher.standing.wait()
        if watcher.start < self.model.compacted:
            await watcher.task
            assert watcher.compacted == self.model.compacted
        else:
            self.watchers.append(watcher)

    async def _same(self, real: Callable[[], Awaitable[object]], model: Callable[[], object]) -> None:
        """Both return the same, or both refuse for the same reason."""
        expected: object
        try:
            expected = model()
        except StoreError as error:
            expected = error
        try:
            got: object = await real()
        except StoreError as error:
            got = error
        if isinstance(expected, StoreError):
            assert type(got) is type(expected), (got, expected)
            if isinstance(expected, Compacted):
                assert isinstance(got, Compacted)
                assert got.revision == expected.revision
        else:
            assert got == expected

    async def check_watchers(self) -> None:
        for watcher in self.watchers:
            end = (Put(key=watcher.key, value=b"the end"),)
            await self._same(lambda end=end: self.store.txn((), end), lambda end=end: self.model.txn((), end, ()))
        for watcher in self.watchers:
            await self._check_watcher(watcher)
            watcher.task.cancel()
            await asyncio.gather(watcher.task, return_exceptions=True)

    async def _check_watcher(self, watcher: Watcher) -> None:
        expected = [
            event
            for event in self.model.events
            if event.kv.mod_revision >= watcher.start and inside(watcher.key, watcher.end, event.kv.key)
        ]
        await watcher.until(expected[-1].kv.mod_revision)
        seen, expected = self._comparable(watcher.events), self._comparable(expected)
        if watcher.task.done():
            watcher.task.result()
            assert watcher.compacted in self.compactions, "only compaction ends a watch"
            expected = expected[: len(seen)]
        for one, other in itertools.zip_longest(seen, expected):
            assert one is not None
            assert other is not None
            assert (one.type, one.kv) == (other.type, other.kv)
            # What a compacted revision held cannot be told any more.
            forgotten = one.previous is None and one.kv.mod_revision <= self.model.compacted
            assert forgotten or one.previous == other.previous

    def _comparable(self, events: list[Event]) -> list[Event]:
        """etcd before 3.6 forgets a deletion at the very revision of a compaction."""
        if self.kind not in REAL:
            return events
        return [e for e in events if e.type is EventType.PUT or e.kv.mod_revision not in self.compactions]

    # Relative to absolute

    def _lease(self, number: int) -> int:
        return self.lease_base + number

    def _end(self, end: bytes) -> bytes:
        return self.root + end if end else b""

    def _condition(self, condition: tuple[bytes, Target, Operator, int | bytes]) -> Compare:
        key, target, operator, value = condition
        if isinstance(value, int) and target in (Target.CREATE, Target.MOD):
            value = self.model.revision - value
        elif target is Target.LEASE and isinstance(value, int) and value:
            value = self._lease(value)
        return Compare(key=self.root + key, target=target, operator=operator, value=value)

    def _operation(self, operation: tuple[object, ...]) -> Operation:
        match operation:
            case ("put", bytes(key), bytes(value), int(lease)):
                return Put(key=self.root + key, value=value, lease=self._lease(lease) if lease else 0)
            case ("delete", bytes(key), bytes(end)):
                return Delete(key=self.root + key, range_end=self._end(end))
            case ("range", bytes(key), bytes(end), age, int(limit), str(flag)):
                revision = max(self.model.revision - age, 1) if isinstance(age, int) else 0
                return Range(
                    key=self.root + key,
                    range_end=self._end(end),
                    limit=limit,
                    revision=revision,
                    keys_only=flag == "keys_only",
                    count_only=flag == "count_only",
                )
        raise Refused(f"unknown operation {operation}")
