"""What only the embedded store promises: its file, its process, its memory and its clock."""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from kubeproxy.clock import ManualClock
from kubeproxy.store import sqlite_file
from kubeproxy.store.base import (
    Compacted,
    Delete,
    Event,
    Put,
    Range,
    StoreError,
    Unavailable,
    get,
    prefix_end,
    put,
)
from kubeproxy.store.sqlite import RECENT_BYTES, RECENT_REVISIONS, Retention, SqliteStore
from tests.store_engines import LONG
from tests.waiting import until_stepped

pytestmark = pytest.mark.unit

EVERYTHING = {"key": b"\0", "range_end": b"\0"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "store.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def store(clock: ManualClock) -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(":memory:", clock=clock) as opened:
        yield opened


class TestFile:
    async def test_everything_is_there_after_reopening(self, path: Path, clock: ManualClock) -> None:
        async with await SqliteStore.open(path, clock=clock) as store:
            await put(store, b"a", b"1")
            await put(store, b"a", b"2")
            start = await put(store, b"b", b"1")
            await store.txn((), (Delete(key=b"b"),))
            await store.compact(start - 1)
            before = await store.range(Range(**EVERYTHING))
        async with await SqliteStore.open(path, clock=clock) as store:
            assert await store.range(Range(**EVERYTHING)) == before
            seen = await events(store, start, 2)
            assert [event.kv.mod_revision for event in seen] == [start, start + 1]
            assert await put(store, b"c", b"") == start + 2
            with pytest.raises(Compacted):
                await store.range(Range(key=b"a", revision=start - 2))

    async def test_leases_are_whole_again_after_reopening(self, path: Path, clock: ManualClock) -> None:
        async with await SqliteStore.open(path, clock=clock) as store:
            lease = await store.lease_grant(60)
            await put(store, b"a", b"", lease.id)
            await clock.step(59)
        await clock.step(600)
        async with await SqliteStore.open(path, clock=clock) as store:
            assert (await store.lease_time_to_live(lease.id)).remaining == 60
            await clock.step(59)
            assert await get(store, b"a") is not None
            await clock.step(2)
            assert await get(store, b"a") is None

    async def test_only_its_owner_may_read_it(self, path: Path) -> None:
        async with await SqliteStore.open(path) as store:
            await put(store, b"secret", b"x")
            assert {file.stat().st_mode & 0o077 for file in path.parent.iterdir()} == {0}

    async def test_a_second_opener_is_told_who_has_it(self, path: Path) -> None:
        async with await SqliteStore.open(path):
            with pytest.raises(StoreError, match=f"store {path} is in use by process {os.getpid()}$"):
                await SqliteStore.open(path)
            other = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", _OPEN, str(path)],
                capture_output=True,
                text=True,
                check=False,
            )
            assert f"store {path} is in use by process {os.getpid()}" in other.stdout
        async with await SqliteStore.open(path):
            pass

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"this is a text file, and a long one at that" * 100, "damaged or no store"),
            (b"SQLite format 3\0" + b"\xff" * 4096, "damaged or no store|malformed|not a database"),
        ],
    )
    async def test_a_file_that_is_no_store(self, path: Path, content: bytes, message: str) -> None:
        path.parent.mkdir()
        path.write_bytes(content)
        with pytest.raises(StoreError, match=message):
            await SqliteStore.open(path)
        assert path.read_bytes() == content

    async def test_a_database_of_another_program(self, path: Path) -> None:
        path.parent.mkdir()
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE theirs (x)")
        with pytest.raises(StoreError, match="of another program"):
            await SqliteStore.open(path)

    async def test_a_store_of_a_newer_version(self, path: Path) -> None:
        async with await SqliteStore.open(path):
            pass
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 99")
        with pytest.raises(StoreError, match="has schema 99, this program knows 1"):
            await SqliteStore.open(path)

    async def test_a_damaged_store(self, path: Path) -> None:
        async with await SqliteStore.open(path) as store:
            for n in range(300):
                await put(store, b"key%d" % n, b"value" * 100)
        damaged = bytearray(path.read_bytes())
        for page in range(4096, len(damaged), 4096):
            damaged[page : page + 64] = random.Random(page).randbytes(64)
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match="damaged"):
            await SqliteStore.open(path)

    @pytest.mark.parametrize("where", ["folder", "/proc/none/store.db"])
    async def test_a_path_that_cannot_be_opened(self, tmp_path: Path, where: str) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(StoreError, match="cannot be opened"):
            await SqliteStore.open(tmp_path / where)

    async def test_a_closed_store_is_unavailable(self, path: Path) -> None:
        store = await SqliteStore.open(path)
        await store.close()
        await store.close()
        with pytest.raises(Unavailable, match="closed"):
            await get(store, b"a")


async def test_the_time_of_day_does_not_matter() -> None:
    """A lease lives as long as it was granted for, wherever somebody or NTP sets the machine's clock."""

    class Jumping(ManualClock):
        jump = 0.0

        def wall(self) -> float:
            return self.now() + self.jump

    clock = Jumping()
    async with await SqliteStore.open(":memory:", clock=clock) as store:
        lease = await store.lease_grant(60)
        await put(store, b"a", b"", lease.id)
        for jump in (3600.0, -3600.0, 1e9):
            clock.jump = jump
            await clock.step(15)
            assert (await store.lease_time_to_live(lease.id)).remaining > 0
        clock.jump = -1e9
        await clock.step(16)
        assert await get(store, b"a") is None


class TestCrashes:
    @pytest.mark.parametrize("attempt", range(20 if LONG else 3))
    async def test_a_killed_process_loses_no_acknowledged_write(self, path: Path, attempt: int) -> None:
        """The child prints the number of each write when it is acknowledged; the kill falls anywhere."""
        writer = subprocess.Popen([sys.executable, "-c", _WRITE, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"0\n"
        await asyncio.sleep(random.Random(attempt).uniform(0.01, 0.3))
        writer.send_signal(signal.SIGKILL)
        acknowledged = int(writer.stdout.read().splitlines()[-1])
        writer.wait()
        async with await SqliteStore.open(path) as store:
            found = await store.range(Range(key=b"n/", range_end=prefix_end(b"n/")))
            written = [int(kv.value) for kv in found.kvs]
            assert written in (list(range(acknowledged + 1)), list(range(acknowledged + 2)))
            twins = await store.range(Range(key=b"m/", range_end=prefix_end(b"m/")))
            assert [kv.mod_revision for kv in twins.kvs] == [kv.mod_revision for kv in found.kvs]
            assert await put(store, b"next", b"") == found.revision + 1

    async def test_writes_that_a_power_loss_may_have_taken_back_cannot_hide(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that was not closed, opened under another boot: watchers from before must list anew."""
        boots = path.with_name("boot")
        path.parent.mkdir()
        boots.write_text("one")
        monkeypatch.setattr(sqlite_file, "_BOOT_ID", boots)
        store = await SqliteStore.open(path)
        await put(store, b"a", b"1")
        last = await put(store, b"a", b"2")
        copy = path.with_name("copy.db")
        for suffix in ("", "-wal"):
            copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
        await store.close()

        boots.write_text("two")
        async with await SqliteStore.open(path) as store:  # It was closed: nothing is lost.
            assert (await store.range(Range(key=b"a"))).revision == last
        async with await SqliteStore.open(copy) as store:
            with pytest.raises(Compacted):
                await events(store, last + 1, 1)
            found = await get(store, b"a")
            assert found is not None
            assert (found.value, found.mod_revision) == (b"2", last)
            assert await put(store, b"a", b"3") > last + 100_000
            now = (await store.range(Range(key=b"a"))).revision
        async with await SqliteStore.open(copy) as store:
            assert (await store.range(Range(key=b"a"))).revision == now


class TestHistory:
    async def test_it_is_kept_for_a_time_and_to_a_number(self, clock: ManualClock) -> None:
        retention = Retention(revisions=20, seconds=100, interval=10)
        async with await SqliteStore.open(":memory:", clock=clock, retention=retention) as store:
            for n in range(10):
                await put(store, b"a", b"%d" % n)
            await clock.step(90)
            await put(store, b"a", b"late")
            await get(store, b"a")
            assert len(await events(store, 1, 11)) == 11
            for _ in range(2):
                await clock.step(10)
                await until_stepped(lambda: clock.sleeping == 1)  # The compactor is done and waits again.
            assert store._engine.compacted == 11
            for n in range(50):
                await put(store, b"a", b"%d" % n)
            await clock.step(10)
            await until_stepped(lambda: clock.sleeping == 1)
            assert store._engine.compacted == 62 - 20
            (rows,) = store._engine._db.execute("SELECT count(*) FROM log").fetchone()
            assert rows == 21

    async def test_what_is_living_survives_compaction_whatever_its_age(self, store: SqliteStore) -> None:
        await put(store, b"old", b"x")
        for n in range(100):
            await put(store, b"k%d" % (n % 3), b"%d" % n)
        await store.txn((), (Delete(key=b"k0"),))
        now = await put(store, b"k1", b"last")
        await store.compact(now)
        found = await store.range(Range(**EVERYTHING, revision=now))
        assert [(kv.key, kv.value) for kv in found.kvs] == [(b"k1", b"last"), (b"k2", b"98"), (b"old", b"x")]
        (rows,) = store._engine._db.execute("SELECT count(*) FROM log").fetchone()
        assert rows == 3

    async def test_a_deletion_at_the_compacted_revision_is_still_told(self, store: SqliteStore) -> None:
        """Who has seen everything before it resumes there (etcd before 3.6 forgets it)."""
        await put(store, b"a", b"")
        gone = (await store.txn((), (Delete(key=b"a"),))).revision
        await put(store, b"b", b"")
        await store.compact(gone)
        assert [event.kv.mod_revision for event in await events(store, gone, 2)] == [gone, gone + 1]
        await store.compact(gone + 1)
        (rows,) = store._engine._db.execute("SELECT count(*) FROM log").fetchone()
        assert rows == 1


class TestWatches:
    async def test_a_slow_watch_costs_no_memory_and_misses_nothing(self, store: SqliteStore) -> None:
        watch = store.watch(b"k")
        await anext(watch)
        total = RECENT_REVISIONS + 500
        value = b"x" * 20_000
        for n in range(total):
            await put(store, b"k", b"%d" % n + value)
        assert len(store._recent) <= RECENT_REVISIONS
        assert sum(size for size, _ in store._recent.values()) == store._recent_bytes <= RECENT_BYTES
        seen: list[Event] = []
        async for batch in watch:
            assert sum(len(event.kv.value) for event in batch.events) <= 5 << 20
            seen += batch.events
            if len(seen) == total:
                break
        assert [event.kv.value for event in seen] == [b"%d" % n + value for n in range(total)]
        assert [event.previous.value if event.previous else b"" for event in seen[1:]] == [
            event.kv.value for event in seen[:-1]
        ]

    async def test_one_that_falls_behind_compaction_is_told(self, store: SqliteStore) -> None:
        watch = store.watch(b"k")
        await anext(watch)
        for n in range(RECENT_REVISIONS + 10):
            await put(store, b"k", b"%d" % n)
        await store.compact(now := RECENT_REVISIONS)
        with pytest.raises(Compacted) as caught:
            await anext(watch)
        assert caught.value.revision == now

    async def test_a_silent_one_still_moves_on(self, store: SqliteStore) -> None:
        watch = store.watch(b"silent")
        first = (await anext(watch)).revision
        reading = asyncio.create_task(anext(watch))
        for _ in range(250):
            await put(store, b"noise", b"")
        async with asyncio.timeout(5):
            mark = await reading
        assert mark.events == ()
        assert mark.revision >= first + 100

    async def test_the_loop_and_the_store_both_get_their_turns(self, store: SqliteStore) -> None:
        """A loop that never rests takes the GIL back from a thread that lets go of it for each row."""
        for n in range(20):
            await store.txn((), tuple(Put(key=b"%d/%d" % (n, m), value=b"x" * 200) for m in range(100)))
        listing = [asyncio.create_task(store.range(Range(**EVERYTHING))) for _ in range(5)]
        turns = 0
        async with asyncio.timeout(20):  # It takes 0.1 s; row by row it took half a minute and more.
            while not all(task.done() for task in listing):
                await asyncio.sleep(0)
                turns += 1
        assert {(await task).count for task in listing} == {2000}
        assert turns > 20


class TestLeases:
    async def test_expiry_needs_nobody_to_call(self, store: SqliteStore, clock: ManualClock) -> None:
        long, short = await store.lease_grant(30), await store.lease_grant(5)
        await put(store, b"long", b"", long.id)
        await put(store, b"short", b"", short.id)
        watch = store.watch(b"a", b"z")
        await anext(watch)
        await clock.step(5)
        async with asyncio.timeout(5):
            assert [event.kv.key for event in (await anext(watch)).events] == [b"short"]
        await store.lease_keep_alive(long.id)
        await clock.step(29)
        assert await get(store, b"long") is not None
        await clock.step(2)
        async with asyncio.timeout(5):
            assert [event.kv.key for event in (await anext(watch)).events] == [b"long"]

    async def test_nobody_sees_one_that_is_over(self, store: SqliteStore, clock: ManualClock) -> None:
        lease = await store.lease_grant(5)
        await put(store, b"a", b"", lease.id)
        clock._now += 5  # The timer has not run yet.
        assert await get(store, b"a") is None


async def events(store: SqliteStore, start: int, count: int) -> list[Event]:
    found: list[Event] = []
    async with asyncio.timeout(5):
        async for batch in store.watch(b"\0", b"\0", start):
            found += batch.events
            if len(found) >= count:
                break
    return found


_OPEN = """
import asyncio, sys
from kubeproxy.store.base import StoreError
from kubeproxy.store.sqlite import SqliteStore
try:
    asyncio.run(SqliteStore.open(sys.argv[1]))
except StoreError as error:
    print(error)
"""

_WRITE = """
import asyncio, itertools, sys
from kubeproxy.store.base import Put
from kubeproxy.store.sqlite import SqliteStore

async def main():
    store = await SqliteStore.open(sys.argv[1])
    for n in itertools.count():
        value = b"%d" % n
        await store.txn((), (Put(key=b"n/%08d" % n, value=value), Put(key=b"m/%08d" % n, value=value)))
        print(n, flush=True)

asyncio.run(main())
"""
