"""The shapes of the API's JSON, as far as `decode` looks at it; nobody else does.

What is absent and what is null are the same. A value of another type than these makes the whole object
undecodable.
"""

import msgspec


class Raw(msgspec.Struct, rename="camel", gc=False):
    """Base of the JSON shapes: unknown fields are ignored, as the API's versioning rules ask."""


class TargetRef(Raw):
    """A core/v1 ObjectReference."""

    kind: str = ""
    name: str = ""


class Meta(Raw):
    """A meta/v1 ObjectMeta."""

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class Port(Raw):
    """A ServicePort, or an EndpointPort of a slice."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    node_port: int | None = None


class ClientIP(Raw):
    """A ClientIPConfig."""

    timeout_seconds: int | None = None


class AffinityConfig(Raw):
    """A SessionAffinityConfig."""

    client_ip: ClientIP | None = msgspec.field(default=None, name="clientIP")


class Ingress(Raw):
    """A LoadBalancerIngress."""

    ip: str = ""
    ip_mode: str | None = None


class LoadBalancer(Raw):
    """A LoadBalancerStatus."""

    ingress: list[Ingress] | None = None


class ServiceStatus(Raw):
    """A ServiceStatus."""

    load_balancer: LoadBalancer | None = None


class ServiceSpec(Raw):
    """A ServiceSpec."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ports: list[Port] | None = None
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    load_balancer_source_ranges: list[str] | None = None
    session_affinity: str | None = None
    session_affinity_config: AffinityConfig | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    health_check_node_port: int | None = None
    external_name: str | None = None


class Service(Raw):
    """A core/v1 Service."""

    metadata: Meta
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)
    status: ServiceStatus | None = None


class Conditions(Raw):
    """EndpointConditions."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(Raw):
    """A ForZone or ForNode."""

    name: str = ""


class Hints(Raw):
    """EndpointHints."""

    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class Endpoint(Raw):
    """An Endpoint of a slice."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    hostname: str | None = None
    zone: str | None = None
    hints: Hints | None = None
    target_ref: TargetRef | None = None


class EndpointSlice(Raw):
    """A discovery.k8s.io/v1 EndpointSlice."""

    metadata: Meta
    address_type: str = "IPv4"
    ports: list[Port] | None = None
    endpoints: list[Endpoint] | None = None


class NodeAddress(Raw):
    """A NodeAddress."""

    type: str = ""
    address: str = ""


class Taint(Raw):
    """A Taint."""

    key: str = ""


class NodeSpec(Raw):
    """A NodeSpec."""

    pod_cidr: str | None = msgspec.field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")
    taints: list[Taint] | None = None


class NodeStatus(Raw):
    """A NodeStatus."""

    addresses: list[NodeAddress] | None = None


class Node(Raw):
    """A core/v1 Node."""

    metadata: Meta
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)


class Namespace(Raw):
    """A core/v1 Namespace."""

    metadata: Meta


class ServiceCIDRSpec(Raw):
    """A ServiceCIDRSpec."""

    cidrs: list[str] | None = None


class ServiceCIDR(Raw):
    """A networking.k8s.io/v1 ServiceCIDR."""

    metadata: Meta
    spec: ServiceCIDRSpec = msgspec.field(default_factory=ServiceCIDRSpec)
