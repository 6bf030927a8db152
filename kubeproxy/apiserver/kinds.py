"""One row per kind of object: everything in which kinds differ, for the generic code around it to read."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from kubeproxy.apiserver import (
    cluster,
    columns,
    service,
    service_changes,
    servicecidrs,
    shapes_apps,
    shapes_core,
    shapes_pod,
    slices,
    workloads,
)
from kubeproxy.apiserver.columns import Column
from kubeproxy.apiserver.names import NameCheck, is_dns1035_label, is_dns1123_label, is_dns1123_subdomain
from kubeproxy.apiserver.schema import Shape
from kubeproxy.apiserver.selectors import FieldReader
from kubeproxy.apiserver.status import Errors
from kubeproxy.store import resources
from kubeproxy.store.resources import Resource

Obj = dict[str, Any]


def _nothing(_obj: Obj) -> None:
    """Defaults nothing."""


def _settled(_new: Obj, _old: Obj | None) -> None:
    """Carries nothing over."""


def _valid(_obj: Obj) -> Errors:
    return []


def _may_change(_new: Obj, _old: Obj) -> Errors:
    return []


def _at(path: str, default: str = "") -> FieldReader:
    keys = path.split(".")

    def read(obj: Mapping[str, Any]) -> str:
        value: Any = obj
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, bool):
            return "true" if value else "false"
        return default if value is None else str(value)

    return read


def _readers(*paths: str, **defaults: str) -> dict[str, FieldReader]:
    return _clusterwide("metadata.namespace", *paths, **defaults)


def _clusterwide(*paths: str, **defaults: str) -> dict[str, FieldReader]:
    return {path: _at(path, defaults.get(path.rpartition(".")[2], "")) for path in ("metadata.name", *paths)}


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of object and what the API does with it."""

    resource: Resource
    shape: Shape
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    columns: tuple[Column, ...]
    subresources: tuple[str, ...] = ()
    """Of "status", "scale" and "binding"."""
    storage: str = ""
    """Where upstream keeps it below /registry/ when that is not the plural."""
    check_name: NameCheck = is_dns1123_subdomain
    default: Callable[[Obj], None] = _nothing
    settle: Callable[[Obj, Obj | None], None] = _settled
    validate: Callable[[Obj], Errors] = _valid
    validate_update: Callable[[Obj, Obj], Errors] = _may_change
    fields: Mapping[str, FieldReader] = msgspec.field(default_factory=_readers)
    generation: bool = False
    """metadata.generation counts changes of the spec."""
    create_on_update: bool = False
    """A PUT of a name that is not there creates (AllowCreateOnUpdate upstream)."""
    status_at_create: bool = False
    """A status in the created object is kept (a kubelet registers its Node with one)."""
    fixed_fields: tuple[str, ...] = ()
    """Dotted paths that an update leaves as they were when it does not mention them."""

    @property
    def name(self) -> str:
        """The kind as objects carry it."""
        return self.resource.kind

    @property
    def plural(self) -> str:
        """The resource's name in paths."""
        return self.resource.plural

    @property
    def group(self) -> str:
        """The API group, "" for the core one."""
        return self.resource.group

    @property
    def singular(self) -> str:
        """The name that kubectl accepts for one."""
        return self.resource.kind.lower()

    @property
    def prefix(self) -> bytes:
        """The key prefix of all its objects, as in upstream's etcd."""
        return f"/registry/{self.storage or self.plural}/".encode()

    @property
    def has_status(self) -> bool:
        """Status is a subresource: the main resource cannot write it."""
        return "status" in self.subresources


_EVENT_FIELDS = _readers(
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "type",
) | {"source": _at("source.component")}

KINDS: tuple[Kind, ...] = (
    Kind(
        resource=resources.NAMESPACES,
        shape=shapes_core.NAMESPACE,
        short_names=("ns",),
        columns=columns.NAMESPACE,
        subresources=("status",),
        check_name=is_dns1123_label,
        default=cluster.default_namespace,
        fields=_clusterwide("status.phase"),
    ),
    Kind(
        resource=resources.NODES,
        shape=shapes_core.NODE,
        short_names=("no",),
        columns=columns.NODE,
        subresources=("status",),
        storage="minions",
        default=cluster.default_node,
        validate=cluster.validate_node,
        validate_update=cluster.validate_node_update,
        fields=_clusterwide("spec.unschedulable", unschedulable="false"),
        status_at_create=True,
    ),
    Kind(
        resource=resources.PODS,
        shape=shapes_pod.POD,
        short_names=("po",),
        categories=("all",),
        columns=columns.POD,
        subresources=("status", "binding"),
        default=workloads.default_pod,
        validate=workloads.validate_pod,
        validate_update=workloads.validate_pod_update,
        fields=_readers(
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
            hostNetwork="false",
        ),
        generation=True,
        fixed_fields=("spec.nodeName", "spec.enableServiceLinks"),
    ),
    Kind(
        resource=resources.SERVICES,
        shape=shapes_core.SERVICE,
        short_names=("svc",),
        categories=("all",),
        columns=columns.SERVICE,
        subresources=("status",),
        storage="services/specs",
        check_name=is_dns1035_label,
        default=service.default_service,
        settle=service_changes.settle_service,
        validate=service.validate_service,
        validate_update=service_changes.validate_service_update,
        fields=_readers("spec.clusterIP", "spec.type"),
        create_on_update=True,
    ),
    Kind(
        resource=resources.ENDPOINTS,
        shape=shapes_core.ENDPOINTS,
        short_names=("ep",),
        columns=columns.ENDPOINTS,
        storage="services/endpoints",
        default=slices.default_endpoints,
        validate=slices.validate_endpoints,
        create_on_update=True,
    ),
    Kind(
        resource=resources.ENDPOINT_SLICES,
        shape=shapes_core.ENDPOINT_SLICE,
        columns=columns.ENDPOINT_SLICE,
        default=slices.default_endpoint_slice,
        validate=slices.validate_endpoint_slice,
        validate_update=slices.validate_endpoint_slice_update,
        generation=True,
    ),
    Kind(
        resource=resources.CONFIG_MAPS,
        shape=shapes_core.CONFIG_MAP,
        short_names=("cm",),
        columns=columns.CONFIG_MAP,
        validate=cluster.validate_config_map,
        validate_update=cluster.validate_config_map_update,
    ),
    Kind(
        resource=resources.EVENTS,
        shape=shapes_core.EVENT,
        short_names=("ev",),
        columns=columns.EVENT,
        validate=cluster.validate_event,
        fields=_EVENT_FIELDS,
        create_on_update=True,
    ),
    Kind(
        resource=resources.LEASES,
        shape=shapes_core.LEASE,
        columns=columns.LEASE,
        validate=cluster.validate_lease,
        create_on_update=True,
    ),
    Kind(
        resource=resources.SERVICE_CIDRS,
        shape=shapes_core.SERVICE_CIDR,
        columns=columns.SERVICE_CIDR,
        subresources=("status",),
        settle=servicecidrs.settle_service_cidr,
        validate=servicecidrs.validate_service_cidr,
        validate_update=servicecidrs.validate_service_cidr_update,
    ),
    Kind(
        resource=resources.DEPLOYMENTS,
        shape=shapes_apps.DEPLOYMENT,
        short_names=("deploy",),
        categories=("all",),
        columns=columns.DEPLOYMENT,
        subresources=("status", "scale"),
        default=workloads.default_deployment,
        validate=workloads.validate_deployment,
        validate_update=workloads.validate_selector_unchanged,
        generation=True,
    ),
    Kind(
        resource=resources.REPLICA_SETS,
        shape=shapes_apps.REPLICA_SET,
        short_names=("rs",),
        categories=("all",),
        columns=columns.REPLICA_SET,
        subresources=("status", "scale"),
        default=workloads.default_replica_set,
        validate=workloads.validate_replica_set,
        validate_update=workloads.validate_selector_unchanged,
        fields=_readers("status.replicas", replicas="0"),
        generation=True,
    ),
)

SCALE = Kind(
    resource=Resource(group="autoscaling", plural="scales", kind="Scale"),
    shape=shapes_apps.SCALE,
    columns=columns.SCALE,
)
"""Of no collection of its own: what the scale subresource takes and gives."""

BY_PATH: Mapping[tuple[str, str, str], Kind] = {
    (kind.group, kind.resource.version, kind.plural): kind for kind in KINDS
}
"""Group, version and plural, as a request's path has them, to the kind."""

BY_KIND: Mapping[tuple[str, str], Kind] = {(kind.resource.api_version, kind.name): kind for kind in KINDS}
"""apiVersion and kind, as an object or an owner reference has them, to the row."""


def kind_of(resource: Resource) -> Kind:
    """Return the row of a resource."""
    return BY_PATH[resource.group, resource.version, resource.plural]
