"""No acknowledged write is lost and no watch event missed or doubled, whatever fails: links, processes, leaders.

20 faults on each store; a thousand with --long. KUBEPROXY_SEED draws others.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kubeproxy.store.etcd import EtcdStore
from kubeproxy.store.sqlite import Retention, SqliteStore
from tests.etcd_bed import Cluster, etcd_cluster
from tests.fault_proxy import FaultProxy
from tests.fault_run import FaultRun, Outage
from tests.ports import free_port
from tests.store_engines import LONG, SEED, served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800 if LONG else 180)]

FAULTS = 1000 if LONG else 20


@contextlib.asynccontextmanager
async def proxies(urls: list[str], rng: random.Random) -> AsyncIterator[list[FaultProxy]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(FaultProxy(url, rng).listening()) for url in urls]


async def test_sqlite_behind_the_gateway(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    port = free_port()

    async with contextlib.AsyncExitStack() as life:

        async def start() -> None:
            keep = Retention(revisions=10**9, seconds=1e9)
            store = await life.enter_async_context(await SqliteStore.open(tmp_path / "s.db", retention=keep))
            await life.enter_async_context(served(store, port))

        async def restart() -> None:
            await life.aclose()
            await asyncio.sleep(rng.uniform(0, 0.2))
            await start()

        await start()
        async with proxies([f"http://127.0.0.1:{port}"], rng) as links:
            async with EtcdStore([f"http://127.0.0.1:{port}"]) as quiet:
                account = await FaultRun(links, [("restart", restart)], rng)(FAULTS, quiet)
    print(account)
    assert len(account.acknowledged) > FAULTS


@pytest.mark.parametrize("size", [1, 3])
async def test_etcd(size: int) -> None:
    rng = random.Random(SEED)
    with etcd_cluster(size, "--heartbeat-interval=50", "--election-timeout=500") as cluster:
        async with proxies(cluster.urls, rng) as links, EtcdStore(cluster.urls) as quiet:
            run = FaultRun(links, outages(cluster, rng), rng)
            account = await run(FAULTS, quiet)
    print(account)
    assert len(account.acknowledged) > FAULTS


def outages(cluster: Cluster, rng: random.Random) -> list[tuple[str, Outage]]:
    """What can befall the processes; of three one at a time, so that the others go on."""

    async def crash_leader() -> None:
        leader = await asyncio.to_thread(cluster.leader)
        await asyncio.to_thread(leader.crash)
        await asyncio.sleep(rng.uniform(0, 1.5))
        cluster.start(leader)
        await asyncio.to_thread(leader.wait_healthy)

    async def pause() -> None:
        """A machine that stands still and comes back with its connections and its opinion of who leads."""
        member = rng.choice(cluster.members)
        member.pause()
        await asyncio.sleep(rng.uniform(0, 1.5))
        member.resume()

    return [("leader ended", crash_leader), ("member paused", pause)]
