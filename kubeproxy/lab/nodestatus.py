"""What a node says of itself in the API. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

HEARTBEAT_SECONDS = 10.0
LEASE_SECONDS = 40
LEASE_NAMESPACE = "kube-node-lease"
PODS = 110


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about the machine that carries the lab."""

    cpus: int
    memory_kib: int
    kernel: str
    os_image: str
    architecture: str
    boot_id: str
    version: str


def node_object(name: str, address: str) -> dict[str, Any]:
    """Return the Node to register."""
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "beta.kubernetes.io/os": "linux",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {"addresses": _addresses(name, address)},
    }


def _addresses(name: str, address: str) -> list[dict[str, str]]:
    return [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]


def node_status(
    name: str,
    address: str,
    machine: Machine,
    *,
    ready: bool,
    now: str,
    previous: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    """Return the Node's status; ``previous`` has status and transition time of each condition so far."""
    resources = {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory_kib}Ki",
        "ephemeral-storage": "0",
        "pods": str(PODS),
    }
    conditions = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status")
        if ready
        else ("Ready", "False", "KubeletNotReady", "container runtime network not ready: no subnet lease yet"),
    ]
    return {
        "addresses": _addresses(name, address),
        "capacity": resources,
        "allocatable": resources,
        "conditions": [
            {
                "type": kind,
                "status": status,
                "lastHeartbeatTime": now,
                "lastTransitionTime": _since(previous.get(kind), status, now),
                "reason": reason,
                "message": message,
            }
            for kind, status, reason, message in conditions
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "machineID": "",
            "systemUUID": "",
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel,
            "osImage": machine.os_image,
            "containerRuntimeVersion": f"lab://{machine.version}",
            "kubeletVersion": "v1.36.0-lab",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": machine.architecture,
        },
    }


def _since(previous: tuple[str, str] | None, status: str, now: str) -> str:
    return previous[1] if previous is not None and previous[0] == status and previous[1] else now


def lease_object(name: str, uid: str, now: str) -> dict[str, Any]:
    """Return the Lease by which the node shows that it lives."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
    }
