"""The EndpointSlice controller against the real API server, in process: writes, recovery, what it leaves alone."""

import asyncio
import contextlib
from ipaddress import ip_network

import pytest

from kubeproxy.apiserver.allocate import Ranges
from kubeproxy.apiserver.server import Settings, running
from kubeproxy.clock import ManualClock, SystemClock, settle
from kubeproxy.controllers.loop import ControlLoop
from kubeproxy.controllers.unseen import KEEP_SECONDS, Unseen
from kubeproxy.controllers.workqueue import WorkQueue
from kubeproxy.store.kube import ApiError, KubeClient
from kubeproxy.store.resources import ENDPOINT_SLICES, NAMESPACES, PODS, SERVICES
from tests.controllers_bed import addresses, make_pod, service_body, slices_of
from tests.waiting import eventually

pytestmark = pytest.mark.unit


@contextlib.asynccontextmanager
async def cluster():
    """Yield a client of an API server that runs its EndpointSlice controller."""
    settings = Settings(store="sqlite::memory:", ranges=Ranges(networks=(ip_network("10.96.0.0/16"),)), port=0)
    async with running(settings, SystemClock()) as url, KubeClient(url) as client:
        yield client


async def test_pods_come_and_go_and_the_service_too():
    async with cluster() as client:
        await client.create(SERVICES, "default", service_body())

        async def placeholder():
            return await slices_of(client, "web")

        assert addresses(await eventually(placeholder)) == []
        await make_pod(client, "p1", "10.244.0.1")
        await make_pod(client, "p2", "10.244.0.2")
        await make_pod(client, "stranger", "10.244.0.3", labels={"app": "b"})

        async def both():
            return addresses(await slices_of(client, "web")) == ["10.244.0.1", "10.244.0.2"]

        await eventually(both)
        await client.delete(PODS, "default", "p1")

        async def leaving():
            found = [e for each in await slices_of(client, "web") for e in each["endpoints"]]
            return [e["conditions"] for e in found if e["addresses"] == ["10.244.0.1"]]

        async def says_so():
            return await leaving() == [{"ready": False, "serving": True, "terminating": True}]

        await eventually(says_so)
        await client.delete(PODS, "default", "p1", grace_period_seconds=0)

        async def one():
            return addresses(await slices_of(client, "web")) == ["10.244.0.2"]

        await eventually(one)
        assert len(await slices_of(client, "web")) == 1
        await client.delete(SERVICES, "default", "web")

        async def none():
            return not await slices_of(client, "web")

        await eventually(none)


async def test_a_label_that_changes_moves_the_pod():
    async with cluster() as client:
        await client.create(SERVICES, "default", service_body())
        await client.create(SERVICES, "default", service_body("other", selector={"app": "b"}))
        await make_pod(client, "p1", "10.244.0.1")

        async def at(name):
            return addresses(await slices_of(client, name)) == ["10.244.0.1"]

        await eventually(lambda: at("web"))
        await client.patch(PODS, "default", "p1", {"metadata": {"labels": {"app": "b"}}})
        await eventually(lambda: at("other"))

        async def gone():
            return addresses(await slices_of(client, "web")) == []

        await eventually(gone)


async def test_what_users_wrote_is_left_alone():
    async with cluster() as client:
        await client.create(SERVICES, "default", {**service_body("mine"), "spec": {"ports": [{"port": 80}]}})
        own = {
            "metadata": {"name": "mine-1", "labels": {"kubernetes.io/service-name": "mine"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 80}],
            "endpoints": [{"addresses": ["192.0.2.1"]}],
        }
        await client.create(ENDPOINT_SLICES, "default", own)
        await client.create(SERVICES, "default", service_body())

        async def settled():
            return await slices_of(client, "web")

        await eventually(settled)
        found = await slices_of(client, "mine")
        assert [each["metadata"]["name"] for each in found] == ["mine-1"]
        assert addresses(found) == ["192.0.2.1"]


async def test_a_slice_that_someone_damaged_or_deleted_is_put_right():
    async with cluster() as client:
        await client.create(SERVICES, "default", service_body())
        await make_pod(client, "p1", "10.244.0.1")

        async def right():
            found = await slices_of(client, "web")
            return found if len(found) == 1 and addresses(found) == ["10.244.0.1"] else None

        name = (await eventually(right))[0]["metadata"]["name"]
        await client.patch(ENDPOINT_SLICES, "default", name, {"endpoints": []})
        await eventually(right)
        await client.delete(ENDPOINT_SLICES, "default", name)

        async def another():
            found = await right()
            return found and found[0]["metadata"]["name"] != name

        await eventually(another)


async def test_a_burst_of_pods_makes_one_slice():
    async with cluster() as client:
        await client.create(SERVICES, "default", service_body())
        await asyncio.gather(*(make_pod(client, f"p{n}", f"10.244.0.{n + 1}") for n in range(30)))

        async def all_there():
            return len(addresses(await slices_of(client, "web"))) == 30

        await eventually(all_there)
        assert len(await slices_of(client, "web")) == 1


async def test_a_namespace_that_goes_makes_no_noise(caplog):
    async with cluster() as client:
        await client.create(NAMESPACES, "", {"metadata": {"name": "n"}})
        for number in range(20):
            await client.create(SERVICES, "n", service_body(f"s{number}"))
        await client.delete(NAMESPACES, "", "n")

        async def gone():
            try:
                await client.get(NAMESPACES, "", "n")
            except ApiError as error:
                return error.code == 404
            return False

        await eventually(gone)
        assert (await client.list(ENDPOINT_SLICES, namespace="n")).items == ()
    assert not [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_the_queue_gives_each_key_once_and_failed_ones_later():
    clock = ManualClock()
    queue = WorkQueue(clock=clock)
    for key in ("a", "b", "a"):
        queue.add(key)
    assert [await queue.take(), await queue.take(), len(queue)] == ["a", "b", 0]
    pauses = [queue.failed("a") for _ in range(3)]
    assert pauses == [0.05, 0.1, 0.2]
    taking = asyncio.create_task(queue.take())
    await clock.step(0.19)
    assert not taking.done()
    await clock.step(0.02)
    assert await taking == "a"
    queue.done("a")
    assert queue.failed("a") == 0.05
    queue.close()
    await settle()


async def test_a_loop_with_a_rest_takes_the_changes_of_a_while_as_one():
    clock, seen = ManualClock(), []

    async def reconcile(key):
        seen.append((clock.now() - 1_000_000.0, key[1]))

    loop = ControlLoop("things", reconcile, clock=clock, rest=0.5)
    running = asyncio.create_task(loop.run())
    for _ in range(10):
        loop.touch(("ns", "a"))
        await clock.step(0.125)
    loop.touch(("ns", "b"))
    await clock.step(5)
    assert seen == [(0.0, "a"), (0.5, "a"), (1.0, "a"), (1.25, "b"), (1.5, "a")]
    loop.touch(("ns", "a"))
    await settle()
    assert seen[-1] == (6.25, "a")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_unseen_objects_count_until_they_are_seen_or_old():
    now = [0.0]
    unseen = Unseen(lambda: now[0])
    unseen.made(("ns", "a"), 1)
    unseen.made(("ns", "b"), 2)
    assert unseen.over({}) == {("ns", "a"): 1, ("ns", "b"): 2}
    assert unseen.over({("ns", "a"): 7}) == {("ns", "b"): 2}
    unseen.seen([("ns", "b")])
    assert unseen.over({}) == {("ns", "a"): 1}
    now[0] = KEEP_SECONDS
    assert unseen.over({}) == {}
