"""etcd v3's JSON gateway over any store: what curl, flanneld and `kubeproxy.store.etcd` speak to.

Served are /v3/kv/{range,put,deleterange,txn,compaction}, /v3/lease/* (and the older /v3/kv/lease/*),
/v3/watch, /v3/maintenance/status, /version and /health. Requests and answers are translated by
`kubeproxy.store.gateway_codec`; watches stream in `kubeproxy.store.gateway_watch`. There is no authentication:
bind it to loopback or to a network that is trusted.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from kubeproxy.store.base import LeaseNotFound, Range, Store, StoreError
from kubeproxy.store.gateway_codec import (
    MEMBER,
    CompactionRequest,
    DeleteRangeRequest,
    Failure,
    LeaseRequest,
    PutRequest,
    RangeRequest,
    TxnRequest,
    decode,
    failure,
    header,
    lean,
    operation_response,
    operations,
    range_response,
    write_response,
)
from kubeproxy.store.gateway_watch import PROGRESS_SECONDS, WRITE_SECONDS, Watches

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 << 20
"""Above 1.5 MiB of keys and values in base64, with room for names."""
API_VERSION = "3.5.0"
"""The etcd release whose API is spoken."""

Handler = Callable[[bytes], Awaitable[dict[str, Any]]]


def gateway_app(
    store: Store, *, progress_seconds: float = PROGRESS_SECONDS, write_seconds: float = WRITE_SECONDS
) -> web.Application:
    """Build the application. The two times are a silent watch's heartbeat and a stuck reader's end."""
    calls = _Calls(store)
    watches = Watches(store, progress_seconds, write_seconds)

    async def version(_: web.Request) -> web.Response:
        return _json({"etcdserver": API_VERSION, "etcdcluster": API_VERSION})

    async def health(_: web.Request) -> web.Response:
        await calls.revision()
        return _json({"health": "true"})

    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_answer_errors])
    app.router.add_get("/version", version)
    app.router.add_get("/health", health)
    app.router.add_post("/v3/watch", watches.handle)
    app.on_shutdown.append(watches.stop)
    for path, call in calls.by_path().items():
        app.router.add_post(path, _unary(call))
    return app


class _Calls:
    """The unary calls: a body in, a message out."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def by_path(self) -> dict[str, Handler]:
        leases: dict[str, Handler] = {
            "revoke": self.revoke,
            "timetolive": self.time_to_live,
            "leases": self.leases,
        }
        return {
            "/v3/kv/range": self.range,
            "/v3/kv/put": self.put,
            "/v3/kv/deleterange": self.delete_range,
            "/v3/kv/txn": self.txn,
            "/v3/kv/compaction": self.compaction,
            "/v3/lease/grant": self.grant,
            "/v3/lease/keepalive": self.keep_alive,
            "/v3/maintenance/status": self.status,
            **{f"/v3/lease/{name}": call for name, call in leases.items()},
            **{f"/v3/kv/lease/{name}": call for name, call in leases.items()},
        }

    async def revision(self) -> int:
        """Ask for the store's revision."""
        return (await self._store.range(Range(key=b"\0", count_only=True))).revision

    async def range(self, body: bytes) -> dict[str, Any]:
        return range_response(await self._store.range(decode(body, RangeRequest).operation()))

    async def put(self, body: bytes) -> dict[str, Any]:
        return await self._write(decode(body, PutRequest))

    async def delete_range(self, body: bytes) -> dict[str, Any]:
        return await self._write(decode(body, DeleteRangeRequest))

    async def _write(self, request: PutRequest | DeleteRangeRequest) -> dict[str, Any]:
        done = await self._store.txn((), (request.operation(),))
        return write_response(done.results[0], done.revision, with_previous=request.prev_kv)

    async def txn(self, body: bytes) -> dict[str, Any]:
        request = decode(body, TxnRequest)
        done = await self._store.txn(
            request.conditions(), operations(request.success), operations(request.failure)
        )
        branch = request.success if done.succeeded else request.failure
        responses = [
            operation_response(op.request(), result, done.revision)
            for op, result in zip(branch, done.results, strict=True)
        ]
        return lean(header=header(done.revision), succeeded=done.succeeded, responses=responses)

    async def compaction(self, body: bytes) -> dict[str, Any]:
        await self._store.compact(decode(body, CompactionRequest).revision)
        return lean(header=header(await self.revision()))

    async def grant(self, body: bytes) -> dict[str, Any]:
        request = decode(body, LeaseRequest)
        lease = await self._store.lease_grant(request.TTL, request.ID)
        return lean(header=header(await self.revision()), ID=lease.id, TTL=lease.ttl)

    async def keep_alive(self, body: bytes) -> dict[str, Any]:
        """A stream of one; a lease that is gone is told by a missing TTL, as etcd does."""
        lease_id = decode(body, LeaseRequest).ID
        try:
            ttl = await self._store.lease_keep_alive(lease_id)
        except LeaseNotFound:
            ttl = 0
        return {"result": lean(header=header(await self.revision()), ID=lease_id, TTL=ttl)}

    async def revoke(self, body: bytes) -> dict[str, Any]:
        await self._store.lease_revoke(decode(body, LeaseRequest).ID)
        return lean(header=header(await self.revision()))

    async def time_to_live(self, body: bytes) -> dict[str, Any]:
        request = decode(body, LeaseRequest)
        status = await self._store.lease_time_to_live(request.ID)
        return lean(
            header=header(await self.revision()),
            ID=status.id,
            TTL=status.remaining,
            grantedTTL=status.granted,
            keys=list(status.keys) if request.keys else [],
        )

    async def leases(self, _: bytes) -> dict[str, Any]:
        ids = await self._store.lease_list()
        return lean(header=header(await self.revision()), leases=[lean(ID=lease_id) for lease_id in ids])

    async def status(self, _: bytes) -> dict[str, Any]:
        errors = [f"memberID:{MEMBER} alarm:{alarm} " for alarm in await self._store.alarms()]
        return lean(header=header(await self.revision()), version=API_VERSION, leader=MEMBER, errors=errors)


def _unary(call: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        return _json(await call(await request.read()))

    return handle


@web.middleware
async def _answer_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except StoreError as error:
        answer = failure(error)
        if answer.status >= 500:
            log.warning("%s answered %d: %s", request.path, answer.status, answer.message)
    except web.HTTPRequestEntityTooLarge:
        answer = Failure(3, 400, "etcdserver: request is too large")
    except web.RequestPayloadError as error:
        answer = Failure(3, 400, " ".join(str(error).split()))
    except (web.HTTPException, ConnectionError):
        raise
    except Exception:
        # A bug of ours: the client learns of it as of any other failure, the log has the trace.
        log.exception("%s failed", request.path)
        answer = Failure(13, 500, "internal error (the server's log has more)")
    return web.Response(status=answer.status, body=answer.body(), content_type="application/json")


def _json(message: dict[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(message), content_type="application/json")
