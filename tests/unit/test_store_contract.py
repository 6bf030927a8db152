"""The store contract, example by example, on every engine that claims to keep it (real etcd is the reference)."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from kubeproxy.clock import ManualClock
from kubeproxy.store.base import (
    Compacted,
    Compare,
    Delete,
    DeleteResult,
    Event,
    EventType,
    FutureRevision,
    LeaseExists,
    LeaseNotFound,
    Operation,
    Operator,
    Put,
    PutResult,
    Range,
    RangeResult,
    Refused,
    Store,
    Target,
    WatchBatch,
    create,
    get,
    prefix_end,
    put,
)
from tests.etcd_bed import etcd_process
from tests.store_engines import REAL, engine_params, opened

_folders = itertools.count()


@pytest.fixture(scope="module")
def etcd_url(request: pytest.FixtureRequest) -> Iterator[str]:
    with etcd_process() as url:
        yield url


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=engine_params())
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture
async def store(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Store]:
    url = request.getfixturevalue("etcd_url") if kind in REAL else ""
    async with opened(kind, tmp_path, clock, url) as engine:
        yield engine


@pytest.fixture
def root() -> bytes:
    """A prefix of the test's own: real etcd is shared by the tests of this file."""
    return b"/t%d/" % next(_folders)


async def revision(store: Store) -> int:
    return (await store.range(Range(key=b"\0", count_only=True))).revision


async def collect(store: Store, key: bytes, range_end: bytes, start: int, count: int) -> list[WatchBatch]:
    """Watch until ``count`` events have come; the first progress mark is left out."""
    batches: list[WatchBatch] = []
    async with asyncio.timeout(10):
        async for batch in store.watch(key, range_end, start):
            if batch.events:
                batches.append(batch)
            if sum(len(b.events) for b in batches) >= count:
                return batches
    raise AssertionError("the watch ended")


def events(batches: list[WatchBatch]) -> list[Event]:
    return [event for batch in batches for event in batch.events]


class TestWrites:
    async def test_a_key_counts_its_writes_and_remembers_its_creation(self, store: Store, root: bytes) -> None:
        first = await put(store, root, b"1")
        second = await put(store, root, b"2")
        found = await get(store, root)
        assert found is not None
        assert (found.value, found.create_revision, found.mod_revision, found.version) == (b"2", first, second, 2)
        assert second == first + 1

    async def test_a_key_that_comes_back_starts_anew(self, store: Store, root: bytes) -> None:
        await put(store, root, b"1")
        await store.txn((), (Delete(key=root),))
        again = await put(store, root, b"2")
        found = await get(store, root)
        assert found is not None
        assert (found.create_revision, found.version) == (again, 1)

    async def test_all_keys_of_a_transaction_share_its_revision(self, store: Store, root: bytes) -> None:
        await put(store, root + b"old", b"")
        before = await revision(store)
        done = await store.txn(
            (), (Put(key=root + b"a", value=b"1"), Delete(key=root + b"old"), Put(key=root + b"b", value=b"2"))
        )
        found = await store.range(Range(key=root, range_end=prefix_end(root)))
        assert done.revision == before + 1 == found.revision
        assert [(kv.key, kv.mod_revision) for kv in found.kvs] == [
            (root + b"a", done.revision),
            (root + b"b", done.revision),
        ]

    async def test_a_transaction_that_changes_nothing_makes_no_revision(self, store: Store, root: bytes) -> None:
        before = await revision(store)
        done = await store.txn((), (Delete(key=root, range_end=prefix_end(root)), Range(key=root)))
        assert done.revision == before == await revision(store)
        assert done.results[0] == DeleteResult()

    async def test_operations_see_the_ones_before_them(self, store: Store, root: bytes) -> None:
        await put(store, root, b"old")
        done = await store.txn(
            (), (Range(key=root), Put(key=root, value=b"new"), Range(key=root), Range(key=root, count_only=True))
        )
        before, written, after, count = done.results
        assert isinstance(before, RangeResult)
        assert isinstance(written, PutResult)
        assert isinstance(after, RangeResult)
        assert isinstance(count, RangeResult)
        assert before.kvs[0].value == b"old"
        assert written.previous == before.kvs[0]
        assert after.kvs[0].value == b"new"
        assert (before.revision, after.revision, count.count) == (done.revision - 1, done.revision, 1)

    async def test_deletions_return_what_they_removed_in_order(self, store: Store, root: bytes) -> None:
        for name in (b"c", b"a", b"b"):
            await put(store, root + name, name)
        everything = Delete(key=root, range_end=prefix_end(root))
        done = await store.txn((), (everything, everything))
        first, second = done.results
        assert isinstance(first, DeleteResult)
        assert [kv.value for kv in first.previous] == [b"a", b"b", b"c"]
        assert second == DeleteResult()

    @pytest.mark.parametrize(
        "operations",
        [
            (Put(key=b"k", value=b""), Put(key=b"k", value=b"")),
            (Put(key=b"k", value=b""), Delete(key=b"k")),
            (Delete(key=b"a", range_end=b"z"), Put(key=b"k", value=b"")),
            (Put(key=b"", value=b""),),
            (Range(key=b""),),
            (Delete(key=b""),),
            tuple(Put(key=b"%d" % n, value=b"") for n in range(129)),
            (Put(key=b"k", value=b"x" * (3 << 19)),),
        ],
        ids=["put twice", "put then delete", "in a deleted range", "put", "range", "delete", "129", "1.5 MiB"],
    )
    async def test_wrong_requests_are_refused_whole(self, store: Store, operations: tuple[Operation, ...]) -> None:
        before = await revision(store)
        for branches in ((operations, ()), ((), operations)):
            with pytest.raises(Refused):
                await store.txn((), *branches)
        assert await revision(store) == before

    async def test_the_largest_permitted_requests_pass(self, store: Store, root: bytes) -> None:
        puts = tuple(Put(key=root + b"%d" % n, value=b"v") for n in range(128))
        assert (await store.txn((), puts)).succeeded
        await put(store, root, b"x" * 1_500_000)
        found = await get(store, root)
        assert found is not None
        assert len(found.value) == 1_500_000

    async def test_of_many_that_create_a_key_one_wins(self, store: Store, root: bytes) -> None:
        made = await asyncio.gather(*(create(store, root, b"%d" % n) for n in range(20)))
        winners = [number for number in made if number is not None]
        found = await get(store, root)
        assert found is not None
        assert winners == [found.mod_revision]
        assert found.value == b"%d" % made.index(winners[0])


class TestCompares:
    @pytest.mark.parametrize("operator", list(Operator))
    @pytest.mark.parametrize("target", list(Target))
    async def test_every_target_and_operator(
        self, store: Store, root: bytes, target: Target, operator: Operator
    ) -> None:
        lease = await store.lease_grant(60)
        await put(store, root, b"m", lease.id)
        kv = await get(store, root)
        assert kv is not None
        await put(store, root, b"m", lease.id)
        number = {
            Target.VERSION: 2,
            Target.CREATE: kv.create_revision,
            Target.MOD: kv.mod_revision + 1,
            Target.LEASE: lease.id,
        }.get(target, 0)
        around: list[int | bytes] = (
            [b"l", b"m", b"n"] if target is Target.VALUE else [number - 1, number, number + 1]
        )
        held = []
        for value in around:
            compare = Compare(key=root, target=target, operator=operator, value=value)
            held.append((await store.txn((compare,), ())).succeeded)
        expected = {
            Operator.EQUAL: [False, True, False],
            Operator.NOT_EQUAL: [True, False, True],
            Operator.GREATER: [True, False, False],
            Operator.LESS: [False, False, True],
        }
        assert held == expected[operator]

    @pytest.mark.parametrize("operator", list(Operator))
    async def test_a_missing_key_is_zero_and_has_no_value(
        self, store: Store, root: bytes, operator: Operator
    ) -> None:
        for target in (Target.VERSION, Target.CREATE, Target.MOD, Target.LEASE):
            compare = Compare(key=root, target=target, operator=operator, value=0)
            assert (await store.txn((compare,), ())).succeeded == (operator is Operator.EQUAL)
        compare = Compare(key=root, target=Target.VALUE, operator=operator, value=b"x")
        assert not (await store.txn((compare,), ())).succeeded

    async def test_one_that_fails_runs_the_other_branch(self, store: Store, root: bytes) -> None:
        absent = Compare(key=root, target=Target.VERSION, value=0)
        there = Compare(key=root, target=Target.VERSION, operator=Operator.GREATER, value=0)
        done = await store.txn((absent, there), (Put(key=root, value=b"yes"),), (Put(key=root, value=b"no"),))
        found = await get(store, root)
        assert not done.succeeded
        assert found is not None
        assert found.value == b"no"


class TestReads:
    async def test_ranges(self, store: Store, root: bytes) -> None:
        names = [b"a", b"a\x00", b"a\xff", b"b", b"\xff"]
        for name in names:
            await put(store, root + name, b"v" + name)

        async def read(first: bytes, end: bytes, **options: int) -> list[bytes]:
            found = await store.range(Range(key=root + first, range_end=end, **options))
            return [kv.key.removeprefix(root) for kv in found.kvs]

        assert await read(b"", prefix_end(root)) == names
        assert await read(b"a", b"") == [b"a"]
        assert await read(b"a", root + b"b") == [b"a", b"a\x00", b"a\xff"]
        assert await read(b"a", prefix_end(root + b"a")) == [b"a", b"a\x00", b"a\xff"]
        assert await read(b"b", root + b"a") == []
        assert (await read(b"b", b"\0"))[:2] == [b"b", b"\xff"]
        assert await read(b"", prefix_end(root), limit=2) == names[:2]

    async def test_limits_and_counts(self, store: Store, root: bytes) -> None:
        for n in range(5):
            await put(store, root + b"%d" % n, b"value")
        everything = {"key": root, "range_end": prefix_end(root)}
        cut = await store.range(Range(**everything, limit=2))
        assert (len(cut.kvs), cut.count, cut.more) == (2, 5, True)
        whole = await store.range(Range(**everything, limit=5))
        assert (len(whole.kvs), whole.count, whole.more) == (5, 5, False)
        count = await store.range(Range(**everything, count_only=True))
        assert (count.kvs, count.count) == ((), 5)
        names = await store.range(Range(**everything, keys_only=True))
        assert [(kv.key, kv.value, kv.version) for kv in names.kvs] == [
            (root + b"%d" % n, b"", 1) for n in range(5)
        ]

    async def test_the_past_can_be_read(self, store: Store, root: bytes) -> None:
        one = await put(store, root + b"a", b"1")
        two = await put(store, root + b"b", b"1")
        three = await put(store, root + b"a", b"2")
        four = (await store.txn((), (Delete(key=root + b"a"),))).revision
        values = {}
        for at in (one - 1, one, two, three, four):
            found = await store.range(Range(key=root, range_end=prefix_end(root), revision=at))
            values[at] = [(kv.value, kv.mod_revision, kv.version) for kv in found.kvs]
            assert found.revision == four
            assert found.count == len(found.kvs)
        b = (b"1", two, 1)
        assert values == {
            one - 1: [],
            one: [(b"1", one, 1)],
            two: [(b"1", one, 1), b],
            three: [(b"2", three, 2), b],
            four: [b],
        }
        cut = await store.range(Range(key=root, range_end=prefix_end(root), revision=three, limit=1))
        assert (len(cut.kvs), cut.count, cut.more) == (1, 2, True)

    async def test_the_future_cannot(self, store: Store, root: bytes) -> None:
        now = await put(store, root, b"")
        with pytest.raises(FutureRevision):
            await store.range(Range(key=root, revision=now + 1))
        with pytest.raises(FutureRevision):
            await store.txn((), (Put(key=root, value=b"new"), Range(key=root, revision=now + 1)))
        assert await revision(store) == now


class TestCompaction:
    async def test_what_is_current_stays_and_the_past_is_refused(self, store: Store, root: bytes) -> None:
        await put(store, root + b"a", b"1")
        old = await put(store, root + b"a", b"2")
        await put(store, root + b"gone", b"")
        await store.txn((), (Delete(key=root + b"gone"),))
        at = await put(store, root + b"b", b"1")
        newest = await put(store, root + b"b", b"2")
        await store.compact(at)
        with pytest.raises(Compacted) as caught:
            await store.range(Range(key=root, revision=old))
        assert caught.value.revision == at
        everything = {"key": root, "range_end": prefix_end(root)}
        assert [kv.value for kv in (await store.range(Range(**everything))).kvs] == [b"2", b"2"]
        assert [kv.value for kv in (await store.range(Range(**everything, revision=at))).kvs] == [b"2", b"1"]
        assert await revision(store) == newest

    async def test_only_forward_and_not_beyond_now(self, store: Store, root: bytes) -> None:
        await put(store, root, b"1")
        now = await put(store, root, b"2")
        with pytest.raises(FutureRevision):
            await store.compact(now + 1)
        await store.compact(now)
        with pytest.raises(Compacted):
            await store.compact(now)
        assert await get(store, root) is not None


class TestWatch:
    async def test_history_then_what_comes(self, store: Store, root: bytes) -> None:
        start = await put(store, root + b"a", b"1")
        await put(store, root + b"a", b"2")
        watching = asyncio.create_task(collect(store, root, prefix_end(root), start, 4))
        await asyncio.sleep(0.05)
        await put(store, root + b"b", b"1")
        await put(store, b"elsewhere", b"")
        await store.txn((), (Delete(key=root + b"a"),))
        seen = events(await watching)
        assert [(e.type, e.kv.key.removeprefix(root), e.kv.value, e.kv.version) for e in seen] == [
            (EventType.PUT, b"a", b"1", 1),
            (EventType.PUT, b"a", b"2", 2),
            (EventType.PUT, b"b", b"1", 1),
            (EventType.DELETE, b"a", b"", 0),
        ]
        assert [e.previous.value if e.previous else None for e in seen] == [None, b"1", None, b"2"]
        assert [e.kv.mod_revision - start for e in seen] == [0, 1, 2, 4]

    async def test_from_now_on(self, store: Store, root: bytes) -> None:
        now = await put(store, root, b"before")
        watch = store.watch(root)
        assert await anext(watch) == WatchBatch(revision=now)
        after = await put(store, root, b"after")
        async with asyncio.timeout(10):
            batch = await anext(watch)
        assert (batch.revision, [e.kv.value for e in batch.events]) == (after, [b"after"])

    async def test_from_the_future_on(self, store: Store, root: bytes) -> None:
        now = await revision(store)
        watching = asyncio.create_task(collect(store, root, b"", now + 3, 1))
        await asyncio.sleep(0.05)
        for n in range(4):
            await put(store, root, b"%d" % n)
        assert [e.kv.value for e in events(await watching)][:1] == [b"2"]

    async def test_a_revision_is_never_cut(self, store: Store, root: bytes) -> None:
        keys = [root + b"%04d" % n for n in range(700)]
        for chunk in _chunks(keys):
            await store.txn((), tuple(Put(key=key, value=b"") for key in chunk))
        start = await put(store, root + b"!", b"")
        await store.txn((), (Delete(key=root, range_end=prefix_end(root)),))
        live = asyncio.create_task(collect(store, root, prefix_end(root), 0, 1))
        await asyncio.sleep(0.05)
        await put(store, root, b"")
        await live
        batches = await collect(store, root, prefix_end(root), start, 703)
        revisions = [sorted({e.kv.mod_revision for e in batch.events}) for batch in batches]
        assert sorted(itertools.chain(*revisions)) == [start, start + 1, start + 2]
        deleted = [e.kv.key for e in events(batches) if e.type is EventType.DELETE]
        assert deleted == [root + b"!", *keys]

    async def test_compacted_history_is_told(self, store: Store, root: bytes) -> None:
        start = await put(store, root, b"1")
        await put(store, root, b"2")
        at = await put(store, root, b"3")
        await store.compact(at)
        with pytest.raises(Compacted) as caught:
            await collect(store, root, b"", start, 1)
        assert caught.value.revision == at
        assert [e.kv.value for e in events(await collect(store, root, b"", at, 1))] == [b"3"]

    async def test_many_watchers_each_see_everything_once(self, store: Store, root: bytes) -> None:
        start = await revision(store) + 1
        total = 200
        watching = [
            asyncio.create_task(collect(store, root, prefix_end(root), start + skipped, total - skipped))
            for skipped in (0, 1, 50, 199)
        ]
        for n in range(total):
            await put(store, root + b"%d" % (n % 7), b"%d" % n)
        for task, skipped in zip(watching, (0, 1, 50, 199), strict=True):
            assert [e.kv.value for e in events(await task)] == [b"%d" % n for n in range(skipped, total)]

    @pytest.mark.parametrize(("key", "end"), [(b"", b""), (b"b", b"b"), (b"b", b"a")])
    async def test_no_key_is_refused(self, store: Store, key: bytes, end: bytes) -> None:
        with pytest.raises(Refused):
            await anext(store.watch(key, end))


class TestLeases:
    async def test_life_of_a_lease(self, store: Store, root: bytes) -> None:
        lease = await store.lease_grant(100)
        for name in (b"b", b"a"):
            await put(store, root + name, b"", lease.id)
        status = await store.lease_time_to_live(lease.id)
        assert (lease.ttl, status.granted, status.keys) == (100, 100, (root + b"a", root + b"b"))
        assert 95 <= status.remaining <= 100
        assert await store.lease_keep_alive(lease.id) == 100
        assert lease.id in await store.lease_list()
        before = await revision(store)
        await store.lease_revoke(lease.id)
        assert await revision(store) == before + 1
        assert (await store.range(Range(key=root, range_end=prefix_end(root)))).count == 0
        seen = events(await collect(store, root, prefix_end(root), before + 1, 2))
        assert [(e.type, e.kv.key) for e in seen] == [
            (EventType.DELETE, root + b"a"),
            (EventType.DELETE, root + b"b"),
        ]
        assert lease.id not in await store.lease_list()

    async def test_an_unknown_lease(self, store: Store, root: bytes) -> None:
        status = await store.lease_time_to_live(987654321)
        assert (status.remaining, status.granted, status.keys) == (-1, 0, ())
        with pytest.raises(LeaseNotFound):
            await store.lease_keep_alive(987654321)
        with pytest.raises(LeaseNotFound):
            await store.lease_revoke(987654321)
        with pytest.raises(LeaseNotFound):
            await put(store, root, b"", 987654321)
        assert await get(store, root) is None

    async def test_ids_may_be_chosen_once(self, store: Store) -> None:
        assert (await store.lease_grant(50, 4242)).id == 4242
        with pytest.raises(LeaseExists):
            await store.lease_grant(50, 4242)
        await store.lease_revoke(4242)
        assert (await store.lease_grant(50, 4242)).id == 4242
        await store.lease_revoke(4242)

    async def test_short_ones_are_lengthened(self, store: Store) -> None:
        assert (await store.lease_grant(0)).ttl == 2

    async def test_endless_ones_are_refused(self, store: Store) -> None:
        with pytest.raises(Refused):
            await store.lease_grant(9_000_000_001)

    async def test_a_write_decides_the_lease(self, store: Store, root: bytes) -> None:
        one, two = await store.lease_grant(100), await store.lease_grant(100)
        await put(store, root + b"moved", b"", one.id)
        await put(store, root + b"moved", b"", two.id)
        await put(store, root + b"freed", b"", one.id)
        await put(store, root + b"freed", b"")
        before = await revision(store)
        await store.lease_revoke(one.id)
        assert await revision(store) == before
        found = await store.range(Range(key=root, range_end=prefix_end(root)))
        assert [(kv.key, kv.lease) for kv in found.kvs] == [(root + b"freed", 0), (root + b"moved", two.id)]

    async def test_an_expired_lease_takes_its_keys(
        self, store: Store, root: bytes, kind: str, clock: ManualClock
    ) -> None:
        lease = await store.lease_grant(2)
        kept = await store.lease_grant(60)
        start = await put(store, root + b"a", b"", lease.id)
        await put(store, root + b"b", b"", lease.id)
        await put(store, root + b"c", b"", kept.id)
        watching = asyncio.create_task(collect(store, root, prefix_end(root), start + 3, 2))
        began = time.monotonic()
        if kind not in REAL:
            await clock.step(1.9)
            assert await get(store, root + b"a") is not None
            await clock.step(0.2)
        batches = await watching
        assert [(e.type, e.kv.mod_revision) for e in events(batches)] == [(EventType.DELETE, start + 3)] * 2
        assert time.monotonic() - began < 8
        assert (await store.lease_time_to_live(lease.id)).remaining == -1
        found = await store.range(Range(key=root, range_end=prefix_end(root)))
        assert [kv.key for kv in found.kvs] == [root + b"c"]


async def test_closing_ends_watches(store: Store, root: bytes) -> None:
    watch = store.watch(root)
    await anext(watch)
    waiting = asyncio.create_task(anext(watch, None))
    await asyncio.sleep(0.05)
    await store.close()
    async with asyncio.timeout(5):
        assert await waiting is None


def _chunks(keys: list[bytes], size: int = 100) -> list[list[bytes]]:
    return [keys[at : at + size] for at in range(0, len(keys), size)]
