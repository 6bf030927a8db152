"""What the API server's answers are made of: pages, watch events, refusals; bytes in, values or errors out.

Objects stay raw JSON, so that whoever reads decodes each straight into its own stripped Struct, once.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import aiohttp
import msgspec

from kubeproxy.store.base import Compacted, FutureRevision, StoreError, Unavailable

T = TypeVar("T")

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""Annotation of the bookmark after the last of the initial events."""


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


class StreamingUnsupported(StoreError):
    """The server does not send the initial state of a watch (WatchList): list it instead."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a collection: raw JSON of each object, as views into one buffer, and the collection's revision."""

    items: tuple[msgspec.Raw, ...]
    revision: str
    more: str
    """The token that asks for the next page; "" after the last."""


class WatchEvent(msgspec.Struct, frozen=True, kw_only=True):
    """ADDED, MODIFIED, DELETED or BOOKMARK, with the object's raw JSON; or OPENED, without one.

    SYNCED is the bookmark that ends the initial events.
    """

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


class _BookmarkMeta(msgspec.Struct):
    annotations: dict[str, str] | None = None


class _Bookmark(msgspec.Struct):
    metadata: _BookmarkMeta


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct, frozen=True):
    causes: tuple[_Cause, ...] | None = None


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_LIST = msgspec.json.Decoder(_List)
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_EVENT = msgspec.json.Decoder(_Event)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)
_STATUS = msgspec.json.Decoder(_Status)
_TOO_LARGE = "ResourceVersionTooLarge"


def refusal(code: int, body: bytes) -> StoreError:
    """Return what an answer that is no success means; ``code`` is 0 for an ERROR event."""
    try:
        status = _STATUS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = _Status(message=body[:200].decode(errors="replace"))
    causes = frozenset(cause.reason for cause in (status.details and status.details.causes) or ())
    if code == 410 or status.code == 410:
        return Compacted(0)
    if _TOO_LARGE in causes or "Too large resource version" in status.message:
        return FutureRevision(status.message)
    if 300 <= code < 400:
        return Unavailable(f"HTTP {code}: a redirect; this is no API server")
    if code in (429, 502, 503, 504):
        return Unavailable(f"HTTP {code}: {status.message}")
    return ApiError(code, status.reason, status.message, body, causes)


def read_object(path: str, data: bytes) -> dict[str, Any]:
    """Decode an object whole. Raises `Unavailable` when it is none."""
    return _decoded(_OBJECT, path, data)


def read_page(path: str, data: bytes) -> Page:
    """Split a list. Raises `Unavailable` when it is none."""
    page = _decoded(_LIST, path, data)
    return Page(
        items=tuple(page.items or ()), revision=page.metadata.resource_version, more=page.metadata.continue_
    )


def _decoded(decoder: "msgspec.json.Decoder[T]", path: str, data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Not an API server, or a proxy in front of one that is away.
        raise Unavailable(f"{path} is answered with something else than an object: {error}") from error


def read_event(line: bytes) -> WatchEvent:
    """Decode one line of a watch. Raises what the server says, or `Unavailable` on what is no event."""
    try:
        event = _EVENT.decode(line)
        data = bytes(event.object)
        kind = event.type
        if kind == "BOOKMARK" and (_BOOKMARK.decode(data).metadata.annotations or {}).get(INITIAL_EVENTS_END):
            kind = "SYNCED"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unavailable(f"a watch event was cut or is no JSON: {error}") from error
    if kind == "ERROR":
        raise refusal(0, data)
    return WatchEvent(type=kind, object=data)


class Patience(msgspec.Struct):
    """How long a stream may be silent; whoever reads it may change that on the way."""

    seconds: float | None


async def lines_of(stream: aiohttp.StreamReader, patience: Patience) -> AsyncIterator[bytes]:
    """Split a stream at newlines; aiohttp's own readline has a limit far below an object's size.

    Raises TimeoutError when patience is lost.
    """
    rest: list[bytes] = []
    while not stream.at_eof():
        async with asyncio.timeout(patience.seconds):
            chunk = await stream.readany()
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
