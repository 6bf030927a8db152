"""The API client against a real HTTP server on loopback whose answers a test scripts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kubeproxy.store import kube
from kubeproxy.store.base import Compacted, FutureRevision, Unavailable
from kubeproxy.store.kube import ApiError, KubeClient, StreamingUnsupported
from kubeproxy.store.resources import ENDPOINT_SLICES, NODES, PODS, SERVICES

pytestmark = pytest.mark.unit

Serve = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[KubeClient]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[TestServer] = []
    clients: list[KubeClient] = []

    async def start(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> KubeClient:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        clients.append(KubeClient(str(server.make_url("/"))))
        return clients[-1]

    yield start
    for client in clients:
        await client.close()
    for server in servers:
        await server.close()


def test_paths() -> None:
    assert SERVICES.path() == "/api/v1/services"
    assert SERVICES.path("default", "a", "status") == "/api/v1/namespaces/default/services/a/status"
    assert ENDPOINT_SLICES.path("ns") == "/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices"
    assert NODES.path("", "n1") == "/api/v1/nodes/n1"


async def test_an_answer_that_is_no_object_is_worth_a_retry(serve: Serve) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text="<html>welcome</html>")

    client = await serve(handler)
    for call in (client.list(SERVICES), client.get(SERVICES, "default", "a"), client.create(SERVICES, "n", {})):
        with pytest.raises(Unavailable, match="something else"):
            await call


async def test_a_subresource_is_created_below_its_object(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert (request.method, request.path) == ("POST", "/api/v1/namespaces/n/pods/p/binding")
        return web.Response(text="{}", status=201)

    client = await serve(handler)
    assert await client.create(PODS, "n", {}, name="p", subresource="binding") == {}


async def test_the_causes_of_a_refusal_are_known(serve: Serve) -> None:
    async def handler(_: web.Request) -> web.Response:
        status = '{"code":403,"reason":"Forbidden","details":{"causes":[{"reason":"NamespaceTerminating"}]}}'
        return web.Response(text=status, status=403)

    client = await serve(handler)
    with pytest.raises(ApiError) as refusal:
        await client.create(SERVICES, "n", {})
    assert refusal.value.causes == {"NamespaceTerminating"}


async def test_a_list_is_read_page_by_page(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.query["labelSelector"] == "app=nginx"
        if "continue" not in request.query:
            return web.Response(
                text='{"metadata":{"resourceVersion":"7","continue":"c1"},"items":[{"a":1},{"b":2}]}'
            )
        assert request.query["continue"] == "c1"
        return web.Response(text='{"metadata":{"resourceVersion":"7"},"items":[{"c":3}]}')

    client = await serve(handler)
    found = await client.list(SERVICES, label_selector="app=nginx")
    assert found.items == (b'{"a":1}', b'{"b":2}', b'{"c":3}')
    assert found.revision == "7"


@pytest.mark.parametrize("refused", [422, 410, 0])
async def test_a_server_without_initial_events_is_asked_for_them_once(
    serve: Serve, refused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.query["resourceVersionMatch"] == "NotOlderThan"
        asked.append(request.query["sendInitialEvents"])
        if refused:
            return web.Response(status=refused, text='{"reason":"Invalid","message":"forbidden"}')
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b'{"type":"ADDED","object":{"metadata":{}}}\n')
        await asyncio.sleep(5)
        return stream

    monkeypatch.setattr(kube, "INITIAL_SILENCE_SECONDS", 0.05)
    client = await serve(handler)
    for _ in range(2):
        with pytest.raises(StreamingUnsupported):
            async for _ in client.watch(SERVICES, ""):
                pass
    assert asked == ["true"]


async def test_initial_events_end_with_a_marked_bookmark(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        mark = '{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}'
        lines = ['{"type":"ADDED","object":{"metadata":{}}}', f'{{"type":"BOOKMARK","object":{mark}}}']
        lines.append('{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"10"}}}')
        return web.Response(text="".join(f"{line}\n" for line in lines))

    client = await serve(handler)
    types = [event.type async for event in client.watch(SERVICES, "")]
    assert types == ["OPENED", "ADDED", "SYNCED", "BOOKMARK"]


async def test_a_revision_from_the_future_is_told_apart(serve: Serve) -> None:
    async def handler(_: web.Request) -> web.Response:
        cause = '{"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}]}'
        return web.Response(status=504, text=f'{{"code":504,"reason":"Timeout","details":{cause}}}')

    client = await serve(handler)
    with pytest.raises(FutureRevision):
        async for _ in client.watch(SERVICES, "9"):
            pass


async def test_an_empty_list_may_say_null(serve: Serve) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text='{"metadata":{"resourceVersion":"7"},"items":null}')

    assert (await (await serve(handler)).list(SERVICES)).items == ()


async def test_events_larger_than_a_chunk_and_several_in_one(serve: Serve) -> None:
    big = "x" * 300_000

    async def handler(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(
            b'{"type":"ADDED","object":{"n":1}}\n{"type":"MODIFIED","object":{"n":2}}\n{"type":"DEL'
        )
        await stream.write(f'ETED","object":{{"n":"{big}"}}}}\n'.encode())
        return stream

    client = await serve(handler)
    events = [event async for event in client.watch(SERVICES, "5")]
    assert [event.type for event in events] == ["OPENED", "ADDED", "MODIFIED", "DELETED"]
    assert events[2].object == b'{"n":2}'
    assert len(events[3].object) > 300_000


@pytest.mark.parametrize("tail", [b'{"type":"ADDED","object":{"n"', b'{"type":"ADDED","obj\n'])
async def test_a_watch_cut_in_mid_event_is_unavailable(serve: Serve, tail: bytes) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b'{"type":"ADDED","object":{"n":1}}\n' + tail)
        return stream

    client = await serve(handler)
    seen = []
    with pytest.raises(Unavailable):
        async for event in client.watch(SERVICES, "5"):
            seen.append(event.type)
    assert seen == ["OPENED", "ADDED"]


@pytest.mark.parametrize("inside", [True, False])
async def test_a_revision_that_is_gone_is_compacted(serve: Serve, inside: bool) -> None:
    status = b'{"kind":"Status","code":410,"reason":"Expired","message":"too old resource version"}'

    async def handler(request: web.Request) -> web.StreamResponse:
        if not inside:
            return web.Response(status=410, body=status)
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b'{"type":"ERROR","object":' + status + b"}\n")
        return stream

    client = await serve(handler)
    with pytest.raises(Compacted):
        async for event in client.watch(SERVICES, "5"):
            assert event.type == "OPENED"


async def test_the_servers_refusal_is_told_as_it_said_it(serve: Serve) -> None:
    async def handler(_: web.Request) -> web.Response:
        text = '{"kind":"Status","code":409,"reason":"AlreadyExists","message":"services \\"a\\" already exists"}'
        return web.Response(status=409, text=text)

    client = await serve(handler)
    with pytest.raises(ApiError, match='services "a" already exists') as refused:
        await client.create(SERVICES, "default", {"metadata": {"name": "a"}})
    assert (refused.value.code, refused.value.reason) == (409, "AlreadyExists")


@pytest.mark.parametrize("code", [429, 503])
async def test_a_server_that_cannot_now_is_unavailable(serve: Serve, code: int) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=code, text="busy")

    with pytest.raises(Unavailable):
        await (await serve(handler)).get(SERVICES, "default", "a")


async def test_no_server_is_unavailable() -> None:
    async with KubeClient("http://127.0.0.1:1") as client:
        with pytest.raises(Unavailable):
            await client.list(SERVICES)


async def test_a_cancelled_watch_closes_its_connection(serve: Serve) -> None:
    gone = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b'{"type":"ADDED","object":{}}\n')
        try:
            while True:
                await asyncio.sleep(0.01)
                await stream.write(b" ")
        except (ConnectionError, asyncio.CancelledError):
            gone.set()
            raise

    client = await serve(handler)
    stream = client.watch(SERVICES, "5")
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.wait_for(gone.wait(), 5)
