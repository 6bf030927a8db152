"""Health check node ports over loopback sockets (reference/kube-proxy.md §6.2 row 54, §6.3 rows 73 and 76)."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing

import aiohttp
import pytest

from kubeproxy.clock import ManualClock, settle
from kubeproxy.health import doors
from kubeproxy.health.service_health import RETRY_SECONDS, HealthCheckStatus, ServiceHealth
from kubeproxy.model.addresses import Family
from kubeproxy.model.healthchecks import HealthCheck
from kubeproxy.model.ident import Key
from tests.ports import free_port

pytestmark = pytest.mark.unit

WEB, API = ("default", "web"), ("ns", "api")
LOOPBACK = ("127.0.0.1/32",)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def taken() -> Iterator[int]:
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


class Rig:
    def __init__(self, most_sockets: int = 100) -> None:
        self.clock = ManualClock()
        self.healthy = True
        self.troubles: list[tuple[Key, int, str]] = []
        self.servers = ServiceHealth(
            Family.V4,
            self.clock,
            lambda: self.healthy,
            lambda *trouble: self.troubles.append(trouble),
            most_sockets,
        )

    async def want(self, *, full: bool = False, **checks: tuple[int, int] | None) -> None:
        keys = {"web": WEB, "api": API}
        changes = {
            keys[name]: None if check is None else HealthCheck(port=check[0], endpoints=check[1])
            for name, check in checks.items()
        }
        self.servers.take(changes, LOOPBACK, full=full)
        await settle(50)


@asynccontextmanager
async def rig(**options: int) -> AsyncIterator[Rig]:
    it = Rig(**options)
    task = asyncio.create_task(it.servers.run())
    yield it
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


async def ask(port: int, path: str = "/") -> tuple[int, str, dict[str, object]]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        assert answer.content_type == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        weight = answer.headers["X-Load-Balancing-Endpoint-Weight"]
        return answer.status, weight, json.loads(await answer.text())


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


@pytest.mark.parametrize(
    ("endpoints", "healthy", "code"),
    [(2, True, 200), (1, True, 200), (0, True, 503), (2, False, 503), (0, False, 503)],
)
@pytest.mark.parametrize("path", ["/", "/healthz", "/any/thing?at=all"])
async def test_what_it_answers(port: int, endpoints: int, healthy: bool, code: int, path: str) -> None:
    async with rig() as it:
        it.healthy = healthy
        await it.want(web=(port, endpoints))
        assert await ask(port, path) == (
            code,
            str(endpoints),
            {
                "service": {"namespace": "default", "name": "web"},
                "localEndpoints": endpoints,
                "serviceProxyHealthy": healthy,
            },
        )


async def test_the_text_is_upstreams_to_the_byte(port: int) -> None:
    async with rig() as it:
        await it.want(web=(port, 1))
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as answer:
            assert await answer.text() == (
                '{\n\t"service": {\n\t\t"namespace": "default",\n\t\t"name": "web"\n\t},\n'
                '\t"localEndpoints": 1,\n\t"serviceProxyHealthy": true\n}'
            )


async def test_answers_change_with_the_checks_and_the_port_stays_open(port: int) -> None:
    async with rig() as it:
        await it.want(web=(port, 1))
        async with aiohttp.ClientSession() as session:
            for endpoints, code in ((1, 200), (0, 503), (3, 200)):
                await it.want(web=(port, endpoints))
                async with session.get(f"http://127.0.0.1:{port}/") as answer:
                    assert answer.status == code
            assert len(session.connector._conns) == 1  # type: ignore[union-attr]


async def test_policy_cluster_closes_the_port_and_local_opens_it_again(port: int) -> None:
    async with rig() as it:
        await it.want(web=(port, 1), api=None)
        assert await is_open(port)
        await it.want(web=None)
        assert not await is_open(port)
        await it.want(web=(port, 0))
        assert (await ask(port))[0] == 503


async def test_a_full_sync_closes_what_it_does_not_name(port: int) -> None:
    async with rig() as it:
        await it.want(web=(port, 1))
        await it.want(full=True)
        assert not await is_open(port)


async def test_a_new_port_takes_the_old_ones_place(port: int, taken: int) -> None:
    async with rig() as it:
        await it.want(web=(port, 1))
        await it.want(web=(taken, 1))
        assert not await is_open(port)
        await it.want(web=(port, 1))
        assert (await ask(port))[0] == 200


async def test_a_client_that_keeps_its_connection_does_not_keep_the_port(port: int) -> None:
    async with rig() as it:
        await it.want(web=(port, 1))
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/") as answer:
                await answer.read()
            silent, writer = await asyncio.open_connection("127.0.0.1", port)
            await settle()
            it.servers.take({}, LOOPBACK, full=True)
            assert await asyncio.wait_for(silent.read(), 1) == b""
            writer.close()
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(f"http://127.0.0.1:{port}/")


async def test_the_end_of_the_agent_ends_idle_connections_at_once(port: int) -> None:
    it = Rig()
    task = asyncio.create_task(it.servers.run())
    await it.want(web=(port, 1))
    silent, writer = await asyncio.open_connection("127.0.0.1", port)
    await settle()
    task.cancel()
    await asyncio.wait_for(asyncio.wait([task]), 1)
    assert await asyncio.wait_for(silent.read(), 1) == b""
    writer.close()
    assert not await is_open(port)


async def test_who_opens_connections_without_end_keeps_nobody_out(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "MOST_CONNECTIONS", 8)
    async with rig() as it:
        await it.want(web=(port, 1))
        flood = [await asyncio.open_connection("127.0.0.1", port) for _ in range(30)]
        assert (await ask(port))[0] == 200
        ended = sum([reader.at_eof() for reader, _ in flood])
        assert 22 <= ended <= 24
        for _, writer in flood:
            writer.close()


async def test_a_taken_port_is_told_once_and_tried_again(
    port: int, taken: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig() as it:
        await it.want(web=(taken, 1), api=(port, 1))
        why = f"cannot listen on 127.0.0.1:{taken}: Address already in use"
        assert it.troubles == [(WEB, taken, why)]
        assert it.servers.silent == 1
        assert it.servers.status() == (
            HealthCheckStatus(family=Family.V4, service="default/web", port=taken, endpoints=1, trouble=why),
            HealthCheckStatus(family=Family.V4, service="ns/api", port=port, endpoints=1),
        )
        assert (await ask(port))[0] == 200
        await it.clock.step(RETRY_SECONDS * 3)
        await it.want(api=(port, 2))
        assert len(it.troubles) == caplog.text.count("Address already in use") == 1


async def test_a_port_that_becomes_free_is_taken(port: int) -> None:
    async with rig() as it:
        with closing(socket.socket()) as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", port))
            holder.listen()
            await it.want(web=(port, 1))
            assert it.servers.silent == 1
        await it.clock.step(RETRY_SECONDS)
        await settle(50)
        assert (await ask(port))[0] == 200
        assert it.servers.silent == 0


async def test_of_two_services_with_one_port_the_first_keeps_it(port: int) -> None:
    async with rig() as it:
        await it.want(api=(port, 1))
        await it.want(web=(port, 1))
        assert it.troubles == [(WEB, port, "Service ns/api has this port")]
        assert (await ask(port))[2]["service"] == {"namespace": "ns", "name": "api"}
        await it.want(api=None)
        assert (await ask(port))[2]["service"] == {"namespace": "default", "name": "web"}
        assert it.servers.silent == 0


async def test_more_ports_than_sockets_are_refused_and_said(port: int, taken: int) -> None:
    async with rig(most_sockets=1) as it:
        await it.want(api=(port, 1))
        await it.want(web=(taken, 1))
        assert it.troubles == [(WEB, taken, "this process may have no more than 1 sockets for such ports")]
        assert (await ask(port))[0] == 200
