"""The scale subresource: a workload's replicas, seen and changed as an autoscaling/v1 Scale."""

from collections.abc import Callable
from typing import Any

from kubeproxy.apiserver import status
from kubeproxy.apiserver.selectors import selector_text

Obj = dict[str, Any]


def scale_of(obj: Obj) -> Obj:
    """Return the Scale of a Deployment or ReplicaSet."""
    meta = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    spec, state = obj.get("spec") or {}, obj.get("status") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {
            "replicas": state.get("replicas", 0),
            "selector": selector_text(spec.get("selector") or {}),
        },
    }


def scaling(change: Callable[[Obj], Obj]) -> Callable[[Obj], Obj]:
    """Turn a change of the Scale into one of the workload. Raises 422 for a negative count."""

    def transform(obj: Obj) -> Obj:
        name = obj["metadata"]["name"]
        wanted = change(scale_of(obj))
        spec, meta = (_section(wanted, field) for field in ("spec", "metadata"))
        replicas = spec.get("replicas", 0)
        if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
            detail = "must be greater than or equal to 0"
            raise status.invalid(
                "autoscaling", "Scale", name, [status.invalid_value("spec.replicas", replicas, detail)]
            )
        obj["spec"]["replicas"] = replicas
        obj["metadata"]["resourceVersion"] = meta.get("resourceVersion")
        return obj

    return transform


def _section(scale: Obj, field: str) -> Obj:
    section = scale.get(field) or {}
    if not isinstance(section, dict):
        raise status.bad_request(f"a Scale's {field} must be an object")
    return section
