"""Deployments and ReplicaSets as the lab's control loops read them, and what "belongs to" means. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from kubeproxy.controllers.objects import Condition, Meta, OwnerReference, Shape, check_identity
from kubeproxy.model.decode import DecodeError
from kubeproxy.model.names import SAFE_ALPHABET

REVISION = "deployment.kubernetes.io/revision"
HASH_LABEL = "pod-template-hash"


class RollingUpdate(Shape, frozen=True, kw_only=True):
    """strategy.rollingUpdate."""

    max_surge: int | str = "25%"
    max_unavailable: int | str = "25%"


class Strategy(Shape, frozen=True, kw_only=True):
    """strategy."""

    type: str = "RollingUpdate"
    rolling_update: RollingUpdate | None = None


class DeploymentSpec(Shape, frozen=True, kw_only=True):
    """spec of a Deployment; the template is carried as it is."""

    replicas: int = 1
    selector: dict[str, Any]
    template: dict[str, Any]
    strategy: Strategy = Strategy()
    min_ready_seconds: int = 0
    revision_history_limit: int = 10
    progress_deadline_seconds: int = 600
    paused: bool = False


class DeploymentStatus(Shape, frozen=True, kw_only=True):
    """status of a Deployment."""

    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    conditions: tuple[Condition, ...] = ()


class Deployment(Shape, frozen=True, kw_only=True):
    """apps/v1 Deployment."""

    metadata: Meta
    spec: DeploymentSpec
    status: DeploymentStatus = DeploymentStatus()


class ReplicaSetSpec(Shape, frozen=True, kw_only=True):
    """spec of a ReplicaSet."""

    replicas: int = 1
    min_ready_seconds: int = 0
    selector: dict[str, Any]
    template: dict[str, Any]


class ReplicaSetStatus(Shape, frozen=True, kw_only=True):
    """status of a ReplicaSet."""

    replicas: int = 0
    fully_labeled_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    observed_generation: int = 0


class ReplicaSet(Shape, frozen=True, kw_only=True):
    """apps/v1 ReplicaSet."""

    metadata: Meta
    spec: ReplicaSetSpec
    status: ReplicaSetStatus = ReplicaSetStatus()

    @property
    def revision(self) -> int:
        """The rollout it belongs to, 0 when it says nothing that counts."""
        text = (self.metadata.annotations or {}).get(REVISION, "")
        return int(text) if text.isascii() and text.isdigit() else 0


_DEPLOYMENT = msgspec.json.Decoder(Deployment)
_REPLICA_SET = msgspec.json.Decoder(ReplicaSet)


def decode_deployment(data: bytes) -> Deployment:
    """Decode an apps/v1 Deployment."""
    try:
        found = _DEPLOYMENT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(str(error)) from None
    check_identity(found.metadata)
    return found


def decode_replica_set(data: bytes) -> ReplicaSet:
    """Decode an apps/v1 ReplicaSet."""
    try:
        found = _REPLICA_SET.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(str(error)) from None
    check_identity(found.metadata)
    return found


def status_patch(meta: Meta, status: DeploymentStatus | ReplicaSetStatus) -> dict[str, Any]:
    """Return the merge patch that makes a status so, for this object and no later one of its name.

    A merge patch keeps what it does not name, so counts that are 0 are named, too.
    """
    fields = {
        field.encode_name: msgspec.to_builtins(getattr(status, field.name))
        for field in msgspec.structs.fields(status)
    }
    return {"metadata": {"uid": meta.uid}, "status": fields}


def owner(kind: str, api_version: str, meta: Meta) -> OwnerReference:
    """Return the reference by which an object belongs to ``meta``'s."""
    return OwnerReference(
        api_version=api_version,
        kind=kind,
        name=meta.name,
        uid=meta.uid,
        controller=True,
        block_owner_deletion=True,
    )


def is_owned(meta: Meta, uid: str) -> bool:
    """Say whether the object with that uid manages this one."""
    controller = meta.controller
    return controller is not None and controller.uid == uid


def template_hash(template: Mapping[str, Any]) -> str:
    """Return the pod-template-hash: FNV-1a over the template, in the letters of generated names."""
    number = 0x811C9DC5
    for byte in msgspec.json.encode(template, order="deterministic"):
        number = ((number ^ byte) * 0x01000193) & 0xFFFFFFFF
    return "".join(SAFE_ALPHABET[ord(digit) % len(SAFE_ALPHABET)] for digit in str(number))


def with_label(labelled: Mapping[str, Any], key: str, value: str) -> dict[str, Any]:
    """Return an object (a pod template) with one label more."""
    meta = dict(labelled.get("metadata") or {})
    meta["labels"] = {**(meta.get("labels") or {}), key: value}
    return {**labelled, "metadata": meta}


def without_hash(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ReplicaSet's template as its Deployment wrote it."""
    meta = dict(template.get("metadata") or {})
    labels = {key: value for key, value in (meta.get("labels") or {}).items() if key != HASH_LABEL}
    meta["labels"] = labels
    meta.pop("creationTimestamp", None)
    return {**template, "metadata": meta}


def same_template(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether two templates make the same pods."""
    return without_hash(one) == without_hash(other)
