"""The server as a whole: what it looks after by itself, and what a client that leaves costs."""

import asyncio
import contextlib
import logging
import socket
from ipaddress import ip_network

import aiohttp
import pytest

from kubeproxy.apiserver import streams
from kubeproxy.apiserver.allocate import Ranges
from kubeproxy.apiserver.bootstrap import KEEP_SECONDS, SystemObjects
from kubeproxy.apiserver.masters import Reach
from kubeproxy.apiserver.server import Settings, running
from kubeproxy.clock import ManualClock, SystemClock
from tests.apiserver_bed import CONFIG_MAPS, SERVICES, api_bed
from tests.scraping import scrape
from tests.store_engines import reset_in_mid_request
from tests.waiting import eventually

pytestmark = pytest.mark.unit

RANGES = Ranges(networks=(ip_network("10.96.0.0/12"),))


async def test_the_kubernetes_service_comes_back():
    async with api_bed() as bed:
        clock = ManualClock()
        keeping = asyncio.create_task(
            SystemObjects(bed.registry, RANGES, Reach("192.168.56.99", 8001)).keep(clock)
        )
        await bed.call("DELETE", f"{SERVICES}/kubernetes")

        async def back():
            await clock.step(KEEP_SECONDS)
            code, found = await bed.call("GET", f"{SERVICES}/kubernetes")
            _, endpoints = await bed.call("GET", "/api/v1/namespaces/default/endpoints/kubernetes")
            addresses = [address["ip"] for address in endpoints["subsets"][0]["addresses"]]
            there = code == 200 and found["spec"]["clusterIP"] == "10.96.0.1"
            return there and addresses == ["192.168.56.10", "192.168.56.99"]

        await eventually(back)
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping


async def test_watches_are_limited_and_one_ends_when_its_client_leaves():
    settings = Settings(store="sqlite::memory:", ranges=RANGES, port=0, max_watches=30)
    async with running(settings, SystemClock()) as url, aiohttp.ClientSession() as client:
        held = []

        async def watch():
            held.append(await client.get(f"{url}{SERVICES}?watch=1&resourceVersion=1"))
            return held[-1].status == 429

        await eventually(watch)  # the controllers hold some too
        refused = held.pop()
        assert refused.headers["Retry-After"] == "1"
        assert (await refused.json())["reason"] == "TooManyRequests"
        before = len(held)
        assert before >= 20
        while held:
            held.pop().close()

        async def free():
            return not await watch() and sum(answer.status == 200 for answer in held) == before

        await eventually(free)
        for answer in held:
            answer.close()


async def test_half_a_request_leaves_no_trace(caplog):
    async with api_bed() as bed:
        await reset_in_mid_request(str(bed.client.make_url("/")), CONFIG_MAPS)
        assert (await bed.call("GET", CONFIG_MAPS))[0] == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_client_that_does_not_read_is_cut_off(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(streams, "WRITE_SECONDS", 0.2)
    async with api_bed() as bed:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((bed.client.host, bed.client.port))
            deaf.sendall(f"GET {CONFIG_MAPS}?watch=1&resourceVersion=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            for number in range(8):
                await bed.made(CONFIG_MAPS, {"metadata": {"name": f"c{number}"}, "data": {"a": "x" * 1_000_000}})

            async def cut():
                return any("was not read" in record.getMessage() for record in caplog.records)

            await eventually(cut)
        assert (await bed.call("GET", f"{CONFIG_MAPS}/c7"))[0] == 200
        told = await scrape(bed.client)
        assert told.value("apiserver_terminated_watchers_total", resource="configmaps") == 1
