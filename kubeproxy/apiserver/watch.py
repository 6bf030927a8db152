"""Watches: the feed's changes as the API's events, for one collection, filtered, as JSON lines.

An object that begins or ceases to match the selectors is reported as ADDED or DELETED, because to this client
that is what happened. A watch that starts without a revision (or from "0") gets what exists first; one that starts
before the feed's ring reads the store's history by itself until it can join.
"""

from collections.abc import AsyncGenerator, Iterable
from typing import Any

import msgspec

from kubeproxy.apiserver import status
from kubeproxy.apiserver.feed import ROOT, ROOT_END, Behind, Change, Feed, json_line
from kubeproxy.apiserver.kinds import Kind
from kubeproxy.apiserver.listing import ListQuery, current_revision, read_page
from kubeproxy.apiserver.selectors import Selection
from kubeproxy.apiserver.table import TableForm, only_metadata, row, table
from kubeproxy.clock import Clock
from kubeproxy.store import objects
from kubeproxy.store.base import Compacted, Store

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""Annotation of the bookmark after which a WatchList client has seen everything."""


class WatchQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch asks for. ``revision`` 0 begins with what exists."""

    namespace: str = ""
    selection: Selection = Selection()
    revision: int = 0
    bookmarks: bool = False
    initial_events: bool | None = None
    """Begin with what exists and, with bookmarks, mark its end by one (client-go's WatchList). Not said: begin so
    when no revision is given."""
    table: TableForm | None = None
    metadata_only: bool = False


class Watcher:
    """One client's watch. Iterate `lines`; each is one event or several, ready to be sent."""

    def __init__(self, store: Store, feed: Feed, kind: Kind, query: WatchQuery, clock: Clock) -> None:
        self._store = store
        self._feed = feed
        self._kind = kind
        self._query = query
        self._clock = clock
        self._namespace = query.namespace if kind.resource.namespaced else ""
        self._plain = query.selection.is_everything and query.table is None and not query.metadata_only
        self._heading_sent = False
        self._seen = query.revision

    async def lines(self) -> AsyncGenerator[bytes]:
        """Yield events for as long as the store can be read. A lost revision is the last event, of type ERROR.

        Raises StoreError when the store is away while it is needed (at the beginning, or to catch up).
        """
        try:
            async for line in self._existing():
                yield line
            while True:
                following = self._joined() if self._feed.holds(self._seen) else self._catch_up()
                async for line in following:
                    yield line
        except Compacted as gone:
            message = f"too old resource version: {self._seen} ({gone.revision})"
            yield json_line("ERROR", msgspec.json.encode(status.expired(message).status()))
        except status.ApiProblem as problem:
            yield json_line("ERROR", msgspec.json.encode(problem.status()))

    async def _existing(self) -> AsyncGenerator[bytes]:
        query = self._query
        if query.initial_events is False and not query.revision:
            self._seen = await current_revision(self._store)
        elif query.initial_events or not query.revision:
            listed = ListQuery(namespace=self._namespace, selection=query.selection, not_before=query.revision)
            page = await read_page(self._store, self._kind, listed)
            for kv in page.kvs:
                yield self._object("ADDED", objects.raw(kv), kv.mod_revision)
            self._seen = page.revision
            if query.initial_events:
                yield self._bookmark({INITIAL_EVENTS_END: "true"})
        elif query.revision > self._feed.revision:
            await self._check_revision(query.revision)

    async def _check_revision(self, asked: int) -> None:
        """Refuse (410) a revision that is yet to come: it is of another store, and its client must begin anew."""
        now = await current_revision(self._store)
        if asked > now:
            raise status.expired(f"Too large resource version: {asked}, current: {now}")

    async def _joined(self) -> AsyncGenerator[bytes]:
        """Follow the feed until it leaves this watch behind."""
        subscription = self._feed.subscribe(self._kind.prefix, self._namespace, self._seen)
        if self._query.bookmarks:
            self._feed.ring_for(subscription)
        try:
            while True:
                changes = await subscription.next()
                out = self._events(changes) if changes else self._bookmark_at(subscription.after)
                self._seen = subscription.after
                if out:
                    yield out
        except Behind:
            self._seen = subscription.after
        finally:
            self._feed.unring(subscription)

    async def _catch_up(self) -> AsyncGenerator[bytes]:
        """Follow the store's own history until the feed has what comes next.

        It is read whole, for in one collection nothing may have happened that would show how far it is read.
        """
        prefix = objects.collection_prefix(self._kind.prefix, self._namespace)
        async for batch in self._store.watch(ROOT, ROOT_END, self._seen + 1):
            own = [event for event in batch.events if event.kv.key.startswith(prefix)]
            out = self._events(Change(event, self._kind.prefix) for event in own)
            self._seen = max(self._seen, batch.revision)
            if out:
                yield out
            if self._feed.holds(self._seen):
                return

    def _events(self, changes: Iterable[Change]) -> bytes:
        if self._plain:
            return b"".join([change.line for change in changes])
        return b"".join([line for change in changes if (line := self._selected(change))])

    def _selected(self, change: Change) -> bytes:
        before, now = self._matches(change.before), self._matches(change.now)
        if now:
            return self._object("MODIFIED" if before else "ADDED", change.shown, change.revision)
        return self._object("DELETED", change.last, change.revision) if before else b""

    def _matches(self, obj: Any) -> bool:
        return obj is not None and self._query.selection.matches_object(obj)

    def _bookmark_at(self, revision: int) -> bytes:
        self._seen = revision
        return self._bookmark({})

    def _bookmark(self, annotations: dict[str, str]) -> bytes:
        """Return a BOOKMARK of how far the watch has come, or nothing when the client wants none."""
        if not self._query.bookmarks or self._query.table or not self._seen:
            return b""
        meta: dict[str, Any] = {"resourceVersion": str(self._seen), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = annotations
        identity = {"kind": self._kind.name, "apiVersion": self._kind.resource.api_version}
        return self._object("BOOKMARK", msgspec.json.encode({**identity, "metadata": meta}), self._seen)

    def _object(self, kind: str, value: bytes, revision: int) -> bytes:
        if self._query.table is not None:
            rows = [row(self._kind, value, self._query.table, self._clock.wall())]
            value = table(self._kind, rows, {"resourceVersion": str(revision)}, heading=not self._heading_sent)
            self._heading_sent = True
        elif self._query.metadata_only:
            value = only_metadata(value)
        return json_line(kind, value)
