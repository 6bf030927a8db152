"""etcd v3's JSON gateway over any store: what curl, flanneld and `kubeproxy.store.etcd` speak to.

Served are /v3/kv/{range,put,deleterange,txn,compaction}, /v3/lease/* (and the older /v3/kv/lease/*),
/v3/watch, /v3/maintenance/status, /version and /health. Requests and answers are translated by
`kubeproxy.store.gateway_codec`; watches stream in `kubeproxy.store.gateway_watch`. With users (`gateway_users`)
/v3/auth/authenticate gives the token that every other call needs; without, whoever reaches the gateway has the
whole store: bind it to loopback then.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from kubeproxy.local_only import foreign_name
from kubeproxy.store.base import LeaseNotFound, PermissionDenied, Refused, Store, StoreError
from kubeproxy.store.gateway_codec import (
    MEMBER,
    AuthenticateRequest,
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
from kubeproxy.store.gateway_door import SIGN_IN_BYTES, SignIns, TooManyRequests, read_body
from kubeproxy.store.gateway_users import GatewayUsers
from kubeproxy.store.gateway_watch import PROGRESS_SECONDS, WRITE_SECONDS, Watches
from kubeproxy.store.scoped import REVISION, ScopedStore

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 << 20
"""Above 1.5 MiB of keys and values in base64, with room for names."""
API_VERSION = "3.5.0"
"""The etcd release whose API is spoken."""

StoreOf = Callable[[web.Request], Store]


def gateway_app(
    store: Store,
    *,
    users: GatewayUsers | None = None,
    local_only: bool = False,
    progress_seconds: float = PROGRESS_SECONDS,
    write_seconds: float = WRITE_SECONDS,
) -> web.Application:
    """Build the application. The two times are a silent watch's heartbeat and a stuck reader's end.

    ``local_only``: refuse what a browser sends for a foreign page, where no credentials protect.
    """

    def store_of(request: web.Request) -> Store:
        """Return the store as the request's user sees it. Raises Refused, InvalidToken, PermissionDenied."""
        if local_only and (foreign := foreign_name(request.host, request.headers.get("Origin"))) is not None:
            log.warning("403 to a request for or from %.200r, on a port for local programs only", foreign)
            raise PermissionDenied
        if users is None:
            return store
        prefix = users.user(request.headers.get("Authorization", "")).prefix
        return ScopedStore(store, prefix) if prefix else store

    watches = Watches(store_of, progress_seconds, write_seconds)

    async def version(_: web.Request) -> web.Response:
        return _json({"etcdserver": API_VERSION, "etcdcluster": API_VERSION})

    async def health(_: web.Request) -> web.Response:
        await store.range(REVISION)
        return _json({"health": "true"})

    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_answer_errors])
    app.router.add_get("/version", version)
    app.router.add_get("/health", health)
    app.router.add_post("/v3/watch", watches.handle)
    app.on_shutdown.append(watches.stop)
    app.router.add_post("/v3/auth/authenticate", _authenticating(users))
    for path, call in CALLS.items():
        app.router.add_post(path, _unary(call, store_of))
    return app


class _Calls:
    """The unary calls: a body in, a message out."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def revision(self) -> int:
        """Ask for the store's revision."""
        return (await self._store.range(REVISION)).revision

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


Call = Callable[[_Calls, bytes], Awaitable[dict[str, Any]]]
_LEASES: Mapping[str, Call] = {
    "revoke": _Calls.revoke,
    "timetolive": _Calls.time_to_live,
    "leases": _Calls.leases,
}
CALLS: Mapping[str, Call] = {
    "/v3/kv/range": _Calls.range,
    "/v3/kv/put": _Calls.put,
    "/v3/kv/deleterange": _Calls.delete_range,
    "/v3/kv/txn": _Calls.txn,
    "/v3/kv/compaction": _Calls.compaction,
    "/v3/lease/grant": _Calls.grant,
    "/v3/lease/keepalive": _Calls.keep_alive,
    "/v3/maintenance/status": _Calls.status,
    **{f"/v3/lease/{name}": call for name, call in _LEASES.items()},
    **{f"/v3/kv/lease/{name}": call for name, call in _LEASES.items()},
}


def _unary(call: Call, store_of: StoreOf) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        calls = _Calls(store_of(request))  # first: who may not ask need not be listened to
        return _json(await call(calls, await read_body(request)))

    return handle


def _authenticating(users: GatewayUsers | None) -> Callable[[web.Request], Awaitable[web.Response]]:
    sign_ins = SignIns(time.monotonic)

    async def handle(request: web.Request) -> web.Response:
        if users is None:
            answer = Failure(9, 400, "etcdserver: authentication is not enabled")
            return web.Response(status=answer.status, body=answer.body(), content_type="application/json")
        address = request.remote or ""
        await asyncio.sleep(sign_ins.turn(address))
        asked = decode(await read_body(request, SIGN_IN_BYTES), AuthenticateRequest)
        try:
            token = users.authenticate(asked.name, asked.password)
        except Refused:
            sign_ins.failed(address, asked.name)
            raise
        return _json({"header": header(0), "token": token})

    return handle


@web.middleware
async def _answer_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except TooManyRequests as error:
        answer = Failure(8, 429, f"etcdserver: {error}")
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
