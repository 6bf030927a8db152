"""Watches: the store's events as the API's, for one collection, filtered, as JSON lines.

An object that begins or ceases to match the selectors is reported as ADDED or DELETED, because to this client
that is what happened. A watch that starts without a revision (or from "0") gets what exists first.
"""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from kubeproxy.apiserver import status
from kubeproxy.apiserver.kinds import Kind
from kubeproxy.apiserver.listing import ListQuery, read_page
from kubeproxy.apiserver.selectors import Selection
from kubeproxy.apiserver.table import TableForm, row, table
from kubeproxy.clock import Clock
from kubeproxy.store import objects
from kubeproxy.store.base import Compacted, Event, EventType, Range, Store, prefix_end

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""Annotation of the bookmark after which a WatchList client has seen everything."""


class WatchQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch asks for. ``revision`` 0 begins with what exists."""

    namespace: str = ""
    selection: Selection = Selection()
    revision: int = 0
    bookmarks: bool = False
    initial_events: bool = False
    """Begin with what exists and mark its end by a bookmark (client-go's WatchList)."""
    table: TableForm | None = None


class Watcher:
    """One client's watch. Iterate `lines`; each is one event, ready to be sent."""

    def __init__(self, store: Store, kind: Kind, query: WatchQuery, clock: Clock) -> None:
        self._store = store
        self._kind = kind
        self._query = query
        self._clock = clock
        self._heading_sent = False
        self._seen = query.revision

    async def lines(self) -> AsyncGenerator[bytes]:
        """Yield events until the store's watch ends; b"" marks that the watch stands. A lost revision is the
        last event, of type ERROR."""
        try:
            async for line in self._events():
                yield line
        except Compacted as gone:
            message = f"too old resource version: {self._query.revision} ({gone.revision})"
            yield self._line("ERROR", msgspec.json.encode(status.expired(message).status()))
        except status.ApiProblem as problem:
            yield self._line("ERROR", msgspec.json.encode(problem.status()))

    async def _events(self) -> AsyncGenerator[bytes]:
        namespace = self._query.namespace if self._kind.resource.namespaced else ""
        if not self._query.revision or self._query.initial_events:
            query = ListQuery(namespace=namespace, selection=self._query.selection)
            page = await read_page(self._store, self._kind, query)
            for kv in page.kvs:
                yield self._object("ADDED", objects.raw(kv))
            self._seen = page.revision
            if self._query.initial_events:
                yield self._line("BOOKMARK", self._bookmark_object({INITIAL_EVENTS_END: "true"}))
        else:
            await self._check_revision(self._query.revision)
        prefix = objects.collection_prefix(self._kind.prefix, namespace)
        async for batch in self._store.watch(prefix, prefix_end(prefix), self._seen + 1):
            out = [line for event in batch.events if (line := self._event(event))]
            self._seen = max(self._seen, batch.revision)
            yield b"".join(out)

    async def _check_revision(self, asked: int) -> None:
        """Refuse (410) a revision that is yet to come: it is of another store, and its client must begin anew."""
        now = (await self._store.range(Range(key=b"\0", count_only=True))).revision
        if asked > now:
            raise status.expired(f"Too large resource version: {asked}, current: {now}")

    def _event(self, event: Event) -> bytes:
        selection, old = self._query.selection, event.previous
        matched = old is not None and selection.matches(old.value)
        if event.type is EventType.DELETE:
            if old is None or not matched:
                return b""
            return self._object("DELETED", objects.with_revision(old.value, event.kv.mod_revision))
        matches = selection.matches(event.kv.value)
        if matches:
            return self._object("MODIFIED" if matched else "ADDED", objects.raw(event.kv))
        if matched and old is not None:
            return self._object("DELETED", objects.with_revision(old.value, event.kv.mod_revision))
        return b""

    def bookmark(self) -> bytes:
        """Return a BOOKMARK of how far the watch has come, or nothing when the client wants none."""
        if not self._query.bookmarks or self._query.table or not self._seen:
            return b""
        return self._line("BOOKMARK", self._bookmark_object({}))

    def _bookmark_object(self, annotations: dict[str, str]) -> bytes:
        meta: dict[str, Any] = {"resourceVersion": str(self._seen), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = annotations
        identity = {"kind": self._kind.name, "apiVersion": self._kind.resource.api_version}
        return msgspec.json.encode({**identity, "metadata": meta})

    def _object(self, kind: str, value: bytes) -> bytes:
        if self._query.table is not None:
            rows = [row(self._kind, value, self._query.table, self._clock.wall())]
            meta = {"resourceVersion": str(self._seen or "")}
            value = table(self._kind, rows, meta, heading=not self._heading_sent)
            self._heading_sent = True
        return self._line(kind, value)

    @staticmethod
    def _line(kind: str, value: bytes) -> bytes:
        return b'{"type":"%b","object":%b}\n' % (kind.encode(), value)
