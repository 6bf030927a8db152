"""What a cluster always has: system namespaces, and the `kubernetes` Service that leads back here.

Made at start and looked after from then on, as upstream does: `kubectl delete service --all` takes the
`kubernetes` Service along, and it comes back.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from kubeproxy.apiserver import status
from kubeproxy.apiserver.allocate import Ranges
from kubeproxy.apiserver.kinds import kind_of
from kubeproxy.apiserver.masters import Masters, Reach
from kubeproxy.apiserver.registry import Registry
from kubeproxy.apiserver.servicecidrs import DEFAULT
from kubeproxy.clock import Clock
from kubeproxy.store import objects, resources
from kubeproxy.store.base import StoreError

log = logging.getLogger(__name__)

Obj = dict[str, Any]

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
KEEP_SECONDS = 10.0
"""How often it is seen to that everything is there (upstream's controller has the same pace)."""
_LABELS = {"component": "apiserver", "provider": "kubernetes"}


class SystemObjects:
    """Makes what is missing, and keeps this server among the endpoints of the `kubernetes` Service."""

    def __init__(self, registry: Registry, ranges: Ranges, reach: Reach) -> None:
        self._registry = registry
        self._ranges = ranges
        self._port = reach.port
        self._masters = Masters(registry, reach) if reach.address else None
        self._told: set[str] = set()

    async def keep(self, clock: Clock) -> None:
        """Make anew what somebody deleted, and say that this server lives, until cancelled."""
        while True:
            await clock.sleep(KEEP_SECONDS)
            try:
                await self.ensure()
            except StoreError as error:
                log.debug("system objects cannot be looked after now: %s", error)

    async def ensure(self) -> None:
        """Make what is missing, and bring the endpoints up to date. Raises StoreError."""
        for name in NAMESPACES:
            await self._ensure(resources.NAMESPACES, "", {"metadata": {"name": name}})
        await self._ensure(resources.SERVICE_CIDRS, "", self._service_cidr())
        await self._check_service_cidr()
        await self._ensure(resources.SERVICES, "default", _service(self._ranges, self._port))
        if self._masters is not None:
            await self._told_once("the endpoints of the kubernetes Service", self._masters.reconcile)

    async def leave(self) -> None:
        """Take this server, which ends, off the endpoints. Raises StoreError."""
        if self._masters is not None:
            await self._told_once("the endpoints of the kubernetes Service", self._masters.leave)

    def _service_cidr(self) -> Obj:
        return {"metadata": {"name": DEFAULT}, "spec": {"cidrs": [str(net) for net in self._ranges.networks]}}

    async def _check_service_cidr(self) -> None:
        """The default ServiceCIDR may get its second family; any other difference is the user's to settle."""
        kind, wanted = kind_of(resources.SERVICE_CIDRS), self._service_cidr()
        try:
            found = objects.decode(await self._registry.read(kind, "", DEFAULT))["spec"]["cidrs"]
        except status.ApiProblem:
            return  # Could not be made, which was told.
        cidrs = wanted["spec"]["cidrs"]
        if len(cidrs) == 2 and found == cidrs[:1]:
            await self._registry.update(kind, "", DEFAULT, lambda old: {**old, "spec": wanted["spec"]})
        elif found != cidrs and "ServiceCIDR" not in self._told:
            self._told.add("ServiceCIDR")
            log.warning(
                "--service-cluster-ip-range is %s, and ServiceCIDR %s says %s, which counts: make them match",
                ",".join(cidrs),
                DEFAULT,
                ",".join(found),
            )

    async def _ensure(self, resource: resources.Resource, namespace: str, obj: Obj) -> None:
        """Create an object that is not there."""
        kind, name = kind_of(resource), obj["metadata"]["name"]

        async def make() -> None:
            try:
                await self._registry.read(kind, namespace, name)
            except status.ApiProblem:
                await self._registry.create(kind, namespace, obj)

        await self._told_once(f"{resource.kind} {name}", make)

    async def _told_once(self, what: str, act: Callable[[], Awaitable[None]]) -> None:
        """Act; what is refused is said once, until it succeeds."""
        try:
            await act()
            self._told.discard(what)
        except status.ApiProblem as problem:
            if what not in self._told and problem.reason != "AlreadyExists":
                self._told.add(what)
                log.error("cannot keep %s: %s", what, problem)


def _service(ranges: Ranges, port: int) -> Obj:
    ports = [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}]
    spec = {"type": "ClusterIP", "clusterIP": str(ranges.networks[0][1]), "ports": ports}
    return {"metadata": {"name": "kubernetes", "labels": dict(_LABELS)}, "spec": spec}
