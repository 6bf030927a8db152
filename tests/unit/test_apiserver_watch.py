"""Watches tell each client exactly what changed in what it selected, from the revision that it names."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from kubeproxy.apiserver.feed import Limits
from tests.apiserver_bed import CONFIG_MAPS, MERGE, SERVICES, TABLE, api_bed, service

pytestmark = pytest.mark.unit


@asynccontextmanager
async def watching(bed, path, **query):
    """Open a watch; the value returns its next event."""
    headers = query.pop("headers", {})
    async with bed.client.get(path, params={"watch": "1", **query}, headers=headers) as answer:
        assert answer.status == 200

        async def event():
            async with asyncio.timeout(5):
                line = await answer.content.readline()
            return msgspec.json.decode(line) if line else None

        yield event


def seen(event):
    return event["type"], event["object"]["metadata"]["name"]


async def made(bed, name, **labels):
    return await bed.made(CONFIG_MAPS, {"metadata": {"name": name, "labels": labels}})


async def label(bed, name, value):
    patch = {"metadata": {"labels": {"a": value}}}
    return await bed.call("PATCH", f"{CONFIG_MAPS}/{name}", patch, Content_Type=MERGE)


async def test_without_a_revision_what_exists_comes_first():
    async with api_bed() as bed:
        await made(bed, "one")
        async with watching(bed, CONFIG_MAPS) as event:
            assert seen(await event()) == ("ADDED", "one")
            await made(bed, "two")
            assert seen(await event()) == ("ADDED", "two")
            await bed.call("DELETE", f"{CONFIG_MAPS}/one")
            gone = await event()
            assert seen(gone) == ("DELETED", "one")
            _, now = await bed.call("GET", CONFIG_MAPS)
            assert gone["object"]["metadata"]["resourceVersion"] == now["metadata"]["resourceVersion"]


async def test_from_a_revision_nothing_is_missed_or_repeated():
    async with api_bed() as bed:
        await made(bed, "one")
        _, listed = await bed.call("GET", CONFIG_MAPS)
        await made(bed, "two")
        await label(bed, "two", "x")
        revision = listed["metadata"]["resourceVersion"]
        async with watching(bed, CONFIG_MAPS, resourceVersion=revision) as event:
            assert seen(await event()) == ("ADDED", "two")
            assert seen(await event()) == ("MODIFIED", "two")


async def test_entering_and_leaving_a_selection_is_adding_and_deleting():
    async with api_bed() as bed:
        await made(bed, "one", a="no")
        async with watching(bed, CONFIG_MAPS, labelSelector="a=yes") as event:
            await label(bed, "one", "yes")
            assert seen(await event()) == ("ADDED", "one")
            await label(bed, "one", "no")
            left = await event()
            assert seen(left) == ("DELETED", "one")
            assert left["object"]["metadata"]["labels"] == {"a": "yes"}


async def test_a_field_selector_watches_one_object():
    async with api_bed() as bed:
        async with watching(bed, CONFIG_MAPS, fieldSelector="metadata.name=b") as event:
            await made(bed, "a")
            await made(bed, "b")
            assert seen(await event()) == ("ADDED", "b")


async def test_a_lost_revision_ends_the_watch_with_410():
    async with api_bed(ring=Limits(changes=1)) as bed:
        await made(bed, "one")
        last = await made(bed, "two")
        await bed.registry.store.compact(int(last["metadata"]["resourceVersion"]))
        async with watching(bed, CONFIG_MAPS, resourceVersion="1") as event:
            error = await event()
            assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 410, "Expired")
            assert await event() is None


async def test_a_watch_ends_after_the_time_it_asked_for():
    async with api_bed() as bed:
        async with watching(bed, CONFIG_MAPS, timeoutSeconds="1") as event:
            assert await event() is None


async def test_tables_are_watched_with_one_heading():
    async with api_bed() as bed:
        _, listed = await bed.call("GET", SERVICES)
        revision = listed["metadata"]["resourceVersion"]
        async with watching(bed, SERVICES, resourceVersion=revision, headers=TABLE) as event:
            await bed.made(SERVICES, service("a"))
            await bed.made(SERVICES, service("b"))
            first, second = (await event())["object"], (await event())["object"]
            assert (first["kind"], first["rows"][0]["cells"][0]) == ("Table", "a")
            assert first["columnDefinitions"]
            assert not second["columnDefinitions"]


async def test_many_writes_reach_many_watchers_in_order():
    async with api_bed() as bed:

        async def follow():
            async with watching(bed, CONFIG_MAPS) as event:
                return [seen(await event())[1] for _ in range(30)]

        tasks = [asyncio.create_task(follow()) for _ in range(10)]
        for index in range(30):
            await made(bed, f"c{index:02}")
        expected = [f"c{index:02}" for index in range(30)]
        assert all(names == expected for names in await asyncio.gather(*tasks))


async def test_initial_events_end_with_a_marked_bookmark():
    async with api_bed() as bed:
        await made(bed, "one")
        query = {
            "sendInitialEvents": "true",
            "allowWatchBookmarks": "true",
            "resourceVersionMatch": "NotOlderThan",
        }
        async with watching(bed, CONFIG_MAPS, **query) as event:
            assert seen(await event()) == ("ADDED", "one")
            mark = await event()
            assert mark["type"] == "BOOKMARK"
            assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
            await made(bed, "two")
            assert seen(await event()) == ("ADDED", "two")


async def test_a_revision_that_is_yet_to_come_is_of_another_store():
    async with api_bed() as bed, watching(bed, CONFIG_MAPS, resourceVersion="123456") as event:
        told = await event()
        assert (told["type"], told["object"]["code"]) == ("ERROR", 410)
        assert await event() is None
