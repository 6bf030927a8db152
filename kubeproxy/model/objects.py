"""Kubernetes objects, stripped at the door to the fields that somebody here reads.

An informer decodes JSON into these and drops the rest, so a cluster's 20,000 EndpointSlices hold little
memory. All are frozen values: equality means "nothing that we act on has changed".
``gc=False`` takes them out of the cyclic garbage collector, which is sound because they only hold
strings, numbers and tuples of the same.

Field names are ours (snake case); the mapping from the API's JSON lives in `decode.py` and nowhere else.
"""

from enum import StrEnum

import msgspec


class Record(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Base of every value in the model: immutable, compared by content."""


class Fault(Record, frozen=True, kw_only=True):
    """A part of an object that the API server would not have let in; it is left out of the object."""

    field: str
    value: str
    """Printable, and not all of it when it is long."""
    reason: str
    """As in `FIELD VALUE is REASON`."""


class Protocol(StrEnum):
    """Transport protocols a Service port may have (core/v1 Protocol)."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"

    __hash__ = str.__hash__
    """An Enum's own is Python code, and protocols are part of nearly every key."""


class ServiceType(StrEnum):
    """core/v1 ServiceType."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


class TrafficPolicy(StrEnum):
    """Value of internalTrafficPolicy and externalTrafficPolicy."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class ServicePort(Record, frozen=True, kw_only=True):
    """One entry of spec.ports. ``node_port`` is 0 when none is allocated."""

    name: str = ""
    protocol: Protocol = Protocol.TCP
    port: int
    node_port: int = 0


class Service(Record, frozen=True, kw_only=True):
    """A core/v1 Service. Addresses are normalised text (`10.0.0.1`, `fd00::1`), invalid ones are gone."""

    namespace: str
    name: str
    type: ServiceType = ServiceType.CLUSTER_IP
    headless: bool = False
    """clusterIP is the word "None"."""
    cluster_ips: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    """status.loadBalancer.ingress addresses whose ipMode is absent or "VIP"."""
    source_ranges: tuple[str, ...] = ()
    """spec.loadBalancerSourceRanges as canonical CIDRs."""
    session_affinity: bool = False
    """sessionAffinity is ClientIP."""
    affinity_seconds: int = 10800
    internal_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    external_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    health_check_node_port: int = 0
    external_name: str = ""
    proxy_name: str = ""
    """Label service.kubernetes.io/service-proxy-name: somebody else proxies this Service."""
    scheduler: str = ""
    """Annotation kubeproxy/ipvs-scheduler: how ipvs mode picks an endpoint; "" leaves it to the node."""
    created: str = ""
    """creationTimestamp (RFC 3339): of two Services that claim the same place, the older has it."""
    faults: tuple[Fault, ...] = ()


class Conditions(Record, frozen=True, kw_only=True):
    """EndpointSlice conditions with the API's defaults applied: unset is ready and serving."""

    ready: bool = True
    serving: bool = True
    terminating: bool = False


class Endpoint(Record, frozen=True, kw_only=True):
    """One entry of an EndpointSlice's endpoints. Only the first address counts (kube-proxy does the same)."""

    address: str
    conditions: Conditions = Conditions()
    node_name: str = ""
    hostname: str = ""
    zone: str = ""
    hint_zones: tuple[str, ...] = ()
    hint_nodes: tuple[str, ...] = ()
    pod_name: str = ""
    """targetRef.name when targetRef.kind is Pod."""


class SlicePort(Record, frozen=True, kw_only=True):
    """A port of an EndpointSlice; entries without a name or number are dropped by `decode`."""

    name: str = ""
    protocol: Protocol = Protocol.TCP
    port: int


class EndpointSlice(Record, frozen=True, kw_only=True):
    """A discovery.k8s.io/v1 EndpointSlice. ``service`` is label kubernetes.io/service-name, "" if none."""

    namespace: str
    name: str
    service: str = ""
    address_type: str = "IPv4"
    headless: bool = False
    """Carries label service.kubernetes.io/headless."""
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    last_change_trigger_time: str = ""
    """Annotation endpoints.kubernetes.io/last-change-trigger-time (RFC 3339), for programming latency."""
    faults: tuple[Fault, ...] = ()


class Node(Record, frozen=True, kw_only=True):
    """A core/v1 Node: who it is, where it is and which pods it may hold."""

    name: str
    internal_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    zone: str = ""
    deleted: bool = False
    """deletionTimestamp is set."""
    taint_keys: tuple[str, ...] = ()


class ServiceCIDR(Record, frozen=True, kw_only=True):
    """A networking.k8s.io/v1 ServiceCIDR: where cluster IPs come from."""

    name: str
    cidrs: tuple[str, ...] = ()


class Namespace(Record, frozen=True, kw_only=True):
    """A core/v1 Namespace: DNS must tell an empty one from one that does not exist."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()


def key_of(value: Service | EndpointSlice) -> tuple[str, str]:
    """Return an object's namespace and name."""
    return value.namespace, value.name


def name_of(value: Node | Namespace | ServiceCIDR) -> tuple[str, str]:
    """Return the key of an object that is in no namespace."""
    return "", value.name
