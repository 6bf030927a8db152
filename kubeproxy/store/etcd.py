"""etcd as the store, over its JSON gateway: etcd's own (3.4 and newer) or the one in `kubeproxy.store.gateway`.

A plain HTTP client and not a library, because none gives several endpoints, compaction errors and resumable
watches together. Calls go to the endpoint that answered last; one that cannot be reached is passed over for the
next. A write is only repeated elsewhere when it was certainly not sent; otherwise the caller gets Unavailable
and decides.

A watch is one long response. Silence on it may mean a quiet store, a stopped server, or a connection that is
gone without a word. So a silent stream is checked by a call to the same endpoint, and the connection itself by
TCP keep-alives.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from kubeproxy.store import etcd_codec as codec
from kubeproxy.store.base import (
    Compacted,
    Compare,
    Lease,
    LeaseNotFound,
    LeaseStatus,
    Operation,
    Range,
    RangeResult,
    StoreError,
    TxnResult,
    Unavailable,
    WatchBatch,
)
from kubeproxy.store.limits import check_watch

T = TypeVar("T")

CALL_SECONDS = 5.0
IDLE_SECONDS = 10.0
REFUSAL_SECONDS = 1.0
_KEEPALIVE = MappingProxyType(
    {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}
)


class EtcdStore:
    """`Store` on etcd. Endpoints are URLs such as http://10.0.0.1:2379; use from one event loop, then `close`."""

    def __init__(
        self, endpoints: Sequence[str], *, call_seconds: float = CALL_SECONDS, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        if not endpoints:
            raise ValueError("etcd needs at least one endpoint")
        self._endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        self._preferred = 0
        self._timeout = aiohttp.ClientTimeout(total=call_seconds)
        self._idle_seconds = idle_seconds
        self._http: aiohttp.ClientSession | None = None
        self._watches: set[aiohttp.ClientResponse] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
        for response in tuple(self._watches):
            response.close()
        if self._http is not None:
            await self._http.close()

    # The contract

    async def range(self, request: Range) -> RangeResult:
        """See `Store.range`."""
        answer = await self._read("/v3/kv/range", codec.range_request(request), codec.RangeResponse)
        return answer.result()

    async def txn(
        self, compare: tuple[Compare, ...], success: tuple[Operation, ...], failure: tuple[Operation, ...] = ()
    ) -> TxnResult:
        """See `Store.txn`."""
        request = codec.txn_request(compare, success, failure)
        answer = await self._write("/v3/kv/txn", request, codec.TxnResponse)
        return answer.result(success if answer.succeeded else failure)

    async def watch(
        self, key: bytes, range_end: bytes = b"", start_revision: int = 0
    ) -> AsyncIterator[WatchBatch]:
        """See `Store.watch`."""
        check_watch(key, range_end, start_revision)
        endpoint, response = await self._open_watch(codec.watch_request(key, range_end, start_revision))
        told = start_revision - 1
        self._watches.add(response)
        try:
            async for line in self._lines(endpoint, response):
                answer = codec.decode(line, codec.WatchLine).answer()
                if answer.created:
                    told = start_revision - 1 if start_revision > 0 else answer.header.revision
                    yield WatchBatch(revision=told)
                elif batch := answer.batch(told):
                    told = batch.revision
                    yield batch
        finally:
            self._watches.discard(response)
            response.close()
        if not self._closed:
            raise Unavailable(f"etcd {endpoint}: the watch ended")

    async def compact(self, revision: int) -> None:
        """See `Store.compact`."""
        await self._write("/v3/kv/compaction", {"revision": revision}, codec.HeaderResponse)

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> Lease:
        """See `Store.lease_grant`."""
        answer = await self._write("/v3/lease/grant", {"TTL": ttl, "ID": lease_id}, codec.LeaseResponse)
        return Lease(id=answer.ID, ttl=answer.TTL)

    async def lease_keep_alive(self, lease_id: int) -> int:
        """See `Store.lease_keep_alive`."""
        answer = await self._read("/v3/lease/keepalive", {"ID": lease_id}, codec.KeepAliveLine)
        if answer.result.TTL <= 0:
            raise LeaseNotFound("requested lease not found")
        return answer.result.TTL

    async def lease_revoke(self, lease_id: int) -> None:
        """See `Store.lease_revoke`."""
        await self._write("/v3/lease/revoke", {"ID": lease_id}, codec.HeaderResponse)

    async def lease_time_to_live(self, lease_id: int) -> LeaseStatus:
        """See `Store.lease_time_to_live`."""
        request = {"ID": lease_id, "keys": True}
        answer = await self._read("/v3/lease/timetolive", request, codec.TimeToLiveResponse)
        return LeaseStatus(
            id=lease_id, remaining=answer.TTL, granted=answer.grantedTTL, keys=tuple(sorted(answer.keys))
        )

    async def lease_list(self) -> tuple[int, ...]:
        """See `Store.lease_list`."""
        answer = await self._read("/v3/lease/leases", {}, codec.LeasesResponse)
        return tuple(lease.ID for lease in answer.leases)

    # Calls

    async def _read(self, path: str, request: dict[str, Any], kind: type[T]) -> T:
        """Ask each endpoint in turn: a read may be repeated."""
        failed: Unavailable | None = None
        for _ in range(len(self._endpoints) + 1):
            endpoint = self._endpoint()
            try:
                return await self._call(endpoint, path, request, kind)
            except Unavailable as error:
                failed = error
                self._pass_over(endpoint)
        assert failed is not None
        raise failed

    async def _write(self, path: str, request: dict[str, Any], kind: type[T]) -> T:
        """Ask each endpoint in turn until one may have got it."""
        failed: NotSent | None = None
        for _ in self._endpoints:
            endpoint = self._endpoint()
            try:
                return await self._call(endpoint, path, request, kind)
            except NotSent as error:
                failed = error
                self._pass_over(endpoint)
            except Unavailable:
                self._pass_over(endpoint)
                raise
        assert failed is not None
        raise failed

    async def _call(self, endpoint: str, path: str, request: dict[str, Any], kind: type[T]) -> T:
        body = msgspec.json.encode(request)
        try:
            async with self._session().post(endpoint + path, data=body, timeout=self._timeout) as response:
                answer = await response.read()
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"etcd {endpoint}: {error}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"etcd {endpoint}: {str(error) or 'no answer in time'}") from error
        if response.status == 200:
            return codec.decode(answer, kind)
        refusal = codec.error(response.status, answer)
        raise Compacted(await self._oldest()) if isinstance(refusal, Compacted) else refusal

    def _session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise Unavailable("the etcd client is closed")
        if self._http is None:
            # No limit: each watch holds a connection.
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), headers={"Content-Type": "application/json"}
            )
        return self._http

    def _endpoint(self) -> str:
        return self._endpoints[self._preferred]

    def _pass_over(self, endpoint: str) -> None:
        """Prefer the next endpoint, unless another call has already moved on."""
        if endpoint == self._endpoint():
            self._preferred = (self._preferred + 1) % len(self._endpoints)

    async def _oldest(self) -> int:
        """Learn the oldest revision held (0: unknown): only the refusal of a watch says it, and at once."""
        with suppress(Unavailable, TimeoutError):
            try:
                async with asyncio.timeout(REFUSAL_SECONDS):
                    async for _ in self.watch(b"\0", start_revision=1):
                        pass
            except Compacted as error:
                return error.revision
        return 0

    # Watches

    async def _open_watch(self, request: dict[str, Any]) -> tuple[str, aiohttp.ClientResponse]:
        failed: StoreError | None = None
        for _ in self._endpoints:
            endpoint = self._endpoint()
            try:
                return endpoint, await self._start_watch(endpoint, request)
            except Unavailable as error:
                failed = error
                self._pass_over(endpoint)
        assert failed is not None
        raise failed

    async def _start_watch(self, endpoint: str, request: dict[str, Any]) -> aiohttp.ClientResponse:
        body = msgspec.json.encode(request)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout.total)
        try:
            async with asyncio.timeout(self._timeout.total):
                response = await self._session().post(f"{endpoint}/v3/watch", data=body, timeout=timeout)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"etcd {endpoint}: {str(error) or 'no answer in time'}") from error
        if response.status != 200:
            raise codec.error(response.status, await response.read())
        _keep_alive(response)
        return response

    async def _lines(self, endpoint: str, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Cut the stream into lines; whenever it is silent, ask whether the endpoint still lives."""
        rest: list[bytes] = []
        while chunk := await self._chunk(endpoint, response):
            *lines, last = chunk.split(b"\n")
            for line in lines:
                rest.append(line)
                if whole := b"".join(rest):
                    yield whole
                rest = []
            rest.append(last)

    async def _chunk(self, endpoint: str, response: aiohttp.ClientResponse) -> bytes:
        """Return the next bytes, none when the stream ended as it should."""
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    return await response.content.readany()
            except TimeoutError:
                await self._call(endpoint, "/v3/kv/range", codec.PROBE, codec.RangeResponse)
            except (aiohttp.ClientError, ConnectionError) as error:
                if self._closed:
                    return b""
                raise Unavailable(f"etcd {endpoint}: the watch broke: {error}") from error


class NotSent(Unavailable):
    """No connection: the request cannot have had an effect."""


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    connection = response.connection
    if connection is None or connection.transport is None:
        return  # Already over; reading it will say so.
    transport = connection.transport.get_extra_info("socket")
    transport.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        transport.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
