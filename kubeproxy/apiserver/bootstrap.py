"""What a cluster has from the start: system namespaces, and the `kubernetes` Service that leads back here."""

import logging
from typing import Any

from kubeproxy.apiserver import status
from kubeproxy.apiserver.allocate import Ranges
from kubeproxy.apiserver.kinds import Kind, kind_of
from kubeproxy.apiserver.registry import Registry
from kubeproxy.store import resources

log = logging.getLogger(__name__)

Obj = dict[str, Any]

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_LABELS = {"component": "apiserver", "provider": "kubernetes"}


async def ensure_cluster(registry: Registry, ranges: Ranges, address: str, port: int) -> None:
    """Make what is missing, and point the `kubernetes` Service at this server."""
    for name in NAMESPACES:
        await _ensure(registry, resources.NAMESPACES, "", {"metadata": {"name": name}})
    await _ensure(registry, resources.SERVICES, "default", _service(ranges, port))
    if not address:
        log.info("no advertise address that pods could reach: the kubernetes Service has no endpoints")
        return
    await _ensure(registry, resources.ENDPOINTS, "default", _endpoints(address, port), "subsets")
    slice_ = _endpoint_slice(address, port)
    await _ensure(registry, resources.ENDPOINT_SLICES, "default", slice_, "endpoints", "ports")


async def _ensure(
    registry: Registry, resource: resources.Resource, namespace: str, obj: Obj, *fields: str
) -> None:
    """Create an object, or bring the named fields of the one that is there up to date."""
    kind: Kind = kind_of(resource)
    name = obj["metadata"]["name"]
    try:
        await registry.create(kind, namespace, obj)
        return
    except status.ApiProblem as problem:
        if problem.reason != "AlreadyExists":
            log.error("cannot make %s %s: %s", kind.name, name, problem)
            return

    def change(old: Obj) -> Obj:
        return {**old, **{field: obj[field] for field in fields}}

    if fields:
        await registry.update(kind, namespace, name, change)


def _service(ranges: Ranges, port: int) -> Obj:
    ports = [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}]
    spec = {"type": "ClusterIP", "clusterIP": str(ranges.networks[0][1]), "ports": ports}
    return {"metadata": {"name": "kubernetes", "labels": dict(_LABELS)}, "spec": spec}


def _endpoints(address: str, port: int) -> Obj:
    subset = {"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}
    labels = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    return {"metadata": {"name": "kubernetes", "labels": labels}, "subsets": [subset]}


def _endpoint_slice(address: str, port: int) -> Obj:
    return {
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv6" if ":" in address else "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }
