"""Cluster IPs and node ports under many writers: nobody gets what another has, and nothing is left behind."""

import asyncio
import random

import pytest

from kubeproxy.clock import ManualClock
from tests.apiserver_bed import MERGE, SERVICES, api_bed, api_on, claimed, collector, service, shown
from tests.store_engines import LONG, opened

pytestmark = pytest.mark.unit


async def test_picks_leave_the_bottom_to_explicit_requests():
    async with api_bed("10.96.0.0/16") as bed:
        for index in range(100):
            made = await bed.made(SERVICES, service(f"s{index}", type="NodePort"))
            third, last = (int(part) for part in made["spec"]["clusterIP"].split(".")[2:])
            assert third * 256 + last >= 256
            assert made["spec"]["ports"][0]["nodePort"] >= 30085


@pytest.mark.parametrize("kind", ["memory", "gateway"])
async def test_a_hundred_creates_at_once_on_two_servers_fill_a_range_exactly(kind, tmp_path):
    """Of the 126 addresses one is the kubernetes Service's and 25 are named."""
    cidr, ports = "10.96.0.0/25", "30000-30099"
    async with opened(kind, tmp_path, ManualClock()) as store:
        async with api_on(store, cidr, ports, seed=1) as a, api_on(store, cidr, ports, seed=2) as b:
            named = [service(f"n{i}", clusterIP=f"10.96.0.{100 + i}") for i in range(25)]
            random_ones = [service(f"s{i}", type="NodePort") for i in range(100)]
            await asyncio.gather(*(a.made(SERVICES, obj) for obj in named))
            made = await asyncio.gather(*((a, b)[i % 2].made(SERVICES, obj) for i, obj in enumerate(random_ones)))
            assert len({obj["spec"]["clusterIP"] for obj in made}) == 100
            assert {obj["spec"]["ports"][0]["nodePort"] for obj in made} == set(range(30000, 30100))
            told = await b.refused(SERVICES, service("one-more"))
            assert told == "Internal error occurred: failed to allocate a serviceIP: range is full"
            await a.call("DELETE", f"{SERVICES}/n0")
            told = await b.refused(SERVICES, service("one-more", type="NodePort"))
            assert told == "Internal error occurred: failed to allocate a nodePort: range is full"
            assert (await b.made(SERVICES, service("one-more")))["spec"]["clusterIP"] == "10.96.0.100"


async def test_one_of_a_hundred_claims_of_one_port_wins():
    async with api_bed() as bed:
        wanted = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}
        answers = await asyncio.gather(
            *(bed.call("POST", SERVICES, service(f"s{i}", **wanted)) for i in range(100))
        )
        assert sorted(code for code, _ in answers) == [201] + [422] * 99
        winner = next(obj for code, obj in answers if code == 201)
        assert (await claimed(bed)).keys() - {"10.96.0.1"} == shown(winner)


async def test_a_dry_run_claims_nothing():
    async with api_bed() as bed:
        before = await claimed(bed)
        code, dry = await bed.call("POST", f"{SERVICES}?dryRun=All", service("a", type="NodePort"))
        assert (code, bool(dry["spec"]["clusterIP"])) == (201, True)
        assert await claimed(bed) == before


_CHANGES = [
    {"type": "ClusterIP"},
    {"type": "NodePort"},
    {"type": "LoadBalancer", "externalTrafficPolicy": "Local"},
    {"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"},
    {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False},
    {"type": "ExternalName", "externalName": "a.example.com"},
    {"ipFamilyPolicy": "PreferDualStack"},
    {"ipFamilyPolicy": "SingleStack"},
    {"ports": [{"port": 53, "protocol": "UDP", "name": "u"}, {"port": 53, "protocol": "TCP", "name": "t"}]},
    {"ports": [{"port": 80}]},
]


async def _churn(bed, rng, namespace):
    """A random history of one writer."""
    path = f"/api/v1/namespaces/{namespace}/services"
    for _ in range(25):
        name = f"{path}/s{rng.randrange(4)}"
        finalizers = rng.choice([["example.com/hold"], []])
        match rng.randrange(6):
            case 0 | 1:
                obj = service(name.rpartition("/")[2], **rng.choice(_CHANGES))
                obj["metadata"]["finalizers"] = finalizers
                await bed.call("POST", path, obj)
            case 2 | 3:
                await bed.call("PATCH", name, {"spec": rng.choice(_CHANGES)}, Content_Type=MERGE)
            case 4:
                await bed.call("DELETE", name)
                patch = {"metadata": {"finalizers": finalizers}}
                await bed.call("PATCH", name, patch, Content_Type=MERGE)
            case _ if rng.random() < 0.2:
                await bed.call("DELETE", path)


@pytest.mark.parametrize("seed", range(100 if LONG else 4))
async def test_after_any_history_exactly_what_stands_is_claimed(seed, tmp_path):
    """Two servers, four writers; then one namespace is deleted as a whole."""
    cidr = "10.96.0.0/24,fd00::/120"
    async with opened("memory", tmp_path, ManualClock()) as store:
        async with api_on(store, cidr, seed=1) as a, api_on(store, cidr, seed=2) as b:
            await a.made("/api/v1/namespaces", {"metadata": {"name": "other"}})
            await asyncio.gather(
                *(
                    _churn((a, b)[i % 2], random.Random(100 * seed + i), ("default", "other")[i // 2])
                    for i in range(4)
                )
            )
            _, listed = await a.call("GET", "/api/v1/services")
            assert (await claimed(b)).keys() == shown(*listed["items"])
            for obj in listed["items"]:
                path = f"/api/v1/namespaces/{obj['metadata']['namespace']}/services/{obj['metadata']['name']}"
                await a.call("PATCH", path, {"metadata": {"finalizers": []}}, Content_Type=MERGE)
            await b.call("DELETE", "/api/v1/namespaces/other")
            task = asyncio.create_task(collector(a).run())
            async with asyncio.timeout(10):
                while (await b.call("GET", "/api/v1/namespaces/other"))[0] != 404:
                    await asyncio.sleep(0.01)
            task.cancel()
            _, listed = await a.call("GET", "/api/v1/services")
            assert {obj["metadata"]["namespace"] for obj in listed["items"]} <= {"default"}
            assert (await claimed(b)).keys() == shown(*listed["items"])
