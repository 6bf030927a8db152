"""ObjectMeta as the server keeps it: names, uids, times, what a client may not change, and standing namespaces."""

import random
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from kubeproxy.apiserver import status
from kubeproxy.apiserver.kinds import Kind
from kubeproxy.model.names import SAFE_ALPHABET
from kubeproxy.store.base import Compare, Store, Target, get

Obj = dict[str, Any]

_SERVER_OWNED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
_OTHER_NAMESPACE = "the namespace of the provided object does not match the namespace sent on the request"
NAMESPACE_PREFIX = b"/registry/namespaces/"
_REMEMBERED = 4096
"""Namespaces whose revision is remembered; those that come and go would pile up otherwise."""


def new_uid(rng: random.Random) -> str:
    """Return a random UUID."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def new_name(rng: random.Random, prefix: str) -> str:
    """Return generateName with five random characters."""
    return prefix[:58] + "".join(rng.choices(SAFE_ALPHABET, k=5))


def accept_meta(kind: Kind, namespace: str, obj: Obj) -> None:
    """Take a new object's metadata: the path's namespace, nothing that only the server sets. Raises 400."""
    meta = obj.setdefault("metadata", {})
    if meta.get("resourceVersion"):
        raise status.bad_request("resourceVersion should not be set on objects to be created")
    for field in ("resourceVersion", "selfLink", "managedFields", *_SERVER_OWNED):
        meta.pop(field, None)
    if kind.resource.namespaced:
        meta["namespace"] = meta.get("namespace") or namespace
        if meta["namespace"] != namespace:
            raise status.bad_request(_OTHER_NAMESPACE)
    obj["kind"], obj["apiVersion"] = kind.name, kind.resource.api_version


def carry_meta(kind: Kind, old: Obj, new: Obj) -> None:
    """Bring what only the server sets over to an updated object. Raises 400 or 409 for another identity."""
    meta, before = new.setdefault("metadata", {}), old["metadata"]
    _check_name(meta, before["name"])
    if kind.resource.namespaced:
        meta["namespace"] = meta.get("namespace") or before["namespace"]
        if meta["namespace"] != before["namespace"]:
            raise status.bad_request(_OTHER_NAMESPACE)
    _check_uid(kind, before["name"], meta, before["uid"])
    for field in _SERVER_OWNED:
        meta.pop(field, None)
        if field in before:
            meta[field] = before[field]
    if "generateName" in before:
        meta["generateName"] = before["generateName"]
    for field in ("selfLink", "managedFields"):
        meta.pop(field, None)
    new["kind"], new["apiVersion"] = kind.name, kind.resource.api_version


def accept_absent(kind: Kind, name: str, obj: Obj) -> None:
    """Refuse an update of an object that is not there, but for one that may create it, of a kind that allows that.

    Whoever names the uid or, other than upstream, the resourceVersion has seen an object that is gone: it is not
    brought back. Raises 409, 404, 400.
    """
    meta = obj.setdefault("metadata", {})
    _check_uid(kind, name, meta, "")
    if not kind.create_on_update:
        raise status.not_found(kind.group, kind.plural, name)
    if meta.get("resourceVersion") not in (None, "", "0"):
        raise status.conflict(kind.group, kind.plural, name, status.OBJECT_MODIFIED)
    _check_name(meta, name)


def _check_name(meta: Obj, name: str) -> None:
    if meta.setdefault("name", name) != name:
        raise status.bad_request(
            f"the name of the object ({meta['name']}) does not match the name on the URL ({name})"
        )


def _check_uid(kind: Kind, name: str, meta: Obj, uid: str) -> None:
    if meta.get("uid") not in (None, "", uid):
        why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {uid}"
        raise status.conflict(kind.group, kind.plural, name, why)


def check_preconditions(kind: Kind, obj: Obj, preconditions: Mapping[str, str | None]) -> None:
    """Refuse a deletion meant for another incarnation of the object. Raises 409."""
    meta = obj["metadata"]
    for field, word in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        wanted = preconditions.get(field)
        if wanted and wanted != meta.get(field):
            why = (
                f"Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {meta.get(field)}"
            )
            raise status.conflict(kind.group, kind.plural, meta["name"], why)


class _Meta(msgspec.Struct, rename="camel"):
    deletion_timestamp: str | None = None


class _Namespace(msgspec.Struct):
    metadata: _Meta


class NamespaceGuard:
    """Lets objects be created only in namespaces that stand, at the cost of a condition in the transaction.

    The namespace's revision is remembered and made a condition of the write, so that a namespace deleted
    meanwhile fails the write; nothing is read for it while it holds.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._revisions: dict[str, int] = {}

    async def guard(self, kind: Kind, namespace: str, name: str, *, fresh: bool = False) -> tuple[Compare, ...]:
        """Return the condition for creating ``name``; ``fresh``: read the namespace, no write will prove it.

        Raises 404 when there is no such namespace, 403 when it is going.
        """
        if not kind.resource.namespaced:
            return ()
        key = NAMESPACE_PREFIX + namespace.encode()
        revision = None if fresh else self._revisions.get(namespace)
        if revision is None:
            found = await get(self._store, key)
            if found is None:
                raise status.not_found("", "namespaces", namespace)
            if msgspec.json.decode(found.value, type=_Namespace).metadata.deletion_timestamp:
                why = f"unable to create new content in namespace {namespace} because it is being terminated"
                cause = {
                    "reason": "NamespaceTerminating",
                    "message": f"namespace {namespace} is being terminated",
                    "field": "metadata.namespace",
                }
                raise status.forbidden(kind.group, kind.plural, name, why, cause)
            if len(self._revisions) >= _REMEMBERED:
                self._revisions.clear()
            revision = self._revisions[namespace] = found.mod_revision
        return (Compare(key=key, target=Target.MOD, value=revision),)

    def forget(self, namespace: str) -> None:
        """Read the namespace again next time: a write under its condition was refused."""
        self._revisions.pop(namespace, None)
