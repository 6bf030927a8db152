"""ServiceCIDRs extend what may be handed out, and stay while an address in use needs them."""

import asyncio

import pytest

from kubeproxy.apiserver.cidr_protection import ServiceCidrProtection
from kubeproxy.clock import ManualClock
from kubeproxy.controllers.election import LeaseLost
from kubeproxy.store.sqlite import SqliteStore
from tests.apiserver_bed import MERGE, SERVICES, TABLE, api_bed, api_on, service

pytestmark = pytest.mark.unit

CIDRS = "/apis/networking.k8s.io/v1/servicecidrs"
FINALIZER = "networking.k8s.io/service-cidr-finalizer"


def cidr(name, *cidrs):
    return {"metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}}


def ready(obj):
    [found] = obj["status"]["conditions"]
    return found["type"], found["status"], found["reason"], found["message"]


async def settle(bed):
    return await ServiceCidrProtection(bed.registry, ManualClock()).settle()


async def test_the_default_one_is_there_protected_and_ready():
    async with api_bed("10.96.0.0/24,fd00::/120") as bed:
        code, found = await bed.call("GET", f"{CIDRS}/kubernetes")
        assert (code, found["spec"]) == (200, {"cidrs": ["10.96.0.0/24", "fd00::/120"]})
        assert found["metadata"]["finalizers"] == [FINALIZER]
        assert ready(found) == ("Ready", "True", "", "Kubernetes Service CIDR is ready")
        _, table = await bed.call("GET", CIDRS, **TABLE)
        assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "CIDRs", "Age"]
        assert table["rows"][0]["cells"][:2] == ["kubernetes", "10.96.0.0/24,fd00::/120"]


@pytest.mark.parametrize(
    ("cidrs", "message"),
    [
        ([], "spec.cidrs: Required value: at least one CIDR required"),
        (["10.0.0.0/24", "fd00::/120", "10.1.0.0/24"], "may only hold up to 2 values"),
        (["10.0.0.0/24", "10.1.0.0/24"], "may specify no more than one IP for each IP family, i.e 192.168.0.0/24"),
        (["nonsense"], 'spec.cidrs[0]: Invalid value: "nonsense": must be a valid CIDR value'),
        (["10.0.0.1/24"], 'spec.cidrs[0]: Invalid value: "10.0.0.1/24": must be in canonical form'),
    ],
)
async def test_what_is_no_service_cidr_is_refused(cidrs, message):
    async with api_bed() as bed:
        told = await bed.refused(CIDRS, cidr("a", *cidrs))
        assert told.startswith('ServiceCIDR.networking.k8s.io "a" is invalid: ')
        assert message in told


async def test_cidrs_are_fixed_but_a_second_family_may_come():
    async with api_bed() as bed:
        await bed.made(CIDRS, cidr("a", "10.1.0.0/24"))
        for cidrs, message in (
            (["10.2.0.0/24"], 'spec.cidrs: Invalid value: ["10.2.0.0/24"]: field is immutable'),
            (["10.2.0.0/24", "fd01::/120"], "spec.cidrs[0]: Invalid value"),
        ):
            code, told = await bed.call("PATCH", f"{CIDRS}/a", {"spec": {"cidrs": cidrs}}, Content_Type=MERGE)
            assert (code, message in told["message"]) == (422, True), told
        patch = {"spec": {"cidrs": ["10.1.0.0/24", "fd01::/120"]}}
        assert (await bed.call("PATCH", f"{CIDRS}/a", patch, Content_Type=MERGE))[0] == 200


async def test_another_one_extends_a_full_range_on_every_server():
    async with await SqliteStore.open(":memory:") as store:
        async with api_on(store, "10.96.0.0/29", seed=1) as a, api_on(store, "10.96.0.0/29", seed=2) as b:
            for index in range(5):
                await b.made(SERVICES, service(f"s{index}"))
            assert "range is full" in await b.refused(SERVICES, service("more"))
            assert "does not match the current range" in await b.refused(
                SERVICES, service("n", clusterIP="10.9.0.5")
            )
            await a.made(CIDRS, cidr("extra", "10.9.0.0/28"))
            named = await b.made(SERVICES, service("n", clusterIP="10.9.0.5"))
            assert named["spec"]["clusterIPs"] == ["10.9.0.5"]
            made = await asyncio.gather(*((a, b)[i % 2].made(SERVICES, service(f"m{i}")) for i in range(13)))
            assert {obj["spec"]["clusterIP"] for obj in made} == {f"10.9.0.{i}" for i in range(1, 15) if i != 5}
            assert "range is full" in await a.refused(SERVICES, service("more"))


async def test_it_stays_while_an_address_needs_it_and_gives_no_more():
    async with await SqliteStore.open(":memory:") as store:
        async with api_on(store, "10.96.0.0/24") as a, api_on(store, "10.96.0.0/24") as b:
            await a.made(CIDRS, cidr("extra", "10.9.0.0/28"))
            await b.made(SERVICES, service("n", clusterIP="10.9.0.5"))
            await a.call("DELETE", f"{CIDRS}/extra")
            # The other server remembers it from before the deletion, and still takes nothing of it.
            assert "does not match" in await b.refused(SERVICES, service("late", clusterIP="10.9.0.6"))
            assert (await settle(a))[1] is True
            _, waiting = await b.call("GET", f"{CIDRS}/extra")
            assert ready(waiting)[:3] == ("Ready", "False", "Terminating")
            await b.call("DELETE", f"{SERVICES}/n")
            assert (await settle(b))[1] is False
            assert (await a.call("GET", f"{CIDRS}/extra"))[0] == 404


async def test_it_may_go_when_another_one_covers_its_addresses():
    async with api_bed("10.96.0.0/24") as bed:
        await bed.made(CIDRS, cidr("small", "10.9.0.0/28"))
        await bed.made(SERVICES, service("n", clusterIP="10.9.0.5"))
        await bed.call("DELETE", f"{CIDRS}/small")
        assert (await settle(bed))[1] is True
        await bed.made(CIDRS, cidr("large", "10.9.0.0/24"))
        assert (await settle(bed))[1] is False
        assert (await bed.call("GET", f"{CIDRS}/small"))[0] == 404
        await bed.call("DELETE", f"{CIDRS}/large")
        assert (await settle(bed))[1] is True


async def test_a_server_that_leads_no_longer_settles_nothing():
    def lost():
        raise LeaseLost("another server leads")

    async with api_bed("10.96.0.0/24") as bed:
        await bed.made(CIDRS, cidr("used", "10.9.0.0/28"))
        await bed.made(SERVICES, service("n", clusterIP="10.9.0.5"))
        await bed.made(CIDRS, cidr("free", "10.8.0.0/28"))
        paused = ServiceCidrProtection(bed.registry, ManualClock(), lost)
        for name in ("used", "free"):
            _, going = await bed.call("DELETE", f"{CIDRS}/{name}")
            with pytest.raises(LeaseLost):
                await paused.settle()
            assert await bed.call("GET", f"{CIDRS}/{name}") == (200, going)


async def test_protection_runs_by_itself():
    async with api_bed("10.96.0.0/24") as bed:
        task = asyncio.create_task(ServiceCidrProtection(bed.registry, ManualClock()).run())
        await bed.made(CIDRS, cidr("extra", "10.9.0.0/28"))
        await bed.call("DELETE", f"{CIDRS}/extra")
        async with asyncio.timeout(5):
            while (await bed.call("GET", f"{CIDRS}/extra"))[0] != 404:
                await asyncio.sleep(0.01)
        task.cancel()
