"""What the node agent follows at the API server: four informers, whose changes go into the World.

Every change marks what it touched for the syncers, which run when they see fit. Lives on the agent's event loop.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from kubeproxy.clock import Clock
from kubeproxy.health.announce import Announcer
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.health.report import SyncReport
from kubeproxy.health.statusz import InformerStatus
from kubeproxy.model.decode import (
    HEADLESS_LABEL,
    PROXY_NAME_LABEL,
    Data,
    decode_node,
    decode_proxy_slice,
    decode_service,
    decode_service_cidr,
)
from kubeproxy.model.objects import EndpointSlice, Node, Service, ServiceCIDR, key_of, name_of
from kubeproxy.model.world import World
from kubeproxy.store.informer import Informer, Key
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import ENDPOINT_SLICES, NODES, SERVICE_CIDRS, SERVICES, Resource
from kubeproxy.sync.syncer import Syncer

log = logging.getLogger(__name__)

T = TypeVar("T")

OUR_SERVICES, OUR_SLICES = f"!{PROXY_NAME_LABEL}", f"!{HEADLESS_LABEL}"
"""What kube-proxy 1.36 watches: no Service of another proxy, no headless slices. (DNS has its own informers.)"""


class Following:
    """The informers; each is run by the caller, as a task of its own.

    ``on_all_synced`` is called once every kind has been listed, and again after each list from then on.
    """

    def __init__(
        self,
        client: KubeClient,
        clock: Clock,
        node_name: str,
        world: World,
        syncers: Sequence[Syncer],
        report: SyncReport,
        health: ProxyHealth,
        announcer: Announcer,
        on_all_synced: Callable[[], None],
    ) -> None:
        self._client = client
        self._clock = clock
        self._world = world
        self._syncers = syncers
        self._report = report
        self._health = health
        self._announcer = announcer
        self._on_all_synced = on_all_synced
        own = f"metadata.name={node_name}"
        self.informers: dict[str, Informer[Any]] = {
            "services": self._follow(
                SERVICES, decode_service, key_of, self._services_changed, labels=OUR_SERVICES
            ),
            "endpointslices": self._follow(
                ENDPOINT_SLICES, decode_proxy_slice, key_of, self._slices_changed, labels=OUR_SLICES
            ),
            "node": self._follow(NODES, decode_node, name_of, self._node_changed, fields=own),
            "servicecidrs": self._follow(
                SERVICE_CIDRS, decode_service_cidr, name_of, self._service_cidrs_changed, optional=True
            ),
        }

    def away_since(self) -> float | None:
        """Return since when (Clock.wall) the API server has been away, None while it is there."""
        return min((each.outage.wall for each in self.informers.values() if each.outage), default=None)

    def status(self) -> dict[str, InformerStatus]:
        """Return how each kind stands, by the name that `kubeproxy status` gives it."""
        return {
            name: InformerStatus(
                synced=informer.synced,
                connected=informer.connected,
                objects=len(informer.cache),
                failures=informer.failures,
                away_since=informer.outage.wall if informer.outage else None,
                trouble=informer.outage.reason if informer.outage else "",
                rejected=tuple(f"{'/'.join(key)}: {why}" for key, why in informer.rejected.items()),
            )
            for name, informer in self.informers.items()
        }

    def _follow(
        self,
        resource: Resource,
        decode: Callable[[Data], T],
        key: Callable[[T], Key],
        on_change: Callable[[Mapping[Key, T | None]], None],
        *,
        labels: str = "",
        fields: str = "",
        optional: bool = False,
    ) -> Informer[T]:
        return Informer(
            self._client,
            resource,
            decode,
            clock=self._clock,
            on_change=on_change,
            on_synced=self._one_synced,
            on_rejected=partial(self._announcer.unreadable, resource),
            key_of=key,
            label_selector=labels,
            field_selector=fields,
            optional=optional,
        )

    def _one_synced(self) -> None:
        if all(informer.synced for informer in self.informers.values()):
            log.info("every informer has synced: %d Services", len(self._world.services))
            self._on_all_synced()

    def _services_changed(self, batch: Mapping[Key, Service | None]) -> None:
        touched = self._world.apply_services(batch)
        self._report.services_changed(len(batch), len(touched))
        self._touch(touched)

    def _slices_changed(self, batch: Mapping[Key, EndpointSlice | None]) -> None:
        slices = self._world.slices
        before = {key: slices.get(key) for key in batch}
        touched = self._world.apply_slices(batch)
        self._report.slices_changed([(piece, slices.get(key)) for key, piece in before.items()])
        self._touch(touched)

    def _node_changed(self, batch: Mapping[Key, Node | None]) -> None:
        for node in batch.values():
            self._health.node_changed(node)
            # One that is deleted is no reason to treat its pods' traffic otherwise: what was known of it stays.
            if node is not None and self._world.apply_node(node):
                self._touch_node()

    def _service_cidrs_changed(self, batch: Mapping[Key, ServiceCIDR | None]) -> None:
        if self._world.apply_service_cidrs(batch):
            self._touch_node()

    def _touch(self, keys: set[Key]) -> None:
        for syncer in self._syncers:
            syncer.touch(keys)

    def _touch_node(self) -> None:
        for syncer in self._syncers:
            syncer.touch_node()
