"""API objects as the control loops read and write them: the fields they act on, under the API's own names.

The agents' model (`kubeproxy.model.objects`) holds what forwarding needs and nothing that a controller writes
back, so the loops have these shapes of their own: same door, same rules. Unknown fields are dropped, an
object whose identity could not be a Kubernetes name is refused (`DecodeError`) before its name reaches a
path, a log line or a request. ``shape`` turns one back into the JSON that the API takes.
"""

from typing import Any, TypeVar

import msgspec

from kubeproxy.model.decode import DecodeError
from kubeproxy.model.names import is_label, is_subdomain

Key = tuple[str, str]
"""(namespace, name)."""


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """Base of the JSON shapes: camel case outside, absent when at its default."""


class OwnerReference(Shape, frozen=True, kw_only=True):
    """metadata.ownerReferences[]: who an object belongs to."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class Meta(Shape, frozen=True, kw_only=True):
    """metadata."""

    name: str = ""
    generate_name: str | None = None
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None
    finalizers: tuple[str, ...] | None = None
    """Read so that an object that is written back keeps them."""

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.namespace, self.name

    @property
    def controller(self) -> OwnerReference | None:
        """The owner that manages this object, if it has one."""
        return next((owner for owner in self.owner_references or () if owner.controller), None)


class ServicePort(Shape, frozen=True, kw_only=True):
    """spec.ports[] of a Service."""

    name: str | None = None
    protocol: str = "TCP"
    port: int = 0
    target_port: int | str | None = None
    app_protocol: str | None = None


class ServiceSpec(Shape, frozen=True, kw_only=True):
    """spec of a Service."""

    type: str | None = None
    selector: dict[str, str] | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    ip_families: tuple[str, ...] | None = None
    ports: tuple[ServicePort, ...] | None = None
    publish_not_ready_addresses: bool | None = None
    traffic_distribution: str | None = None


class Service(Shape, frozen=True, kw_only=True):
    """core/v1 Service."""

    metadata: Meta
    spec: ServiceSpec = ServiceSpec()

    @property
    def is_headless(self) -> bool:
        """Whether it has no cluster IP (helper.IsServiceIPSet)."""
        return self.spec.cluster_ip in (None, "", "None")


class ContainerPort(Shape, frozen=True, kw_only=True):
    """ports[] of a container."""

    name: str | None = None
    container_port: int = 0
    protocol: str = "TCP"


class Container(Shape, frozen=True, kw_only=True):
    """What of a container decides where a named port leads."""

    name: str = ""
    ports: tuple[ContainerPort, ...] | None = None
    restart_policy: str | None = None


class PodSpec(Shape, frozen=True, kw_only=True):
    """spec of a Pod."""

    node_name: str | None = None
    hostname: str | None = None
    subdomain: str | None = None
    node_selector: dict[str, str] | None = None
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None


class PodIP(Shape, frozen=True, kw_only=True):
    """status.podIPs[] of a Pod."""

    ip: str = ""


class Condition(Shape, frozen=True, kw_only=True):
    """status.conditions[] of anything; ``last_update_time`` is a Deployment's only."""

    type: str
    status: str
    last_update_time: str | None = None
    last_transition_time: str | None = None
    reason: str | None = None
    message: str | None = None


class ContainerStatus(Shape, frozen=True, kw_only=True):
    """What of status.containerStatuses[] ranks a pod."""

    restart_count: int = 0


class PodStatus(Shape, frozen=True, kw_only=True):
    """status of a Pod."""

    phase: str | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    pod_ips: tuple[PodIP, ...] | None = msgspec.field(default=None, name="podIPs")
    conditions: tuple[Condition, ...] | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None


class Pod(Shape, frozen=True, kw_only=True):
    """core/v1 Pod."""

    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def ready_condition(self) -> Condition | None:
        """The condition of type Ready."""
        return next((each for each in self.status.conditions or () if each.type == "Ready"), None)

    @property
    def is_ready(self) -> bool:
        """Whether the kubelet says that it serves."""
        condition = self.ready_condition
        return condition is not None and condition.status == "True"

    @property
    def is_finished(self) -> bool:
        """Whether all its containers have ended for good."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def is_active(self) -> bool:
        """Whether it counts as one of its ReplicaSet's: neither finished nor on its way out."""
        return not self.is_finished and self.metadata.deletion_timestamp is None


class NodeSpec(Shape, frozen=True, kw_only=True):
    """spec of a Node."""

    unschedulable: bool | None = None


class NodeStatus(Shape, frozen=True, kw_only=True):
    """status of a Node."""

    conditions: tuple[Condition, ...] | None = None


class Node(Shape, frozen=True, kw_only=True):
    """core/v1 Node."""

    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def is_schedulable(self) -> bool:
        """Ready, and not cordoned."""
        ready = any(each.type == "Ready" and each.status == "True" for each in self.status.conditions or ())
        return ready and not self.spec.unschedulable and self.metadata.deletion_timestamp is None


class TargetRef(Shape, frozen=True, kw_only=True):
    """endpoints[].targetRef."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class EndpointConditions(Shape, frozen=True, kw_only=True):
    """endpoints[].conditions."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(Shape, frozen=True, kw_only=True):
    """A zone or node that an endpoint is meant for."""

    name: str = ""


class Hints(Shape, frozen=True, kw_only=True):
    """endpoints[].hints."""

    for_zones: tuple[Hint, ...] | None = None
    for_nodes: tuple[Hint, ...] | None = None


class Endpoint(Shape, frozen=True, kw_only=True):
    """endpoints[] of an EndpointSlice."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions | None = None
    hostname: str | None = None
    node_name: str | None = None
    zone: str | None = None
    target_ref: TargetRef | None = None
    hints: Hints | None = None


class EndpointPort(Shape, frozen=True, kw_only=True):
    """ports[] of an EndpointSlice or Endpoints; in a slice an unnamed port has the name "", not none."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    app_protocol: str | None = None


class EndpointSlice(Shape, frozen=True, kw_only=True):
    """discovery.k8s.io/v1 EndpointSlice."""

    metadata: Meta
    address_type: str = ""
    ports: tuple[EndpointPort, ...] | None = None
    endpoints: tuple[Endpoint, ...] | None = None


class EndpointAddress(Shape, frozen=True, kw_only=True):
    """subsets[].addresses[] of Endpoints."""

    ip: str = ""
    hostname: str | None = None
    node_name: str | None = None
    target_ref: TargetRef | None = None


class EndpointSubset(Shape, frozen=True, kw_only=True):
    """subsets[]: every address of it has every port of it."""

    addresses: tuple[EndpointAddress, ...] | None = None
    not_ready_addresses: tuple[EndpointAddress, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None


class Endpoints(Shape, frozen=True, kw_only=True):
    """core/v1 Endpoints."""

    metadata: Meta
    subsets: tuple[EndpointSubset, ...] | None = None


T = TypeVar("T", Service, Pod, Node, EndpointSlice, Endpoints)

_SERVICE = msgspec.json.Decoder(Service)
_POD = msgspec.json.Decoder(Pod)
_NODE = msgspec.json.Decoder(Node)
_SLICE = msgspec.json.Decoder(EndpointSlice)
_ENDPOINTS = msgspec.json.Decoder(Endpoints)


def check_identity(meta: Meta, *, namespaced: bool = True) -> None:
    """Raise DecodeError when name or namespace are none that the API would have admitted."""
    if namespaced and not is_label(meta.namespace):
        raise DecodeError(f"metadata.namespace: {meta.namespace[:80]!r} is no DNS label")
    if not is_subdomain(meta.name) or ".." in meta.name:
        raise DecodeError(f"metadata.name: {meta.name[:80]!r} is no DNS subdomain")


def _decode(decoder: "msgspec.json.Decoder[T]", data: bytes, *, namespaced: bool = True) -> T:
    try:
        found = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(str(error)) from None
    check_identity(found.metadata, namespaced=namespaced)
    return found


def decode_service(data: bytes) -> Service:
    """Decode a core/v1 Service."""
    return _decode(_SERVICE, data)


def decode_pod(data: bytes) -> Pod:
    """Decode a core/v1 Pod."""
    return _decode(_POD, data)


def decode_node(data: bytes) -> Node:
    """Decode a core/v1 Node."""
    return _decode(_NODE, data, namespaced=False)


def decode_slice(data: bytes) -> EndpointSlice:
    """Decode a discovery.k8s.io/v1 EndpointSlice."""
    return _decode(_SLICE, data)


def decode_endpoints(data: bytes) -> Endpoints:
    """Decode a core/v1 Endpoints."""
    return _decode(_ENDPOINTS, data)


def shape(value: Shape) -> dict[str, Any]:
    """Return the JSON form of a shape, ready for a request's body."""
    built: dict[str, Any] = msgspec.to_builtins(value)
    return built


def matches(selector: dict[str, str], labels: dict[str, str] | None) -> bool:
    """Say whether labels satisfy an equality selector."""
    return selector.items() <= (labels or {}).items()
