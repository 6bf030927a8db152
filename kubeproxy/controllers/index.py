"""What the endpoint controllers know: one informer of each kind for all of them, indexed by Service.

What flows in: Nodes (for their zones), Services, Pods, Endpoints, and the EndpointSlices that these controllers
manage; slices of anyone else are neither read nor written, the watch asks for the label. What flows out: which
Services a change concerns, and why, to whoever asked. A pod's change concerns the Services of its namespace whose
selector matches its old or new labels.
"""

import asyncio
import enum
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from kubeproxy.clock import Clock
from kubeproxy.controllers import mirroring, slices
from kubeproxy.controllers.fitting import MANAGED_BY_LABEL
from kubeproxy.controllers.objects import (
    Endpoints,
    EndpointSlice,
    Key,
    Node,
    Pod,
    Service,
    decode_endpoints,
    decode_node,
    decode_pod,
    decode_service,
    decode_slice,
)
from kubeproxy.controllers.podfacts import projection
from kubeproxy.controllers.selection import Members, service_of
from kubeproxy.controllers.unseen import Unseen
from kubeproxy.model.decode import ZONE_LABEL
from kubeproxy.store.informer import Informer
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import ENDPOINT_SLICES, ENDPOINTS, NODES, PODS, SERVICES, Resource

T = TypeVar("T")
W = TypeVar("W", EndpointSlice, Endpoints)


class Cause(enum.Enum):
    """Why a Service wants attention."""

    SERVICE = enum.auto()
    POD = enum.auto()
    ZONE = enum.auto()
    ENDPOINTS = enum.auto()
    SLICE = enum.auto()


class Index:
    """The newest known state. Lives on one event loop; `run` it as a task."""

    def __init__(self, client: KubeClient, *, clock: Clock) -> None:
        self.zones: dict[str, str] = {}
        self._written_slices: Unseen[EndpointSlice] = Unseen(clock.now)
        self._written_endpoints: Unseen[Endpoints] = Unseen(clock.now)
        self.bereft: set[Key] = set()
        """Services that were seen to go; whoever has cleared up after one takes it out."""
        self._namespaces: defaultdict[str, Members] = defaultdict(Members)
        self._listeners: list[tuple[Callable[[Key], None], Collection[Cause]]] = []
        self._client = client
        self._clock = clock
        self._ready = asyncio.Event()
        managers = f"{MANAGED_BY_LABEL} in ({slices.MANAGER},{mirroring.MANAGER})"
        self._informers = (
            self._follow(NODES, decode_node, self._nodes_changed),
            self._follow(SERVICES, decode_service, self._services_changed),
            self._follow(PODS, decode_pod, self._pods_changed),
            self._follow(ENDPOINTS, decode_endpoints, self._endpoints_changed),
            self._follow(ENDPOINT_SLICES, decode_slice, self._slices_changed, managers),
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

    def tell(self, listener: Callable[[Key], None], causes: Collection[Cause]) -> None:
        """Call ``listener`` with the key of each Service that wants attention for one of ``causes``."""
        self._listeners.append((listener, causes))

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for informer in self._informers:
                tasks.create_task(informer.run())

    async def synced(self) -> None:
        """Wait until every kind has been listed once: nobody may write half a world."""
        await self._ready.wait()

    def service(self, key: Key) -> Service | None:
        """Return a Service."""
        return self._namespaces[key[0]].services.get(key)

    def endpoints(self, key: Key) -> Endpoints | None:
        """Return the Endpoints of a Service's name."""
        return self._written_endpoints.get(key) or self._namespaces[key[0]].endpoints.get(key)

    def pods(self, service: Service) -> Iterable[Pod]:
        """Return the pods that a Service may select: no other does."""
        return self._namespaces[service.metadata.namespace].selected_by(service.spec.selector or {})

    def slices(self, key: Key, manager: str) -> list[EndpointSlice]:
        """Return a Service's slices that a controller manages, as that controller has written them if it has."""
        known = self._namespaces[key[0]].slices_of(key[1])
        newest = [self._written_slices.get(at) or each for at, each in known.items()]
        made = (each for each in self._written_slices.over(known).values() if _owner_of(each) == key)
        return [each for each in (*newest, *made) if _manager_of(each) == manager]

    def wrote_slice(self, each: EndpointSlice) -> None:
        """Take in a slice as the server has answered, before the watch shows it."""
        self._written_slices.made(each.metadata.key, each)

    def deleted_slice(self, key: Key) -> None:
        """Forget a slice that was made and is to go."""
        self._written_slices.seen([key])

    def wrote_endpoints(self, each: Endpoints) -> None:
        """Take in Endpoints as the server has answered, before the watch shows them."""
        self._written_endpoints.made(each.metadata.key, each)

    def _one_synced(self) -> None:
        if all(informer.synced for informer in self._informers):
            self._ready.set()

    def _touch(self, keys: Iterable[Key], cause: Cause) -> None:
        for key in keys:
            for listener, causes in self._listeners:
                if cause in causes:
                    listener(key)

    def _nodes_changed(self, changes: Mapping[Key, Node | None]) -> None:
        for (_, name), node in changes.items():
            zone = (node.metadata.labels or {}).get(ZONE_LABEL, "") if node else ""
            if zone != self.zones.get(name, ""):
                self.zones[name] = zone
                self._touch_services_on(name)

    def _touch_services_on(self, node: str) -> None:
        for members in self._namespaces.values():
            for pod in members.pods.values():
                if pod.spec.node_name == node:
                    self._touch(members.selecting(pod), Cause.ZONE)

    def _services_changed(self, changes: Mapping[Key, Service | None]) -> None:
        for key, service in changes.items():
            self._namespaces[key[0]].set_service(key, service)
            if service is None:
                self.bereft.add(key)
            else:
                self.bereft.discard(key)
        self._touch(changes, Cause.SERVICE)

    def _pods_changed(self, changes: Mapping[Key, Pod | None]) -> None:
        for key, pod in changes.items():
            members = self._namespaces[key[0]]
            before = members.set_pod(key, pod)
            if projection(before) == projection(pod):
                continue
            for each in (before, pod):
                if each is not None:
                    self._touch(members.selecting(each), Cause.POD)

    def _endpoints_changed(self, changes: Mapping[Key, Endpoints | None]) -> None:
        news = _news(self._written_endpoints, changes)
        for key, found in changes.items():
            if found is None:
                self._namespaces[key[0]].endpoints.pop(key, None)
            else:
                self._namespaces[key[0]].endpoints[key] = found
        self._touch(news, Cause.ENDPOINTS)

    def _slices_changed(self, changes: Mapping[Key, EndpointSlice | None]) -> None:
        news = _news(self._written_slices, changes)
        for key, found in changes.items():
            before = self._namespaces[key[0]].set_slice(key, found)
            owners = [_owner_of(each) for each in (before, found) if each is not None and key in news]
            self._touch([owner for owner in owners if owner[1]], Cause.SLICE)


def _news(written: Unseen[W], changes: Mapping[Key, W | None]) -> list[Key]:
    """Return what did not come from us; forget of our own what the watch shows now, or has got past.

    An event that is older than what we wrote was on its way, and changes nothing.
    """
    news = []
    for key, found in changes.items():
        mine = written.get(key)
        if mine is None or found is None or _version(found) >= _version(mine):
            written.seen([key])
            if found is None or found != mine:
                news.append(key)
    return news


def _version(each: EndpointSlice | Endpoints) -> int:
    """Return the resourceVersion as a number, which it is on every API server since 1.35, and ever was on etcd."""
    text = each.metadata.resource_version
    return int(text) if text.isascii() and text.isdigit() else 0


def _owner_of(each: EndpointSlice) -> Key:
    return each.metadata.namespace, service_of(each)


def _manager_of(each: EndpointSlice) -> str:
    return (each.metadata.labels or {}).get(MANAGED_BY_LABEL, "")
