"""The garbage collector: what an owner's end means for what it owns, and a Namespace's for what is in it.

One watch over all objects keeps an index of owners (by uid) and namespaces. An object whose owners are all gone is
deleted; a Namespace that is being deleted is emptied, then let go; `foreground` and `orphan` deletions are carried
out and their finalizers taken off. Cost: a decode of the metadata of every change.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from kubeproxy.apiserver import status
from kubeproxy.apiserver.kinds import BY_KIND, KINDS, Kind
from kubeproxy.apiserver.registry import DeleteOptions, Registry
from kubeproxy.clock import Clock
from kubeproxy.controllers.election import Guard, unguarded
from kubeproxy.store.base import Compacted, Event, EventType, KeyValue, Range, StoreError, prefix_end

log = logging.getLogger(__name__)

_ROOT = b"/registry/"
_RETRY_SECONDS = 1.0
_AT_A_TIME = 32
_BY_PREFIX: tuple[tuple[bytes, Kind], ...] = tuple((kind.prefix, kind) for kind in KINDS)


class _Owner(msgspec.Struct, rename="camel", frozen=True):
    uid: str
    kind: str = ""
    api_version: str = ""
    name: str = ""


class _Meta(msgspec.Struct, rename="camel", frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    owner_references: tuple[_Owner, ...] = ()
    finalizers: tuple[str, ...] = ()
    deletion_timestamp: str | None = None


class _Object(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()


_DECODER = msgspec.json.Decoder(_Object)


class _Node(msgspec.Struct, frozen=True):
    """An object as the collector sees it."""

    kind: Kind
    meta: _Meta


class GarbageCollector:
    """Deletes what nothing holds any more. Run `run` as a task; ``guard`` is asked before each write."""

    def __init__(self, registry: Registry, clock: Clock, guard: Guard = unguarded) -> None:
        self._registry = registry
        self._guard = guard
        self._clock = clock
        self._objects: dict[bytes, _Node] = {}
        self._by_uid: dict[str, bytes] = {}
        self._dependents: defaultdict[str, set[bytes]] = defaultdict(set)
        self._members: defaultdict[str, set[bytes]] = defaultdict(set)
        self._revision = 0
        self.failures = 0

    async def run(self) -> None:
        """Collect until cancelled; a store that is away is tried again."""
        waiting = False
        while True:
            try:
                await self._catch_up()
                waiting = False
                await self._follow()
            except Compacted:
                log.info("garbage collector fell behind the store; reading everything again")
            except StoreError as error:
                if not waiting:
                    log.warning("garbage collector waits for the store: %s", error)
                waiting = True
                self.failures += 1
                await self._clock.sleep(_RETRY_SECONDS)

    async def _catch_up(self) -> None:
        self._forget_all()
        found = await self._registry.store.range(Range(key=_ROOT, range_end=prefix_end(_ROOT)))
        for kv in found.kvs:
            self._note(kv)
        self._revision = found.revision
        await self._settle(set(self._objects))

    async def _follow(self) -> None:
        async for batch in self._registry.store.watch(_ROOT, prefix_end(_ROOT), self._revision + 1):
            touched: set[bytes] = set()
            for event in batch.events:
                touched |= self._apply(event)
            await self._settle(touched)

    def _forget_all(self) -> None:
        for index in (self._objects, self._by_uid, self._dependents, self._members):
            index.clear()

    def _apply(self, event: Event) -> set[bytes]:
        """Take a change into the index; return the objects whose fate it may decide."""
        key = event.kv.key
        old = self._drop(key)
        if event.type is EventType.PUT:
            self._note(event.kv)
            return {key} if key in self._objects else set()
        if old is None:
            return set()
        touched = set(self._dependents.get(old.meta.uid, ()))
        if old.meta.namespace and not self._members.get(old.meta.namespace):
            touched.add(_namespace_key(old.meta.namespace))
        touched |= {held for owner in old.meta.owner_references if (held := self._by_uid.get(owner.uid))}
        return touched

    def _note(self, kv: KeyValue) -> None:
        kind = next((kind for prefix, kind in _BY_PREFIX if kv.key.startswith(prefix)), None)
        if kind is None:
            return
        try:
            meta = _DECODER.decode(kv.value).metadata
        except msgspec.DecodeError as error:
            self.failures += 1
            log.error("stored object %r cannot be read: %s", kv.key, error)
            return
        self._objects[kv.key] = _Node(kind, meta)
        self._by_uid[meta.uid] = kv.key
        for owner in meta.owner_references:
            self._dependents[owner.uid].add(kv.key)
        if meta.namespace:
            self._members[meta.namespace].add(kv.key)

    def _drop(self, key: bytes) -> _Node | None:
        node = self._objects.pop(key, None)
        if node is None:
            return None
        if self._by_uid.get(node.meta.uid) == key:
            del self._by_uid[node.meta.uid]
        for owner in node.meta.owner_references:
            _discard(self._dependents, owner.uid, key)
        _discard(self._members, node.meta.namespace, key)
        return node

    async def _settle(self, keys: set[bytes]) -> None:
        nodes = [node for key in sorted(keys) if (node := self._objects.get(key)) is not None]
        await _each(nodes, self._decide)

    async def _decide(self, node: _Node) -> None:
        meta = node.meta
        if meta.deletion_timestamp and node.kind.name == "Namespace":
            await self._empty_namespace(node)
        elif meta.deletion_timestamp and "orphan" in meta.finalizers:
            await self._orphan_dependents(node)
        elif meta.deletion_timestamp and "foregroundDeletion" in meta.finalizers:
            await self._delete_dependents(node)
        elif not meta.deletion_timestamp and (self._is_abandoned(meta) or self._is_going(meta.namespace)):
            await self._delete(node)

    def _is_abandoned(self, meta: _Meta) -> bool:
        return bool(meta.owner_references) and not any(
            self._stands(owner, meta) for owner in meta.owner_references
        )

    def _is_going(self, namespace: str) -> bool:
        held = self._objects.get(_namespace_key(namespace)) if namespace else None
        return held is not None and held.meta.deletion_timestamp is not None

    def _stands(self, owner: _Owner, meta: _Meta) -> bool:
        """The owner exists; one of a kind that we do not serve is taken to."""
        if (owner.api_version, owner.kind) not in BY_KIND:
            return True
        held = self._objects.get(self._by_uid.get(owner.uid, b""))
        return held is not None and held.meta.namespace in ("", meta.namespace)

    async def _empty_namespace(self, node: _Node) -> None:
        members = self._members.get(node.meta.name, set())
        nodes = [self._objects[key] for key in sorted(members)]
        await _each([member for member in nodes if not member.meta.deletion_timestamp], self._delete)
        if not members:
            await self._change(node, lambda obj: {**obj, "spec": {"finalizers": []}}, subresource="finalize")

    async def _orphan_dependents(self, node: _Node) -> None:
        def disown(obj: dict[str, Any]) -> dict[str, Any]:
            _keep(obj, "ownerReferences", lambda owner: owner.get("uid") != node.meta.uid)
            return obj

        for key in sorted(self._dependents.get(node.meta.uid, ())):
            await self._change(self._objects[key], disown)
        await self._change(node, _without("orphan"))

    async def _delete_dependents(self, node: _Node) -> None:
        dependents = [self._objects[key] for key in sorted(self._dependents.get(node.meta.uid, ()))]
        for dependent in dependents:
            if not dependent.meta.deletion_timestamp:
                await self._delete(dependent, "Foreground")
        if not dependents:
            await self._change(node, _without("foregroundDeletion"))

    async def _delete(self, node: _Node, policy: str | None = None) -> None:
        self._guard()
        meta, options = node.meta, DeleteOptions(preconditions={"uid": node.meta.uid}, propagation_policy=policy)
        try:
            await self._registry.delete(node.kind, meta.namespace, meta.name, options)
        except status.ApiProblem as problem:
            self._tell(node, problem)

    async def _change(self, node: _Node, transform: Any, subresource: str = "") -> None:
        self._guard()

        def guarded(obj: dict[str, Any]) -> dict[str, Any]:
            changed: dict[str, Any] = transform(obj)
            changed["metadata"].pop("resourceVersion", None)
            return changed

        try:
            await self._registry.update(
                node.kind, node.meta.namespace, node.meta.name, guarded, subresource=subresource
            )
        except status.ApiProblem as problem:
            self._tell(node, problem)

    def _tell(self, node: _Node, problem: status.ApiProblem) -> None:
        """An object that went or came anew meanwhile is as it should be; anything else is worth a line."""
        if problem.code not in (404, 409):
            self.failures += 1
            log.error(
                "garbage collector: %s %s/%s: %s", node.kind.name, node.meta.namespace, node.meta.name, problem
            )


async def _each(nodes: list[_Node], act: Callable[[_Node], Awaitable[None]]) -> None:
    """Act on many objects, some at a time."""
    for index in range(0, len(nodes), _AT_A_TIME):
        await asyncio.gather(*(act(node) for node in nodes[index : index + _AT_A_TIME]))


def _namespace_key(name: str) -> bytes:
    return b"/registry/namespaces/" + name.encode()


def _discard(index: "Mapping[str, set[bytes]]", name: str, key: bytes) -> None:
    held = index.get(name)
    if held is not None:
        held.discard(key)
        if not held and isinstance(index, dict):
            del index[name]


def _without(finalizer: str) -> Any:
    def transform(obj: dict[str, Any]) -> dict[str, Any]:
        _keep(obj, "finalizers", lambda held: held != finalizer)
        return obj

    return transform


def _keep(obj: dict[str, Any], field: str, wanted: Callable[[Any], bool]) -> None:
    """Filter a list of the metadata; one that is empty then is left out, as upstream does."""
    kept = [item for item in obj["metadata"].pop(field, None) or [] if wanted(item)]
    if kept:
        obj["metadata"][field] = kept
