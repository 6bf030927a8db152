"""A full disk: writes say so, what is there is read, nothing is torn, and all goes on when there is room again."""

import asyncio
import logging

import pytest

from kubeproxy.clock import ManualClock
from kubeproxy.store.base import NoSpace, Range, get, put
from kubeproxy.store.etcd import EtcdStore
from kubeproxy.store.sqlite import SqliteStore
from tests.store_engines import served

pytestmark = pytest.mark.unit


def limit(store, pages):
    """Let the file grow to so many pages and no further, as a full disk does."""
    store._file.db.execute(f"PRAGMA max_page_count = {pages}")


async def test_reads_go_on_and_writes_come_back(tmp_path, caplog):
    clock = ManualClock()
    path = tmp_path / "s.db"
    store = await SqliteStore.open(path, clock=clock)
    lease = await store.lease_grant(5)
    await put(store, b"leased", b"x", lease.id)
    await put(store, b"kept", b"x")
    limit(store, 1)
    with pytest.raises(NoSpace, match="full"):
        await put(store, b"big", b"v" * 1_000_000)
    assert await store.alarms() == ("NOSPACE",)
    store._file.db.execute("PRAGMA query_only = 1")  # now not even the end of a lease can be written
    caplog.set_level(logging.ERROR)
    for _ in range(5):
        await clock.step(5)
        assert (await get(store, b"kept")).value == b"x"
        assert (await store.range(Range(key=b"big"))).count == 0
    async with asyncio.timeout(5):
        while not caplog.records:
            await asyncio.sleep(0.01)
    assert [record.getMessage()[:6] for record in caplog.records] == ["leases"]
    store._file.db.execute("PRAGMA query_only = 0")
    limit(store, 1_000_000)
    await put(store, b"big", b"v" * 1_000_000)
    assert await store.alarms() == ()
    assert await get(store, b"leased") is None
    await store.close()
    async with await SqliteStore.open(path, clock=clock) as again:
        assert (await get(again, b"big")).version == 1


async def test_the_gateway_tells_it_as_etcd_does(tmp_path):
    async with await SqliteStore.open(tmp_path / "s.db", clock=ManualClock()) as store:
        async with served(store) as url, EtcdStore([url]) as client:
            assert await client.alarms() == ()
            limit(store, 1)
            with pytest.raises(NoSpace, match="mvcc: database space exceeded"):
                await put(client, b"big", b"v" * 1_000_000)
            assert await client.alarms() == ("NOSPACE",)
