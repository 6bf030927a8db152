"""Many watches share one of the store's: through its outages, its compaction, and while nothing happens."""

import asyncio
import contextlib
from contextlib import asynccontextmanager

import msgspec
import pytest

from kubeproxy.apiserver.feed import BOOKMARK_SECONDS, Behind, Feed, Limits
from kubeproxy.clock import ManualClock
from kubeproxy.store.base import Compacted, Unavailable, put
from kubeproxy.store.sqlite import SqliteStore
from tests.apiserver_bed import CONFIG_MAPS, SERVICES, api_bed, service
from tests.unit.test_apiserver_watch import made, seen, watching

pytestmark = pytest.mark.unit

PREFIX = b"/registry/configmaps/"


class Flaky:
    """A store whose watch is away or compacted when told, and which counts them."""

    def __init__(self, store):
        self._store = store
        self.fault = None
        self.watches = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def watch(self, key, range_end=b"", start_revision=0):
        self.watches += 1
        if self.fault is not None:
            raise self.fault
        async for batch in self._store.watch(key, range_end, start_revision):
            if self.fault is not None:
                raise self.fault
            yield batch


@asynccontextmanager
async def fed(limits=None):
    """A running feed over a flaky store; `write` puts one ConfigMap."""
    clock = ManualClock()
    async with await SqliteStore.open(":memory:", clock=clock) as inner:
        store = Flaky(inner)
        feed = Feed(store, [PREFIX], clock, limits)
        running = asyncio.create_task(feed.run())

        async def write(name, namespace="default"):
            value = msgspec.json.encode({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}})
            return await put(store, PREFIX + f"{namespace}/{name}".encode(), value)

        await write("first")
        await reached(feed, 2)
        yield store, feed, clock, write
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def reached(feed, revision, clock=None):
    async with asyncio.timeout(5):
        while feed.revision < revision:
            await (clock.step(1.0) if clock else asyncio.sleep(0.001))


async def names(subscription):
    async with asyncio.timeout(5):
        return [change.event.kv.key.rpartition(b"/")[2].decode() for change in await subscription.next()]


async def test_an_outage_of_the_store_ends_no_watch_and_loses_nothing():
    async with fed() as (store, feed, clock, write):
        subscription = feed.subscribe(PREFIX, "", feed.revision)
        waiting = asyncio.create_task(names(subscription))
        store.fault = Unavailable("gone")
        for name in "abc":
            last = await write(name)
        await clock.step(30.0)
        assert not waiting.done()
        assert feed.failures > 1
        store.fault = None
        await reached(feed, last, clock)
        got = await waiting
        while len(got) < 3:
            got += await names(subscription)
        assert got == ["a", "b", "c"]


async def test_changes_lost_to_compaction_end_the_watches_that_lack_them():
    async with fed() as (store, feed, clock, write):
        subscription = feed.subscribe(PREFIX, "", feed.revision)
        waiting = asyncio.create_task(subscription.next())
        await asyncio.sleep(0)
        store.fault = Unavailable("gone")
        for name in "abc":
            last = await write(name)
        store.fault = Compacted(last)
        await store.compact(last)
        await clock.step(10.0)
        with pytest.raises(Behind):
            await waiting
        with pytest.raises(Compacted):
            feed.holds(subscription.after)
        store.fault = None
        await reached(feed, last, clock)
        assert feed.holds(last)


async def test_a_waiting_watch_hears_how_far_the_feed_is_and_costs_no_watch_of_the_store():
    async with fed() as (store, feed, clock, write):
        held = [feed.subscribe(PREFIX, "quiet", feed.revision) for _ in range(300)]
        for subscription in held:
            feed.ring_for(subscription)
        waiting = [asyncio.create_task(subscription.next()) for subscription in held]
        last = await write("busy")
        await reached(feed, last)
        assert not any(task.done() for task in waiting)
        await clock.step(BOOKMARK_SECONDS + 1)
        assert [await task for task in waiting] == [[]] * 300
        assert {subscription.after for subscription in held} == {last}
        assert store.watches == 1


async def test_a_bookmark_due_while_watches_are_being_woken_skips_no_change():
    async with fed() as (_, feed, _, write):
        held = [feed.subscribe(PREFIX, "", feed.revision) for _ in range(1200)]
        due = iter([held])

        async def follow(subscription):
            found = await names(subscription)
            for other in next(due, ()):  # the first one awake: others have been put at the change, and sleep yet
                other.ring()
            return found

        waiting = [asyncio.create_task(follow(subscription)) for subscription in held]
        await asyncio.sleep(0)
        last = await write("busy")
        assert await asyncio.gather(*waiting) == [["busy"]] * len(held)
        assert {subscription.after for subscription in held} == {last}


async def test_one_that_falls_out_of_the_ring_is_told_so():
    async with fed(Limits(changes=3)) as (_, feed, _, write):
        subscription = feed.subscribe(PREFIX, "", feed.revision)
        for name in "abcdef":
            last = await write(name)
        await reached(feed, last)
        with pytest.raises(Behind):
            await subscription.next()
        assert not feed.holds(subscription.after)


async def test_hundreds_of_clients_see_every_change_in_order():
    async with api_bed() as bed, contextlib.AsyncExitStack() as stack:
        _, listed = await bed.call("GET", SERVICES)
        start = {"resourceVersion": listed["metadata"]["resourceVersion"]}
        paths = [CONFIG_MAPS, "/api/v1/configmaps", SERVICES]
        events = [await stack.enter_async_context(watching(bed, paths[n % 3], **start)) for n in range(240)]
        for name in ("one", "two", "three"):
            await made(bed, name)
            await bed.made(SERVICES, service(name))
        for event in events:
            assert [seen(await event()) for _ in range(3)] == [("ADDED", n) for n in ("one", "two", "three")]


async def test_a_watch_list_ends_its_beginning_with_a_bookmark():
    async with api_bed() as bed:
        await made(bed, "one")
        options = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        async with watching(bed, CONFIG_MAPS, allowWatchBookmarks="true", **options) as event:
            assert seen(await event()) == ("ADDED", "one")
            mark = await event()
            assert mark["type"] == "BOOKMARK"
            assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
            await made(bed, "two")
            assert seen(await event()) == ("ADDED", "two")
        options = {"sendInitialEvents": "false", "resourceVersionMatch": "NotOlderThan"}
        async with watching(bed, CONFIG_MAPS, **options) as event:
            await made(bed, "three")
            assert seen(await event()) == ("ADDED", "three")
        async with watching(bed, CONFIG_MAPS, resourceVersion="99999") as event:
            told = (await event())["object"]
            assert (told["code"], told["message"][:27]) == (410, "Too large resource version:")


async def test_metadata_alone_can_be_watched():
    async with api_bed() as bed:
        only = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
        async with watching(bed, CONFIG_MAPS, headers={"Accept": only}) as event:
            await bed.made(CONFIG_MAPS, {"metadata": {"name": "c"}, "data": {"a": "b"}})
            obj = (await event())["object"]
            assert (obj["kind"], obj["metadata"]["name"], "data" in obj) == ("PartialObjectMetadata", "c", False)
