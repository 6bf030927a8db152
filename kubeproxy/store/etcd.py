"""etcd as the store, over its JSON gateway: etcd's own (3.4 and newer) or the one in `kubeproxy.store.gateway`.

A plain HTTP client and not a library, because none gives several endpoints, compaction errors and resumable
watches together; `kubeproxy.store.etcd_calls` says what a call does about endpoints and tokens.

A watch is one long response. Silence on it may mean a quiet store, a stopped server, or a connection that is
gone without a word. So a silent stream is checked by a call to the same endpoint, and the connection itself by
TCP keep-alives.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import Self

import aiohttp

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
    Refused,
    TxnResult,
    Unavailable,
    WatchBatch,
)
from kubeproxy.store.etcd_access import EtcdAccess
from kubeproxy.store.etcd_calls import EtcdCalls
from kubeproxy.store.limits import check_watch
from kubeproxy.store.trouble import in_words

CALL_SECONDS = 5.0
IDLE_SECONDS = 10.0
REFUSAL_SECONDS = 1.0
_ANYBODY = EtcdAccess()
_KEEPALIVE = MappingProxyType(
    {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}
)


class EtcdStore:
    """`Store` on etcd. Endpoints are URLs such as http://10.0.0.1:2379; use from one event loop, then `close`."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        access: EtcdAccess = _ANYBODY,
        call_seconds: float = CALL_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._calls = EtcdCalls(endpoints, access, call_seconds)
        self._idle_seconds = idle_seconds
        self._watches: set[aiohttp.ClientResponse] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """See `Store.close`."""
        self._calls.closed = True
        for response in tuple(self._watches):
            response.close()
        await self._calls.close()

    # The contract

    async def range(self, request: Range) -> RangeResult:
        """See `Store.range`."""
        async with self._telling_oldest(request.key):
            answer = await self._calls.read("/v3/kv/range", codec.range_request(request), codec.RangeResponse)
        return answer.result()

    async def txn(
        self, compare: tuple[Compare, ...], success: tuple[Operation, ...], failure: tuple[Operation, ...] = ()
    ) -> TxnResult:
        """See `Store.txn`."""
        request = codec.txn_request(compare, success, failure)
        async with self._telling_oldest(_read_key(success + failure)):
            answer = await self._calls.write("/v3/kv/txn", request, codec.TxnResponse)
        return answer.result(success if answer.succeeded else failure)

    async def watch(
        self, key: bytes, range_end: bytes = b"", start_revision: int = 0
    ) -> AsyncIterator[WatchBatch]:
        """See `Store.watch`."""
        check_watch(key, range_end, start_revision)
        request = codec.watch_request(key, range_end, start_revision)
        endpoint, response = await self._calls.stream("/v3/watch", request, key)
        _keep_alive(response)
        told = start_revision - 1
        self._watches.add(response)
        try:
            async for line in self._lines(endpoint, response, key):
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
        if not self._calls.closed:
            raise Unavailable(f"etcd {endpoint}: the watch ended")

    async def compact(self, revision: int) -> None:
        """See `Store.compact`."""
        async with self._telling_oldest(b"\0"):
            await self._calls.write("/v3/kv/compaction", {"revision": revision}, codec.HeaderResponse)

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> Lease:
        """See `Store.lease_grant`."""
        answer = await self._calls.write("/v3/lease/grant", {"TTL": ttl, "ID": lease_id}, codec.LeaseResponse)
        return Lease(id=answer.ID, ttl=answer.TTL)

    async def lease_keep_alive(self, lease_id: int) -> int:
        """See `Store.lease_keep_alive`."""
        answer = await self._calls.read("/v3/lease/keepalive", {"ID": lease_id}, codec.KeepAliveLine)
        if answer.result.TTL <= 0:
            raise LeaseNotFound("requested lease not found")
        return answer.result.TTL

    async def lease_revoke(self, lease_id: int) -> None:
        """See `Store.lease_revoke`."""
        await self._calls.write("/v3/lease/revoke", {"ID": lease_id}, codec.HeaderResponse)

    async def lease_time_to_live(self, lease_id: int) -> LeaseStatus:
        """See `Store.lease_time_to_live`."""
        request = {"ID": lease_id, "keys": True}
        answer = await self._calls.read("/v3/lease/timetolive", request, codec.TimeToLiveResponse)
        return LeaseStatus(
            id=lease_id, remaining=answer.TTL, granted=answer.grantedTTL, keys=tuple(sorted(answer.keys))
        )

    async def lease_list(self) -> tuple[int, ...]:
        """See `Store.lease_list`."""
        answer = await self._calls.read("/v3/lease/leases", {}, codec.LeasesResponse)
        return tuple(lease.ID for lease in answer.leases)

    async def alarms(self) -> tuple[str, ...]:
        """See `Store.alarms`; a user who may not ask learns of none."""
        try:
            return (await self._calls.read("/v3/maintenance/status", {}, codec.MemberStatus)).alarms()
        except Refused:
            return ()

    # Watches

    @asynccontextmanager
    async def _telling_oldest(self, key: bytes) -> AsyncIterator[None]:
        """Complete `Compacted`: only a watch's refusal says the oldest revision held (0: unknown), and at once."""
        try:
            yield
        except Compacted:
            raise Compacted(await self._oldest(key)) from None

    async def _oldest(self, key: bytes) -> int:
        with suppress(Refused, TimeoutError):
            async with asyncio.timeout(REFUSAL_SECONDS):
                while not self._calls.closed:
                    try:
                        async for _ in self.watch(key, start_revision=1):
                            pass
                    except Compacted as error:
                        return error.revision
                    except Unavailable:
                        await asyncio.sleep(REFUSAL_SECONDS / 20)
        return 0

    async def _lines(self, endpoint: str, response: aiohttp.ClientResponse, key: bytes) -> AsyncIterator[bytes]:
        """Cut the stream into lines; whenever it is silent, ask whether the endpoint still lives."""
        rest: list[bytes] = []
        while chunk := await self._chunk(endpoint, response, key):
            *lines, last = chunk.split(b"\n")
            for line in lines:
                rest.append(line)
                if whole := b"".join(rest):
                    yield whole
                rest = []
            rest.append(last)

    async def _chunk(self, endpoint: str, response: aiohttp.ClientResponse, key: bytes) -> bytes:
        """Return the next bytes, none when the stream ended as it should."""
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    return await response.content.readany()
            except TimeoutError:
                await self._calls.call(endpoint, "/v3/kv/range", codec.probe(key), codec.RangeResponse)
            except (aiohttp.ClientError, ConnectionError) as error:
                if self._calls.closed:
                    return b""
                raise Unavailable(f"etcd {endpoint}: the watch broke: {in_words(error)}") from error


def _read_key(operations: tuple[Operation, ...]) -> bytes:
    return next((operation.key for operation in operations if isinstance(operation, Range)), b"\0")


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    connection = response.connection
    if connection is None or connection.transport is None:
        return  # Already over; reading it will say so.
    transport = connection.transport.get_extra_info("socket")
    transport.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        transport.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
