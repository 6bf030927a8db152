"""Several API servers compact one store: history lives for one interval at least and two at most."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from kubeproxy.clock import ManualClock
from kubeproxy.store.base import (
    Compacted,
    Compare,
    Operation,
    Put,
    Range,
    Store,
    TxnResult,
    Unavailable,
    get,
    put,
)
from kubeproxy.store.compaction import KEY, compact_regularly
from kubeproxy.store.sqlite import Retention, SqliteStore

pytestmark = pytest.mark.unit

INTERVAL = 300.0


@contextlib.asynccontextmanager
async def compacting(store: Store, clock: ManualClock) -> AsyncIterator[None]:
    task = asyncio.create_task(compact_regularly(store, clock, INTERVAL))
    await clock.step(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def kept(clock: ManualClock) -> AsyncIterator[SqliteStore]:
    """A store that forgets nothing by itself."""
    keep = Retention(revisions=10**9, seconds=1e9)
    async with await SqliteStore.open(":memory:", clock=clock, retention=keep) as store:
        yield store


async def turn(store: Store, clock: ManualClock, seconds: float = INTERVAL) -> int:
    """Write, let time pass, and wait until those whose turn it is have taken it; return the write's revision."""
    written = await put(store, b"a", b"")
    await clock.step(seconds)
    for _ in range(50):
        await store.lease_list()  # The store's thread has done everything before it.
        await asyncio.sleep(0)
    return written


async def oldest(store: Store) -> int:
    try:
        await store.range(Range(key=b"a", revision=1))
    except Compacted as error:
        return error.revision
    return 0


async def test_one_server_keeps_one_interval() -> None:
    clock = ManualClock()
    async with kept(clock) as store, compacting(store, clock):
        first = await turn(store, clock)
        assert await oldest(store) == 0  # Not at once: it does not know how old anything is.
        second = await turn(store, clock)
        assert first <= await oldest(store) < second
        third = await turn(store, clock)
        assert second <= await oldest(store) < third


async def test_of_several_one_acts_and_another_takes_over() -> None:
    clock = ManualClock()
    async with kept(clock) as store, compacting(store, clock), contextlib.AsyncExitStack() as other:
        await clock.step(100)
        await other.enter_async_context(compacting(store, clock))
        written = [await turn(store, clock, 100) for _ in range(18)]
        held = await get(store, KEY)
        assert held is not None
        assert held.version in (5, 6, 7)  # 1900 s: about one turn an interval, however many take part.
        for _ in range(18):
            written.append(await turn(store, clock, 100))
            floor = await oldest(store)
            held_writes = sum(revision >= floor for revision in written)
            assert 3 <= held_writes <= 7, "history of one to two intervals, in writes of 100 s"


async def test_one_that_ended_is_replaced() -> None:
    clock = ManualClock()
    async with kept(clock) as store:
        async with compacting(store, clock):
            await turn(store, clock)
            await turn(store, clock)
        before = await oldest(store)
        async with compacting(store, clock):
            for _ in range(3):
                await turn(store, clock)
            assert await oldest(store) > before


async def test_a_store_that_is_away_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Away(SqliteStore):
        is_away = True

        async def txn(
            self, compare: tuple[Compare, ...], success: tuple[Operation, ...], failure: tuple[Operation, ...] = ()
        ) -> TxnResult:
            if self.is_away and isinstance(success[0], Put) and success[0].key == KEY:
                raise Unavailable("no route")
            return await super().txn(compare, success, failure)

    caplog.set_level(logging.ERROR)
    clock = ManualClock()
    keep = Retention(revisions=10**9, seconds=1e9)
    async with await Away.open(":memory:", clock=clock, retention=keep) as store, compacting(store, clock):
        for _ in range(3):
            await turn(store, clock)
        assert [record.getMessage()[-8:] for record in caplog.records] == ["no route"]
        store.is_away = False
        for _ in range(3):
            await turn(store, clock)
        assert await oldest(store) > 0
