"""The gateway's JSON, byte for byte as real etcd 3.4 answers the same requests, and how it treats bad clients."""

import asyncio
import base64
import json
import logging
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from kubeproxy.clock import ManualClock
from kubeproxy.store.base import Put, put
from kubeproxy.store.sqlite import SqliteStore
from tests.store_engines import reset_in_mid_request, served

pytestmark = pytest.mark.unit


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest_asyncio.fixture
async def store() -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(":memory:", clock=ManualClock()) as opened:
        yield opened


@pytest_asyncio.fixture
async def url(store: SqliteStore) -> AsyncIterator[str]:
    async with served(store, progress_seconds=0.1, write_seconds=0.5) as address:
        yield address


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Caller:
    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http, self.url = http, url

    async def __call__(self, path: str, request: dict[str, Any] | bytes) -> tuple[int, Any]:
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        async with self.http.post(self.url + path, data=body) as response:
            assert response.content_type == "application/json"
            return response.status, _without_header(json.loads(await response.read()))


def _without_header(answer: dict[str, Any]) -> dict[str, Any]:
    """Leave of each header what a test can know."""
    for value in answer.values():
        if isinstance(value, dict):
            _without_header(value)
    if "header" in answer:
        answer["header"] = answer["header"].get("revision")
    return answer


@pytest.fixture
def call(http: aiohttp.ClientSession, url: str) -> Caller:
    return Caller(http, url)


A, ONE, TWO = b64("a"), b64("1"), b64("2")


async def test_puts_and_ranges(call: Caller) -> None:
    assert await call("/v3/kv/put", {"key": A, "value": ONE}) == (200, {"header": "2"})
    first = {"key": A, "create_revision": "2", "mod_revision": "2", "version": "1", "value": ONE}
    assert await call("/v3/kv/put", {"key": A, "value": TWO, "prev_kv": True}) == (
        200,
        {"header": "3", "prev_kv": first},
    )
    second = {"key": A, "create_revision": "2", "mod_revision": "3", "version": "2", "value": TWO}
    assert await call("/v3/kv/range", {"key": A}) == (200, {"header": "3", "kvs": [second], "count": "1"})
    assert await call("/v3/kv/range", {"key": A, "revision": "2"}) == (
        200,
        {"header": "3", "kvs": [first], "count": "1"},
    )
    assert await call("/v3/kv/range", {"key": A, "count_only": True}) == (200, {"header": "3", "count": "1"})
    assert await call("/v3/kv/range", {"key": b64("none")}) == (200, {"header": "3"})
    assert await call("/v3/kv/deleterange", {"key": A, "prev_kv": True}) == (
        200,
        {"header": "4", "deleted": "1", "prev_kvs": [second]},
    )
    assert await call("/v3/kv/deleterange", {"key": A}) == (200, {"header": "4"})


async def test_flannels_operations(call: Caller) -> None:
    """Acquire a subnet as flannel does: grant, create if absent, ask for the time left, revoke."""
    key, value = b64("/coreos.com/network/subnets/10.5.34.0-24"), b64('{"PublicIP":"192.168.64.3"}')
    assert await call("/v3/lease/grant", {"TTL": "86400", "ID": "7"}) == (
        200,
        {"header": "1", "ID": "7", "TTL": "86400"},
    )
    acquire = {
        "compare": [{"key": key, "target": "VERSION", "result": "EQUAL", "version": "0"}],
        "success": [{"request_put": {"key": key, "value": value, "lease": "7"}}],
        "failure": [{"request_range": {"key": key}}],
    }
    assert await call("/v3/kv/txn", acquire) == (
        200,
        {"header": "2", "succeeded": True, "responses": [{"response_put": {"header": _header("2")}}]},
    )
    status, answer = await call("/v3/kv/txn", acquire)
    assert (status, answer["header"], "succeeded" in answer) == (200, "2", False)
    assert answer["responses"][0]["response_range"]["kvs"][0]["lease"] == "7"
    assert await call("/v3/lease/timetolive", {"ID": "7", "keys": True}) == (
        200,
        {"header": "2", "ID": "7", "TTL": "86400", "grantedTTL": "86400", "keys": [key]},
    )
    assert await call("/v3/lease/timetolive", {"ID": 0}) == (200, {"header": "2", "TTL": "-1"})
    assert await call("/v3/lease/keepalive", {"ID": 7}) == (
        200,
        {"result": {"header": "2", "ID": "7", "TTL": "86400"}},
    )
    assert await call("/v3/lease/keepalive", {"ID": 8}) == (200, {"result": {"header": "2", "ID": "8"}})
    assert await call("/v3/lease/leases", {}) == (200, {"header": "2", "leases": [{"ID": "7"}]})
    assert await call("/v3/kv/lease/revoke", {"ID": 7}) == (200, {"header": "3"})
    assert await call("/v3/kv/range", {"key": key}) == (200, {"header": "3"})


def _header(revision: str) -> dict[str, str]:
    return {"cluster_id": "1", "member_id": "1", "revision": revision, "raft_term": "1"}


@pytest.mark.parametrize(
    ("path", "request_", "status", "code", "message"),
    [
        ("kv/put", {"key": A, "lease": 9}, 404, 5, "etcdserver: requested lease not found"),
        ("kv/range", {"key": ""}, 400, 3, "etcdserver: key is not provided"),
        (
            "kv/range",
            {"key": A, "revision": 50},
            400,
            11,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        ("kv/range", {"key": A, "revision": 1}, 400, 11, "etcdserver: mvcc: required revision has been compacted"),
        ("kv/compaction", {"revision": 2}, 400, 11, "etcdserver: mvcc: required revision has been compacted"),
        ("lease/revoke", {"ID": 9}, 404, 5, "etcdserver: requested lease not found"),
        ("lease/grant", {"ID": 5, "TTL": 5}, 412, 9, "etcdserver: lease already exists"),
        (
            "kv/txn",
            {"success": [{"request_put": {"key": A}}, {"request_put": {"key": A}}]},
            400,
            3,
            "etcdserver: duplicate key given in txn request",
        ),
    ],
)
async def test_errors_are_etcds(
    call: Caller, store: SqliteStore, path: str, request_: dict[str, Any], status: int, code: int, message: str
) -> None:
    await put(store, b"a", b"")
    await store.compact(2)
    await store.lease_grant(5, 5)
    assert await call(f"/v3/{path}", request_) == (status, {"error": message, "code": code, "message": message})


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("kv/range", b"xx", "invalid request: JSON is malformed"),
        ("kv/range", b"[]", "Expected `object`, got `array`"),
        ("kv/range", b'{"key": "%"}', "Invalid base64"),
        ("kv/range", b'{"key": "YQ==", "revision": "many"}', "$.revision"),
        ("kv/range", b'{"key": "YQ==", "revision": 99999999999999999999}', "is not a 64-bit integer"),
        ("kv/range", b'{"key": "YQ==", "sort_order": "DESCEND"}', "unknown field `sort_order`"),
        ("kv/txn", b'{"success": [{}]}', "one of a range, a put and a deletion"),
        ("kv/txn", b'{"compare": [{"key": "YQ==", "target": "SIZE"}]}', "Invalid enum value 'SIZE'"),
        ("kv/txn", b'{"success": [{"request_txn": {}}]}', "unknown field `request_txn`"),
        ("watch", b"{}", "create_request"),
        ("watch", b'{"create_request": {"key": ""}}', "key is not provided"),
        ("kv/put", b'{"key": "YQ==", "value": "' + b"A" * (3 << 20) + b'"}', "request is too large"),
        ("kv/put", b'{"key": "YQ==", "value": "' + b"A" * (5 << 20) + b'"}', "request is too large"),
    ],
)
async def test_bad_requests_are_refused(call: Caller, path: str, body: bytes, message: str) -> None:
    status, answer = await call(f"/v3/{path}", body)
    assert (status, answer["code"]) == (400, 3)
    assert message in answer["message"]
    assert len(answer["message"]) < 300


async def test_health_follows_the_store(http: aiohttp.ClientSession, url: str, store: SqliteStore) -> None:
    async with http.get(f"{url}/health") as response:
        assert await response.json() == {"health": "true"}
    async with http.get(f"{url}/version") as response:
        assert set(await response.json()) == {"etcdserver", "etcdcluster"}
    await store.close()
    async with http.get(f"{url}/health") as response:
        assert response.status == 503


async def test_half_a_request_leaves_no_trace(url: str, call: Caller, caplog: pytest.LogCaptureFixture) -> None:
    await reset_in_mid_request(url, "/v3/kv/range")
    await call("/v3/kv/range", {"key": A})
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class TestWatch:
    async def lines(self, http: aiohttp.ClientSession, url: str, count: int, **asked: Any) -> list[Any]:
        found = []
        async with http.post(f"{url}/v3/watch", json={"create_request": asked}) as response:
            async with asyncio.timeout(5):
                while len(found) < count:
                    line = json.loads(await response.content.readline())
                    found.append(_without_header(line)["result"])
        return found

    async def test_created_then_events(self, http: aiohttp.ClientSession, url: str, store: SqliteStore) -> None:
        await put(store, b"a", b"1")
        await store.txn((), (Put(key=b"a", value=b"2"), Put(key=b"b", value=b"2")))
        old = {"key": A, "create_revision": "2", "mod_revision": "2", "version": "1", "value": ONE}
        new = {"key": A, "create_revision": "2", "mod_revision": "3", "version": "2", "value": TWO}
        assert await self.lines(http, url, 2, key=A, start_revision="3", prev_kv=True, watch_id=5) == [
            {"header": "2", "created": True, "watch_id": "5"},
            {"header": "3", "events": [{"kv": new, "prev_kv": old}], "watch_id": "5"},
        ]
        plain = await self.lines(http, url, 2, key=A, start_revision=3)
        assert plain[1]["events"] == [{"kv": new}]

    async def test_filters(self, http: aiohttp.ClientSession, url: str, store: SqliteStore, call: Caller) -> None:
        await put(store, b"a", b"1")
        await call("/v3/kv/deleterange", {"key": A})
        (_, only) = await self.lines(http, url, 2, key=A, start_revision=2, filters=["NOPUT"])
        assert only["events"] == [{"kv": {"key": A, "mod_revision": "3"}, "type": "DELETE"}]

    async def test_progress(self, http: aiohttp.ClientSession, url: str) -> None:
        found = await self.lines(http, url, 3, key=A, progress_notify=True)
        assert found == [{"header": "1", "created": True}, {"header": "1"}, {"header": "1"}]

    async def test_compacted(self, http: aiohttp.ClientSession, url: str, store: SqliteStore) -> None:
        for _ in range(5):
            await put(store, b"a", b"")
        await store.compact(4)
        created, canceled = await self.lines(http, url, 2, key=A, start_revision=2)
        assert created["created"]
        assert (canceled["canceled"], canceled["compact_revision"]) == (True, "4")

    async def test_a_store_that_closes_cancels(
        self, http: aiohttp.ClientSession, url: str, store: SqliteStore
    ) -> None:
        reading = asyncio.create_task(self.lines(http, url, 2, key=A))
        await asyncio.sleep(0.05)
        await store.close()
        assert (await reading)[1]["canceled"]

    async def test_one_that_does_not_read_is_cut_off(self, url: str, store: SqliteStore) -> None:
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps({"create_request": {"key": A}}).encode()
        with socket.create_connection((host, int(port))) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(
                b"POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            await asyncio.sleep(0.05)
            watching = _watch_tasks()
            assert watching
            for _ in range(40):
                await put(store, b"a", b"x" * 1_000_000)
            await _ended(watching, 5)

    async def test_one_that_leaves_is_forgotten(self, http: aiohttp.ClientSession, url: str) -> None:
        await self.lines(http, url, 1, key=A)
        await _ended(_watch_tasks(), 2)


def _watch_tasks() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if "_next" in repr(task.get_coro())]


async def _ended(tasks: list[asyncio.Task[Any]], seconds: float) -> None:
    """Wait until no watch of the store is being read for a client."""
    deadline = time.monotonic() + seconds
    while _watch_tasks():
        assert time.monotonic() < deadline, "the watch is still there"
        await asyncio.sleep(0.02)
