"""Requests on objects: get, list, watch, create, replace, patch, delete, and the subresources."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from aiohttp import web

from kubeproxy.apiserver import status
from kubeproxy.apiserver.kinds import Kind
from kubeproxy.apiserver.listing import ListQuery, Page, as_list, as_table, read_page
from kubeproxy.apiserver.media import JSON, YAML, Form, choose, decode_body, encode_yaml
from kubeproxy.apiserver.registry import DeleteOptions, Registry
from kubeproxy.apiserver.routes import Place
from kubeproxy.apiserver.scale import scale_of, scaling
from kubeproxy.apiserver.selectors import Selection, selection
from kubeproxy.apiserver.shapes_apps import SCALE
from kubeproxy.apiserver.table import row, table
from kubeproxy.apiserver.watch import Watcher, WatchQuery
from kubeproxy.apiserver.writes import Validation, patch_of, patching, read_object, replacement, shaped
from kubeproxy.clock import Clock
from kubeproxy.store import objects
from kubeproxy.store.base import StoreError

log = logging.getLogger(__name__)

Obj = dict[str, Any]

BOOKMARK_SECONDS = 60
WRITE_SECONDS = 30
"""A client that does not read for this long is cut off: what waits for it is held in memory."""
WATCH_SECONDS = 3600
"""How long a watch lasts that names no timeoutSeconds."""


class Objects:
    """The REST verbs over a `Registry`."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._watches: set[asyncio.Task[Any]] = set()

    async def handle(self, request: web.Request, place: Place) -> web.StreamResponse:
        """Answer a request on what a path names. Raises ApiProblem."""
        match request.method, bool(place.name):
            case "GET" | "HEAD", True if not _is_true(request, "watch"):
                return await self._get(request, place)
            case "GET" | "HEAD", _:
                return await self._collection(request, place)
            case "POST", False:
                return await self._create(request, place)
            case "POST", True if place.subresource == "binding":
                return await self._bind(request, place)
            case "PUT" | "PATCH", True:
                return await self._update(request, place)
            case "DELETE", True if not place.subresource:
                return await self._delete(request, place)
            case "DELETE", False:
                return await self._delete_collection(request, place)
        raise status.method_not_allowed()

    def stop(self) -> None:
        """End every watch, so that the server can go."""
        for task in self._watches:
            task.cancel()

    async def _get(self, request: web.Request, place: Place) -> web.Response:
        form = choose(request.headers.get("Accept", ""))
        kv = await self._registry.read(place.kind, place.namespace, place.name)
        if place.subresource == "scale":
            return _answer(msgspec.json.encode(scale_of(objects.decode(kv))), Form(yaml=form.yaml))
        return self._object(request, place.kind, objects.raw(kv), form)

    def _object(self, request: web.Request, kind: Kind, value: bytes, form: Form, code: int = 200) -> web.Response:
        if form.table:
            how = form.table_form(request.query.get("includeObject", ""))
            assert how is not None
            meta = {"resourceVersion": msgspec.json.decode(value)["metadata"].get("resourceVersion", "")}
            value = table(kind, [row(kind, value, how, self._clock.wall())], meta)
        elif form.metadata_only:
            meta = msgspec.json.decode(value)["metadata"]
            identity = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
            value = msgspec.json.encode({**identity, "metadata": meta})
        return _answer(value, form, code)

    def _selection(self, request: web.Request, place: Place) -> Selection:
        query, kind = request.query, place.kind
        if place.name:
            return selection("", f"metadata.name={place.name}", kind.fields)
        return selection(query.get("labelSelector", ""), query.get("fieldSelector", ""), kind.fields)

    async def _collection(self, request: web.Request, place: Place) -> web.StreamResponse:
        form = choose(request.headers.get("Accept", ""))
        chosen = self._selection(request, place)
        if _is_true(request, "watch"):
            return await self._watch(request, place, chosen, form)
        page = await read_page(self._registry.store, place.kind, _list_query(request, place, chosen))
        if form.table:
            how = form.table_form(request.query.get("includeObject", ""))
            assert how is not None
            return _answer(await as_table(place.kind, page, how, self._clock.wall()), form)
        if form.metadata_only:
            return _answer(_metadata_list(page), form)
        return _answer(await as_list(place.kind, page), form)

    async def _watch(
        self, request: web.Request, place: Place, chosen: Selection, form: Form
    ) -> web.StreamResponse:
        query = WatchQuery(
            namespace=place.namespace,
            selection=chosen,
            revision=_revision(request),
            bookmarks=_is_true(request, "allowWatchBookmarks"),
            initial_events=_is_true(request, "sendInitialEvents"),
            table=form.table_form(request.query.get("includeObject", "")),
        )
        seconds = _number(request, "timeoutSeconds") or WATCH_SECONDS
        response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-cache, private"})
        await response.prepare(request)
        watcher = Watcher(self._registry.store, place.kind, query, self._clock)
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            async with asyncio.timeout(seconds):
                await _stream(request, response, watcher)
        except (TimeoutError, ConnectionResetError):
            pass  # the watch lasted as long as was asked, or the client left: both are its normal ends
        except StoreError as error:
            # The stream has begun, so its end is all that the client can be told; it watches again.
            log.info("a watch of %s ended with the store: %s", place.kind.plural, error)
        finally:
            self._watches.discard(task)
        return response

    async def _create(self, request: web.Request, place: Place) -> web.Response:
        if place.kind.resource.namespaced and not place.namespace:
            raise status.method_not_allowed()
        form = choose(request.headers.get("Accept", ""))
        validation = Validation.of(request.query.get("fieldValidation", ""))
        body = await request.read()
        obj = read_object(place.kind, body, request.headers.get("Content-Type", ""), validation)
        dry = _is_dry(request)
        value = await self._registry.create(place.kind, place.namespace, obj, dry_run=dry)
        return _warned(self._object(request, place.kind, value, form, 201), validation)

    async def _update(self, request: web.Request, place: Place) -> web.Response:
        form = choose(request.headers.get("Accept", ""))
        validation = Validation.of(request.query.get("fieldValidation", ""))
        body, content_type = await request.read(), request.headers.get("Content-Type", "")
        kind = place.kind
        if place.subresource == "scale":
            return await self._scale(request, place, body, content_type)
        if request.method == "PATCH":
            change = patching(kind, body, content_type, validation)
        else:
            change = replacement(read_object(kind, body, content_type, validation))
        value = await self._registry.update(
            kind,
            place.namespace,
            place.name,
            change,
            subresource=place.subresource,
            dry_run=_is_dry(request),
        )
        return _warned(self._object(request, kind, value, form), validation)

    async def _scale(self, request: web.Request, place: Place, body: bytes, content_type: str) -> web.Response:
        validation = Validation.of("Ignore")
        if request.method == "PATCH":
            change = patch_of(body, content_type, SCALE)
        else:
            change = replacement(shaped(place.kind, decode_body(body, content_type), validation, shape=SCALE))
        value = await self._registry.update(
            place.kind, place.namespace, place.name, scaling(change), dry_run=_is_dry(request)
        )
        return _answer(msgspec.json.encode(scale_of(msgspec.json.decode(value))), Form())

    async def _bind(self, request: web.Request, place: Place) -> web.Response:
        binding = decode_body(await request.read(), request.headers.get("Content-Type", ""))
        target = binding.get("target") if isinstance(binding, dict) else None
        node = target.get("name") if isinstance(target, dict) else None
        if not isinstance(node, str) or not node:
            error = status.required("target.name")
            raise status.invalid("", "Binding", place.name, [error])

        def bind(pod: Obj) -> Obj:
            bound = pod["spec"].get("nodeName")
            if bound and bound != node:
                why = f'pod {place.name} is already assigned to node "{bound}"'
                raise status.conflict("", "pods/binding", place.name, why)
            pod["spec"]["nodeName"] = node
            return pod

        await self._registry.update(place.kind, place.namespace, place.name, bind, subresource="binding")
        success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return _answer(msgspec.json.encode(success), Form(), 201)

    async def _delete(self, request: web.Request, place: Place) -> web.Response:
        options = await _delete_options(request)
        kind = place.kind
        value, gone = await self._registry.delete(kind, place.namespace, place.name, options)
        if not gone or kind.name == "Pod":
            return _answer(value, Form())
        details = {
            "name": place.name,
            "kind": kind.plural,
            "uid": msgspec.json.decode(value)["metadata"].get("uid"),
        }
        details |= {"group": kind.group} if kind.group else {}
        success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return _answer(msgspec.json.encode(success), Form())

    async def _delete_collection(self, request: web.Request, place: Place) -> web.Response:
        if place.kind.resource.namespaced and not place.namespace:
            raise status.method_not_allowed()
        options = await _delete_options(request)
        query = ListQuery(namespace=place.namespace, selection=self._selection(request, place))
        page = await read_page(self._registry.store, place.kind, query)
        for kv in page.kvs:
            name = kv.key.rpartition(b"/")[2].decode()
            try:
                await self._registry.delete(place.kind, place.namespace, name, options)
            except status.ApiProblem as problem:
                if problem.code != 404:  # another client was faster
                    raise
        return _answer(await as_list(place.kind, page), Form())


async def _stream(request: web.Request, response: web.StreamResponse, watcher: Watcher) -> None:
    """Send events as they come, and a bookmark when nothing was sent for a while."""
    lines = watcher.lines()
    loop = asyncio.get_running_loop()
    due = loop.time() + BOOKMARK_SECONDS
    pending: asyncio.Task[bytes] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(_following(lines))
            done, _ = await asyncio.wait({pending}, timeout=due - loop.time())
            out = b""
            if done:
                try:
                    out = pending.result()
                except StopAsyncIteration:
                    return
                pending = None
            if not out and loop.time() >= due:
                out, due = watcher.bookmark(), loop.time() + BOOKMARK_SECONDS
            if out:
                due = loop.time() + BOOKMARK_SECONDS
                await _write(request, response, out)
    finally:
        if pending is not None:
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await pending
        await lines.aclose()


async def _write(request: web.Request, response: web.StreamResponse, out: bytes) -> None:
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await response.write(out)
    except TimeoutError:
        log.info("a watch of %s by %s was not read for %d s: cut off", request.path, request.remote, WRITE_SECONDS)
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError from None


async def _following(lines: AsyncGenerator[bytes]) -> bytes:
    return await anext(lines)


def _answer(value: bytes, form: Form, code: int = 200) -> web.Response:
    if form.yaml:
        return web.Response(body=encode_yaml(value), status=code, content_type=YAML)
    return web.Response(body=value, status=code, content_type=JSON)


def _warned(response: web.Response, validation: Validation) -> web.Response:
    for text in validation.warnings:
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        if quoted.isprintable() and quoted.isascii():
            response.headers.add("Warning", f'299 - "{quoted}"')
    return response


def _metadata_list(page: Page) -> bytes:
    items = [{"metadata": objects.decode(kv)["metadata"]} for kv in page.kvs]
    identity = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
    return msgspec.json.encode({**identity, "metadata": page.metadata, "items": items})


def _is_true(request: web.Request, name: str) -> bool:
    value = request.query.get(name)
    return value is not None and value not in ("", "0", "false", "False", "FALSE", "f", "F")


def _number(request: web.Request, name: str) -> int:
    text = request.query.get(name, "")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise status.bad_request(f"unable to convert query parameter {name}: invalid number")
    return int(text)


def _revision(request: web.Request) -> int:
    text = request.query.get("resourceVersion", "")
    if text and (not (text.isascii() and text.isdigit()) or len(text) > 18):
        error = status.invalid_value(
            "resourceVersion", text[:40], "resource version must be a non-negative integer"
        )
        raise status.invalid("meta.k8s.io", "ListOptions", "", [error])
    return int(text or 0)


def _list_query(request: web.Request, place: Place, chosen: Selection) -> ListQuery:
    exact = request.query.get("resourceVersionMatch") == "Exact"
    return ListQuery(
        namespace=place.namespace,
        selection=chosen,
        limit=_number(request, "limit"),
        continue_token=request.query.get("continue", ""),
        revision=_revision(request) if exact else 0,
    )


def _is_dry(request: web.Request) -> bool:
    return "All" in request.query.getall("dryRun", [])


async def _delete_options(request: web.Request) -> DeleteOptions:
    body = await request.read()
    options = DeleteOptions()
    if body.strip():
        decoded = decode_body(body, request.headers.get("Content-Type", ""))
        try:
            options = msgspec.convert(decoded, DeleteOptions)
        except msgspec.ValidationError as error:
            raise status.bad_request(f"DeleteOptions cannot be read: {error}") from None
    query = request.query
    if "gracePeriodSeconds" in query:
        options = msgspec.structs.replace(options, grace_period_seconds=_number(request, "gracePeriodSeconds"))
    if "propagationPolicy" in query:
        options = msgspec.structs.replace(options, propagation_policy=query["propagationPolicy"])
    if _is_dry(request):
        options = msgspec.structs.replace(options, dry_run=["All"])
    return options
