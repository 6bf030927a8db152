"""The cluster followed: informers feed a `ClusterZone` with what touches it.

The only module here that talks to an API server. It is imported late: its HTTP client takes longer to load than
everything else together, and the resolver answers from its first second.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from dns.cluster import Cluster, Key
from dns.zone import ClusterZone
from kubeproxy.clock import Clock
from kubeproxy.model.decode import decode_endpoint_slice, decode_namespace, decode_service
from kubeproxy.model.objects import EndpointSlice, Namespace, Service, key_of, name_of
from kubeproxy.store.credentials import Access
from kubeproxy.store.informer import Informer, ObjectSource
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import ENDPOINT_SLICES, NAMESPACES, SERVICES

log = logging.getLogger(__name__)


class ClusterWatch:
    """Keeps a zone in step with an API server."""

    def __init__(
        self, zone: ClusterZone, source: ObjectSource, clock: Clock, on_synced: Callable[[], None]
    ) -> None:
        self._zone = zone
        self._clock = clock
        self._cluster = Cluster()
        self._on_synced = on_synced
        self._services = Informer(
            source, SERVICES, decode_service, clock=clock, on_change=self._take_services, on_synced=self._check,
            key_of=key_of,
        )  # fmt: skip
        self._slices = Informer(
            source, ENDPOINT_SLICES, decode_endpoint_slice, clock=clock, on_change=self._take_slices,
            on_synced=self._check, key_of=key_of,
        )  # fmt: skip
        self._namespaces = Informer(
            source,
            NAMESPACES,
            decode_namespace,
            clock=clock,
            on_change=self._take_namespaces,
            on_synced=self._check,
            key_of=name_of,
        )

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._services.run())
            group.create_task(self._slices.run())
            group.create_task(self._namespaces.run())

    def _check(self) -> None:
        if self._services.synced and self._slices.synced and self._namespaces.synced:
            self._on_synced()

    def _take_services(self, changes: Mapping[Key, Service | None]) -> None:
        self._write(self._cluster.apply_services(changes))

    def _take_slices(self, changes: Mapping[Key, EndpointSlice | None]) -> None:
        self._write(self._cluster.apply_slices(changes))

    def _take_namespaces(self, changes: Mapping[Key, Namespace | None]) -> None:
        news = [self._zone.set_namespace(name, value is not None) for (_, name), value in changes.items()]
        self._end_batch(any(news))

    def _write(self, touched: set[Key]) -> None:
        news = [self._zone.set_service(key, *self._cluster.of(key)) for key in touched]
        self._end_batch(any(news))

    def _end_batch(self, changed: bool) -> None:
        if changed:
            self._zone.touch(int(self._clock.wall()))


async def follow(zone: ClusterZone, access: Access, clock: Clock, on_synced: Callable[[], None]) -> None:
    """Follow an API server until cancelled."""
    async with KubeClient(access) as client:
        await ClusterWatch(zone, client, clock, on_synced).run()
