"""Which node a pod goes to: spread, and nothing else. Pure.

A pod goes to the Ready node with the fewest pods of the same owner, then with the fewest pods at all, then by
name; spec.nodeSelector limits the choice. Resources, affinity and taints mean nothing in a lab.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from kubeproxy.controllers.objects import Node, Pod, matches


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Pods and their nodes; pods that fit nowhere, and why, in the scheduler's words."""

    bindings: tuple[tuple[Pod, str], ...] = ()
    homeless: tuple[tuple[Pod, str], ...] = ()


def place(pods: Iterable[Pod], nodes: Sequence[Node]) -> Placement:
    """Place every pod that has no node yet, oldest first; each placement counts for the next."""
    active = [pod for pod in pods if pod.is_active]
    per_owner: Counter[tuple[str, str]] = Counter()
    per_node: Counter[str] = Counter()
    for pod in active:
        if pod.spec.node_name:
            per_owner[_owner(pod), pod.spec.node_name] += 1
            per_node[pod.spec.node_name] += 1
    bindings: list[tuple[Pod, str]] = []
    homeless: list[tuple[Pod, str]] = []
    for pod in sorted((pod for pod in active if not pod.spec.node_name), key=_age):
        fitting = [
            node.metadata.name
            for node in nodes
            if node.is_schedulable and matches(pod.spec.node_selector or {}, node.metadata.labels)
        ]
        if not fitting:
            homeless.append((pod, f"0/{len(nodes)} nodes are available: {_why(pod, nodes)}."))
            continue
        owner = _owner(pod)
        chosen = min(fitting, key=lambda name: (per_owner[owner, name], per_node[name], name))
        per_owner[owner, chosen] += 1
        per_node[chosen] += 1
        bindings.append((pod, chosen))
    return Placement(bindings=tuple(bindings), homeless=tuple(homeless))


def stranded(pods: Iterable[Pod], nodes: Collection[str]) -> Iterator[Pod]:
    """Yield the pods on nodes that are no more: no kubelet will ever delete them."""
    return (pod for pod in pods if pod.spec.node_name and pod.spec.node_name not in nodes)


def _owner(pod: Pod) -> str:
    controller = pod.metadata.controller
    return controller.uid if controller is not None else pod.metadata.uid


def _age(pod: Pod) -> tuple[str, str, str]:
    return pod.metadata.creation_timestamp or "", *pod.metadata.key


def _why(pod: Pod, nodes: Sequence[Node]) -> str:
    ready = sum(node.is_schedulable for node in nodes)
    if not ready:
        return f"{len(nodes)} node(s) were not ready"
    return f"{ready} node(s) didn't match Pod's node affinity/selector"
