"""Lists: a page of a collection as of one revision, filtered, as JSON or as a Table.

Unfiltered JSON is spliced together from the stored bytes. Work on many objects yields to the event loop now and
then, so that a list of 10,000 does not hold up every other request.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from kubeproxy.apiserver import status
from kubeproxy.apiserver.kinds import Kind
from kubeproxy.apiserver.selectors import Selection
from kubeproxy.apiserver.table import TableForm, row, table
from kubeproxy.store import objects
from kubeproxy.store.base import Compacted, FutureRevision, KeyValue, Range, RangeResult, Store, prefix_end

_CHUNK = 500
"""Objects handled between two turns of the event loop, and read at once when most are filtered away."""


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a list asks for. ``revision`` 0 is now; ``not_before`` refuses a store that is not there yet."""

    namespace: str = ""
    selection: Selection = Selection()
    limit: int = 0
    continue_token: str = ""
    revision: int = 0
    not_before: int = 0


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """The objects found; ``next`` is the token for the rest, ``remaining`` how many at least it holds."""

    revision: int
    kvs: list[KeyValue]
    next: str = ""
    remaining: int | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """The list's ListMeta."""
        meta: dict[str, Any] = {"resourceVersion": str(self.revision)}
        if self.next:
            meta["continue"] = self.next
            if self.remaining:
                meta["remainingItemCount"] = self.remaining
        return meta


_EXPIRED = "The resourceVersion for the provided list is too old."
_EXPIRED_CONTINUE = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list "
    "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
    "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
    "modified, or deleted between the time the first chunk was returned and now may show up in the list."
)
_INCONSISTENT = -1
"""A continue token's revision that stands for whatever is there then."""


async def read_page(store: Store, kind: Kind, query: ListQuery) -> Page:
    """Read one page. Raises 400 for a bad token, 410 when its revision is gone, 504 when one is yet to come."""
    namespace = query.namespace if kind.resource.namespaced else ""
    prefix = objects.collection_prefix(kind.prefix, namespace)
    end, start, revision, token = prefix_end(prefix), prefix, query.revision, None
    if query.continue_token:
        token = _parsed(query.continue_token)
        start, revision = kind.prefix + token.key.encode() + b"\0", max(token.revision, 0)
        if not start.startswith(prefix):
            raise status.bad_request("continue key is not valid: it belongs to another list")
    if name := query.selection.name:
        single = objects.object_key(kind.prefix, namespace, name)
        if namespace or not kind.resource.namespaced:
            start, end = max(start, single), min(end, single + b"\0")
    try:
        page = await _collect(store, kind, query, start, end, revision)
    except Compacted:
        if token is None:
            raise status.expired(_EXPIRED) from None
        again = objects.Continue(revision=_INCONSISTENT, key=token.key).token()
        raise status.expired(_EXPIRED_CONTINUE, again) from None
    except FutureRevision:
        raise status.revision_too_large(revision, await current_revision(store)) from None
    check_reached(query.not_before, page.revision)
    return page


def _parsed(text: str) -> objects.Continue:
    try:
        token = objects.parse_continue(text)
    except ValueError as error:
        raise status.bad_request(str(error)) from None
    if token.revision < 1 and token.revision != _INCONSISTENT:
        raise status.bad_request("continue key is not valid: incorrect encoded start resourceVersion")
    return token


async def current_revision(store: Store) -> int:
    """Return the store's revision now."""
    return (await store.range(Range(key=b"\0", count_only=True))).revision


def check_reached(asked: int, revision: int) -> None:
    """Refuse (504) to answer "not older than" a revision that the store has not reached."""
    if asked > revision:
        raise status.revision_too_large(asked, revision)


async def _collect(store: Store, kind: Kind, query: ListQuery, start: bytes, end: bytes, revision: int) -> Page:
    kept: list[KeyValue] = []
    everything = query.selection.is_everything
    while True:
        limit = query.limit if everything else (_CHUNK if query.limit else 0)
        found = await store.range(Range(key=start, range_end=end, limit=limit, revision=revision))
        revision = revision or found.revision
        if everything:
            return _page(kind, query, list(found.kvs), found, revision)
        for index, kv in enumerate(found.kvs):
            if index % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)
            if query.selection.matches(kv.value):
                kept.append(kv)
            if query.limit and len(kept) == query.limit:
                more = found.more or index + 1 < len(found.kvs)
                return Page(revision=revision, kvs=kept, next=_token(kind, revision, kv) if more else "")
        if not found.more:
            return Page(revision=revision, kvs=kept)
        start = found.kvs[-1].key + b"\0"


def _token(kind: Kind, revision: int, last: KeyValue) -> str:
    key = last.key.removeprefix(kind.prefix).decode()
    return objects.Continue(revision=revision, key=key).token()


def _page(kind: Kind, query: ListQuery, kvs: list[KeyValue], found: RangeResult, revision: int) -> Page:
    if not found.more or not kvs:
        return Page(revision=revision, kvs=kvs)
    return Page(revision=revision, kvs=kvs, next=_token(kind, revision, kvs[-1]), remaining=found.count - len(kvs))


async def _chunks(kvs: list[KeyValue]) -> AsyncIterator[list[KeyValue]]:
    for index in range(0, len(kvs), _CHUNK):
        if index:
            await asyncio.sleep(0)
        yield kvs[index : index + _CHUNK]


async def as_list(kind: Kind, page: Page) -> bytes:
    """Return the page as a list object."""
    parts: list[bytes] = []
    async for chunk in _chunks(page.kvs):
        parts.append(b",".join([objects.raw(kv) for kv in chunk]))
    meta = msgspec.json.encode(page.metadata)
    head = f'{{"kind":"{kind.name}List","apiVersion":"{kind.resource.api_version}","metadata":'.encode()
    return b"".join([head, meta, b',"items":[', b",".join(parts), b"]}"])


async def as_table(kind: Kind, page: Page, form: TableForm, now: float) -> bytes:
    """Return the page as a Table."""
    rows: list[dict[str, Any]] = []
    async for chunk in _chunks(page.kvs):
        rows += [row(kind, objects.raw(kv), form, now) for kv in chunk]
    return table(kind, rows, page.metadata)
