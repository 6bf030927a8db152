"""List, then watch, for ever: a local copy of one collection that follows the API server.

What flows in: raw objects. What flows out: batches of changes (`on_change`), and once, explicitly, that the
first list is complete (`on_synced`): nobody may write half a world. Cost: one decode an event.

The state machine is the one every Kubernetes client has. A watch that ends is resumed from the last revision
seen; a revision that is gone (410) forces a new list, which is compared with the copy, so that consumers see
only what differs, deletions included; an absent server is retried with growing pauses and keeps the copy.
Only the latest value of a key is ever held, so a slow consumer costs no memory.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Generic, Protocol, TypeVar

import msgspec

from kubeproxy.clock import Clock
from kubeproxy.model.decode import DecodeError
from kubeproxy.store.base import Compacted, StoreError
from kubeproxy.store.kube import Listing, WatchEvent
from kubeproxy.store.resources import Resource

log = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[str, str]
"""(namespace, name); the namespace is "" for a cluster-wide object."""

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


class ObjectSource(Protocol):
    """Where an informer reads: `KubeClient`, or a fake of it."""

    async def list(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> Listing:
        """Return the whole collection."""
        ...

    def watch(
        self,
        resource: Resource,
        revision: str,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        """Yield what happened after the revision."""
        ...


class _Meta(msgspec.Struct, rename="camel", gc=False):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Identity(msgspec.Struct, gc=False):
    metadata: _Meta


_IDENTITY = msgspec.json.Decoder(_Identity)


class Informer(Generic[T]):
    """Follows one collection. Lives on one event loop; callbacks run on it and must not block."""

    def __init__(
        self,
        source: ObjectSource,
        resource: Resource,
        decode: Callable[[bytes], T],
        *,
        clock: Clock,
        on_change: Callable[[Mapping[Key, T | None]], None],
        on_synced: Callable[[], None] = lambda: None,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        self.cache: dict[Key, T] = {}
        self.synced = False
        self.connected = False
        """Whether the server answers; while it does not, the cache may be old."""
        self.rejected: dict[Key, str] = {}
        """Objects that could not be decoded, and why; they are as good as absent."""
        self.failures = 0
        self._source = source
        self._resource = resource
        self._decode = decode
        self._clock = clock
        self._on_change = on_change
        self._on_synced = on_synced
        self._scope = {
            "namespace": namespace,
            "label_selector": label_selector,
            "field_selector": field_selector,
        }
        self._revision = ""
        self._pause = FIRST_PAUSE_SECONDS
        self._relist_pause = 0.0

    async def run(self) -> None:
        """Follow until cancelled; nothing but cancellation ends it."""
        while True:
            try:
                if not self._revision:
                    await self._list()
                if not await self._watch():
                    # A server that ends every watch at once must not be asked in a tight loop.
                    await self._clock.sleep(FIRST_PAUSE_SECONDS)
            except Compacted:
                log.info("%s: the watch is too old, listing anew", self._resource.plural)
                self._revision = ""
                await self._rest_before_relist()
            except StoreError as error:
                self.connected = False
                await self._back_off(error)

    async def _rest_before_relist(self) -> None:
        """Lists that are too old as soon as they are there must not follow each other in a tight loop."""
        pause = self._relist_pause
        self._relist_pause = min(max(pause * 2, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        if pause:
            await self._clock.sleep(pause)

    async def _back_off(self, error: StoreError) -> None:
        if self._pause == FIRST_PAUSE_SECONDS:
            log.warning("%s: %s; the last good copy stays, retrying", self._resource.plural, error)
        self.failures += 1
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        await self._clock.sleep(pause)

    def _heard(self) -> None:
        self.connected = True
        if self._pause != FIRST_PAUSE_SECONDS:
            log.info("%s: the API server answers again", self._resource.plural)
        self._pause = FIRST_PAUSE_SECONDS

    async def _list(self) -> None:
        listing = await self._source.list(self._resource, **self._scope)
        self._heard()
        fresh: dict[Key, T] = {}
        self.rejected.clear()
        for data in listing.items:
            key, _ = _identify(data)
            value = self._accept(key, data)
            if value is not None:
                fresh[key] = value
        changes: dict[Key, T | None] = {key: None for key in self.cache if key not in fresh}
        changes |= {key: value for key, value in fresh.items() if self.cache.get(key) != value}
        self.cache = fresh
        self._revision = listing.revision
        if changes:
            self._on_change(changes)
        if not self.synced:
            self.synced = True
            self._on_synced()

    async def _watch(self) -> bool:
        progressed = False
        async for event in self._source.watch(self._resource, self._revision, **self._scope):
            self._heard()
            if event.type == "OPENED":
                continue
            self._relist_pause = 0.0
            key, revision = _identify(event.object)
            if event.type != "BOOKMARK":
                self._apply(key, event)
            self._revision = revision or self._revision
            progressed = True
        return progressed

    def _apply(self, key: Key, event: WatchEvent) -> None:
        self.rejected.pop(key, None)
        value = None if event.type == "DELETED" else self._accept(key, event.object)
        if value == self.cache.get(key):
            return
        if value is None:
            del self.cache[key]
        else:
            self.cache[key] = value
        self._on_change({key: value})

    def _accept(self, key: Key, data: bytes) -> T | None:
        try:
            return self._decode(data)
        except DecodeError as error:
            self.rejected[key] = str(error)
            log.warning("%s %s/%s is left out: %s", self._resource.kind, *_printable(key), error)
            return None


def _printable(key: Key) -> tuple[str, str]:
    namespace, name = (part.encode("unicode_escape").decode()[:80] for part in key)
    return namespace, name


def _identify(data: bytes) -> tuple[Key, str]:
    try:
        meta = _IDENTITY.decode(data).metadata
    except msgspec.DecodeError:
        return ("", ""), ""
    return (meta.namespace, meta.name), meta.resource_version
