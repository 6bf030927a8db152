"""Objects that the lab itself applies: the packaged manifests, and asking the API whether they run."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import msgspec
import yaml

from kubeproxy.store.kube import ApiError, KubeClient
from kubeproxy.store.resources import CONFIG_MAPS, DEPLOYMENTS, NODES, PODS, SERVICES, Resource

_KINDS: Mapping[str, Resource] = {
    resource.kind: resource for resource in (CONFIG_MAPS, DEPLOYMENTS, PODS, SERVICES)
}

CONFLICT = 409


def documents(name: str) -> tuple[dict[str, Any], ...]:
    """Return the objects of a packaged manifest."""
    text = (resources.files(__package__) / "manifests" / name).read_text()
    return tuple(document for document in yaml.load_all(text, yaml.CSafeLoader) if document is not None)


async def create(client: KubeClient, body: dict[str, Any]) -> dict[str, Any]:
    """Create an object, or return the one that is there. Raises StoreError."""
    resource = _KINDS[body["kind"]]
    metadata = body["metadata"]
    namespace = metadata.get("namespace", "default")
    try:
        return await client.create(resource, namespace, body)
    except ApiError as error:
        if error.code != CONFLICT:
            raise
        return await client.get(resource, namespace, metadata["name"])


async def apply(client: KubeClient, manifest: str) -> tuple[dict[str, Any], ...]:
    """Create every object of a packaged manifest that is not there yet."""
    return tuple([await create(client, body) for body in documents(manifest)])


class _Condition(msgspec.Struct):
    type: str
    status: str


class _NodeStatus(msgspec.Struct):
    conditions: list[_Condition] = []


class _NodeBody(msgspec.Struct):
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


async def ready_nodes(client: KubeClient) -> int:
    """Return how many nodes say that they are Ready."""
    listing = await client.list(NODES)
    nodes = [msgspec.json.decode(item, type=_NodeBody) for item in listing.items]
    return sum(any(c.type == "Ready" and c.status == "True" for c in node.status.conditions) for node in nodes)


async def ready_replicas(client: KubeClient, namespace: str, deployment: str) -> int:
    """Return how many pods of a Deployment are ready, by its status."""
    found = await client.get(DEPLOYMENTS, namespace, deployment)
    return int(found.get("status", {}).get("readyReplicas", 0))
