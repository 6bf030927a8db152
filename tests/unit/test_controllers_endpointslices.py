"""The EndpointSlice controller against the real API server, in process: writes, recovery, what it leaves alone."""

import asyncio
import contextlib
from ipaddress import ip_network

import msgspec
import pytest

from kubeproxy.apiserver.allocate import Ranges
from kubeproxy.apiserver.server import Settings, running
from kubeproxy.clock import ManualClock, SystemClock, settle
from kubeproxy.controllers.unseen import KEEP_SECONDS, Unseen
from kubeproxy.controllers.workqueue import WorkQueue
from kubeproxy.store.kube import ApiError, KubeClient
from kubeproxy.store.resources import ENDPOINT_SLICES, NAMESPACES, PODS, SERVICES

pytestmark = pytest.mark.unit


@contextlib.asynccontextmanager
async def cluster():
    """Yield a client of an API server that runs its EndpointSlice controller."""
    settings = Settings(store="sqlite::memory:", ranges=Ranges(networks=(ip_network("10.96.0.0/16"),)), port=0)
    async with running(settings, SystemClock()) as url, KubeClient(url) as client:
        yield client


async def eventually(check, seconds=10.0):
    """Poll ``check`` until it returns something true; return that."""
    async with asyncio.timeout(seconds):
        while not (found := await check()):
            await asyncio.sleep(0.02)
    return found


async def slices_of(client, service):
    listing = await client.list(
        ENDPOINT_SLICES, namespace="default", label_selector=f"kubernetes.io/service-name={service}"
    )
    return [msgspec.json.decode(item) for item in listing.items]


def addresses(slices):
    return sorted(e["addresses"][0] for each in slices for e in each.get("endpoints") or ())


def service(name="web", **spec):
    return {
        "metadata": {"name": name},
        "spec": {"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": 8080}], **spec},
    }


async def make_pod(client, name, ip, *, labels=None):
    body = {
        "metadata": {"name": name, "labels": labels or {"app": "a"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "x"}]},
    }
    await client.create(PODS, "default", body)
    status = {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    await client.patch(PODS, "default", name, {"status": status}, subresource="status")


async def test_pods_come_and_go_and_the_service_too():
    async with cluster() as client:
        await client.create(SERVICES, "default", service())

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
        await client.create(SERVICES, "default", service())
        await client.create(SERVICES, "default", service("other", selector={"app": "b"}))
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
        await client.create(SERVICES, "default", {**service("mine"), "spec": {"ports": [{"port": 80}]}})
        own = {
            "metadata": {"name": "mine-1", "labels": {"kubernetes.io/service-name": "mine"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 80}],
            "endpoints": [{"addresses": ["192.0.2.1"]}],
        }
        await client.create(ENDPOINT_SLICES, "default", own)
        await client.create(SERVICES, "default", service())

        async def settled():
            return await slices_of(client, "web")

        await eventually(settled)
        found = await slices_of(client, "mine")
        assert [each["metadata"]["name"] for each in found] == ["mine-1"]
        assert addresses(found) == ["192.0.2.1"]


async def test_a_slice_that_someone_damaged_or_deleted_is_put_right():
    async with cluster() as client:
        await client.create(SERVICES, "default", service())
        await make_pod(client, "p1", "10.244.0.1")

        async def right():
            found = await slices_of(client, "web")
            # For a moment the placeholder of a Service without pods stands beside the slice that replaces it.
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
        await client.create(SERVICES, "default", service())
        await asyncio.gather(*(make_pod(client, f"p{n}", f"10.244.0.{n + 1}") for n in range(30)))

        async def all_there():
            return len(addresses(await slices_of(client, "web"))) == 30

        await eventually(all_there)
        assert len(await slices_of(client, "web")) == 1


async def test_a_namespace_that_goes_makes_no_noise(caplog):
    async with cluster() as client:
        await client.create(NAMESPACES, "", {"metadata": {"name": "n"}})
        for number in range(20):
            await client.create(SERVICES, "n", service(f"s{number}"))
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
