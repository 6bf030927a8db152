"""A backend of any mode, and a World to sync from. Who knows the backend adds the kernel under it."""

from kubeproxy.dataplane.base import Applied, Backend
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import EndpointSlice, Service
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint_slice, key, service, world


class BackendNode:
    """What changes in the World is brought in by the backend; IPv4."""

    backend: Backend
    """Made by the subclass."""

    def __init__(self, settings: Settings, *objects: Service | EndpointSlice) -> None:
        self.world = world(*objects)
        self.settings = settings

    def full(self) -> Applied:
        """Sync everything."""
        plan = self.backend.diff(wanted(self.world, self.settings, Family.V4), None)
        assert plan is not None
        return self.backend.apply(plan)

    def put(self, *objects: Service | EndpointSlice) -> Applied | None:
        """Let objects come or change, and sync what they touch."""
        touched: set[Key] = set()
        for each in objects:
            apply = self.world.apply_services if isinstance(each, Service) else self.world.apply_slices
            touched |= apply({(each.namespace, each.name): each})  # type: ignore[dict-item]
        return self.partial(touched)

    def remove(self, name: str) -> Applied | None:
        """Delete a Service, and sync."""
        return self.partial(self.world.apply_services({key(name): None}))

    def partial(self, touched: set[Key]) -> Applied | None:
        """Sync some Services; None when there is nothing to do."""
        plan = self.backend.diff(wanted(self.world, self.settings, Family.V4, touched), touched)
        return None if plan is None else self.backend.apply(plan)


def web(**fields: object) -> Service:
    """Return a Service."""
    return service("web", "10.96.0.1", "80>8080", **fields)  # type: ignore[arg-type]


def web_slice(*addresses: str) -> EndpointSlice:
    """Return its endpoints: one on this node and one elsewhere, unless they are named."""
    return endpoint_slice("web", "80>8080", addresses or ("10.244.0.2@node1", "10.244.1.2@node2"))
