"""A Kubernetes API client of the few verbs that this project uses, over aiohttp.

Objects stay raw JSON bytes on the way in (a list of 10,000 slices is split, not parsed, here), so the caller
decodes each straight into its stripped Struct. Measured in shared/reference/flannel.md §6.2: 14 µs an object
listed, 6 to 8 µs a watch event; the official client's models cost 440 and 150.

Errors: `ApiError` is the server's own answer (a Status); `Unavailable` is no answer, and is worth a retry;
`Compacted` ends a watch whose revision is gone.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from kubeproxy import __version__
from kubeproxy.store.base import Compacted, StoreError, Unavailable
from kubeproxy.store.credentials import Access
from kubeproxy.store.resources import Resource

T = TypeVar("T")

WATCH_SECONDS = 300
"""How long one watch request may last before it is renewed (client-go asks for 5 to 10 minutes)."""

READ_GRACE_SECONDS = 30
"""How much longer than it was asked to last a silent watch may be, before it is taken for a dead link."""

PAGE_LIMIT = 1000
"""Objects a list request asks for at once."""

MERGE_PATCH = "application/merge-patch+json"

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_NETWORK_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


class ApiError(StoreError):
    """The server refused; ``code`` is the HTTP status, ``reason`` and ``causes`` are words for programs."""

    def __init__(
        self, code: int, reason: str, message: str, body: bytes = b"", causes: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(message or f"HTTP {code}")
        self.code = code
        self.reason = reason
        self.message = message
        self.body = body
        self.causes = causes


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A whole collection: raw JSON of each object, and the revision to watch from."""

    items: tuple[bytes, ...]
    revision: str


class WatchEvent(msgspec.Struct, frozen=True, kw_only=True):
    """ADDED, MODIFIED, DELETED or BOOKMARK, with the object's raw JSON; or OPENED, without one."""

    type: str
    object: bytes


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Cause(msgspec.Struct):
    reason: str = ""


class _Details(msgspec.Struct, frozen=True):
    causes: tuple[_Cause, ...] = ()


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details = _Details()


_LIST = msgspec.json.Decoder(_List)
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_EVENT = msgspec.json.Decoder(_Event)
_STATUS = msgspec.json.Decoder(_Status)


def _error(code: int, body: bytes) -> StoreError:
    try:
        status = _STATUS.decode(body)
    except msgspec.DecodeError:
        status = _Status(message=body[:200].decode(errors="replace"))
    if code == 410 or status.code == 410:
        return Compacted(0)
    if 300 <= code < 400:
        return Unavailable(f"HTTP {code}: a redirect; this is no API server")
    if code in (429, 502, 503, 504):
        return Unavailable(f"HTTP {code}: {status.message}")
    causes = frozenset(cause.reason for cause in status.details.causes)
    return ApiError(code, status.reason, status.message, body, causes)


class KubeClient:
    """Talks to one API server. Use from one event loop; calls may run concurrently.

    A URL stands for anonymous access to it.
    """

    def __init__(self, access: Access | str) -> None:
        self._access = Access(server=access) if isinstance(access, str) else access
        self._server = self._access.server.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return self._server

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Accept": "application/json", "User-Agent": f"kubeproxy/{__version__}"}
            timeout = aiohttp.ClientTimeout(total=60, sock_connect=5)
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout)
        return self._session

    @asynccontextmanager
    async def _exchange(
        self, method: str, path: str, headers: Mapping[str, str] = _NO_HEADERS, **request: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make a request; the answer is no refusal. A 401 is tried once more if there are new credentials."""
        url = self._server + path
        credentials = self._access.credentials
        try:
            for last in (False, True):
                identity = await credentials.current()
                async with self._http().request(
                    method,
                    url,
                    headers={**headers, **identity.headers},
                    ssl=identity.tls or True,
                    server_hostname=self._access.server_name or None,
                    proxy=self._access.proxy or None,
                    allow_redirects=False,  # it would carry our credentials to wherever it is told
                    **request,
                ) as answer:
                    if answer.status == 401 and not last and await credentials.refused(identity):
                        continue
                    if answer.status >= 300:
                        raise _error(answer.status, await answer.read())
                    yield answer
                    return
        except _NETWORK_ERRORS as error:
            raise Unavailable(f"{method} {url}: {str(error) or type(error).__name__}") from error

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        headers = {"Content-Type": content_type} if body is not None else _NO_HEADERS
        async with self._exchange(method, path, headers, params=query, data=body) as answer:
            return await answer.read()

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        """Read one object. Raises ApiError 404."""
        path = resource.path(namespace, name)
        return _object(path, await self._request("GET", path))

    async def list(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> Listing:
        """Read a collection, page by page, as of one revision."""
        query = _selectors(label_selector, field_selector) | {"limit": str(PAGE_LIMIT)}
        items: list[bytes] = []
        while True:
            path = resource.path(namespace)
            page = _decoded(_LIST, path, await self._request("GET", path, query=query))
            items += [bytes(item) for item in page.items or ()]
            if not page.metadata.continue_:
                return Listing(items=tuple(items), revision=page.metadata.resource_version)
            query["continue"] = page.metadata.continue_

    async def watch(
        self,
        resource: Resource,
        revision: str,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        """Yield what happened after ``revision``, bookmarks too, until the server ends the stream.

        The first event is OPENED: the server has accepted the watch. A normal end is no error: watch again
        from the last revision seen. Raises Compacted when the revision is gone, Unavailable when the link
        breaks or stays silent for too long.
        """
        query = _selectors(label_selector, field_selector) | {
            "watch": "true",
            "resourceVersion": revision,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=WATCH_SECONDS + READ_GRACE_SECONDS)
        async with self._exchange("GET", resource.path(namespace), params=query, timeout=timeout) as answer:
            yield WatchEvent(type="OPENED", object=b"")
            async for line in _lines(answer.content):
                yield _watch_event(line)

    async def create(
        self, resource: Resource, namespace: str, body: dict[str, Any], *, name: str = "", subresource: str = ""
    ) -> dict[str, Any]:
        """Create an object, or the ``subresource`` of the one called ``name`` (a Pod's binding).

        Raises ApiError 409 when it exists, 422 when it is invalid.
        """
        path = resource.path(namespace, name, subresource)
        return _object(path, await self._request("POST", path, body=msgspec.json.encode(body)))

    async def replace(
        self, resource: Resource, namespace: str, name: str, body: dict[str, Any], *, subresource: str = ""
    ) -> dict[str, Any]:
        """Replace an object. Raises ApiError 409 when its resourceVersion is not the stored one."""
        path = resource.path(namespace, name, subresource)
        return _object(path, await self._request("PUT", path, body=msgspec.json.encode(body)))

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: dict[str, Any],
        *,
        subresource: str = "",
        content_type: str = MERGE_PATCH,
    ) -> dict[str, Any]:
        """Patch an object (RFC 7386 merge patch unless told otherwise)."""
        path = resource.path(namespace, name, subresource)
        body = msgspec.json.encode(patch)
        return _object(path, await self._request("PATCH", path, body=body, content_type=content_type))

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, grace_period_seconds: int | None = None
    ) -> None:
        """Delete an object, with its kind's default grace unless told otherwise."""
        options = {} if grace_period_seconds is None else {"gracePeriodSeconds": grace_period_seconds}
        await self._request("DELETE", resource.path(namespace, name), body=msgspec.json.encode(options))


def _object(path: str, data: bytes) -> dict[str, Any]:
    return _decoded(_OBJECT, path, data)


def _decoded(decoder: "msgspec.json.Decoder[T]", path: str, data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Not an API server, or a proxy in front of one that is away.
        raise Unavailable(f"{path} is answered with something else than an object: {error}") from error


def _selectors(labels: str, fields: str) -> dict[str, str]:
    query = {}
    if labels:
        query["labelSelector"] = labels
    if fields:
        query["fieldSelector"] = fields
    return query


def _watch_event(line: bytes) -> WatchEvent:
    try:
        event = _EVENT.decode(line)
    except msgspec.DecodeError as error:
        raise Unavailable(f"a watch event was cut or is no JSON: {error}") from error
    if event.type == "ERROR":
        raise _error(0, bytes(event.object))
    return WatchEvent(type=event.type, object=bytes(event.object))


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Split a stream at newlines; aiohttp's own readline has a limit far below an object's size."""
    rest: list[bytes] = []
    async for chunk in stream.iter_any():
        first, newline, tail = chunk.partition(b"\n")
        rest.append(first)
        if not newline:
            continue
        yield b"".join(rest)
        *whole, last = tail.split(b"\n")
        for line in whole:
            yield line
        rest = [last]
    if any(rest):
        raise Unavailable("the stream ended in the middle of an event")
