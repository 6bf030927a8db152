"""The EndpointSlice controller: Services with selectors, and their pods, become slices.

What flows in: Services, Pods, Nodes (for their zones) and the slices that this controller manages, each by an
informer. What flows out: creates, updates and deletes of those slices, planned by `slices.plan_slices`. Nothing
is written before all four have synced. Slices of anyone else are neither read nor written: the watch asks for
the managed-by label.

Cost: one plan per Service touched by a change; a pod's change touches the Services of its namespace whose
selector matches its old or new labels. A write that lost a race (409, 404) is planned anew from the newer copy,
an absent API server is retried with growing pauses, and a list made anew brings only what differs.
"""

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TypeVar

from kubeproxy.clock import Clock
from kubeproxy.controllers.objects import (
    EndpointSlice,
    Key,
    Node,
    Pod,
    Service,
    decode_node,
    decode_pod,
    decode_service,
    decode_slice,
    shape,
)
from kubeproxy.controllers.selection import Members, service_of
from kubeproxy.controllers.slices import MANAGED_BY_LABEL, MANAGER, SlicePlan, plan_slices
from kubeproxy.controllers.unseen import Unseen
from kubeproxy.controllers.workqueue import WorkQueue
from kubeproxy.model.decode import ZONE_LABEL
from kubeproxy.model.names import SAFE_ALPHABET
from kubeproxy.store.base import StoreError, Unavailable
from kubeproxy.store.informer import Informer
from kubeproxy.store.kube import ApiError, KubeClient
from kubeproxy.store.resources import ENDPOINT_SLICES, NODES, PODS, SERVICES, Resource

log = logging.getLogger(__name__)

T = TypeVar("T")


def generated_name(prefix: str, choose: Callable[[str], str] = random.choice) -> str:
    """Return ``prefix`` and five random characters, as the API server's generateName does."""
    return prefix[: 253 - 5] + "".join(choose(SAFE_ALPHABET) for _ in range(5))


class EndpointSliceController:
    """Keeps the slices of every Service that has a selector."""

    def __init__(self, client: KubeClient, *, clock: Clock) -> None:
        self._client = client
        self._queue: WorkQueue[Key] = WorkQueue(clock=clock)
        self._namespaces: defaultdict[str, Members] = defaultdict(Members)
        self._zones: dict[str, str] = {}
        self._unseen: Unseen[EndpointSlice] = Unseen(clock.now)
        self._synced = 0
        self._ready = asyncio.Event()
        self._complained: set[Key] = set()
        self.failures = 0
        self._clock = clock
        managed = f"{MANAGED_BY_LABEL}={MANAGER}"
        self._informers = (
            self._follow(NODES, decode_node, self._nodes_changed),
            self._follow(SERVICES, decode_service, self._services_changed),
            self._follow(PODS, decode_pod, self._pods_changed),
            self._follow(ENDPOINT_SLICES, decode_slice, self._slices_changed, managed),
        )

    def _follow(
        self,
        resource: Resource,
        decode: Callable[[bytes], T],
        on_change: Callable[[Mapping[Key, T | None]], None],
        label_selector: str = "",
    ) -> Informer[T]:
        return Informer(
            self._client,
            resource,
            decode,
            clock=self._clock,
            on_change=on_change,
            on_synced=self._one_synced,
            label_selector=label_selector,
        )

    async def run(self) -> None:
        """Follow and write until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for informer in self._informers:
                    tasks.create_task(informer.run())
                await self._ready.wait()
                while True:
                    await self._reconcile(await self._queue.take())
        finally:
            self._queue.close()

    def _one_synced(self) -> None:
        self._synced += 1
        if self._synced == len(self._informers):
            self._ready.set()

    def _nodes_changed(self, changes: Mapping[Key, Node | None]) -> None:
        for (_, name), node in changes.items():
            zone = (node.metadata.labels or {}).get(ZONE_LABEL, "") if node else ""
            if zone != self._zones.get(name, ""):
                self._zones[name] = zone
                self._touch_services_on(name)

    def _touch_services_on(self, node: str) -> None:
        for members in self._namespaces.values():
            for pod in members.pods.values():
                if pod.spec.node_name == node:
                    self._touch_services_of(members, pod)

    def _touch_services_of(self, members: Members, pod: Pod) -> None:
        for key in members.selecting(pod):
            self._queue.add(key)

    def _services_changed(self, changes: Mapping[Key, Service | None]) -> None:
        for key, service in changes.items():
            self._namespaces[key[0]].set_service(key, service)
            self._queue.add(key)

    def _pods_changed(self, changes: Mapping[Key, Pod | None]) -> None:
        for key, pod in changes.items():
            members = self._namespaces[key[0]]
            before = members.set_pod(key, pod)
            for each in (before, pod):
                if each is not None:
                    self._touch_services_of(members, each)

    def _slices_changed(self, changes: Mapping[Key, EndpointSlice | None]) -> None:
        self._unseen.seen(changes)
        for key, found in changes.items():
            before = self._namespaces[key[0]].set_slice(key, found)
            for each in (before, found):
                if each is not None and (owner := service_of(each)):
                    self._queue.add((key[0], owner))

    async def _reconcile(self, key: Key) -> None:
        plan = self._plan(key)
        try:
            await self._carry_out(plan)
        except StoreError as error:
            if _is_going(error):
                # Its Service is deleted next: there is nothing left to do, and nothing to retry.
                log.debug("namespace %s is being deleted: no more EndpointSlices for Service %s", *key)
            else:
                self._put_off(key, error)
                return
        self._queue.done(key)
        self._complained.discard(key)

    def _plan(self, key: Key) -> SlicePlan:
        members = self._namespaces[key[0]]
        of_service = members.slices_of(key[1])
        unseen = (each for each in self._unseen.over(of_service).values() if _owner_of(each) == key)
        standing = [*of_service.values(), *unseen]
        service = members.services.get(key)
        if service is None:
            return SlicePlan(deletes=tuple(standing))
        selector = service.spec.selector
        if not selector or service.metadata.deletion_timestamp is not None:
            return SlicePlan()
        return plan_slices(service, members.selected_by(selector), standing, self._zones, generated_name)

    def _put_off(self, key: Key, error: StoreError) -> None:
        """Try again later; say so once per Service, unless it only lost a race."""
        self.failures += 1
        lost_race = isinstance(error, ApiError) and error.code in (404, 409)
        if not lost_race and not isinstance(error, Unavailable) and key not in self._complained:
            self._complained.add(key)
            log.warning("EndpointSlices of Service %s/%s are late, retrying: %s", *key, error)
        self._queue.failed(key)

    async def _carry_out(self, plan: SlicePlan) -> None:
        for each in plan.creates:
            made = await self._client.create(ENDPOINT_SLICES, each.metadata.namespace, _body(each))
            name = made["metadata"]["name"]
            self._unseen.made((each.metadata.namespace, name), each)
        for each in plan.updates:
            await self._client.replace(ENDPOINT_SLICES, *each.metadata.key, _body(each))
        for each in plan.deletes:
            self._unseen.seen([each.metadata.key])
            await self._delete(each.metadata.key)

    async def _delete(self, key: Key) -> None:
        try:
            await self._client.delete(ENDPOINT_SLICES, *key)
        except ApiError as error:
            if error.code != 404:
                raise


def _owner_of(each: EndpointSlice) -> Key:
    return each.metadata.namespace, service_of(each)


def _is_going(error: StoreError) -> bool:
    """The namespace is being deleted, and takes nothing new."""
    return isinstance(error, ApiError) and error.code == 403 and "NamespaceTerminating" in error.causes


def _body(each: EndpointSlice) -> dict[str, object]:
    return {
        "apiVersion": ENDPOINT_SLICES.api_version,
        "kind": ENDPOINT_SLICES.kind,
        **shape(each),
        # Both are required by the API, and omitted by `shape` when empty.
        "endpoints": [shape(endpoint) for endpoint in each.endpoints or ()],
        "ports": [shape(port) for port in each.ports or ()],
    }
