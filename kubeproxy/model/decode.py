"""JSON bytes of an API object → our stripped value: the only place that knows Kubernetes' JSON.

Every object is hostile until it has passed here. Addresses become canonical, names are checked against the
API's own grammar (so that no name can reach a restore text, a netlink attribute or a log line with anything in
it but letters, digits, dots and dashes), numbers against their range. An object whose identity is bad raises
`DecodeError` with the field's path; a bad part that the rest can do without is left out and noted (`door.py`).

Cost: about 25 µs for a slice of 10 endpoints, a third of it parsing. Values that many objects share (nodes,
zones, ports, conditions) are held once.
"""

import re
import sys
from functools import lru_cache
from typing import Any

import msgspec

from kubeproxy.model import api_json
from kubeproxy.model.addresses import Family, canonical_cidr, canonical_ip, family_of
from kubeproxy.model.door import Door
from kubeproxy.model.ipvs import SCHEDULERS
from kubeproxy.model.names import is_label, is_subdomain
from kubeproxy.model.objects import (
    Conditions,
    Endpoint,
    EndpointSlice,
    Namespace,
    Node,
    Service,
    ServiceCIDR,
    ServicePort,
    ServiceType,
    SlicePort,
    TrafficPolicy,
)

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
ZONE_LABEL = "topology.kubernetes.io/zone"
SCHEDULER_ANNOTATION = "kubeproxy/ipvs-scheduler"
TRIGGER_TIME_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"

DEFAULT_AFFINITY_SECONDS = 10800

_HOSTNAME = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,251}[a-zA-Z0-9_])?\.?", re.ASCII)


Data = bytes | msgspec.Raw
"""An object's JSON; a Raw is a part of a page that is not copied out of it."""


class DecodeError(ValueError):
    """An object that cannot be used at all; the text names the field and why."""


_SERVICE = msgspec.json.Decoder(api_json.Service)
_SLICE = msgspec.json.Decoder(api_json.EndpointSlice)
_NODE = msgspec.json.Decoder(api_json.Node)
_NAMESPACE = msgspec.json.Decoder(api_json.Namespace)
_SERVICE_CIDR = msgspec.json.Decoder(api_json.ServiceCIDR)


def _decode(decoder: "msgspec.json.Decoder[Any]", data: Data) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(str(error)) from None


def _identity(meta: api_json.Meta) -> tuple[str, str]:
    if not is_label(meta.namespace):
        raise DecodeError(f"metadata.namespace: {meta.namespace[:80]!r} is no DNS label")
    return sys.intern(meta.namespace), _object_name(meta)


def _object_name(meta: api_json.Meta) -> str:
    if not is_subdomain(meta.name):
        raise DecodeError(f"metadata.name: {meta.name[:80]!r} is no DNS subdomain")
    return meta.name


NOBODY = {Family.V4: "0.0.0.0/32", Family.V6: "::/128"}
"""A family's source ranges when some cannot be read and none of its own can: nobody comes from there."""


def _source_ranges(door: Door, texts: list[str] | None) -> tuple[str, ...]:
    """Read the ranges; one that cannot be read may be of either family, and opens the door to neither."""
    found = door.cidrs("spec.loadBalancerSourceRanges", texts or ())
    if all(canonical_cidr(text) is not None for text in texts or ()):
        return found
    guarded = {family_of(cidr) for cidr in found}
    return (*found, *[nobody for family, nobody in NOBODY.items() if family not in guarded])


def _service_ports(door: Door, ports: list[api_json.Port] | None) -> tuple[ServicePort, ...]:
    found = []
    for index, port in enumerate(ports or ()):
        field = f"spec.ports[{index}]"
        protocol = door.protocol(f"{field}.protocol", port.protocol)
        name = door.port_name(f"{field}.name", port.name)
        number = door.port(f"{field}.port", port.port or 0)
        node_port = door.optional_port(f"{field}.nodePort", port.node_port)
        if protocol is not None and name is not None and number:
            found.append(ServicePort(name=name, protocol=protocol, port=number, node_port=node_port))
    return tuple(found) if any(port.node_port for port in found) else _shared_service_ports(tuple(found))


@lru_cache(maxsize=4096)
def _shared_service_ports(ports: tuple[ServicePort, ...]) -> tuple[ServicePort, ...]:
    """Return one value for all Services whose ports are the same, as those of most are."""
    return ports


def _policy(door: Door, field: str, text: str | None) -> TrafficPolicy:
    if text and text not in set(TrafficPolicy):
        door.refuse(field, text, "no policy (Cluster or Local); it counts as Cluster")
    return TrafficPolicy.LOCAL if text == TrafficPolicy.LOCAL else TrafficPolicy.CLUSTER


def _affinity_seconds(door: Door, config: api_json.AffinityConfig | None) -> int:
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else None
    if seconds is not None and 0 < seconds <= 86400:
        return seconds
    if seconds is not None:
        field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        door.refuse(field, seconds, f"no timeout (1 to 86400); it counts as {DEFAULT_AFFINITY_SECONDS}")
    return DEFAULT_AFFINITY_SECONDS


def _load_balancer_ips(door: Door, status: api_json.ServiceStatus | None) -> tuple[str, ...]:
    ingress = (status.load_balancer.ingress if status and status.load_balancer else None) or []
    own = [entry.ip for entry in ingress if entry.ip and entry.ip_mode in (None, "VIP")]
    return door.ips("status.loadBalancer.ingress", own)


def _type(door: Door, text: str | None) -> ServiceType:
    if not text or text in set(ServiceType):
        return ServiceType(text or ServiceType.CLUSTER_IP)
    door.refuse("spec.type", text, "no type of Service; it counts as ClusterIP")
    return ServiceType.CLUSTER_IP


def _scheduler(door: Door, annotations: dict[str, str] | None) -> str:
    text = annotations.get(SCHEDULER_ANNOTATION, "") if annotations else ""
    if not text or text in SCHEDULERS:
        return text
    reason = f"no scheduler ({', '.join(SCHEDULERS)}); the node's counts"
    door.refuse(f"metadata.annotations[{SCHEDULER_ANNOTATION}]", text, reason)
    return ""


def _external_name(text: str | None) -> str:
    name = (text or "").lower()
    return name if _HOSTNAME.fullmatch(name) else ""


def decode_service(data: Data) -> Service:
    """Decode a core/v1 Service. Raises `DecodeError` when it has no usable identity."""
    raw: api_json.Service = _decode(_SERVICE, data)
    namespace, name = _identity(raw.metadata)
    name = sys.intern(name)  # its slices have it too
    spec, door = raw.spec, Door()
    labels = raw.metadata.labels or {}
    headless = spec.cluster_ip == "None" or "None" in (spec.cluster_ips or ())
    kind = _type(door, spec.type)
    own_ips = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    health = spec.health_check_node_port
    return Service(
        namespace=namespace,
        name=name,
        type=kind,
        headless=headless,
        cluster_ips=() if headless else door.ips("spec.clusterIPs", own_ips),
        ports=_service_ports(door, spec.ports),
        external_ips=door.ips("spec.externalIPs", spec.external_ips or ()),
        load_balancer_ips=_load_balancer_ips(door, raw.status),
        source_ranges=_source_ranges(door, spec.load_balancer_source_ranges),
        session_affinity=spec.session_affinity == "ClientIP",
        affinity_seconds=_affinity_seconds(door, spec.session_affinity_config),
        internal_policy=_policy(door, "spec.internalTrafficPolicy", spec.internal_traffic_policy),
        external_policy=_policy(door, "spec.externalTrafficPolicy", spec.external_traffic_policy),
        health_check_node_port=door.unprivileged_port("spec.healthCheckNodePort", health),
        external_name=_external_name(spec.external_name),
        proxy_name=labels.get(PROXY_NAME_LABEL, ""),
        scheduler=_scheduler(door, raw.metadata.annotations),
        created=raw.metadata.creation_timestamp or "",
        faults=door.faults(),
    )


def _slice_ports(door: Door, ports: list[api_json.Port] | None) -> tuple[SlicePort, ...]:
    found = []
    for index, port in enumerate(ports or ()):
        if port.name is None or port.port is None:
            continue  # means all ports, which no Service of ours asks for: legal, and upstream passes it over too
        field = f"ports[{index}]"
        protocol = door.protocol(f"{field}.protocol", port.protocol)
        name = door.port_name(f"{field}.name", port.name)
        number = door.port(f"{field}.port", port.port)
        if protocol is not None and name is not None and number:
            found.append(SlicePort(name=name, protocol=protocol, port=number))
    return tuple(found)


_DEFAULT_CONDITIONS = Conditions()


def _conditions(raw: api_json.Conditions | None) -> Conditions:
    if raw is None:
        return _DEFAULT_CONDITIONS
    return _shared_conditions(raw.ready is not False, raw.serving is not False, raw.terminating is True)


@lru_cache(maxsize=8)
def _shared_conditions(ready: bool, serving: bool, terminating: bool) -> Conditions:
    return Conditions(ready=ready, serving=serving, terminating=terminating)


@lru_cache(maxsize=4096)
def _shared_ports(ports: tuple[SlicePort, ...]) -> tuple[SlicePort, ...]:
    return ports


def _names(hints: list[api_json.Hint] | None) -> tuple[str, ...]:
    return tuple([sys.intern(hint.name) for hint in hints]) if hints else ()


def _endpoint(door: Door, raw: api_json.Endpoint, names: bool) -> Endpoint | None:
    if not raw.addresses:
        return None
    address = canonical_ip(raw.addresses[0])
    if address is None:
        door.refuse("endpoints.addresses", raw.addresses[0], "no IP address")
        return None
    hints, target = raw.hints, raw.target_ref
    hostname = (raw.hostname or "") if names else ""
    return Endpoint(
        address=address,
        conditions=_conditions(raw.conditions),
        node_name=sys.intern(raw.node_name) if raw.node_name else "",
        hostname=hostname if hostname and is_label(hostname) else "",
        zone=sys.intern(raw.zone) if raw.zone else "",
        hint_zones=_names(hints.for_zones) if hints else (),
        hint_nodes=_names(hints.for_nodes) if hints else (),
        pod_name=target.name if names and target is not None and target.kind == "Pod" else "",
    )


def decode_endpoint_slice(data: Data) -> EndpointSlice:
    """Decode a discovery.k8s.io/v1 EndpointSlice. Raises `DecodeError` when it has no usable identity."""
    return _endpoint_slice(data, names=True)


def decode_proxy_slice(data: Data) -> EndpointSlice:
    """Decode one for forwarding: without hostnames and pod names, which only DNS reads."""
    return _endpoint_slice(data, names=False)


def _endpoint_slice(data: Data, *, names: bool) -> EndpointSlice:
    raw: api_json.EndpointSlice = _decode(_SLICE, data)
    namespace, name = _identity(raw.metadata)
    labels, door = raw.metadata.labels or {}, Door()
    service = labels.get(SERVICE_NAME_LABEL, "")
    if service and not is_subdomain(service):
        door.refuse(f"metadata.labels[{SERVICE_NAME_LABEL}]", service, "no name of a Service")
        service = ""
    fqdn = raw.address_type == "FQDN"
    endpoints = () if fqdn else [_endpoint(door, entry, names) for entry in raw.endpoints or ()]
    return EndpointSlice(
        namespace=namespace,
        name=name,
        service=sys.intern(service),
        address_type=raw.address_type,
        headless=HEADLESS_LABEL in labels,
        ports=_shared_ports(_slice_ports(door, raw.ports)),
        endpoints=tuple([entry for entry in endpoints if entry is not None]),
        last_change_trigger_time=(raw.metadata.annotations or {}).get(TRIGGER_TIME_ANNOTATION, ""),
        faults=door.faults(),
    )


def decode_node(data: Data) -> Node:
    """Decode a core/v1 Node. Raises `DecodeError` when it has no usable name."""
    raw: api_json.Node = _decode(_NODE, data)
    door = Door()
    addresses = raw.status.addresses or ()
    pod_cidrs = raw.spec.pod_cidrs or ([raw.spec.pod_cidr] if raw.spec.pod_cidr else [])
    return Node(
        name=_object_name(raw.metadata),
        internal_ips=door.ips(
            "status.addresses", [each.address for each in addresses if each.type == "InternalIP"]
        ),
        external_ips=door.ips(
            "status.addresses", [each.address for each in addresses if each.type == "ExternalIP"]
        ),
        pod_cidrs=door.cidrs("spec.podCIDRs", pod_cidrs),
        zone=(raw.metadata.labels or {}).get(ZONE_LABEL, ""),
        deleted=raw.metadata.deletion_timestamp is not None,
        taint_keys=tuple(taint.key for taint in raw.spec.taints or ()),
    )


def decode_service_cidr(data: Data) -> ServiceCIDR:
    """Decode a networking.k8s.io/v1 ServiceCIDR. Raises `DecodeError` when it has no usable name."""
    raw = _decode(_SERVICE_CIDR, data)
    return ServiceCIDR(name=_object_name(raw.metadata), cidrs=Door().cidrs("spec.cidrs", raw.spec.cidrs or ()))


def decode_namespace(data: Data) -> Namespace:
    """Decode a core/v1 Namespace. Raises `DecodeError` when its name is no DNS label."""
    raw = _decode(_NAMESPACE, data)
    name = _object_name(raw.metadata)
    if not is_label(name):
        raise DecodeError(f"metadata.name: {name[:80]!r} is no DNS label")
    return Namespace(name=name, labels=tuple(sorted((raw.metadata.labels or {}).items())))
