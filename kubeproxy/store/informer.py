"""List, then watch, for ever: a local copy of one collection that follows the API server.

What flows in: raw objects. What flows out: batches of changes (`on_change`), and once, explicitly, that the
first list is complete (`on_synced`): nobody may write half a world. Cost: one decode an object listed, page by
page as they arrive; an event's revision takes another, shallow one.

The state machine is the one every Kubernetes client has. The collection comes as a watch's initial events where
the server offers that, in pages otherwise. A watch that ends is resumed from the last revision seen; a revision
that is gone (410), or that the server has not reached, forces a new list, which is compared with the copy, so that
consumers see only what differs, deletions included; an absent server is retried with growing pauses and keeps the
copy. After an absence of a minute the copy is compared even if the watch could be resumed: a store may have been
restored meanwhile, and its revisions mean something else since. Only the latest value of a key is ever held, so a
slow consumer costs no memory.
"""

import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

import msgspec

from kubeproxy.clock import Clock
from kubeproxy.model.decode import Data, DecodeError
from kubeproxy.store.base import Compacted, FutureRevision, StoreError
from kubeproxy.store.kube_wire import ApiError, Page, StreamingUnsupported, WatchEvent
from kubeproxy.store.resources import Resource

log = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[str, str]
"""(namespace, name); the namespace is "" for a cluster-wide object."""

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
ABSENT_SECONDS = 300.0
"""Between questions for a collection that the server does not have, or does not let us see."""
COMPARE_AFTER_SECONDS = 60.0
"""An absence of the server that is longer ends with a list."""


class ObjectSource(Protocol):
    """Where an informer reads: `KubeClient`, or a fake of it."""

    def pages(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> AsyncIterator[Page]:
        """Yield the whole collection in parts."""
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
        """Yield what happened after the revision; without one, everything first. See `KubeClient.watch`."""
        ...


class _Meta(msgspec.Struct, rename="camel", gc=False):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Identity(msgspec.Struct, gc=False):
    metadata: _Meta


_IDENTITY = msgspec.json.Decoder(_Identity)


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """Why and since when the server gives us nothing."""

    began: float = 0.0
    """By Clock.now."""
    wall: float = 0.0
    """In Unix seconds."""
    code: int
    """The HTTP status of its refusal; 0 when it does not answer."""
    reason: str


class Informer(Generic[T]):
    """Follows one collection. Lives on one event loop; callbacks run on it and must not block.

    ``key_of`` reads a decoded object's key; without it the JSON is parsed once more for it. ``rng`` spreads what
    many agents would do at the same moment. An ``optional`` collection is one that we can do without: where the
    server has none of the kind, or our role none of the permission, it counts as empty.
    """

    def __init__(
        self,
        source: ObjectSource,
        resource: Resource,
        decode: Callable[[Data], T],
        *,
        clock: Clock,
        on_change: Callable[[Mapping[Key, T | None]], None],
        on_synced: Callable[[], None] = lambda: None,
        on_rejected: Callable[[Key, str], None] = lambda key, why: None,
        key_of: Callable[[T], Key] | None = None,
        rng: random.Random | None = None,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        optional: bool = False,
    ) -> None:
        self.cache: dict[Key, T] = {}
        self.synced = False
        self.connected = False
        """Whether the server answers; while it does not, the cache may be old."""
        self.outage: Outage | None = None
        """Set while it does not, after it was asked."""
        self.rejected: dict[Key, str] = {}
        """Objects that could not be decoded, and why; they are as good as absent."""
        self.failures = 0
        self.lists = 0
        """How often the whole collection was read."""
        self._source = source
        self._resource = resource
        self._decode = decode
        self._clock = clock
        self._on_change = on_change
        self._on_synced = on_synced
        self._on_rejected = on_rejected
        self._key_of = key_of
        self._optional = optional
        self._rng = rng or random.Random()
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
                if not await self._follow():
                    # A server that ends every watch at once must not be asked in a tight loop.
                    await self._clock.sleep(FIRST_PAUSE_SECONDS)
            except StreamingUnsupported as error:
                log.debug("%s: no initial events, listing: %s", self._resource.plural, error)
                await self._attempt_list()
            except (Compacted, FutureRevision) as error:
                await self._start_over(error)
            except StoreError as error:
                await self._back_off(error)

    async def _attempt_list(self) -> None:
        try:
            await self._list()
        except (Compacted, FutureRevision) as error:
            await self._start_over(error)
        except StoreError as error:
            await self._back_off(error)

    async def _start_over(self, error: StoreError) -> None:
        """Forget the revision; lists that are too old as soon as they are there must not come in a tight loop."""
        reason = "the server no longer has what we saw last" if isinstance(error, Compacted) else error
        log.info("%s: %s; listing anew", self._resource.plural, reason)
        self._revision = ""
        pause = self._relist_pause
        self._relist_pause = min(max(pause * 2, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        if pause:
            await self._clock.sleep(self._jittered(pause))

    async def _do_without(self, error: ApiError) -> None:
        if not self.connected or not self.synced:
            log.info("%s: %s; going on without", self._resource.plural, self._trouble(error).reason)
        self.connected = True
        self._replace({}, {}, "")
        await self._clock.sleep(self._jittered(ABSENT_SECONDS))

    async def _back_off(self, error: StoreError) -> None:
        if self._optional and isinstance(error, ApiError) and error.code in (403, 404):
            await self._do_without(error)
            return
        self.connected = False
        began, wall = self._clock.now(), self._clock.wall()
        trouble = self._trouble(error)
        if self.outage is None or self.outage.code != trouble.code:
            log.warning("%s: %s; the last good copy stays, retrying", self._resource.plural, trouble.reason)
        if self.outage is not None:
            began, wall = self.outage.began, self.outage.wall
        self.outage = msgspec.structs.replace(trouble, began=began, wall=wall)
        self.failures += 1
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        await self._clock.sleep(self._jittered(pause))
        if self._clock.now() - self.outage.began > COMPARE_AFTER_SECONDS:
            self._revision = ""

    def _trouble(self, error: StoreError) -> Outage:
        """Say what keeps us from following, and what would help."""
        code = error.code if isinstance(error, ApiError) else 0
        reason = str(error)
        if code == 403:
            what = f'{self._resource.plural} (API group "{self._resource.group}")'
            reason = f"this agent's role lacks the permission to list and watch {what}: {error}"
        elif code == 401:
            reason = f"the API server refuses our credentials: {error}"
        return Outage(code=code, reason=reason)

    def _jittered(self, pause: float) -> float:
        return pause * self._rng.uniform(0.8, 1.2)

    def _heard(self) -> None:
        self.connected = True
        if self.outage is not None:
            away = self._clock.now() - self.outage.began
            log.info("%s: the API server answers again, after %.1f s", self._resource.plural, away)
            self.outage = None
        self._pause = FIRST_PAUSE_SECONDS

    async def _list(self) -> None:
        fresh: dict[Key, T] = {}
        rejected: dict[Key, str] = {}
        revision = ""
        async for page in self._source.pages(self._resource, **self._scope):
            self._heard()
            self._gather(page.items, fresh, rejected)
            revision = page.revision
        self._replace(fresh, rejected, revision)

    def _gather(self, items: Iterable[Data], fresh: dict[Key, T], rejected: dict[Key, str]) -> None:
        """Decode objects of a list, keeping the value that we hold already where nothing differs."""
        for data in items:
            try:
                value = self._decode(data)
            except DecodeError as error:
                self._reject(_identify(data)[0], error, rejected)
                continue
            key = self._key_of(value) if self._key_of else _identify(data)[0]
            held = self.cache.get(key)
            fresh[key] = value if held is None or held != value else held

    def _replace(self, fresh: dict[Key, T], rejected: dict[Key, str], revision: str) -> None:
        """Take over a whole collection and tell what differs."""
        self.lists += 1
        changes: dict[Key, T | None] = {key: None for key in self.cache if key not in fresh}
        changes |= {key: value for key, value in fresh.items() if self.cache.get(key) is not value}
        self.cache, self.rejected, self._revision = fresh, rejected, revision
        if changes:
            self._on_change(changes)
        if not self.synced:
            self.synced = True
            self._on_synced()

    async def _follow(self) -> bool:
        """Watch once, from the last revision or from nothing; return whether anything came."""
        progressed = False
        gathering = not self._revision
        fresh: dict[Key, T] = {}
        rejected: dict[Key, str] = {}
        async for event in self._source.watch(self._resource, self._revision, **self._scope):
            self._heard()
            if event.type == "OPENED":
                continue
            progressed = True
            if gathering and event.type != "SYNCED":
                if event.type != "BOOKMARK":
                    self._gather_event(event, fresh, rejected)
                continue
            key, revision = _identify(event.object)
            if gathering:
                gathering = False
                self._replace(fresh, rejected, revision)
                fresh, rejected = {}, {}
                continue
            self._relist_pause = 0.0
            if event.type not in ("BOOKMARK", "SYNCED"):
                self._apply(key, event)
            self._revision = revision or self._revision
        return progressed

    def _gather_event(self, event: WatchEvent, fresh: dict[Key, T], rejected: dict[Key, str]) -> None:
        if event.type == "DELETED":
            fresh.pop(_identify(event.object)[0], None)
        else:
            self._gather((event.object,), fresh, rejected)

    def _apply(self, key: Key, event: WatchEvent) -> None:
        self.rejected.pop(key, None)
        value = None
        if event.type != "DELETED":
            try:
                value = self._decode(event.object)
            except DecodeError as error:
                self._reject(key, error, self.rejected)
        if value == self.cache.get(key):
            return
        if value is None:
            del self.cache[key]
        else:
            self.cache[key] = value
        self._on_change({key: value})

    def _reject(self, key: Key, error: DecodeError, rejected: dict[Key, str]) -> None:
        rejected[key] = str(error)
        if self.rejected.get(key) != rejected[key] or rejected is self.rejected:
            log.warning("%s %s/%s is left out: %s", self._resource.kind, *_printable(key), error)
            self._on_rejected(key, str(error))


def _printable(key: Key) -> tuple[str, str]:
    namespace, name = (part.encode("unicode_escape").decode()[:80] for part in key)
    return namespace, name


def _identify(data: Data) -> tuple[Key, str]:
    try:
        meta = _IDENTITY.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ("", ""), ""
    return (meta.metadata.namespace, meta.metadata.name), meta.metadata.resource_version
