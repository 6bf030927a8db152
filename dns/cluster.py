"""PURE: Services and EndpointSlices by Service: which Services a change touches, and what they consist of.

The part of a World that DNS needs. Headless Services and slices without a Service count here, which a proxy
leaves out.
"""

from collections.abc import Mapping

from kubeproxy.model.objects import EndpointSlice, Service

Key = tuple[str, str]
"""(namespace, name)."""


class Cluster:
    """The current objects; the caller feeds it changes (None: deleted) and asks about the touched Services."""

    def __init__(self) -> None:
        self._services: dict[Key, Service] = {}
        self._slices: dict[Key, EndpointSlice] = {}
        self._by_service: dict[Key, dict[str, EndpointSlice]] = {}

    def apply_services(self, changes: Mapping[Key, Service | None]) -> set[Key]:
        """Take changed Services and return their keys."""
        for key, service in changes.items():
            if service is None:
                self._services.pop(key, None)
            else:
                self._services[key] = service
        return set(changes)

    def apply_slices(self, changes: Mapping[Key, EndpointSlice | None]) -> set[Key]:
        """Take changed slices and return the keys of the Services that they belong or belonged to."""
        touched = set()
        for key, piece in changes.items():
            old = self._slices.pop(key, None)
            if old is not None and old.service:
                owner = (old.namespace, old.service)
                siblings = self._by_service[owner]
                del siblings[old.name]
                if not siblings:
                    del self._by_service[owner]
                touched.add(owner)
            if piece is not None:
                self._slices[key] = piece
                if piece.service:
                    owner = (piece.namespace, piece.service)
                    self._by_service.setdefault(owner, {})[piece.name] = piece
                    touched.add(owner)
        return touched

    def of(self, key: Key) -> tuple[Service | None, tuple[EndpointSlice, ...]]:
        """Return a Service (None when there is none) and its slices in the order of their names."""
        slices = self._by_service.get(key, {})
        return self._services.get(key), tuple(slices[name] for name in sorted(slices))
