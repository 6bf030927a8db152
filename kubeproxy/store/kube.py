"""A Kubernetes API client of the few verbs that this project uses, over aiohttp.

Objects stay raw JSON on the way in (`kube_wire.py`), so the caller decodes each straight into its stripped Struct.
Measured in shared/reference/flannel.md §6.2: 14 µs an object listed, 6 to 8 µs a watch event; the official
client's models cost 440 and 150.

Errors: `ApiError` is the server's own answer (a Status); `Unavailable` is no answer, and is worth a retry;
`Compacted` ends a watch whose revision is gone.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType, TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from kubeproxy import __version__
from kubeproxy.store.base import Compacted, Unavailable
from kubeproxy.store.credentials import Access
from kubeproxy.store.kube_wire import (
    ApiError,
    Page,
    Patience,
    StreamingUnsupported,
    WatchEvent,
    lines_of,
    read_event,
    read_object,
    read_page,
    refusal,
)
from kubeproxy.store.resources import Resource
from kubeproxy.store.trouble import in_words

__all__ = ["ApiError", "KubeClient", "Listing", "Page", "StreamingUnsupported", "WatchEvent"]

WATCH_SECONDS = 300
"""How long one watch request may last before it is renewed (client-go asks for 5 to 10 minutes)."""

READ_GRACE_SECONDS = 30
"""How much longer than it was asked to last a silent watch may be, before it is taken for a dead link."""

INITIAL_SILENCE_SECONDS = 10
"""How long the initial events of a watch may pause before the server is taken for one that has none."""

PAGE_LIMIT = 500
"""Objects a list request asks for at once (client-go's pager asks for as many)."""

MERGE_PATCH = "application/merge-patch+json"

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_NETWORK_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


def _kept_alive(address: aiohttp.AddrInfoType) -> socket.socket:
    """Make a socket on which a peer that went without a word is noticed within a minute, while all is silent."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A whole collection: raw JSON of each object, and the revision to watch from."""

    items: tuple[bytes, ...]
    revision: str


class KubeClient:
    """Talks to one API server. Use from one event loop; calls may run concurrently.

    A URL stands for anonymous access to it.
    """

    def __init__(self, access: Access | str) -> None:
        self._access = Access(server=access) if isinstance(access, str) else access
        self._server = self._access.server.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self._streams = True
        """Whether the server may know WatchList."""

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
            connector = aiohttp.TCPConnector(limit=0, socket_factory=_kept_alive)
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
                        raise refusal(answer.status, await answer.read())
                    yield answer
                    return
        except _NETWORK_ERRORS as error:
            raise Unavailable(f"{method} {url}: {in_words(error)}") from error

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
        return read_object(path, await self._request("GET", path))

    async def list(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> Listing:
        """Read a collection whole, as of one revision."""
        items: list[bytes] = []
        revision = ""
        scope = {"namespace": namespace, "label_selector": label_selector, "field_selector": field_selector}
        async for page in self.pages(resource, **scope):
            items += [bytes(item) for item in page.items]
            revision = page.revision
        return Listing(items=tuple(items), revision=revision)

    async def pages(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> AsyncIterator[Page]:
        """Yield a collection page by page, all as of one revision, each as it arrives.

        Raises Compacted when that revision is gone before the last page.
        """
        query = _selectors(label_selector, field_selector) | {"limit": str(PAGE_LIMIT)}
        path = resource.path(namespace)
        while True:
            page = read_page(path, await self._request("GET", path, query=query))
            yield page
            if not page.more:
                return
            query["continue"] = page.more

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
        from the last revision seen. Raises Compacted or FutureRevision when the server does not have the
        revision, Unavailable when the link breaks or stays silent for too long.

        Without a revision ("") the server is asked for the whole collection first, as ADDED events that end
        with SYNCED (WatchList, https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists).
        Raises StreamingUnsupported when it does not do that; it is asked once.
        """
        query = _selectors(label_selector, field_selector) | {
            "watch": "true",
            "resourceVersion": revision,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        if not revision:
            if not self._streams:
                raise StreamingUnsupported("known from an earlier answer")
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=WATCH_SECONDS + READ_GRACE_SECONDS)
        path = resource.path(namespace)
        try:
            async with self._exchange("GET", path, params=query, timeout=timeout) as answer:
                yield WatchEvent(type="OPENED", object=b"")
                async for event in self._events(answer.content, initial=not revision):
                    yield event
        except (ApiError, Compacted) as error:
            # Refused permissions and credentials are as good for a list, and are told by it.
            if revision or (isinstance(error, ApiError) and error.code in (401, 403)):
                raise
            self._streams = False
            raise StreamingUnsupported(str(error)) from error

    async def _events(self, stream: aiohttp.StreamReader, *, initial: bool) -> AsyncIterator[WatchEvent]:
        """Yield events; a server that does not know ``initial`` ones falls silent, or ends, before SYNCED."""
        patience = Patience(INITIAL_SILENCE_SECONDS if initial else None)
        try:
            async for line in lines_of(stream, patience):
                event = read_event(line)
                if event.type == "SYNCED":
                    patience.seconds = None
                yield event
        except TimeoutError:
            if patience.seconds is None:
                raise
        if patience.seconds is not None:
            self._streams = False
            raise StreamingUnsupported("the initial events have no end")

    async def create(
        self, resource: Resource, namespace: str, body: dict[str, Any], *, name: str = "", subresource: str = ""
    ) -> dict[str, Any]:
        """Create an object, or the ``subresource`` of the one called ``name`` (a Pod's binding).

        Raises ApiError 409 when it exists, 422 when it is invalid.
        """
        path = resource.path(namespace, name, subresource)
        return read_object(path, await self._request("POST", path, body=msgspec.json.encode(body)))

    async def replace(
        self, resource: Resource, namespace: str, name: str, body: dict[str, Any], *, subresource: str = ""
    ) -> dict[str, Any]:
        """Replace an object. Raises ApiError 409 when its resourceVersion is not the stored one."""
        path = resource.path(namespace, name, subresource)
        return read_object(path, await self._request("PUT", path, body=msgspec.json.encode(body)))

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
        return read_object(path, await self._request("PATCH", path, body=body, content_type=content_type))

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        grace_period_seconds: int | None = None,
        uid: str = "",
    ) -> None:
        """Delete an object, with its kind's default grace unless told otherwise.

        Raises ApiError 409 when ``uid`` is given and the object is another one of the same name.
        """
        options: dict[str, Any] = {"preconditions": {"uid": uid}} if uid else {}
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        await self._request("DELETE", resource.path(namespace, name), body=msgspec.json.encode(options))


def _selectors(labels: str, fields: str) -> dict[str, str]:
    query = {}
    if labels:
        query["labelSelector"] = labels
    if fields:
        query["fieldSelector"] = fields
    return query
