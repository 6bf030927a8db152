"""What each endpoint controller does about one Service: plan from the index, write what differs.

Every write asks the guard first: a process that leads no longer, and was paused while it did, writes nothing. A
write that comes too late is refused, by resourceVersion or uid, and planned anew.
"""

import random
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from kubeproxy.controllers import mirroring, slices
from kubeproxy.controllers.election import Guard
from kubeproxy.controllers.fitting import SlicePlan
from kubeproxy.controllers.index import Index
from kubeproxy.controllers.mirroring import plan_mirror
from kubeproxy.controllers.objects import Endpoints, EndpointSlice, Key, Meta, shape
from kubeproxy.controllers.slices import plan_slices
from kubeproxy.controllers.subsets import ENDPOINTS_MANAGED_BY_LABEL, ENDPOINTS_MANAGER, plan_endpoints
from kubeproxy.model.names import SAFE_ALPHABET
from kubeproxy.store.base import Unavailable
from kubeproxy.store.kube import ApiError, KubeClient
from kubeproxy.store.resources import ENDPOINT_SLICES, ENDPOINTS, Resource

T = TypeVar("T", EndpointSlice, Endpoints)


def generated_name(prefix: str, choose: Callable[[str], str] = random.choice) -> str:
    """Return ``prefix`` and five random characters, as the API server's generateName does."""
    return prefix[: 253 - 5] + "".join(choose(SAFE_ALPHABET) for _ in range(5))


class Writer:
    """Writes under a guard. Raises StoreError; deleting what is gone is none."""

    def __init__(self, client: KubeClient, index: Index, guard: Guard) -> None:
        self._client = client
        self._index = index
        self._guard = guard

    async def create(self, resource: Resource, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an object; return it as the server made it."""
        self._guard()
        return await self._client.create(resource, namespace, body)

    async def replace(self, resource: Resource, key: Key, body: dict[str, Any]) -> dict[str, Any]:
        """Replace an object, if it still is as it was read; return it as the server has it now."""
        self._guard()
        return await self._client.replace(resource, *key, body)

    async def delete(self, resource: Resource, meta: Meta) -> None:
        """Delete an object, not its successor of the same name."""
        self._guard()
        try:
            await self._client.delete(resource, *meta.key, uid=meta.uid)
        except ApiError as error:
            if error.code != 404:
                raise

    async def carry_out(self, plan: SlicePlan) -> None:
        """Write a plan's slices; what was written counts before the watch shows it."""
        for each in plan.creates:
            answer = await self.create(ENDPOINT_SLICES, each.metadata.namespace, _slice_body(each))
            self._index.wrote_slice(_answered(answer, EndpointSlice))
        for each in plan.updates:
            answer = await self.replace(ENDPOINT_SLICES, each.metadata.key, _slice_body(each))
            self._index.wrote_slice(_answered(answer, EndpointSlice))
        for each in plan.deletes:
            self._index.deleted_slice(each.metadata.key)
            await self.delete(ENDPOINT_SLICES, each.metadata)


async def reconcile_slices(index: Index, writer: Writer, key: Key) -> None:
    """Bring a Service's own slices up to date; without a selector they are as they were left."""
    service, standing = index.service(key), index.slices(key, slices.MANAGER)
    if service is None:
        await writer.carry_out(SlicePlan(deletes=tuple(standing)))
    elif service.spec.selector:
        plan = plan_slices(service, index.pods(service), standing, index.zones, generated_name)
        if service.metadata.deletion_timestamp is not None:
            # The garbage collector takes its slices: none is made behind its back.
            plan = SlicePlan(updates=plan.updates, deletes=plan.deletes)
        await writer.carry_out(plan)


async def reconcile_mirror(index: Index, writer: Writer, key: Key) -> None:
    """Bring the slices that mirror somebody's Endpoints up to date."""
    standing = index.slices(key, mirroring.MANAGER)
    await writer.carry_out(plan_mirror(index.service(key), index.endpoints(key), standing, generated_name))


async def reconcile_endpoints(index: Index, writer: Writer, key: Key) -> None:
    """Bring a Service's Endpoints up to date; those of a Service that went go too, whoever made them.

    Endpoints that were there before us, of a Service that never was, stay unless a controller made them. (Upstream
    deletes those as well when it starts.)
    """
    service, standing = index.service(key), index.endpoints(key)
    if service is None:
        if standing is not None and (key in index.bereft or _is_ours(standing)):
            await writer.delete(ENDPOINTS, standing.metadata)
        index.bereft.discard(key)
    elif service.spec.selector and service.spec.type != "ExternalName":
        wanted = plan_endpoints(service, index.pods(service), standing)
        if wanted is None:
            return
        body = {"apiVersion": ENDPOINTS.api_version, "kind": ENDPOINTS.kind, **shape(wanted)}
        if standing is None:
            answer = await writer.create(ENDPOINTS, key[0], body)
        else:
            answer = await writer.replace(ENDPOINTS, key, body)
        index.wrote_endpoints(_answered(answer, Endpoints))


def _answered(answer: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise Unavailable(f"a write is answered with something else than its object: {error}") from None


def _is_ours(endpoints: Endpoints) -> bool:
    return (endpoints.metadata.labels or {}).get(ENDPOINTS_MANAGED_BY_LABEL) == ENDPOINTS_MANAGER


def _slice_body(each: EndpointSlice) -> dict[str, Any]:
    return {
        "apiVersion": ENDPOINT_SLICES.api_version,
        "kind": ENDPOINT_SLICES.kind,
        **shape(each),
        # Both are required by the API, and omitted by `shape` when empty.
        "endpoints": [shape(endpoint) for endpoint in each.endpoints or ()],
        "ports": [shape(port) for port in each.ports or ()],
    }
