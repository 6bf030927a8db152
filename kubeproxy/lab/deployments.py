"""What a Deployment does next: which ReplicaSet to make, scale or drop, and what to say in its status. Pure.

The rolling update is upstream's (pkg/controller/deployment/rolling.go): never more than replicas + maxSurge pods,
never fewer than replicas - maxUnavailable available ones; of the old pods those go first that do not serve. What
is left out: proportional scaling of several ReplicaSets in mid-rollout (the newest takes the whole change).
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from kubeproxy.controllers.objects import Condition, shape
from kubeproxy.lab.workloads import (
    HASH_LABEL,
    REVISION,
    Deployment,
    DeploymentStatus,
    ReplicaSet,
    owner,
    same_template,
    template_hash,
    with_label,
)
from kubeproxy.model.timestamps import seconds_of, timestamp


class DeploymentPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Writes, in order: create, scales and revisions of ReplicaSets, deletes, then the Deployment itself."""

    create: dict[str, Any] | None = None
    patches: tuple[tuple[str, dict[str, Any]], ...] = ()
    """Name of a ReplicaSet and a merge patch for it."""
    deletes: tuple[str, ...] = ()
    revision: str = ""
    """What the Deployment's revision annotation must become, "" when it is right."""
    status: DeploymentStatus | None = None
    """The status to write, None when it stands."""
    again_after: float | None = None
    """Seconds after which time itself may have changed the status (the progress deadline)."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What maxSurge and maxUnavailable allow: pods at most, available pods at least."""

    most: int
    least: int


def bounds(deployment: Deployment) -> Bounds:
    """Resolve the percentages: the surge rounds up, the absence down, and not both may be nothing."""
    replicas, rolling = deployment.spec.replicas, deployment.spec.strategy.rolling_update
    if deployment.spec.strategy.type == "Recreate":
        return Bounds(most=replicas, least=0)
    surge = _resolved(rolling.max_surge if rolling else "25%", replicas, math.ceil)
    absent = _resolved(rolling.max_unavailable if rolling else "25%", replicas, math.floor)
    if surge == 0 and absent == 0:
        absent = 1
    return Bounds(most=replicas + surge, least=max(0, replicas - absent))


def _resolved(value: int | str, total: int, rounding: Any) -> int:
    if isinstance(value, int):
        return max(0, value)
    digits = value.removesuffix("%")
    share = int(digits) if digits.isascii() and digits.isdigit() else 25
    return int(rounding(total * share / 100))


def plan_deployment(deployment: Deployment, replica_sets: Sequence[ReplicaSet], wall: float) -> DeploymentPlan:
    """Plan one step; ``replica_sets`` are those that belong to the Deployment."""
    if deployment.metadata.deletion_timestamp is not None:
        return DeploymentPlan()
    ordered = sorted(replica_sets, key=lambda each: (each.metadata.creation_timestamp or "", each.metadata.name))
    template = deployment.spec.template
    current = next((each for each in ordered if same_template(each.spec.template, template)), None)
    old = [each for each in ordered if each is not current]
    revision = 1 + max((each.revision for each in old), default=0)
    create = None
    patches: dict[str, dict[str, Any]] = {}
    if current is None:
        if not deployment.spec.paused and not _waits_for_old(deployment, old):
            create = _new_replica_set(deployment, old, revision)
    else:
        revision = max(revision, current.revision)
        for name, replicas in _scales(deployment, current, old).items():
            patches[name] = {"spec": {"replicas": replicas}}
        if current.revision != revision:
            note = {"metadata": {"annotations": {REVISION: str(revision)}}}
            patches[current.metadata.name] = {**patches.get(current.metadata.name, {}), **note}
    status = _status(deployment, current, old, wall)
    known = (deployment.metadata.annotations or {}).get(REVISION)
    return DeploymentPlan(
        create=create,
        patches=tuple(patches.items()),
        deletes=_superfluous(deployment, current, old),
        revision=str(revision) if current is not None and known != str(revision) else "",
        status=status if status != deployment.status else None,
        again_after=_deadline(deployment, status, wall),
    )


def _waits_for_old(deployment: Deployment, old: Sequence[ReplicaSet]) -> bool:
    return deployment.spec.strategy.type == "Recreate" and any(each.status.replicas for each in old)


def _new_replica_set(deployment: Deployment, old: Sequence[ReplicaSet], revision: int) -> dict[str, Any]:
    meta, spec = deployment.metadata, deployment.spec
    digest = template_hash(spec.template)
    selector = dict(spec.selector)
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: digest}
    template = with_label(spec.template, HASH_LABEL, digest)
    room = bounds(deployment).most - sum(each.spec.replicas for each in old)
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{meta.name}-{digest}",
            "namespace": meta.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": {REVISION: str(revision)},
            "ownerReferences": [shape(owner("Deployment", "apps/v1", meta))],
        },
        "spec": {
            "replicas": max(0, min(spec.replicas, room)),
            "minReadySeconds": spec.min_ready_seconds,
            "selector": selector,
            "template": template,
        },
    }


def _scales(deployment: Deployment, current: ReplicaSet, old: Sequence[ReplicaSet]) -> dict[str, int]:
    """Return the ReplicaSets whose size must change, and to what; one direction at a time."""
    replicas, limits = deployment.spec.replicas, bounds(deployment)
    if deployment.spec.strategy.type == "Recreate":
        wanted = {each.metadata.name: 0 for each in old if each.spec.replicas}
        if not _waits_for_old(deployment, old) and not wanted and current.spec.replicas != replicas:
            wanted[current.metadata.name] = replicas
        return wanted
    if deployment.spec.paused and any(each.spec.replicas for each in old):
        return {}
    if current.spec.replicas > replicas:
        return {current.metadata.name: replicas}
    room = limits.most - current.spec.replicas - sum(each.spec.replicas for each in old)
    growth = min(room, replicas - current.spec.replicas)
    if growth > 0:
        return {current.metadata.name: current.spec.replicas + growth}
    return _shrunk(current, old, limits)


def _shrunk(current: ReplicaSet, old: Sequence[ReplicaSet], limits: Bounds) -> dict[str, int]:
    """Return the old ReplicaSets to make smaller: what does not serve goes first, then as far as allowed."""
    sizes = {each.metadata.name: each.spec.replicas for each in old}
    still_coming = max(0, current.spec.replicas - current.status.available_replicas)
    budget = current.spec.replicas + sum(sizes.values()) - limits.least - still_coming
    for each in old:
        unwell = max(0, sizes[each.metadata.name] - each.status.available_replicas)
        cut = max(0, min(budget, unwell))
        sizes[each.metadata.name] -= cut
        budget -= cut
    available = current.status.available_replicas + sum(
        min(sizes[each.metadata.name], each.status.available_replicas) for each in old
    )
    budget = min(budget, available - limits.least)
    for each in old:
        cut = max(0, min(budget, sizes[each.metadata.name]))
        sizes[each.metadata.name] -= cut
        budget -= cut
    return {each.metadata.name: size for each in old if (size := sizes[each.metadata.name]) != each.spec.replicas}


def _superfluous(deployment: Deployment, current: ReplicaSet | None, old: Sequence[ReplicaSet]) -> tuple[str, ...]:
    """Return the empty ReplicaSets beyond revisionHistoryLimit, oldest first."""
    empty = [each for each in old if not each.spec.replicas and not each.status.replicas]
    excess = len(empty) - max(0, deployment.spec.revision_history_limit)
    if current is None or excess <= 0:
        return ()
    return tuple(each.metadata.name for each in sorted(empty, key=lambda each: each.revision)[:excess])


def _status(
    deployment: Deployment, current: ReplicaSet | None, old: Sequence[ReplicaSet], wall: float
) -> DeploymentStatus:
    everyone = [*old, current] if current is not None else [*old]
    available = sum(each.status.available_replicas for each in everyone)
    wanted = sum(each.spec.replicas for each in everyone)
    status = DeploymentStatus(
        observed_generation=deployment.metadata.generation,
        replicas=sum(each.status.replicas for each in everyone),
        updated_replicas=current.status.replicas if current is not None else 0,
        ready_replicas=sum(each.status.ready_replicas for each in everyone),
        available_replicas=available,
        unavailable_replicas=max(0, wanted - available),
    )
    standing = {each.type: each for each in deployment.status.conditions}
    conditions = dict(standing)
    conditions["Available"] = _dated(_availability(deployment, available), standing.get("Available"), wall)
    progress = _progress(deployment, current, status, wall)
    if progress is not None:
        conditions["Progressing"] = _dated(progress, standing.get("Progressing"), wall)
    return msgspec.structs.replace(status, conditions=tuple(conditions.values()))


def _availability(deployment: Deployment, available: int) -> Condition:
    if available >= bounds(deployment).least:
        return Condition(
            type="Available",
            status="True",
            reason="MinimumReplicasAvailable",
            message="Deployment has minimum availability.",
        )
    return Condition(
        type="Available",
        status="False",
        reason="MinimumReplicasUnavailable",
        message="Deployment does not have minimum availability.",
    )


def _is_complete(deployment: Deployment, status: DeploymentStatus) -> bool:
    counts = (status.updated_replicas, status.replicas, status.available_replicas)
    return all(count == deployment.spec.replicas for count in counts)


def _progress(
    deployment: Deployment, current: ReplicaSet | None, status: DeploymentStatus, wall: float
) -> Condition | None:
    """Return the Progressing condition that now holds, None when the standing one does."""
    before = deployment.status
    standing = next((each for each in before.conditions if each.type == "Progressing"), None)
    name = f'ReplicaSet "{current.metadata.name}"' if current is not None else "Deployment"
    if _is_complete(deployment, status):
        return Condition(
            type="Progressing",
            status="True",
            reason="NewReplicaSetAvailable",
            message=f"{name} has successfully progressed.",
        )
    old_now = status.replicas - status.updated_replicas
    old_before = before.replicas - before.updated_replicas
    moved = (
        status.updated_replicas > before.updated_replicas
        or old_now < old_before
        or status.ready_replicas > before.ready_replicas
        or status.available_replicas > before.available_replicas
    )
    restarted = before.observed_generation != deployment.metadata.generation
    if standing is None or moved or restarted:
        return Condition(
            type="Progressing", status="True", reason="ReplicaSetUpdated", message=f"{name} is progressing."
        )
    since = seconds_of(standing.last_update_time)
    if since is not None and wall - since >= deployment.spec.progress_deadline_seconds:
        return Condition(
            type="Progressing",
            status="False",
            reason="ProgressDeadlineExceeded",
            message=f"{name} has timed out progressing.",
        )
    return None


def _dated(condition: Condition, standing: Condition | None, wall: float) -> Condition:
    """Give a condition its times: one that says what it said keeps both, one of the same status its transition."""
    now = timestamp(wall)
    if standing is None or standing.status != condition.status:
        return msgspec.structs.replace(condition, last_update_time=now, last_transition_time=now)
    same = (standing.reason, standing.message) == (condition.reason, condition.message)
    is_moving = condition.reason == "ReplicaSetUpdated"
    return msgspec.structs.replace(
        condition,
        last_update_time=standing.last_update_time if same and not is_moving else now,
        last_transition_time=standing.last_transition_time,
    )


def _deadline(deployment: Deployment, status: DeploymentStatus, wall: float) -> float | None:
    if _is_complete(deployment, status):
        return None
    since = next(
        (seconds_of(each.last_update_time) for each in status.conditions if each.type == "Progressing"), None
    )
    return max(1.0, (since or wall) + deployment.spec.progress_deadline_seconds - wall)
