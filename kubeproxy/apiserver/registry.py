"""Reading and writing objects: one code path for every kind, one store transaction for every write.

A write decodes, defaults, validates and allocates outside the store and then commits under conditions (the
object is as it was read, its namespace still stands, claimed addresses are free). When a condition fails, what
failed is looked at and the write is answered or tried again.
"""

import random
from collections.abc import Callable
from typing import Any

import msgspec

from kubeproxy.apiserver import status
from kubeproxy.apiserver.allocate import Allocator, Claim, held_keys
from kubeproxy.apiserver.kinds import Kind
from kubeproxy.apiserver.metadata import (
    NamespaceGuard,
    accept_meta,
    carry_meta,
    check_preconditions,
    new_name,
    new_uid,
)
from kubeproxy.apiserver.names import validate_finalizers_update, validate_meta
from kubeproxy.clock import Clock
from kubeproxy.model.timestamps import timestamp
from kubeproxy.store import objects
from kubeproxy.store.base import (
    Compare,
    Delete,
    KeyValue,
    LeaseNotFound,
    Operation,
    Put,
    Range,
    RangeResult,
    Store,
    Target,
    TxnResult,
    get,
)

Obj = dict[str, Any]
Transform = Callable[[Obj], Obj]

MAX_OBJECT = 1_572_864
"""Bytes that an object may take (etcd's request limit upstream)."""

IMMORTAL_NAMESPACES = frozenset({"default", "kube-system", "kube-public"})
"""Upstream's NamespaceLifecycle admission protects these."""

_ATTEMPTS = 24
_EVENT_SECONDS = 3600


class DeleteOptions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How an object is to be deleted (meta/v1 DeleteOptions)."""

    grace_period_seconds: int | None = None
    propagation_policy: str | None = None
    orphan_dependents: bool | None = None
    preconditions: dict[str, str | None] | None = None
    dry_run: list[str] | None = None


class Registry:
    """The objects of all kinds. ``rng`` makes names, uids and random allocations."""

    def __init__(self, store: Store, allocator: Allocator, *, clock: Clock, rng: random.Random) -> None:
        self.store = store
        self._allocator = allocator
        self._clock = clock
        self._rng = rng
        self._namespaces = NamespaceGuard(store)
        self._event_lease: tuple[float, int] = (0.0, 0)

    async def read(self, kind: Kind, namespace: str, name: str) -> KeyValue:
        """Return a stored object. Raises 404."""
        found = await get(self.store, objects.object_key(kind.prefix, namespace, name))
        if found is None:
            raise status.not_found(kind.group, kind.plural, name)
        return found

    async def create(self, kind: Kind, namespace: str, obj: Obj, *, dry_run: bool = False) -> bytes:
        """Create an object and return it as stored. Raises 404, 409, 422."""
        accept_meta(kind, namespace, obj)
        meta = obj["metadata"]
        meta["creationTimestamp"] = timestamp(self._clock.wall())
        meta["uid"] = new_uid(self._rng)
        if kind.generation:
            meta["generation"] = 1
        if kind.has_status and not kind.status_at_create:
            obj.pop("status", None)
        generated = not meta.get("name") and bool(meta.get("generateName"))
        for attempt in range(_ATTEMPTS):
            if generated:
                meta["name"] = new_name(self._rng, meta["generateName"])
            try:
                written = await self._create_once(kind, namespace, obj, attempt, dry_run=dry_run)
            except status.ApiProblem as problem:
                if generated and problem.reason == "AlreadyExists":
                    continue
                raise
            if written is not None:
                return written
        raise status.conflict(
            kind.group, kind.plural, meta["name"], "too many concurrent writes; please try again"
        )

    async def _create_once(
        self, kind: Kind, namespace: str, wanted: Obj, attempt: int, *, dry_run: bool
    ) -> bytes | None:
        """Try once; None when a pick of ours was taken meanwhile, so that another try may succeed."""
        obj = objects.copied(wanted) if kind.name == "Service" else wanted
        kind.default(obj)
        kind.settle(obj, None)
        self._validate(kind, obj, [])
        name = obj["metadata"]["name"]
        claims = await self._claims(kind, obj, None, attempt)
        guard = await self._namespaces.guard(kind, namespace, name, fresh=dry_run)
        key = objects.object_key(kind.prefix, namespace, name)
        value = self._encode(obj)
        compare = (_absent(key), *guard, *_conditions(claims))
        owner = key.removeprefix(b"/registry/")
        success: list[Operation] = [Put(key=key, value=value, lease=await self._lease_for(kind, dry_run))]
        success += [Put(key=claim.key, value=owner) for claim in claims]
        reads = [Range(key=key), *(Range(key=claim.key) for claim in claims)]
        if dry_run:
            failed = [(await self.store.range(read)).kvs for read in reads]
            self._explain(kind, name, failed, claims)
            return value
        try:
            result = await self.store.txn(compare, tuple(success), tuple(reads))
        except LeaseNotFound:
            self._event_lease = (0.0, 0)  # Revoked, or over while this machine was paused.
            return None
        if result.succeeded:
            return objects.with_revision(value, result.revision)
        self._namespaces.forget(namespace)
        self._allocator.forget()
        self._explain(kind, name, _found(result), claims)
        return None

    def _explain(self, kind: Kind, name: str, found: list[tuple[KeyValue, ...]], claims: list[Claim]) -> None:
        """Raise what a refused transaction means to the client; return when trying again may help."""
        if found[0]:
            raise status.already_exists(kind.group, kind.plural, name)
        refusals = [c.refusal for c, kvs in zip(claims, found[1:], strict=True) if kvs and c.refusal]
        if refusals:
            raise status.invalid(kind.group, kind.name, name, refusals)

    async def _claims(self, kind: Kind, obj: Obj, old: Obj | None, attempt: int) -> list[Claim]:
        if kind.name != "Service":
            return []
        return await self._allocator.complete(obj, None if old is None else old["spec"], attempt)

    async def _lease_for(self, kind: Kind, dry_run: bool) -> int:
        """Events expire: those of one minute share a lease."""
        if kind.name != "Event" or dry_run:
            return 0
        until, lease = self._event_lease
        if self._clock.now() >= until:
            lease = (await self.store.lease_grant(_EVENT_SECONDS)).id
            self._event_lease = (self._clock.now() + 60, lease)
        return lease

    def _validate(self, kind: Kind, obj: Obj, more: status.Errors) -> None:
        namespaced = kind.resource.namespaced
        errors = validate_meta(obj["metadata"], namespaced=namespaced, check_name=kind.check_name)
        errors += kind.validate(obj) + more
        if errors:
            raise status.invalid(kind.group, kind.name, obj["metadata"].get("name", ""), errors)

    def _encode(self, obj: Obj) -> bytes:
        value = objects.encode(obj)
        if len(value) > MAX_OBJECT:
            raise status.too_large(MAX_OBJECT)
        return value

    async def update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        transform: Transform,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> bytes:
        """Replace an object by what ``transform`` makes of the stored one, and return it as stored.

        A transform that leaves or sets another resourceVersion than the stored one is refused with 409; one that
        sets none is applied to whatever is stored, tried again when a write came between.
        """
        for attempt in range(_ATTEMPTS):
            current = await self.read(kind, namespace, name)
            old = objects.decode(current)
            new = transform(objects.decode(current))
            asked = new.setdefault("metadata", {}).get("resourceVersion")
            if asked not in (None, "", "0", str(current.mod_revision)):
                raise status.conflict(kind.group, kind.plural, name, status.OBJECT_MODIFIED)
            carry_meta(kind, old, new)
            if kind.has_status:
                _keep_other_half(kind, new, old, subresource)
            if kind.name == "Namespace" and subresource != "finalize":
                new["spec"] = old.get("spec") or {}  # Its finalizers, which only the one who empties it takes off.
            # Binding a pod is the one way to give it a node; a plain update may not.
            check = subresource != "binding"
            written = await self._update_once(kind, current, old, new, attempt, check=check, dry_run=dry_run)
            if written is not None:
                return written
        raise status.conflict(kind.group, kind.plural, name, status.OBJECT_MODIFIED)

    async def _update_once(
        self, kind: Kind, current: KeyValue, old: Obj, new: Obj, attempt: int, *, check: bool, dry_run: bool
    ) -> bytes | None:
        _keep_fixed(kind, new, old)
        kind.default(new)
        kind.settle(new, old)
        refused = validate_finalizers_update(new["metadata"], old["metadata"])
        self._validate(kind, new, refused + (kind.validate_update(new, old) if check else []))
        claims = await self._claims(kind, new, old, attempt)
        if kind.generation and _spec(new) != _spec(old):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        value = self._encode(new)
        if value == current.value or msgspec.json.decode(value) == msgspec.json.decode(current.value):
            return objects.raw(current)
        if dry_run:
            found = [(await self.store.range(Range(key=claim.key))).kvs for claim in claims]
            self._explain(kind, new["metadata"]["name"], [(), *found], claims)
            return objects.with_revision(value, current.mod_revision)
        released = held_keys(old["spec"]) - held_keys(new["spec"]) if kind.name == "Service" else set()
        if _is_finished(new):
            return await self._remove(kind, current)
        compare = (_unchanged(current), *_conditions(claims))
        success: list[Operation] = [Put(key=current.key, value=value, lease=current.lease)]
        owner = current.key.removeprefix(b"/registry/")
        success += [Put(key=claim.key, value=owner) for claim in claims]
        success += [Delete(key=key) for key in sorted(released)]
        reads = tuple(Range(key=claim.key) for claim in claims)
        result = await self.store.txn(compare, tuple(success), reads)
        if result.succeeded:
            return objects.with_revision(value, result.revision)
        self._allocator.forget()
        self._explain(kind, new["metadata"]["name"], [(), *_found(result)], claims)
        return None

    async def delete(self, kind: Kind, namespace: str, name: str, options: DeleteOptions) -> tuple[bytes, bool]:
        """Delete an object, or mark it when something must happen first; return it and whether it is gone."""
        if kind.name == "Namespace" and name in IMMORTAL_NAMESPACES:
            raise status.forbidden("", kind.plural, name, "this namespace may not be deleted")
        for _ in range(_ATTEMPTS):
            current = await self.read(kind, namespace, name)
            obj = objects.decode(current)
            check_preconditions(kind, obj, options.preconditions or {})
            marked = self._marked(kind, obj, options)
            if options.dry_run:
                return objects.raw(current), marked is None
            if marked is None:
                removed = await self._remove(kind, current)
                if removed is not None:
                    return removed, True
                continue
            value = self._encode(marked)
            if msgspec.json.decode(value) == msgspec.json.decode(current.value):
                return objects.raw(current), False
            put = Put(key=current.key, value=value, lease=current.lease)
            result = await self.store.txn((_unchanged(current),), (put,))
            if result.succeeded:
                return objects.with_revision(value, result.revision), False
        raise status.conflict(kind.group, kind.plural, name, status.OBJECT_MODIFIED)

    def _marked(self, kind: Kind, obj: Obj, options: DeleteOptions) -> Obj | None:
        """Return the object as it waits for its end, or None when it may go at once."""
        meta = obj["metadata"]
        finalizers = _finalizers_for(list(meta.get("finalizers") or []), options)
        if kind.name == "Namespace":
            if not (obj.get("spec") or {}).get("finalizers") and not finalizers:
                return None
            obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
            grace = 0
        else:
            grace = _pod_grace(obj, options) if kind.name == "Pod" else 0
            if not grace and not finalizers:
                return None
        if finalizers:
            meta["finalizers"] = finalizers
        before = meta.get("deletionGracePeriodSeconds")
        if "deletionTimestamp" not in meta or (before is not None and grace < before):
            meta["deletionTimestamp"] = timestamp(self._clock.wall() + grace)
            if kind.name != "Namespace":
                meta["deletionGracePeriodSeconds"] = grace
            if "generation" in meta:
                meta["generation"] += 1
        return obj

    async def _remove(self, kind: Kind, current: KeyValue) -> bytes | None:
        """Delete an object and what it holds; None when it changed meanwhile."""
        operations: list[Operation] = [Delete(key=current.key)]
        if kind.name == "Service":
            spec = msgspec.json.decode(current.value).get("spec") or {}
            operations += [Delete(key=key) for key in sorted(held_keys(spec))]
        result = await self.store.txn((_unchanged(current),), tuple(operations))
        return objects.with_revision(current.value, result.revision) if result.succeeded else None


def _absent(key: bytes) -> Compare:
    return Compare(key=key, target=Target.VERSION, value=0)


def _conditions(claims: list[Claim]) -> list[Compare]:
    """What must hold for claims to be made: nobody has the keys, and they are of ServiceCIDRs that stand."""
    needs = {claim.needs.key: claim.needs for claim in claims if claim.needs is not None}
    return [*(_absent(claim.key) for claim in claims), *needs.values()]


def _unchanged(kv: KeyValue) -> Compare:
    return Compare(key=kv.key, target=Target.MOD, value=kv.mod_revision)


def _found(result: TxnResult) -> list[tuple[KeyValue, ...]]:
    return [part.kvs for part in result.results if isinstance(part, RangeResult)]


def _spec(obj: Obj) -> Obj:
    """Everything but metadata and status: what the generation counts changes of."""
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}


def _keep_other_half(kind: Kind, new: Obj, old: Obj, subresource: str) -> None:
    """The main resource cannot write status; the status subresource can write nothing but that and annotations.

    flanneld publishes its lease as annotations through nodes/status. Labels pass too, as with upstream, but not a
    Deployment's, nor a Pod's: by them a node's agent could draw Services to its pods (upstream: NodeRestriction).
    """
    if subresource != "status":
        new.pop("status", None)
        if "status" in old:
            new["status"] = objects.copied(old["status"])
        return
    for field in [key for key in new if key not in ("status", "metadata")]:
        del new[field]
    new.update({key: value for key, value in old.items() if key not in ("status", "metadata")})
    passing = ("resourceVersion", "annotations", *(() if kind.name in ("Deployment", "Pod") else ("labels",)))
    kept = {key: value for key, value in old["metadata"].items() if key not in passing}
    new["metadata"] = kept | {key: new["metadata"][key] for key in passing if key in new["metadata"]}


def _keep_fixed(kind: Kind, new: Obj, old: Obj) -> None:
    for path in kind.fixed_fields:
        section, _, field = path.partition(".")
        if field in old.get(section, {}) and field not in new.get(section, {}):
            new.setdefault(section, {})[field] = old[section][field]


def _is_finished(obj: Obj) -> bool:
    """The last finalizer of an object that waits for its end was taken off."""
    meta = obj["metadata"]
    held = meta.get("finalizers") or (obj["kind"] == "Namespace" and (obj.get("spec") or {}).get("finalizers"))
    return "deletionTimestamp" in meta and not held and not meta.get("deletionGracePeriodSeconds")


def _pod_grace(obj: Obj, options: DeleteOptions) -> int:
    """A Pod that runs is given time; the kubelet deletes it for good with a grace of 0."""
    grace = options.grace_period_seconds
    spec, phase = obj["spec"], (obj.get("status") or {}).get("phase")
    if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
        return 0
    if grace is None:
        held = obj["metadata"].get("deletionGracePeriodSeconds")
        return int(held if held is not None else spec.get("terminationGracePeriodSeconds", 30))
    return max(grace, 0)


def _finalizers_for(finalizers: list[str], options: DeleteOptions) -> list[str]:
    policy = options.propagation_policy or ("Orphan" if options.orphan_dependents else None)
    added = {"Orphan": "orphan", "Foreground": "foregroundDeletion"}.get(policy or "")
    if added and added not in finalizers:
        finalizers.append(added)
    return finalizers
