"""The endpoint controllers against a real API server: Endpoints, mirrors, zones, and what goes wrong."""

import asyncio
import random

import pytest

from kubeproxy.clock import SystemClock
from kubeproxy.controllers.election import LeaseLost
from kubeproxy.controllers.manager import run_endpoint_controllers
from kubeproxy.store.resources import ENDPOINT_SLICES, ENDPOINTS, NODES, PODS, SERVICES
from tests.controllers_bed import (
    FailingClient,
    addresses,
    api,
    endpoint_controllers,
    endpoints_of,
    make_pod,
    service_body,
    slices_of,
)
from tests.waiting import eventually

pytestmark = pytest.mark.unit


def ips(found):
    return sorted(each["ip"] for subset in (found or {}).get("subsets") or () for each in subset["addresses"])


async def settled(client, name, expected):
    """Wait until slices and Endpoints of a Service say the same."""

    async def agree():
        both = addresses(await slices_of(client, name)), ips(await endpoints_of(client, name))
        return both == (expected, expected)

    await eventually(agree)


async def quiet(client):
    """Wait until the controllers write no more; return how often they have."""

    async def still():
        before = len(client.written)
        await asyncio.sleep(0.15)
        return len(client.written) == before

    await eventually(still)
    return len(client.written)


async def test_endpoints_follow_the_selector_and_end_with_the_service():
    async with api() as (url, client), endpoint_controllers(url):
        await client.create(SERVICES, "default", service_body())
        await make_pod(client, "p1", "10.244.0.1")
        await make_pod(client, "p2", "10.244.0.2")
        await settled(client, "web", ["10.244.0.1", "10.244.0.2"])
        await client.delete(ENDPOINTS, "default", "web")
        await settled(client, "web", ["10.244.0.1", "10.244.0.2"])
        assert not [
            each for each in await slices_of(client, "web") if "mirroring" in each["metadata"]["labels"].values()
        ]
        await client.delete(SERVICES, "default", "web")

        async def gone():
            return await endpoints_of(client, "web") is None and not await slices_of(client, "web")

        await eventually(gone)


async def test_endpoints_kept_by_hand_are_mirrored_until_a_selector_comes():
    body = {
        "metadata": {"name": "web"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}],
    }
    async with api() as (url, client), endpoint_controllers(url) as own:
        await client.create(ENDPOINTS, "default", body)
        assert await quiet(own) == 0  # there is no such Service
        await client.create(SERVICES, "default", service_body(selector=None))
        await settled(client, "web", ["192.0.2.1"])
        [mirror] = await slices_of(client, "web")
        subset = {"addresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 80}]}
        await client.patch(ENDPOINTS, "default", "web", {"subsets": [subset]})
        await settled(client, "web", ["192.0.2.2"])
        assert [each["metadata"]["name"] for each in await slices_of(client, "web")] == [
            mirror["metadata"]["name"]
        ]
        await make_pod(client, "p1", "10.244.0.1")
        await client.patch(SERVICES, "default", "web", {"spec": {"selector": {"app": "a"}}})
        await settled(client, "web", ["10.244.0.1"])
        await client.patch(SERVICES, "default", "web", {"spec": {"selector": None}})
        # What the selector left stays, and is not mirrored beside its own slices.
        await quiet(own)
        await settled(client, "web", ["10.244.0.1"])


async def test_a_nodes_zone_reaches_its_endpoints_and_their_hints():
    async with api() as (url, client), endpoint_controllers(url):
        node = {"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}}
        await client.create(NODES, "", node)
        await client.create(SERVICES, "default", service_body(trafficDistribution="PreferSameNode"))
        await make_pod(client, "p1", "10.244.0.1")

        async def hints(zone):
            found = [e for each in await slices_of(client, "web") for e in each["endpoints"]]
            wanted = {"forZones": [{"name": zone}], "forNodes": [{"name": "n1"}]}
            return [(each.get("zone"), each.get("hints")) for each in found] == [(zone, wanted)]

        await eventually(lambda: hints("z1"))
        await client.patch(NODES, "", "n1", {"metadata": {"labels": {"topology.kubernetes.io/zone": "z2"}}})
        await eventually(lambda: hints("z2"))


async def test_controllers_that_start_again_write_nothing():
    async with api() as (url, client):
        async with endpoint_controllers(url) as own:
            await client.create(SERVICES, "default", service_body())
            await client.create(SERVICES, "default", service_body("mine", selector=None))
            subset = {"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}
            await client.create(ENDPOINTS, "default", {"metadata": {"name": "mine"}, "subsets": [subset]})
            await asyncio.gather(*(make_pod(client, f"p{n}", f"10.244.0.{n + 1}") for n in range(120)))
            await settled(client, "mine", ["192.0.2.1"])
            await quiet(own)
            assert len(addresses(await slices_of(client, "web"))) == 120
        async with endpoint_controllers(url) as again:
            await make_pod(client, "last", "10.244.1.1")

            async def there():
                return "10.244.1.1" in addresses(await slices_of(client, "web"))

            await eventually(there)
            await quiet(again)
            assert sorted(path.split("/")[-2] for _, path in again.written) == ["endpoints", "endpointslices"]


@pytest.mark.parametrize("fate", ["away", "lost", 404, 409])
async def test_writes_that_fail_or_whose_answer_is_lost_end_in_the_same(fate):
    rng = random.Random(5)
    async with api() as (url, client), endpoint_controllers(url) as own:
        own.fate = lambda _method, _path: fate if rng.random() < 0.5 else None
        await client.create(SERVICES, "default", service_body())
        for number in range(8):
            await make_pod(client, f"p{number}", f"10.244.0.{number + 1}")
            if number % 3 == 2:
                await client.delete(PODS, "default", f"p{number}", grace_period_seconds=0)
        await settled(client, "web", [f"10.244.0.{n + 1}" for n in (0, 1, 3, 4, 6, 7)])
        own.fate = lambda _method, _path: None

        async def one_slice():
            return len(await slices_of(client, "web")) == 1

        await eventually(one_slice)


async def test_watches_that_lag_cost_no_write():
    """What was written counts at once, and events that were on their way do not undo it."""
    async with api() as (url, client), endpoint_controllers(url) as own:
        await client.create(SERVICES, "default", service_body())
        await settled(client, "web", [])
        await quiet(own)
        own.shown.clear()
        for number in range(1, 5):
            await make_pod(client, f"p{number}", f"10.244.0.{number}")
            await settled(client, "web", [f"10.244.0.{n}" for n in range(1, number + 1)])
        own.shown.set()
        await quiet(own)
        await client.delete(PODS, "default", "p1", grace_period_seconds=0)
        await settled(client, "web", ["10.244.0.2", "10.244.0.3", "10.244.0.4"])
        assert own.refused == []
        assert len(await slices_of(client, "web")) == 1


async def test_a_process_that_lost_its_lease_writes_nothing(caplog):
    leads = True

    def guard():
        if not leads:
            raise LeaseLost("lost")

    async with api() as (url, client), FailingClient(url) as own:
        work = run_endpoint_controllers(own, clock=SystemClock(), guard=guard, endpoints_rest=0.02)
        running = asyncio.create_task(work)
        await client.create(SERVICES, "default", service_body())
        await settled(client, "web", [])
        before = await quiet(own)
        leads = False
        await make_pod(client, "p1", "10.244.0.1")
        assert await quiet(own) == before
        leads = True
        await settled(client, "web", ["10.244.0.1"])
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_slices_of_others_are_left_alone_and_what_was_left_behind_is_cleared():
    """A Service went while no controller ran: what the controllers made of it goes, what users made stays."""
    async with api() as (url, client):
        async with endpoint_controllers(url) as own:
            await client.create(SERVICES, "default", service_body())
            await make_pod(client, "p1", "10.244.0.1")
            await settled(client, "web", ["10.244.0.1"])
            await quiet(own)
        await client.delete(SERVICES, "default", "web")
        subset = {"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}
        await client.create(ENDPOINTS, "default", {"metadata": {"name": "early"}, "subsets": [subset]})
        slice_ = {"metadata": {"name": "early-1"}, "addressType": "IPv4", "endpoints": [], "ports": []}
        await client.create(ENDPOINT_SLICES, "default", slice_)
        async with endpoint_controllers(url) as own:

            async def gone():
                return await endpoints_of(client, "web") is None and not await slices_of(client, "web")

            await eventually(gone)
            await quiet(own)
        assert ips(await endpoints_of(client, "early")) == ["192.0.2.1"]
        assert await client.get(ENDPOINT_SLICES, "default", "early-1")
