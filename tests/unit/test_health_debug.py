"""The metrics server: kube-proxy's paths (reference/kube-proxy.md §4.4, §6.3 row 88), and how servers are run."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from kubeproxy.clock import ManualClock, settle
from kubeproxy.health import zpages
from kubeproxy.health.debug import About, metrics_app
from kubeproxy.health.http import RETRY_SECONDS, health_app, serve
from kubeproxy.health.metrics import Metrics
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.health.statusz import AgentStatus
from kubeproxy.model.addresses import Family
from tests.ports import free_port
from tests.scraping import Scrape

pytestmark = pytest.mark.unit

STATUS = AgentStatus(mode="iptables", flavour="nft", node="n1", wall=0, clock=0, informers={}, families=())
CONFIG = {"kubeproxy.config.k8s.io": {"kind": "KubeProxyConfiguration", "mode": "iptables"}}
WARNING = "Warning: This endpoint is not meant to be machine parseable"


@asynccontextmanager
async def debug_server(*, profiling: bool = False, clock: ManualClock | None = None) -> AsyncIterator[TestClient]:
    about = About(mode="iptables", configz=CONFIG, flags={"v": "4", "mode": "iptables"}, profiling=profiling)
    app = metrics_app(Metrics(), lambda: STATUS, about, clock or ManualClock())
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/healthz", "ok"),
        ("/healthz/ping", "ok"),
        ("/healthz?verbose", "[+]ping ok\nhealthz check passed\n"),
        ("/proxyMode", "iptables"),
    ],
)
async def test_plain_answers(path: str, text: str) -> None:
    async with debug_server() as client, client.get(path) as answer:
        assert (answer.status, answer.content_type, await answer.text()) == (200, "text/plain", text)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_configz() -> None:
    async with debug_server() as client, client.get("/configz") as answer:
        assert (answer.status, answer.content_type, await answer.json()) == (200, "application/json", CONFIG)


async def test_flagz() -> None:
    async with debug_server() as client, client.get("/flagz") as answer:
        lines = (await answer.text()).splitlines()
        assert (answer.status, answer.content_type) == (200, "text/plain")
        assert lines[:2] == ["", "kube-proxy flags"]
        assert lines[2].startswith(WARNING)
        assert lines[3:] == ["", "mode=iptables", "v=4"]


async def test_statusz() -> None:
    clock = ManualClock(1_700_000_000)
    async with debug_server(clock=clock) as client:
        await clock.step(3723)
        async with client.get("/statusz") as answer:
            lines = (await answer.text()).splitlines()
            assert (answer.status, answer.content_type) == (200, "text/plain")
    assert lines[:2] == ["", "kube-proxy statusz"]
    assert lines[2].startswith(WARNING)
    assert lines[4:6] == ["Started: Tue Nov 14 22:13:20 UTC 2023", "Up: 1 hr 02 min 03 sec"]
    assert lines[6].startswith("CPython version: 3.")
    assert lines[7].startswith("Binary version: ")
    assert lines[9] == "Paths: /configz /flagz /healthz /metrics /proxyMode /statusz /statusz.json"


@pytest.mark.parametrize("path", ["/statusz", "/flagz"])
@pytest.mark.parametrize(
    ("accept", "code"), [("*/*", 200), ("text/plain;q=0.5", 200), ("image/png, text/*", 200), ("image/png", 406)]
)
async def test_the_pages_are_text_alone(path: str, accept: str, code: int) -> None:
    async with debug_server() as client, client.get(path, headers={"Accept": accept}) as answer:
        assert answer.status == code
    assert zpages.takes_text("")


async def test_slis_count_the_servers_own_checks_until_reset() -> None:
    async with debug_server() as client:
        for path in ("/healthz", "/healthz/ping"):
            await client.get(path)
        found = Scrape(await (await client.get("/metrics/slis")).text())
        assert found.value("kubernetes_healthcheck", name="ping", type="healthz") == 1
        assert found.value("kubernetes_healthchecks_total", name="ping", status="success", type="healthz") == 2
        assert await (await client.delete("/metrics/slis")).text() == "metrics reset\n"
        assert Scrape(await (await client.get("/metrics/slis")).text()).samples == []
        assert (await client.get("/healthz")).status == 200


@pytest.mark.parametrize("path", ["/debug/pprof/", "/debug/pprof/goroutine", "/debug/pprof/profile?seconds=0.1"])
async def test_profiles_are_not_there_unless_asked_for(path: str) -> None:
    async with debug_server() as client:
        assert (await client.get(path)).status == 404


async def test_a_profile_names_where_the_threads_are() -> None:
    async with debug_server(profiling=True) as client:
        text = await (await client.get("/debug/pprof/profile?seconds=0.2")).text()
        stack, _, count = text.splitlines()[0].rpartition(" ")
        assert int(count) > 0
        assert any(line.startswith("MainThread;") and "asyncio" in line for line in text.splitlines())
        assert ";" in stack


async def test_one_profile_at_a_time_and_not_for_ever() -> None:
    async with debug_server(profiling=True) as client:
        first = asyncio.create_task(client.get("/debug/pprof/profile?seconds=0.5"))
        await asyncio.sleep(0.1)
        assert (await client.get("/debug/pprof/profile?seconds=0.1")).status == 409
        assert (await first).status == 200
        for seconds in ("1e9", "x", "-1", "nan"):
            assert (await client.get(f"/debug/pprof/profile?seconds={seconds}")).status == 400


async def test_stacks_of_threads_and_tasks() -> None:
    async def waiting_for_something() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(waiting_for_something(), name="mine")
    async with debug_server(profiling=True) as client:
        text = await (await client.get("/debug/pprof/goroutine")).text()
    task.cancel()
    assert "thread MainThread:" in text
    assert "task mine (test_stacks_of_threads_and_tasks.<locals>.waiting_for_something)" in text


async def test_what_is_about_go_alone_is_refused_in_words() -> None:
    async with debug_server(profiling=True) as client:
        answer = await client.get("/debug/pprof/heap")
        assert (answer.status, await answer.text()) == (
            501,
            "/debug/pprof/heap is about Go's runtime; kubeproxy is Python. /debug/pprof/ lists what there is.\n",
        )
        assert "profile?seconds=30" in await (await client.get("/debug/pprof/")).text()


async def test_verbosity_can_be_set_while_running() -> None:
    before = logging.getLogger().level
    try:
        async with debug_server(profiling=True) as client:
            for text, level in (("4", logging.DEBUG), ("2", logging.INFO)):
                answer = await client.put("/debug/flags/v", data=text)
                assert await answer.text() == f"successfully set klog.logging.verbosity to {text}"
                assert logging.getLogger().level == level
            assert (await client.put("/debug/flags/v", data="loud")).status == 400
            assert (await client.get("/debug/flags/v")).status == 405
    finally:
        logging.getLogger().setLevel(before)


@asynccontextmanager
async def health_server(
    address: str, port: int, **options: bool
) -> AsyncIterator[tuple[ManualClock, "asyncio.Task"]]:
    clock = ManualClock()
    app = health_app(ProxyHealth([Family.V4], 30), Metrics(), clock)
    task = asyncio.create_task(serve(app, (address, port), clock, **options))
    await settle(50)
    yield clock, task
    task.cancel()
    await asyncio.wait([task], timeout=2)


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("::1", ["[::1]"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1", "[::1]"]),
        ("::", ["127.0.0.1", "[::1]"]),
    ],
)
async def test_it_answers_on_either_family(address: str, hosts: list[str]) -> None:
    port = free_port()
    async with health_server(address, port), aiohttp.ClientSession() as session:
        for host in hosts:
            assert (await session.get(f"http://{host}:{port}/healthz")).status == 200


async def test_a_taken_port_is_said_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with closing(socket.socket()) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen()
        async with health_server("127.0.0.1", port) as (clock, task):
            await clock.step(RETRY_SECONDS * 2)
            assert (
                caplog.text.count(f"cannot listen on 127.0.0.1:{port}: Address already in use; trying again") == 1
            )
            holder.close()
            await clock.step(RETRY_SECONDS)
            await settle(50)
            async with aiohttp.ClientSession() as session:
                assert (await session.get(f"http://127.0.0.1:{port}/livez")).status == 200
            assert not task.done()


async def test_hard_fail_ends_it() -> None:
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        async with health_server("127.0.0.1", holder.getsockname()[1], hard_fail=True) as (_, task):
            assert task.done()
            assert "Address already in use" in str(task.exception())


async def test_the_end_does_not_wait_for_clients() -> None:
    port = free_port()
    async with health_server("127.0.0.1", port) as (_, task):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readline()
        half, half_writer = await asyncio.open_connection("127.0.0.1", port)
        half_writer.write(b"GET /healthz HT")
        await settle()
        task.cancel()
        await asyncio.wait_for(asyncio.wait([task]), 2)
        assert await asyncio.wait_for(half.read(), 1) == b""
        writer.close()
        half_writer.close()


async def test_what_is_no_http_is_no_trace_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    async with health_server("127.0.0.1", port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01\x02\x00\x01 this is TLS\r\n\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()
    assert "Traceback" not in caplog.text
