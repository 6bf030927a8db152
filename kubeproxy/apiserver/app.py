"""The HTTP application: discovery, health and objects behind one dispatcher, and errors rendered in one place."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import web

from kubeproxy.apiserver import discovery, openapi, reviews, status
from kubeproxy.apiserver.authentication import Authenticator
from kubeproxy.apiserver.feed import Feed, Limits
from kubeproxy.apiserver.gate import Gate
from kubeproxy.apiserver.handlers import Objects
from kubeproxy.apiserver.kinds import KINDS
from kubeproxy.apiserver.media import AGGREGATED, JSON, MAX_BODY, decode_body, wants_aggregated
from kubeproxy.apiserver.metrics import (
    CONTENT_TYPE,
    Asked,
    Metrics,
    asked_of_path,
    asked_of_place,
    asked_of_review,
)
from kubeproxy.apiserver.options import is_true
from kubeproxy.apiserver.registry import Registry
from kubeproxy.apiserver.routes import Place, place
from kubeproxy.apiserver.streams import MAX_WATCHES, Streams
from kubeproxy.apiserver.users import User
from kubeproxy.clock import Clock
from kubeproxy.store.base import NoSpace, Range, Refused, StoreError
from kubeproxy.store.limits import MAX_REQUEST_BYTES, TOO_LARGE
from kubeproxy.store.resources import Resource

log = logging.getLogger(__name__)

_HEALTH = ("healthz", "livez", "readyz")
_ROOT_PATHS = [
    "/api",
    "/api/v1",
    "/apis",
    *(f"/apis/{name}" for name in discovery.group_versions()),
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/readyz",
    "/version",
]


def api_app(
    registry: Registry,
    clock: Clock,
    gate: Gate | None = None,
    *,
    ring: Limits | None = None,
    max_watches: int = MAX_WATCHES,
    metrics: Metrics | None = None,
) -> web.Application:
    """Return the API server over a registry; ``ring`` is how much history watches share.

    Without a gate everybody may do everything.
    """
    gate = gate or Gate(Authenticator(open_to_all=True), registry, clock)
    feed = Feed(registry.store, (kind.prefix for kind in KINDS), clock, ring)
    streams = Streams(max_watches)
    objects = Objects(registry, feed, streams, clock)
    documents = _Documents()
    store = _StoreState(registry)
    metrics = metrics or Metrics()
    _follow(metrics, gate, feed, streams, store)

    async def dispatch(request: web.Request) -> web.StreamResponse:
        target = _Target(request)
        started, code = clock.now(), 0
        metrics.begin(target.asked)
        try:
            response = await answer(request, target)
            code = response.status
            return response
        finally:
            metrics.end(target.asked, code, clock.now() - started)

    async def answer(request: web.Request, target: _Target) -> web.StreamResponse:
        try:
            if target.segments == ["metrics"]:
                await gate.admit(request, target.segments, None)
                return await _scraped(request, metrics)
            return await _answer(request, target, gate, objects, documents, store)
        except Exception as error:
            return _failure(_problem(request, error, store))

    async def feeding(_app: web.Application) -> AsyncIterator[None]:
        running = asyncio.create_task(feed.run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    async def stop(_app: web.Application) -> None:
        objects.stop()

    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_route("*", "/{path:.*}", dispatch)
    app.cleanup_ctx.append(feeding)
    app.on_shutdown.append(stop)
    return app


def waiting_app(reason: Callable[[], str]) -> web.Application:
    """Return what answers while a server that starts waits for its store: alive, and 503 to all else."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/livez":
            return web.Response(text="ok")
        return _failure(status.unavailable(f"the store does not answer: {reason()}"))

    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_route("*", "/{path:.*}", answer)
    return app


def _follow(metrics: Metrics, gate: Gate, feed: Feed, streams: Streams, store: "_StoreState") -> None:
    """Let the metrics show what the parts count for themselves."""
    refused = gate.refusals.counts
    metrics.authentications.follow("gate", lambda: {"success": gate.known, "failure": refused[401]})
    metrics.authorizations.follow("gate", lambda: {"allowed": gate.allowed, "denied": refused[403]})
    metrics.cut_off.follow("streams", lambda: dict(streams.cut_off))
    metrics.store_errors.follow("store", lambda: store.errors)
    metrics.feed.follow("feed", lambda: {"retry": feed.failures, "loss": feed.generation})
    metrics.feed_revision.set_function(lambda: feed.revision)


class _Target:
    """What a request's path names, and its labels."""

    __slots__ = ("asked", "found", "review", "segments")

    def __init__(self, request: web.Request) -> None:
        self.segments = [segment for segment in request.path.split("/") if segment]
        self.review = reviews.review_at(self.segments)
        self.found = _place(self.segments)
        self.asked = self._asked(request)

    def _asked(self, request: web.Request) -> Asked:
        if isinstance(self.found, Place):
            return asked_of_place(request.method, self.found, watch=is_true(request.query, "watch"))
        if self.review is not None:
            return asked_of_review(request.method, self.review)
        path = "/" + "/".join(self.segments)
        return asked_of_path(request.method, path if path in _ROOT_PATHS else "")


class _StoreState:
    """Says once that the store went away and once that it is back, however many requests meet it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._away = False
        self._full = False
        self.errors = {"away": 0, "full": 0, "refused": 0}
        """Requests that failed in the store."""

    async def check(self) -> str:
        """Read from the store and return what /readyz says. Raises StoreError.

        A full store is still ready: reads go on, and all servers of a cluster would leave their load balancer.
        """
        await self._registry.store.range(Range(key=b"/registry/health", count_only=True))
        self.clear()
        self._full = "NOSPACE" in await self._registry.store.alarms()
        return "ok, but the store is full and refuses every write (NOSPACE)" if self._full else "ok"

    def problem(self, error: StoreError) -> status.ApiProblem:
        """Count and report an error; return the answer to the request that met it."""
        if isinstance(error, Refused):
            self.errors["refused"] += 1
            return _refused(error)
        if isinstance(error, NoSpace):
            self.errors["full"] += 1
            self._report_full(error)
            return status.store_full()
        self.errors["away"] += 1
        self._report(error)
        return status.unavailable(f"the store does not answer: {error}")

    def _report(self, error: StoreError) -> None:
        if not self._away:
            log.warning("the store does not answer; requests get 503 until it does: %s", error)
        self._away = True

    def _report_full(self, error: NoSpace) -> None:
        if not self._full:
            log.error(
                "the store is full, writes are refused until there is room: on etcd compact, defragment every "
                "member, then `etcdctl alarm disarm`; for SQLite free the disk (%s)",
                error,
            )
        self._full = True

    def clear(self, *, wrote: bool = False) -> None:
        self._full = self._full and not wrote
        if self._away:
            log.info("the store answers again")
        self._away = False


async def _answer(
    request: web.Request,
    target: _Target,
    gate: Gate,
    objects: Objects,
    documents: "_Documents",
    store: _StoreState,
) -> web.StreamResponse:
    segments, review, found = target.segments, target.review, target.found
    user = await gate.admit(request, segments, found if isinstance(found, Place) else None)
    if review is not None:
        return await _reviewed(request, review, user)
    if isinstance(found, status.ApiProblem):
        raise found
    if found is not None:
        answer = await objects.handle(request, found)
        store.clear(wrote=request.method in ("POST", "PUT", "PATCH"))  # a full etcd takes deletions
        return answer
    if request.method not in ("GET", "HEAD"):
        raise status.path_not_found()
    if segments and segments[0] in _HEALTH:
        return web.Response(text="ok" if segments[0] == "livez" else await store.check())
    return documents.answer(segments, request)


def _problem(request: web.Request, error: Exception, store: _StoreState) -> status.ApiProblem:
    """Return what a client is told of whatever ended its request."""
    match error:
        case status.ApiProblem():
            return error
        case web.HTTPRequestEntityTooLarge():
            return status.too_large(MAX_BODY)
        case web.RequestPayloadError():
            return status.bad_request(f"the request's body cannot be read: {' '.join(str(error).split())}")
        case RecursionError():
            return status.bad_request("the object provided is nested too deeply")
        case StoreError():
            return store.problem(error)
    # A bug of ours: the client learns of it as of any other failure, the log has the trace.
    log.error("%s %r failed", request.method, request.path, exc_info=error)
    return status.internal(f"{type(error).__name__} (the server's log has more)")


def _place(segments: list[str]) -> Place | status.ApiProblem | None:
    """Return what a path names, the answer when it names nothing, or None for a path of no resource.

    Whether a path is served is for those to know who may ask for it.
    """
    if not segments or segments[0] not in ("api", "apis") or len(segments) < (3 if segments[0] == "api" else 4):
        return None
    try:
        return place(segments)
    except status.ApiProblem as problem:
        return problem


async def _scraped(request: web.Request, metrics: Metrics) -> web.Response:
    if request.method not in ("GET", "HEAD"):
        raise status.method_not_allowed()
    # In a thread, for it takes some 0.4 ms for each set of labels, and requests come in between.
    return web.Response(body=await asyncio.to_thread(metrics.text), headers={"Content-Type": CONTENT_TYPE})


async def _reviewed(request: web.Request, review: Resource, user: User) -> web.Response:
    if request.method != "POST":
        raise status.method_not_allowed()
    body = decode_body(await request.read(), request.headers.get("Content-Type", ""))
    return _json(reviews.answer(review, body, user), 201)


def _refused(error: Refused) -> status.ApiProblem:
    if TOO_LARGE in str(error):  # our store's words, which are etcd's
        return status.too_large(MAX_REQUEST_BYTES)
    return status.bad_request(str(error))


def _failure(problem: status.ApiProblem) -> web.Response:
    response = _json(problem.status(), problem.code)
    if "retryAfterSeconds" in problem.details:
        response.headers["Retry-After"] = str(problem.details["retryAfterSeconds"])
    return response


def _json(body: Any, code: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=code, content_type=JSON)


class _Documents:
    """What never changes while the server runs; each document is encoded once, when it is first asked for."""

    def __init__(self) -> None:
        self._encoded: dict[str, bytes] = {}

    def answer(self, segments: list[str], request: web.Request) -> web.Response:
        path = "/".join(segments)
        if path == "openapi/v2" and openapi.V2_PROTOBUF in request.headers.get("Accept", ""):
            return web.Response(body=openapi.second_version_protobuf(), content_type="application/octet-stream")
        aggregated = path in ("api", "apis") and wants_aggregated(request.headers.get("Accept", ""))
        key = f"{path};aggregated" if aggregated else path
        if key not in self._encoded:
            document = self._make(segments, path, aggregated=aggregated)
            if document is None:
                raise status.path_not_found()
            self._encoded[key] = msgspec.json.encode(document)
        headers = {"Content-Type": AGGREGATED if aggregated else JSON, "Vary": "Accept"}
        return web.Response(body=self._encoded[key], headers=headers)

    @staticmethod
    def _make(segments: list[str], path: str, *, aggregated: bool) -> Any:
        if aggregated:
            return discovery.aggregated([""] if path == "api" else discovery.group_versions())
        match segments:
            case []:
                return {"paths": _ROOT_PATHS}
            case ["version"]:
                return discovery.version_info()
            case ["api"]:
                return discovery.api_versions("")
            case ["apis"]:
                return discovery.group_list()
            case ["api", "v1"]:
                return discovery.resource_list("", "v1")
            case ["apis", group]:
                return discovery.group(group)
            case ["apis", group, version]:
                return discovery.resource_list(group, version)
            case ["openapi", "v2"]:
                return openapi.second_version()
            case ["openapi", "v3"]:
                return openapi.index()
            case ["openapi", "v3", *rest] if found := openapi.paths().get("/".join(rest)):
                return openapi.document(*found)
        return None
