"""What a ReplicaSet does next: how many pods to make, which to delete, and its status. Pure.

A pod on its way out counts no more, so its replacement is made at once. Which pods go first is upstream's order
(pkg/controller/controller_utils.go ActivePodsWithRanks): not yet on a node, not running, not ready, most of the
same set on one node, then the younger.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from kubeproxy.controllers.objects import Pod, shape
from kubeproxy.lab.workloads import ReplicaSet, ReplicaSetStatus, owner
from kubeproxy.model.timestamps import seconds_of

MAX_AT_ONCE = 500
"""Pods that one plan makes or deletes at most; the rest follows (upstream: BurstReplicas)."""
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

_PHASES = {"Pending": 0, "Running": 2}


class ReplicaSetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Pods to make, pods to delete, a status to write (None: it stands)."""

    creates: int = 0
    deletes: tuple[str, ...] = ()
    status: ReplicaSetStatus | None = None
    again_after: float | None = None
    """Seconds after which a ready pod counts as available (minReadySeconds)."""


def plan_replica_set(replica_set: ReplicaSet, pods: Sequence[Pod], wall: float) -> ReplicaSetPlan:
    """Plan one step; ``pods`` are those that belong to the ReplicaSet."""
    active = [pod for pod in pods if pod.is_active]
    status, again_after = _status(replica_set, active, wall)
    written = status if status != replica_set.status else None
    if replica_set.metadata.deletion_timestamp is not None:
        return ReplicaSetPlan()
    missing = replica_set.spec.replicas - len(active)
    if missing >= 0:
        return ReplicaSetPlan(creates=min(missing, MAX_AT_ONCE), status=written, again_after=again_after)
    doomed = _by_dispensability(active)[: min(-missing, MAX_AT_ONCE)]
    return ReplicaSetPlan(
        deletes=tuple(pod.metadata.name for pod in doomed), status=written, again_after=again_after
    )


def _status(replica_set: ReplicaSet, active: Sequence[Pod], wall: float) -> tuple[ReplicaSetStatus, float | None]:
    labels = (replica_set.spec.template.get("metadata") or {}).get("labels") or {}
    ready = [pod for pod in active if pod.is_ready]
    waits = [_seconds_until_available(pod, replica_set.spec.min_ready_seconds, wall) for pod in ready]
    pending = [wait for wait in waits if wait > 0]
    status = ReplicaSetStatus(
        replicas=len(active),
        fully_labeled_replicas=sum(labels.items() <= (pod.metadata.labels or {}).items() for pod in active),
        ready_replicas=len(ready),
        available_replicas=len(waits) - len(pending),
        observed_generation=replica_set.metadata.generation,
    )
    return status, min(pending, default=None)


def _seconds_until_available(pod: Pod, min_ready_seconds: int, wall: float) -> float:
    if not min_ready_seconds:
        return 0.0
    condition = pod.ready_condition
    since = seconds_of(condition.last_transition_time) if condition is not None else None
    return 0.0 if since is None else max(0.0, since + min_ready_seconds - wall)


def _by_dispensability(active: Sequence[Pod]) -> list[Pod]:
    neighbours = Counter(pod.spec.node_name for pod in active)

    def rank(pod: Pod) -> tuple[Any, ...]:
        condition = pod.ready_condition
        restarts = max((each.restart_count for each in pod.status.container_statuses or ()), default=0)
        return (
            bool(pod.spec.node_name),
            _PHASES.get(pod.status.phase or "Pending", 1),
            pod.is_ready,
            _deletion_cost(pod),
            -neighbours[pod.spec.node_name],
            -(seconds_of(condition.last_transition_time if condition else None) or 0.0),
            -restarts,
            -(seconds_of(pod.metadata.creation_timestamp) or 0.0),
            pod.metadata.name,
        )

    # One after the other, so that those that stay are spread evenly.
    ordered: list[Pod] = []
    rest = list(active)
    while rest:
        first = min(rest, key=rank)
        rest.remove(first)
        neighbours[first.spec.node_name] -= 1
        ordered.append(first)
    return ordered


def _deletion_cost(pod: Pod) -> int:
    text = (pod.metadata.annotations or {}).get(DELETION_COST, "0")
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() else 0


def pod_from(replica_set: ReplicaSet, name: str) -> dict[str, Any]:
    """Return a pod of the ReplicaSet's template."""
    template = replica_set.spec.template
    meta = template.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "generateName": f"{replica_set.metadata.name}-",
            "namespace": replica_set.metadata.namespace,
            "labels": meta.get("labels") or {},
            "annotations": meta.get("annotations") or {},
            "ownerReferences": [shape(owner("ReplicaSet", "apps/v1", replica_set.metadata))],
        },
        "spec": template.get("spec") or {},
    }
