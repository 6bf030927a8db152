"""Ends of a packet's way → addresses: by the API server, and by this node's routes."""

import asyncio
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any

import aiohttp

from kubeproxy.kernel.routes import way_to
from kubeproxy.model.addresses import Family, canonical_ip, family_of
from kubeproxy.model.decode import SERVICE_NAME_LABEL, DecodeError, decode_endpoint_slice
from kubeproxy.model.objects import Record
from kubeproxy.store.base import StoreError
from kubeproxy.store.credentials import Access
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import ENDPOINT_SLICES, NODES, PODS
from kubeproxy.trace.ends import End, EndError, Kind
from kubeproxy.trace.packet import Origin

POINT_TO_POINT = 30
"""From this prefix length on, a network has no room for neighbours."""
POD_NAMES_SECONDS = 3.0
STRANGER = {Family.V4: "203.0.113.77", Family.V6: "2001:db8:ffff::77"}
"""Who stands for everybody outside (RFC 5737, RFC 3849: addresses that nobody has)."""
LOOPBACK = {Family.V4: "127.0.0.1", Family.V6: "::1"}


class Source(Record, frozen=True, kw_only=True):
    """Where a packet comes from, as far as it is known here; the agent finds out the rest."""

    address: str
    origin: Origin | None = None
    interface: str = ""


class Resolver:
    """Looks names up; asks the API server only for what it must."""

    def __init__(self, access: Access, family: Family) -> None:
        self._access = access
        self._family = family

    async def destination(self, end: End) -> str:
        """Return the address of a destination that is no Service. Raises EndError, StoreError, OSError."""
        match end.kind:
            case Kind.ADDRESS:
                return end.name
            case Kind.LOCALHOST:
                return LOOPBACK[self._family]
            case Kind.OUTSIDE:
                return await asyncio.to_thread(self._stranger)
            case Kind.THIS_NODE:
                raise EndError("name the node that the packet goes to, or its address")
        return await self._look_up(end)

    async def source(self, end: End, comes_from: str, destination: str) -> Source:
        """Return where a packet comes from; ``comes_from`` is --from. Raises as `destination`."""
        if end.kind is Kind.SERVICE:
            raise EndError("a Service sends nothing: name a pod, an address, a node, outside or localhost as SRC")
        if end.kind is Kind.LOCALHOST:
            return Source(address=LOOPBACK[self._family], origin=Origin.NODE)
        if end.kind is Kind.THIS_NODE or (comes_from == "node" and end.kind is Kind.OUTSIDE):
            return Source(address=self._own_address(destination), origin=Origin.NODE)
        address = await self.destination(end)
        origin = Origin.OUTSIDE if end.kind is Kind.OUTSIDE else None
        by = address
        if comes_from.startswith("pod/"):
            name, _, namespace = comes_from.removeprefix("pod/").rpartition(".")
            pod = End(kind=Kind.POD, name=name, namespace=namespace)
            origin, by = Origin.POD, await self._look_up(pod)
        elif comes_from:
            origin = Origin(comes_from)
        way = way_to(by)
        if way is not None and way.local:
            # A pod on the node's network is the node, whatever it is called.
            return Source(address=address, origin=Origin.NODE if comes_from in ("", "node") else origin)
        if origin is Origin.NODE:
            return Source(address=address, origin=origin)
        if origin is None and end.kind is Kind.POD:
            origin = Origin.POD
        return Source(address=address, origin=origin, interface=way.interface if way else "")

    def _stranger(self) -> str:
        """Return an address outside that this node can answer: anybody's, else a neighbour's."""
        if way_to(STRANGER[self._family]) is not None or self._family is Family.V6:
            return STRANGER[self._family]
        from kubeproxy.kernel.interfaces import Rtnetlink  # loads pyroute2, which nearly nobody needs here

        own = Rtnetlink().host_addresses()
        for each in own:
            if each.global_scope and each.prefix < POINT_TO_POINT:
                network = ip_network(f"{each.address}/{each.prefix}", strict=False)
                last = int(network.broadcast_address) - 1
                taken = {one.address for one in own}
                return next(
                    text for text in (str(ip_address(last - i)) for i in range(len(own) + 1)) if text not in taken
                )
        return STRANGER[self._family]

    async def pods_of(self, namespace: str, service: str) -> dict[str, str]:
        """Return the pods' names by address of a Service's endpoints; nothing where nobody tells."""
        try:
            async with asyncio.timeout(POD_NAMES_SECONDS), KubeClient(self._access) as client:
                found = await client.list(
                    ENDPOINT_SLICES, namespace=namespace, label_selector=f"{SERVICE_NAME_LABEL}={service}"
                )
            pieces = [decode_endpoint_slice(item) for item in found.items]
        except (StoreError, aiohttp.ClientError, OSError, TimeoutError, DecodeError):
            return {}
        return {each.address: each.pod_name for piece in pieces for each in piece.endpoints}

    def _own_address(self, destination: str) -> str:
        way = (way_to(destination) if destination else None) or way_to(STRANGER[self._family])
        if way is None or not way.source:
            raise EndError(
                f"this node has no route to {destination or 'anywhere'}, hence no address to speak from: "
                "name an address as SRC"
            )
        return way.source

    async def _look_up(self, end: End) -> str:
        resource = PODS if end.kind is Kind.POD else NODES
        label = f"{end.kind} {end.namespace}/{end.name}" if end.namespace else f"node {end.name}"
        async with KubeClient(self._access) as client:
            try:
                found = await client.get(resource, end.namespace, end.name)
            except (StoreError, aiohttp.ClientError) as error:
                hint = "; an address will do instead"
                if not end.namespace:
                    hint += f", and if a Service is meant: service/{end.name}, or a pod: pod/{end.name}"
                raise EndError(f"{label}: {error}{hint}") from None
        addresses = _pod_ips(found) if end.kind is Kind.POD else _node_ips(found)
        own = [ip for ip in map(canonical_ip, addresses) if ip is not None and family_of(ip) is self._family]
        if not own:
            raise EndError(f"{label} has no {self._family.label} address")
        return own[0]


def _pod_ips(pod: dict[str, Any]) -> Iterable[str]:
    status = _object(pod.get("status"))
    listed = status.get("podIPs")
    entries = [_object(each).get("ip") for each in listed] if isinstance(listed, list) else []
    return [each for each in (*entries, status.get("podIP")) if isinstance(each, str)]


def _node_ips(node: dict[str, Any]) -> Iterable[str]:
    listed = _object(node.get("status")).get("addresses")
    entries = [_object(each) for each in listed] if isinstance(listed, list) else []
    of_kind = {
        kind: [e.get("address") for e in entries if e.get("type") == kind] for kind in ("InternalIP", "ExternalIP")
    }
    return [each for kind in of_kind.values() for each in kind if isinstance(each, str)]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
