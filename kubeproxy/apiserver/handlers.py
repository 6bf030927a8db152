"""Requests on objects: get, list, watch, create, replace, patch, delete, and the subresources."""

from typing import Any

import msgspec
from aiohttp import web

from kubeproxy.apiserver import status
from kubeproxy.apiserver.feed import Feed
from kubeproxy.apiserver.kinds import SCALE, Kind
from kubeproxy.apiserver.listing import (
    ListQuery,
    Page,
    as_list,
    as_table,
    check_reached,
    current_revision,
    read_page,
)
from kubeproxy.apiserver.media import JSON, YAML, Form, choose, decode_body, encode_yaml
from kubeproxy.apiserver.metadata import accept_absent
from kubeproxy.apiserver.options import ListOptions, delete_options, is_dry, is_true, list_options, revision_of
from kubeproxy.apiserver.registry import DeleteOptions, Registry
from kubeproxy.apiserver.routes import Place
from kubeproxy.apiserver.scale import scale_of, scaling
from kubeproxy.apiserver.selectors import Selection, selection
from kubeproxy.apiserver.streams import Streams
from kubeproxy.apiserver.table import only_metadata, row, table
from kubeproxy.apiserver.watch import Watcher, WatchQuery
from kubeproxy.apiserver.writes import Validation, patch_of, patching, read_object, replacement, shaped
from kubeproxy.clock import Clock
from kubeproxy.store import objects

Obj = dict[str, Any]

_RETURNED_DELETED = frozenset({"Pod", "Service"})
"""Upstream answers the deletion of these by the object, of all others by a Status; typed clients expect it."""


class Objects:
    """The REST verbs over a `Registry`."""

    def __init__(self, registry: Registry, feed: Feed, streams: Streams, clock: Clock) -> None:
        self._registry = registry
        self._feed = feed
        self._clock = clock
        self._streams = streams

    async def handle(self, request: web.Request, place: Place) -> web.StreamResponse:
        """Answer a request on what a path names. Raises ApiProblem."""
        match request.method, bool(place.name):
            case "GET" | "HEAD", True if not is_true(request.query, "watch"):
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
        self._streams.stop()

    async def _get(self, request: web.Request, place: Place) -> web.Response:
        form = choose(request.headers.get("Accept", ""))
        kv = await self._registry.read(place.kind, place.namespace, place.name)
        asked = revision_of(request.query.get("resourceVersion", ""))
        if asked > kv.mod_revision:
            check_reached(asked, await current_revision(self._registry.store))
        if place.subresource == "scale":
            return self._object(request, SCALE, msgspec.json.encode(scale_of(objects.decode(kv))), form)
        return self._object(request, place.kind, objects.raw(kv), form)

    def _object(self, request: web.Request, kind: Kind, value: bytes, form: Form, code: int = 200) -> web.Response:
        if form.table:
            how = form.table_form(request.query.get("includeObject", ""))
            assert how is not None
            meta = {"resourceVersion": msgspec.json.decode(value)["metadata"].get("resourceVersion", "")}
            value = table(kind, [row(kind, value, how, self._clock.wall())], meta)
        elif form.metadata_only:
            value = only_metadata(value)
        return _answer(value, form, code)

    async def _collection(self, request: web.Request, place: Place) -> web.StreamResponse:
        form = choose(request.headers.get("Accept", ""))
        options = list_options(request.query)
        if options.watch:
            return await self._watch(request, place, options, form)
        page = await read_page(self._registry.store, place.kind, _list_query(place, options))
        if form.table:
            how = form.table_form(request.query.get("includeObject", ""))
            assert how is not None
            return _answer(await as_table(place.kind, page, how, self._clock.wall()), form)
        if form.metadata_only:
            return _answer(_metadata_list(page), form)
        return _answer(await as_list(place.kind, page), form)

    async def _watch(
        self, request: web.Request, place: Place, options: ListOptions, form: Form
    ) -> web.StreamResponse:
        query = WatchQuery(
            namespace=place.namespace,
            selection=_selection(place, options),
            revision=options.revision,
            bookmarks=options.bookmarks,
            initial_events=options.initial_events,
            table=form.table_form(request.query.get("includeObject", "")),
            metadata_only=form.metadata_only,
        )
        watcher = Watcher(self._registry.store, self._feed, place.kind, query, self._clock)
        return await self._streams.serve(request, watcher, place.kind.plural, options.seconds)

    async def _create(self, request: web.Request, place: Place) -> web.Response:
        if place.kind.resource.namespaced and not place.namespace:
            raise status.method_not_allowed()
        form = choose(request.headers.get("Accept", ""))
        validation = Validation.of(request.query.get("fieldValidation", ""))
        body = await request.read()
        obj = read_object(place.kind, body, request.headers.get("Content-Type", ""), validation)
        dry = _is_dry(request, "CreateOptions")
        value = await self._registry.create(place.kind, place.namespace, obj, dry_run=dry)
        return _warned(self._object(request, place.kind, value, form, 201), validation)

    async def _update(self, request: web.Request, place: Place) -> web.Response:
        form = choose(request.headers.get("Accept", ""))
        validation = Validation.of(request.query.get("fieldValidation", ""))
        body, content_type = await request.read(), request.headers.get("Content-Type", "")
        kind = place.kind
        if place.subresource == "scale":
            return await self._scale(request, place, body, content_type)
        dry = _is_dry(request, _options_of(request))
        code = 200
        if request.method == "PUT":
            value, code = await self._put(place, read_object(kind, body, content_type, validation), dry_run=dry)
        else:
            change = patching(kind, body, content_type, validation)
            value = await self._registry.update(
                kind, place.namespace, place.name, change, subresource=place.subresource, dry_run=dry
            )
        return _warned(self._object(request, kind, value, form, code), validation)

    async def _put(self, place: Place, obj: Obj, *, dry_run: bool) -> tuple[bytes, int]:
        """Replace an object or, of some kinds, create it; return it and the answer's code."""
        where = place.kind, place.namespace, place.name
        while True:
            try:
                change, sub = replacement(obj), place.subresource
                return await self._registry.update(*where, change, subresource=sub, dry_run=dry_run), 200
            except status.ApiProblem as problem:
                if problem.code != 404:
                    raise
                accept_absent(place.kind, place.name, obj)
                if place.subresource:
                    raise
            try:
                new = objects.copied(obj)
                return await self._registry.create(place.kind, place.namespace, new, dry_run=dry_run), 201
            except status.ApiProblem as problem:
                if problem.reason != "AlreadyExists":  # another client was faster: its object is replaced
                    raise

    async def _scale(self, request: web.Request, place: Place, body: bytes, content_type: str) -> web.Response:
        validation = Validation.of("Ignore")
        if request.method == "PATCH":
            change = patch_of(body, content_type, SCALE.shape)
        else:
            change = replacement(
                shaped(place.kind, decode_body(body, content_type), validation, shape=SCALE.shape)
            )
        value = await self._registry.update(
            place.kind,
            place.namespace,
            place.name,
            scaling(change),
            dry_run=_is_dry(request, _options_of(request)),
        )
        form = choose(request.headers.get("Accept", ""))
        return self._object(request, SCALE, msgspec.json.encode(scale_of(msgspec.json.decode(value))), form)

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

        dry = _is_dry(request, "CreateOptions")
        await self._registry.update(
            place.kind, place.namespace, place.name, bind, subresource="binding", dry_run=dry
        )
        success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return _answer(msgspec.json.encode(success), Form(), 201)

    async def _delete(self, request: web.Request, place: Place) -> web.Response:
        options = await _delete_options(request)
        kind = place.kind
        value, gone = await self._registry.delete(kind, place.namespace, place.name, options)
        if not gone or kind.name in _RETURNED_DELETED:
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
        listed = list_options(request.query)
        page = await read_page(self._registry.store, place.kind, _list_query(place, listed))
        for kv in page.kvs:
            name = kv.key.rpartition(b"/")[2].decode()
            try:
                await self._registry.delete(place.kind, place.namespace, name, options)
            except status.ApiProblem as problem:
                if problem.code != 404:  # another client was faster
                    raise
        return _answer(await as_list(place.kind, page), Form())


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


def _selection(place: Place, options: ListOptions) -> Selection:
    if place.name:
        return selection("", f"metadata.name={place.name}", place.kind.fields)
    return selection(options.labels, options.fields, place.kind.fields)


def _list_query(place: Place, options: ListOptions) -> ListQuery:
    return ListQuery(
        namespace=place.namespace,
        selection=_selection(place, options),
        limit=options.limit,
        continue_token=options.continue_token,
        revision=options.revision if options.exact else 0,
        not_before=options.revision,
    )


def _options_of(request: web.Request) -> str:
    return "PatchOptions" if request.method == "PATCH" else "UpdateOptions"


def _is_dry(request: web.Request, options: str) -> bool:
    return is_dry(request.query.getall("dryRun", []), options)


async def _delete_options(request: web.Request) -> DeleteOptions:
    body = await request.read()
    decoded = decode_body(body, request.headers.get("Content-Type", "")) if body.strip() else {}
    return delete_options(decoded, request.query)
