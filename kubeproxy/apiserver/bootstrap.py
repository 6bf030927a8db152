"""What a cluster always has: system namespaces, and the `kubernetes` Service that leads back here.

Made at start and looked after from then on, as upstream does: `kubectl delete service --all` takes the
`kubernetes` Service along, and it comes back.
"""

import logging
from typing import Any

import msgspec

from kubeproxy.apiserver import status
from kubeproxy.apiserver.allocate import Ranges
from kubeproxy.apiserver.kinds import kind_of
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


class Reach(msgspec.Struct, frozen=True):
    """Where pods find this server; ``address`` "" when they cannot."""

    address: str
    port: int


class SystemObjects:
    """Makes what is missing, and points the `kubernetes` Service at this server."""

    def __init__(self, registry: Registry, ranges: Ranges, reach: Reach) -> None:
        self._registry = registry
        self._ranges = ranges
        self._reach = reach
        self._told: set[str] = set()

    async def keep(self, clock: Clock) -> None:
        """Make anew what somebody deleted, until cancelled.

        What is there stays as it is: another server on the same store may have written it.
        """
        while True:
            await clock.sleep(KEEP_SECONDS)
            try:
                await self.ensure(refresh=False)
            except StoreError as error:
                log.debug("system objects cannot be looked after now: %s", error)

    async def ensure(self, *, refresh: bool = True) -> None:
        """Make what is missing; ``refresh``: bring what is there up to date too. Raises StoreError."""
        for name in NAMESPACES:
            await self._ensure(resources.NAMESPACES, "", {"metadata": {"name": name}})
        await self._ensure(resources.SERVICE_CIDRS, "", self._service_cidr())
        await self._check_service_cidr()
        await self._ensure(resources.SERVICES, "default", _service(self._ranges, self._reach.port))
        if self._reach.address:
            endpoints, slice_ = _endpoints(self._reach), _endpoint_slice(self._reach)
            await self._ensure(resources.ENDPOINTS, "default", endpoints, *(("subsets",) if refresh else ()))
            fields = ("endpoints", "ports") if refresh else ()
            await self._ensure(resources.ENDPOINT_SLICES, "default", slice_, *fields)

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

    async def _ensure(self, resource: resources.Resource, namespace: str, obj: Obj, *fields: str) -> None:
        """Create an object, or bring the named fields of the one that is there up to date."""
        what = f"{resource.kind} {obj['metadata']['name']}"
        try:
            await self._write(resource, namespace, obj, fields)
            self._told.discard(what)
        except status.ApiProblem as problem:
            if what not in self._told:
                self._told.add(what)
                log.error("cannot keep %s: %s", what, problem)

    async def _write(
        self, resource: resources.Resource, namespace: str, obj: Obj, fields: tuple[str, ...]
    ) -> None:
        kind, name = kind_of(resource), obj["metadata"]["name"]
        try:
            await self._registry.read(kind, namespace, name)
        except status.ApiProblem:
            await self._registry.create(kind, namespace, obj)
            return
        if fields:
            wanted = {field: obj[field] for field in fields}
            await self._registry.update(kind, namespace, name, lambda old: {**old, **wanted})


def _service(ranges: Ranges, port: int) -> Obj:
    ports = [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}]
    spec = {"type": "ClusterIP", "clusterIP": str(ranges.networks[0][1]), "ports": ports}
    return {"metadata": {"name": "kubernetes", "labels": dict(_LABELS)}, "spec": spec}


def _endpoints(reach: Reach) -> Obj:
    ports = [{"name": "https", "port": reach.port, "protocol": "TCP"}]
    labels = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    subset = {"addresses": [{"ip": reach.address}], "ports": ports}
    return {"metadata": {"name": "kubernetes", "labels": labels}, "subsets": [subset]}


def _endpoint_slice(reach: Reach) -> Obj:
    return {
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv6" if ":" in reach.address else "IPv4",
        "endpoints": [{"addresses": [reach.address], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": reach.port, "protocol": "TCP"}],
    }
