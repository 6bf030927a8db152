"""The API resources that this project reads or serves: one row each, and the REST paths they live at."""

import msgspec


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of API object and where it is served (https://kubernetes.io/docs/reference/using-api/)."""

    group: str = ""
    """"" is the core group."""
    version: str = "v1"
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The apiVersion that its objects carry: `v1`, `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the URL path of a collection, an object, or an object's subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


NAMESPACES = Resource(plural="namespaces", kind="Namespace", namespaced=False)
NODES = Resource(plural="nodes", kind="Node", namespaced=False)
PODS = Resource(plural="pods", kind="Pod")
SERVICES = Resource(plural="services", kind="Service")
ENDPOINTS = Resource(plural="endpoints", kind="Endpoints")
CONFIG_MAPS = Resource(plural="configmaps", kind="ConfigMap")
EVENTS = Resource(plural="events", kind="Event")
ENDPOINT_SLICES = Resource(group="discovery.k8s.io", plural="endpointslices", kind="EndpointSlice")
DEPLOYMENTS = Resource(group="apps", plural="deployments", kind="Deployment")
REPLICA_SETS = Resource(group="apps", plural="replicasets", kind="ReplicaSet")
LEASES = Resource(group="coordination.k8s.io", plural="leases", kind="Lease")
SERVICE_CIDRS = Resource(group="networking.k8s.io", plural="servicecidrs", kind="ServiceCIDR", namespaced=False)
