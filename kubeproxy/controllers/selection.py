"""Who selects whom, by index: the pods of a Service, the Services of a pod, without a look at all. Pure.

A selector's pod has all of its labels, so it is enough to look at the pods that have one of them: the rarest. A
pod's Services are found by the label that each Service was filed under.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from kubeproxy.controllers.objects import Endpoints, EndpointSlice, Key, Pod, Service, matches
from kubeproxy.model.decode import SERVICE_NAME_LABEL

G = TypeVar("G")
V = TypeVar("V")
Label = tuple[str, str]


def service_of(each: EndpointSlice) -> str:
    """Return the name of the Service that a slice belongs to, "" for none."""
    return (each.metadata.labels or {}).get(SERVICE_NAME_LABEL, "")


class Members:
    """The Services, pods, slices and Endpoints of one namespace."""

    def __init__(self) -> None:
        self.services: dict[Key, Service] = {}
        self.endpoints: dict[Key, Endpoints] = {}
        self.pods: dict[Key, Pod] = {}
        self._slices: dict[Key, EndpointSlice] = {}
        self._services_filed: dict[Label, dict[Key, Service]] = {}
        self._pods_labelled: dict[Label, dict[Key, Pod]] = {}
        self._slices_of: dict[str, dict[Key, EndpointSlice]] = {}

    def set_service(self, key: Key, service: Service | None) -> None:
        """Take a Service in, or (None) out."""
        before = self.services.pop(key, None)
        if before is not None and before.spec.selector:
            _remove(self._services_filed, _filed_under(before.spec.selector), key)
        if service is not None:
            self.services[key] = service
            if service.spec.selector:
                self._services_filed.setdefault(_filed_under(service.spec.selector), {})[key] = service

    def set_pod(self, key: Key, pod: Pod | None) -> Pod | None:
        """Take a pod in, or (None) out; return what it was."""
        before = self.pods.pop(key, None)
        for label in _labels(before):
            _remove(self._pods_labelled, label, key)
        if pod is not None:
            self.pods[key] = pod
            for label in _labels(pod):
                self._pods_labelled.setdefault(label, {})[key] = pod
        return before

    def set_slice(self, key: Key, found: EndpointSlice | None) -> EndpointSlice | None:
        """Take a slice in, or (None) out; return what it was."""
        before = self._slices.pop(key, None)
        if before is not None:
            _remove(self._slices_of, service_of(before), key)
        if found is not None:
            self._slices[key] = found
            self._slices_of.setdefault(service_of(found), {})[key] = found
        return before

    def slices_of(self, service: str) -> dict[Key, EndpointSlice]:
        """Return the slices of a Service."""
        return self._slices_of.get(service, {})

    def selected_by(self, selector: dict[str, str]) -> Iterable[Pod]:
        """Return the pods that a selector may match: no other does."""
        groups = [self._pods_labelled.get(label, {}) for label in selector.items()]
        return min(groups, key=len, default={}).values()

    def selecting(self, pod: Pod) -> Iterator[Key]:
        """Yield the Services that select a pod."""
        for label in _labels(pod):
            for key, service in self._services_filed.get(label, {}).items():
                if matches(service.spec.selector or {}, pod.metadata.labels):
                    yield key


def _labels(pod: Pod | None) -> Iterable[Label]:
    return (pod.metadata.labels or {}).items() if pod is not None else ()


def _filed_under(selector: dict[str, str]) -> Label:
    return min(selector.items())


def _remove(index: dict[G, dict[Key, V]], label: G, key: Key) -> None:
    filed = index.get(label, {})
    filed.pop(key, None)
    if not filed:
        index.pop(label, None)
