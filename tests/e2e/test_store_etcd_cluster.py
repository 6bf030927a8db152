"""Three real etcd members: what a client lives through when one is killed, stands still or lost the others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from kubeproxy.clock import ManualClock
from kubeproxy.store.base import Compacted, LeaseNotFound, Range, Store, Unavailable, get, put
from kubeproxy.store.compaction import KEY, compact_regularly
from kubeproxy.store.etcd import EtcdStore
from tests.etcd_bed import Cluster, Member, etcd_cluster
from tests.patient_store import PatientStore

pytestmark = pytest.mark.e2e

PATIENCE = 30.0


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with etcd_cluster(3, "--heartbeat-interval=50", "--election-timeout=500") as cluster:
        yield cluster


@pytest_asyncio.fixture
async def cluster(running: Cluster) -> AsyncIterator[Cluster]:
    """The cluster, whole before and after each test."""
    yield running
    for member in running.members:
        member.resume()
    for member in running.members:
        await asyncio.to_thread(member.wait_healthy)


def first(member: Member, cluster: Cluster) -> list[str]:
    """All endpoints, one of them before the others."""
    return [member.url, *(url for url in cluster.urls if url != member.url)]


async def collect(store: Store, key: bytes, start: int, last: bytes) -> list[bytes]:
    seen: list[bytes] = []
    async with asyncio.timeout(PATIENCE):
        async for batch in store.watch(key, start_revision=start):
            seen += [event.kv.value for event in batch.events]
            if last in seen:
                return seen
    raise AssertionError("the watch ended")


async def test_a_member_that_stands_still_is_left(cluster: Cluster) -> None:
    leader = await asyncio.to_thread(cluster.leader)
    member = next(member for member in cluster.members if member is not leader)
    async with EtcdStore(first(member, cluster), call_seconds=0.5, idle_seconds=0.2) as store:
        start = await put(store, b"paused", b"1")
        watch = store.watch(b"paused", start_revision=start + 1)
        await anext(watch)
        waiting = asyncio.create_task(anext(watch))
        member.pause()
        with pytest.raises(Unavailable, match="no answer in time"):
            async with asyncio.timeout(PATIENCE):
                await waiting
        with contextlib.suppress(Unavailable):
            await put(store, b"paused", b"maybe")
        async with asyncio.timeout(PATIENCE):
            await put(store, b"paused", b"2")
            found = await get(store, b"paused")
        assert found is not None
        assert found.value == b"2"
        assert (await collect(store, b"paused", start, b"2"))[-1] == b"2"


async def test_a_member_without_its_cluster_ends_its_watches(cluster: Cluster) -> None:
    """The client asked for it: without, the stream would be as silent as that of a quiet store."""
    alone, *others = cluster.members
    async with EtcdStore([alone.url], call_seconds=1.0, idle_seconds=1000.0) as store:
        watch = store.watch(b"alone")
        await anext(watch)
        waiting = asyncio.create_task(anext(watch))
        for other in others:
            other.pause()
        with pytest.raises(Unavailable, match=r"watch ended|no leader"):
            async with asyncio.timeout(PATIENCE):
                await waiting
        for call in (get(store, b"alone"), put(store, b"alone", b"")):
            with pytest.raises(Unavailable):
                await call


async def test_a_lease_outlives_the_leader_that_kept_its_time(cluster: Cluster) -> None:
    leader = await asyncio.to_thread(cluster.leader)
    urls = [url for url in cluster.urls if url != leader.url]
    async with EtcdStore(urls, call_seconds=1.0) as store:
        lease = await store.lease_grant(3)
        await put(store, b"leased", b"", lease.id)
        leader.pause()
        patient = PatientStore(store)
        async with asyncio.timeout(PATIENCE):
            for _ in range(4):
                await asyncio.sleep(1)
                assert await patient.lease_keep_alive(lease.id) == lease.ttl
            leader.resume()
            # An older etcd lets it revoke by its own stopped clock now (etcd-io/etcd#15247). Then the holder
            # is told so, and finds the key gone: never one without the other.
            await asyncio.to_thread(leader.wait_healthy)
            while await is_held(patient, lease.id) != (await patient.range(Range(key=b"leased"))).count:
                await asyncio.sleep(0.05)


async def is_held(store: PatientStore, lease_id: int) -> bool:
    try:
        return bool(await store.lease_keep_alive(lease_id))
    except LeaseNotFound:
        return False


async def test_several_servers_compact_it_together(cluster: Cluster) -> None:
    clock = ManualClock()
    async with EtcdStore(cluster.urls) as store, asyncio.timeout(PATIENCE):
        first = await put(store, b"old", b"")
        servers = [asyncio.create_task(compact_regularly(store, clock, 300.0)) for _ in range(3)]
        for _ in range(4):
            await put(store, b"old", b"")
            await clock.step(300.0)
            while clock.sleeping < len(servers):
                await asyncio.sleep(0.01)
        with pytest.raises(Compacted) as caught:
            await store.range(Range(key=b"old", revision=first))
        assert first < caught.value.revision < await put(store, b"old", b"")
        turns = await get(store, KEY)
        assert turns is not None
        assert turns.version == 4  # Three servers, and one of them acts at each turn.
        for server in servers:
            server.cancel()
        await asyncio.gather(*servers, return_exceptions=True)


async def test_a_holder_that_was_paused_has_lost_its_lease(cluster: Cluster) -> None:
    async with EtcdStore(cluster.urls) as holder, EtcdStore(cluster.urls) as other:
        lease = await holder.lease_grant(1)
        start = await put(holder, b"held", b"", lease.id)
        async with asyncio.timeout(PATIENCE):
            await collect(other, b"held", start + 1, b"")  # Its deletion: meanwhile the holder did nothing.
        with pytest.raises(LeaseNotFound):
            await holder.lease_keep_alive(lease.id)
        with pytest.raises(LeaseNotFound):
            await put(holder, b"held", b"", lease.id)
        assert await get(other, b"held") is None


async def test_a_killed_leader_costs_seconds_and_no_event(cluster: Cluster) -> None:
    """The last test here: what a killed etcd 3.5.1 has on its disk is not to be relied on (`Member.crash`)."""
    leader = await asyncio.to_thread(cluster.leader)
    async with EtcdStore(first(leader, cluster), call_seconds=1.0, idle_seconds=0.5) as store:
        start = await put(store, b"leader", b"0")
        watching = asyncio.create_task(collect(PatientStore(store), b"leader", start, b"99"))
        for n in range(1, 100):
            if n == 20:
                leader.kill()
            async with asyncio.timeout(PATIENCE):
                written = False
                while not written:
                    with contextlib.suppress(Unavailable):
                        held = await get(store, b"leader")
                        if held is None or held.value != b"%d" % n:
                            await put(store, b"leader", b"%d" % n)
                        written = True
                    await asyncio.sleep(0.01)
        assert await watching == [b"%d" % n for n in range(100)]
    cluster.start(leader)
    await asyncio.to_thread(leader.wait_healthy)
