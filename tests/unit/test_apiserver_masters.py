"""The `kubernetes` Service leads to every API server that lives, whoever writes its endpoints."""

import asyncio
import contextlib
import logging

import pytest

from kubeproxy.apiserver.masters import LEASE_SECONDS, Masters, Reach
from kubeproxy.clock import ManualClock
from tests.apiserver_bed import api_bed, api_on
from tests.store_engines import opened

pytestmark = pytest.mark.unit

ENDPOINTS = "/api/v1/namespaces/default/endpoints/kubernetes"
SLICE = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
FIRST = "192.168.56.10"


async def listed(bed):
    _, endpoints = await bed.call("GET", ENDPOINTS)
    _, slice_ = await bed.call("GET", SLICE)
    addresses = [address["ip"] for address in endpoints["subsets"][0]["addresses"]]
    assert [endpoint["addresses"] for endpoint in slice_["endpoints"]] == [[address] for address in addresses]
    assert slice_["ports"] == endpoints["subsets"][0]["ports"]
    return addresses


@contextlib.asynccontextmanager
async def two(tmp_path):
    """A bed whose own server keeps its place by hand, and another server's masters."""
    clock = ManualClock()
    async with opened("memory", tmp_path, clock) as store, api_on(store) as bed:
        yield clock, bed, Masters(bed.registry, Reach("192.168.56.11", 8001))


async def test_servers_that_start_at_once_are_all_there(tmp_path):
    async with two(tmp_path) as (_, bed, _):
        masters = [Masters(bed.registry, Reach(f"192.168.56.{i}", 8001)) for i in range(11, 16)]
        await asyncio.gather(*(each.reconcile() for each in masters))
        assert await listed(bed) == [f"192.168.56.{i}" for i in range(10, 16)]
        _, before = await bed.call("GET", ENDPOINTS)
        await asyncio.gather(*(each.reconcile() for each in masters))
        _, after = await bed.call("GET", ENDPOINTS)
        assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_a_server_that_died_goes_with_its_lease(tmp_path):
    async with two(tmp_path) as (clock, bed, other):
        await other.reconcile()
        assert await listed(bed) == [FIRST, "192.168.56.11"]
        await clock.step(LEASE_SECONDS - 5)
        await other.reconcile()
        await clock.step(10)  # The first has not renewed; the other's lease was.
        await other.reconcile()
        assert await listed(bed) == ["192.168.56.11"]


async def test_a_server_whose_lease_was_lost_comes_back(tmp_path):
    async with two(tmp_path) as (clock, bed, other):
        await other.reconcile()
        await clock.step(2 * LEASE_SECONDS)
        await other.reconcile()
        assert await listed(bed) == ["192.168.56.11"]


async def test_one_that_ends_leaves_and_the_last_stays(tmp_path):
    async with two(tmp_path) as (clock, bed, other):
        await other.reconcile()
        await other.leave()
        assert await listed(bed) == [FIRST]
        await clock.step(2 * LEASE_SECONDS)
        await other.reconcile()
        await other.leave()
        assert await listed(bed) == ["192.168.56.11"]


async def test_what_somebody_deleted_or_changed_comes_back():
    async with api_bed() as bed:
        masters = Masters(bed.registry, Reach(FIRST, 8001))
        await bed.call("DELETE", ENDPOINTS)
        await bed.call("DELETE", SLICE)
        await masters.reconcile()
        assert await listed(bed) == [FIRST]
        _, slice_ = await bed.call("GET", SLICE)
        await bed.call("PUT", SLICE, {**slice_, "endpoints": []})
        await masters.reconcile()
        assert await listed(bed) == [FIRST]


async def test_one_of_another_port_or_family_is_left_out_and_told_once(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    async with two(tmp_path) as (_, bed, _):
        for reach in (Reach("192.168.56.12", 9001), Reach("fd00::12", 8001)):
            masters = Masters(bed.registry, reach)
            await masters.reconcile()
            await masters.reconcile()
            assert await listed(bed) == [FIRST]
        assert sum("192.168.56.12 port 9001" in record.message for record in caplog.records) == 2
