"""The etcd client against servers that restart, stall, vanish, or are no etcd at all."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from kubeproxy.store.base import Compacted, Put, Range, Refused, StoreError, Unavailable, get, put
from kubeproxy.store.etcd import EtcdStore
from kubeproxy.store.sqlite import SqliteStore
from tests.ports import free_port
from tests.store_engines import served

pytestmark = pytest.mark.unit

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def fake(**handlers: Handler) -> AsyncIterator[str]:
    """A server with handlers for `range`, `txn`, `status` and `watch`."""
    app = web.Application()
    paths = {"watch": "/v3/watch", "status": "/v3/maintenance/status"}
    for name, handler in handlers.items():
        app.router.add_post(paths.get(name, f"/v3/kv/{name}"), handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def empty_store() -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(":memory:") as store:
        yield store


async def test_a_watch_resumed_after_a_restart_sees_every_event_once(tmp_path: Path) -> None:
    """The gateway and its store go away and come back several times under a writer and a watcher."""
    port = free_port()
    seen: list[int] = []
    total = 300

    async def write(client: EtcdStore) -> None:
        for n in range(total):
            done = False
            while not done:
                with contextlib.suppress(Unavailable):
                    done = await _write_once(client, n)
                await asyncio.sleep(0.001)

    async def watch(client: EtcdStore) -> None:
        resume = 1
        while len(seen) < total:
            with contextlib.suppress(Unavailable):
                async for batch in client.watch(b"n", b"", resume):
                    seen.extend(int(event.kv.value) for event in batch.events)
                    resume = max(resume, batch.revision + 1)
                    if len(seen) >= total:
                        return
            await asyncio.sleep(0.005)

    async with EtcdStore([f"http://127.0.0.1:{port}"]) as client:
        tasks = [asyncio.create_task(write(client)), asyncio.create_task(watch(client))]
        for _ in range(4):
            async with await SqliteStore.open(tmp_path / "store.db") as store, served(store, port):
                await asyncio.sleep(0.15)
        async with await SqliteStore.open(tmp_path / "store.db") as store, served(store, port):
            async with asyncio.timeout(20):
                await asyncio.gather(*tasks)
    assert seen == list(range(total))


async def _write_once(client: EtcdStore, n: int) -> bool:
    """Write n after n-1 only, so that a write that was sent twice happens once."""
    found = await get(client, b"n")
    if found is None or int(found.value) < n:
        await put(client, b"n", b"%d" % n)
    return True


class TestEndpoints:
    async def test_the_next_one_is_taken(self) -> None:
        async with empty_store() as store, served(store) as url:
            dead = f"http://127.0.0.1:{free_port()}"
            async with EtcdStore([dead, url]) as client:
                await put(client, b"a", b"1")
                assert await get(client, b"a") is not None
            async with EtcdStore([dead, url]) as client:
                assert (await anext(client.watch(b"a"))).events == ()

    async def test_reads_pass_over_one_that_does_not_answer(self) -> None:
        async with empty_store() as store, served(store) as url, stalled() as deaf:
            async with EtcdStore([deaf, url], call_seconds=0.2) as client:
                assert await get(client, b"a") is None

    async def test_a_write_that_may_have_happened_is_not_repeated(self) -> None:
        async with empty_store() as store, served(store) as url, stalled() as deaf:
            async with EtcdStore([deaf, url], call_seconds=0.2) as client:
                with pytest.raises(Unavailable, match="no answer in time"):
                    await put(client, b"a", b"1")
                assert (await store.range(Range(key=b"a"))).count == 0
                await put(client, b"a", b"1")  # The next call goes to the one that answers.

    async def test_none_there(self) -> None:
        async with EtcdStore([f"http://127.0.0.1:{free_port()}"]) as client:
            for call in (get(client, b"a"), put(client, b"a", b""), anext(client.watch(b"a"))):
                with pytest.raises(Unavailable, match=r"etcd http://127.0.0.1:\d+"):
                    await call

    async def test_none_given(self) -> None:
        with pytest.raises(ValueError, match="at least one endpoint"):
            EtcdStore([])

    async def test_a_closed_client(self) -> None:
        client = EtcdStore(["http://127.0.0.1:1"])
        await client.close()
        with pytest.raises(Unavailable, match="closed"):
            await get(client, b"a")


@contextlib.asynccontextmanager
async def stalled() -> AsyncIterator[str]:
    """A socket that takes connections and never answers: a stopped process, a half-open link."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


class TestBrokenWatches:
    async def test_one_whose_server_went_silent(self) -> None:
        """The stream stays open and says nothing more; calls are not answered either."""
        dead = asyncio.Event()

        async def watch(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b'{"result":{"header":{"revision":"5"},"created":true}}\n')
            await asyncio.sleep(60)
            return response

        async def range_(_: web.Request) -> web.Response:
            if dead.is_set():
                await asyncio.sleep(60)
            return web.json_response({"header": {"revision": "5"}})

        async with fake(watch=watch, range=range_) as url:
            async with EtcdStore([url], call_seconds=0.2, idle_seconds=0.1) as client:
                stream = client.watch(b"a")
                assert (await anext(stream)).revision == 5
                waiting = asyncio.create_task(anext(stream))
                await asyncio.sleep(0.5)
                assert not waiting.done()  # Silent but alive.
                dead.set()
                async with asyncio.timeout(3):
                    with pytest.raises(Unavailable, match="no answer in time"):
                        await waiting

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (b"", "the watch ended"),
            (b'{"result":{"events":[{"kv":{"key":"YQ==","mod_rev', "ended"),
            (b"<html>\n", "no WatchLine"),
            (b"{}\n", "neither a result nor an error"),
            (b'{"result":{"canceled":true,"cancel_reason":"bye"}}\n', "bye"),
            (b'{"error":{"grpc_code":14,"http_code":503,"message":"no leader"}}\n', "no leader"),
        ],
    )
    async def test_one_that_breaks_off_or_talks_nonsense(self, lines: bytes, message: str) -> None:
        async def watch(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b'{"result":{"header":{"revision":"5"},"created":true}}\n' + lines)
            return response

        async with fake(watch=watch) as url, EtcdStore([url]) as client:
            stream = client.watch(b"a")
            assert (await anext(stream)).revision == 5
            async with asyncio.timeout(3):
                with pytest.raises(Unavailable, match=message):
                    await anext(stream)

    async def test_lines_come_in_any_pieces(self) -> None:
        event = b'{"result":{"header":{"revision":"9"},"events":[{"kv":{"key":"YQ==","mod_revision":"7"}}]}}\n'

        async def watch(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            text = b'{"result":{"header":{"revision":"5"},"created":true}}\n' + event * 2
            for at in range(0, len(text), 7):
                await response.write(text[at : at + 7])
                await asyncio.sleep(0)
            return response

        async with fake(watch=watch) as url, EtcdStore([url]) as client:
            batches = []
            with pytest.raises(Unavailable):
                async for batch in client.watch(b"a"):
                    batches.append(batch)
        # The header tells the store's revision, which this watch need not have reached.
        assert [(batch.revision, len(batch.events)) for batch in batches] == [(5, 0), (7, 1), (7, 1)]


class TestForeignAnswers:
    @pytest.mark.parametrize(
        ("status", "body", "kind"),
        [
            (200, b"<html>hello</html>", Unavailable),
            (200, b'{"kvs": 5}', Unavailable),
            (502, b"<html>bad gateway</html>", Unavailable),
            (404, b"404 page not found\n", Unavailable),
            (503, b'{"error":"etcdserver: no leader","message":"etcdserver: no leader","code":14}', Unavailable),
            (400, b'{"message":"etcdserver: key is not provided","code":3}', Refused),
            (403, b'{"message":"etcdserver: permission denied","code":7}', Refused),
        ],
    )
    async def test_are_errors_of_the_store(self, status: int, body: bytes, kind: type[StoreError]) -> None:
        async def range_(_: web.Request) -> web.Response:
            return web.Response(status=status, body=body, content_type="application/json")

        async with fake(range=range_) as url, EtcdStore([url]) as client:
            with pytest.raises(kind):
                await get(client, b"a")


@pytest.mark.parametrize(
    ("status", "body", "alarms"),
    [
        (200, b'{"errors":["memberID:7 alarm:NOSPACE ","etcdserver: no leader"]}', ("NOSPACE",)),
        (200, b'{"version":"3.5.1"}', ()),
        (403, b'{"message":"etcdserver: permission denied","code":7}', ()),
    ],
)
async def test_alarms(status: int, body: bytes, alarms: tuple[str, ...]) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, content_type="application/json")

    async with fake(status=answer) as url, EtcdStore([url]) as client:
        assert await client.alarms() == alarms


async def test_an_endpoint_that_is_no_etcd_is_passed_over() -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(body=b"<html>hello</html>", content_type="text/html")

    async def moved(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})

    for foreign in (page, moved):
        async with fake(range=foreign, txn=foreign, watch=foreign) as wrong, empty_store() as store:
            async with served(store) as url:
                async with EtcdStore([wrong, url]) as client:
                    assert await get(client, b"a") is None
                async with EtcdStore([wrong, url]) as client:
                    with pytest.raises(Unavailable, match="etcd answered"):
                        await put(client, b"a", b"1")  # What it made of the write, nobody knows.
                    await put(client, b"a", b"2")


async def test_compaction_is_told_with_its_revision_in_a_transaction_too() -> None:
    async with empty_store() as store, served(store) as url, EtcdStore([url]) as client:
        for _ in range(5):
            await put(client, b"a", b"")
        await client.compact(4)
        with pytest.raises(Compacted) as caught:
            await client.txn((), (Put(key=b"b", value=b""), Range(key=b"a", revision=2)))
        assert caught.value.revision == 4
        assert await get(client, b"b") is None
