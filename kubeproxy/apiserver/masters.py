"""The endpoints of the `kubernetes` Service: every API server that lives, and none that does not.

As upstream's lease endpoint reconciler (pkg/controlplane/reconcilers/lease.go): each server keeps a key with a
lease below /registry/masterleases/ and writes what all those keys say. Endpoints and slice are written under the
condition that nobody wrote them since before the keys were read, so that servers that start at once do not drop
each other.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from kubeproxy.apiserver import status
from kubeproxy.apiserver.kinds import kind_of
from kubeproxy.apiserver.registry import DeleteOptions, Registry
from kubeproxy.model.addresses import family_of
from kubeproxy.store import objects, resources
from kubeproxy.store.base import LeaseNotFound, Range, get, prefix_end, put

log = logging.getLogger(__name__)

Obj = dict[str, Any]

PREFIX = b"/registry/masterleases/"
LEASE_SECONDS = 15
"""A server that says nothing for so long is taken off (upstream's TTL)."""
_NAMESPACE, _NAME = "default", "kubernetes"
_ATTEMPTS = 8


class Reach(msgspec.Struct, frozen=True, order=True):
    """Where pods find a server; ``address`` "" when they cannot."""

    address: str
    port: int


class Masters:
    """Keeps this server among the endpoints of the `kubernetes` Service. ``reach`` must have an address."""

    def __init__(self, registry: Registry, reach: Reach) -> None:
        self._registry = registry
        self._reach = reach
        self._key = PREFIX + reach.address.encode()
        self._lease = 0
        self._told: list[Reach] = []

    async def reconcile(self) -> None:
        """Renew this server's key and write what all keys say. Raises StoreError, ApiProblem."""
        await self._renew()
        await self._write()

    async def leave(self) -> None:
        """Take this server off; the last one stays, as upstream. Raises StoreError, ApiProblem."""
        if self._lease:
            try:
                await self._registry.store.lease_revoke(self._lease)
            except LeaseNotFound:
                log.debug("the lease of %s was over already", self._reach.address)
            self._lease = 0
        await self._write()

    async def _renew(self) -> None:
        store, value = self._registry.store, msgspec.json.encode(self._reach)
        if self._lease:
            try:
                await store.lease_keep_alive(self._lease)
            except LeaseNotFound:
                self._lease = 0
        if not self._lease:
            self._lease = (await store.lease_grant(LEASE_SECONDS)).id
        held = await get(store, self._key)
        if held is None or (held.lease, held.value) != (self._lease, value):
            await put(store, self._key, value, self._lease)

    async def _write(self) -> None:
        await self._bring(resources.ENDPOINTS, _endpoints)
        await self._bring(resources.ENDPOINT_SLICES, _endpoint_slice)

    async def _bring(self, resource: resources.Resource, make: Callable[[list[Reach]], Obj]) -> None:
        """Create or update an object, anew when another server wrote it meanwhile."""
        kind = kind_of(resource)
        for _ in range(_ATTEMPTS):
            current = await self._read(resource)
            reaches = await self._alike()
            if not reaches:
                return
            wanted = make(reaches)
            try:
                if current is None:
                    await self._registry.create(kind, _NAMESPACE, wanted)
                elif current.get("addressType") != wanted.get("addressType"):
                    options = DeleteOptions(preconditions={"uid": current["metadata"]["uid"]})
                    await self._registry.delete(kind, _NAMESPACE, _NAME, options)
                    continue
                else:
                    await self._registry.update(kind, _NAMESPACE, _NAME, _replaced(current, wanted))
                return
            except status.ApiProblem as problem:
                if problem.code not in (404, 409):
                    raise
        raise status.conflict("", resource.plural, _NAME, status.OBJECT_MODIFIED)

    async def _read(self, resource: resources.Resource) -> Obj | None:
        try:
            return objects.decode(await self._registry.read(kind_of(resource), _NAMESPACE, _NAME))
        except status.ApiProblem:
            return None

    async def _alike(self) -> list[Reach]:
        """Return the servers that live, in order.

        They must agree on the port and the IP family, as upstream's: one that differs from the first is left out.
        """
        found = await self._registry.store.range(Range(key=PREFIX, range_end=prefix_end(PREFIX)))
        reaches = sorted(msgspec.json.decode(kv.value, type=Reach) for kv in found.kvs)
        alike = [reach for reach in reaches if _sort(reach) == _sort(reaches[0])]
        left_out = [reach for reach in reaches if reach not in alike]
        if left_out and left_out != self._told:
            log.warning(
                "API servers differ in port or IP family; not among the endpoints of the %s Service: %s",
                _NAME,
                ", ".join(f"{reach.address} port {reach.port}" for reach in left_out),
            )
        self._told = left_out
        return alike


def _sort(reach: Reach) -> tuple[str, int]:
    return family_of(reach.address).label, reach.port


def _replaced(current: Obj, wanted: Obj) -> Callable[[Obj], Obj]:
    """Return the transform to what is wanted, of the object as it was read."""
    version = current["metadata"]["resourceVersion"]
    fields = {field: value for field, value in wanted.items() if field != "metadata"}
    return lambda old: {**old, **fields, "metadata": {**old["metadata"], "resourceVersion": version}}


def _ports(reaches: Iterable[Reach]) -> list[Obj]:
    return [{"name": "https", "port": port, "protocol": "TCP"} for port in sorted({r.port for r in reaches})]


def _endpoints(reaches: list[Reach]) -> Obj:
    labels = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    subset = {"addresses": [{"ip": reach.address} for reach in reaches], "ports": _ports(reaches)}
    return {"metadata": {"name": _NAME, "labels": labels}, "subsets": [subset]}


def _endpoint_slice(reaches: list[Reach]) -> Obj:
    return {
        "metadata": {"name": _NAME, "labels": {"kubernetes.io/service-name": _NAME}},
        "addressType": family_of(reaches[0].address).label,
        "endpoints": [{"addresses": [reach.address], "conditions": {"ready": True}} for reach in reaches],
        "ports": _ports(reaches),
    }
