"""The columns that `kubectl get` shows of each kind, as upstream's server prints them.

Pure: an object and the time in, cells out. A column's ``priority`` above 0 shows only with `-o wide`.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec

from kubeproxy.apiserver.selectors import selector_text

Obj = dict[str, Any]
NONE = "<none>"


class Column(msgspec.Struct, frozen=True):
    """One column: its heading and how a cell is made from an object and the time now (Unix seconds)."""

    name: str
    cell: Callable[[Obj, float], Any]
    priority: int = 0
    type: str = "string"
    format: str = ""


def unix_time(text: str) -> float:
    """Return the Unix seconds of an RFC 3339 time."""
    return datetime.fromisoformat(text).timestamp()


def human_duration(seconds: float) -> str:
    """Write a duration as kubectl does: `47s`, `3m5s`, `26h`, `9d` (k8s.io/apimachinery/pkg/util/duration)."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 0:
        return "0s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    return f"{days // 365}y{days % 365}d" if days < 365 * 8 and days % 365 else f"{days // 365}y"


def _age(obj: Obj, now: float) -> str:
    created = obj["metadata"].get("creationTimestamp")
    return human_duration(now - unix_time(created)) if created else "<unknown>"


def _name(obj: Obj, _now: float) -> str:
    return str(obj["metadata"]["name"])


def at(*path: str, default: Any = NONE) -> Callable[[Obj, float], Any]:
    """Return a cell that shows the field at a path."""

    def cell(obj: Obj, _now: float) -> Any:
        value: Any = obj
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return default if value in (None, "") else value

    return cell


NAME = Column("Name", _name, format="name")
AGE = Column("Age", _age)


def _joined(items: Iterable[str], separator: str = ",", default: str = NONE) -> str:
    return separator.join(items) or default


def _labels(labels: dict[str, str] | None) -> str:
    return _joined(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def _external_ip(obj: Obj, _now: float) -> str:
    spec = obj["spec"]
    external = spec.get("externalIPs") or []
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", NONE))
    if spec.get("type") == "LoadBalancer":
        ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
        return _joined([i.get("ip") or i.get("hostname", "") for i in ingress] + external, default="<pending>")
    return _joined(external)


def _service_ports(obj: Obj, _now: float) -> str:
    def text(port: Obj) -> str:
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        return f"{port.get('port')}{node}/{port.get('protocol')}"

    return _joined(text(port) for port in obj["spec"].get("ports") or ())


def _selector(obj: Obj, _now: float) -> str:
    return _labels(obj["spec"].get("selector"))


SERVICE = (
    NAME,
    Column("Type", at("spec", "type")),
    Column("Cluster-IP", at("spec", "clusterIP")),
    Column("External-IP", _external_ip),
    Column("Port(s)", _service_ports),
    AGE,
    Column("Selector", _selector, priority=1),
)


def _pod_ready(obj: Obj, _now: float) -> str:
    statuses = (obj.get("status") or {}).get("containerStatuses") or []
    return f"{sum(bool(s.get('ready')) for s in statuses)}/{len(obj['spec'].get('containers') or ())}"


def _pod_status(obj: Obj, _now: float) -> str:
    status = obj.get("status") or {}
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    reason = str(status.get("reason") or status.get("phase") or "Unknown")
    initialising = _init_status(status, len(obj["spec"].get("initContainers") or ()))
    if initialising:
        return initialising
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        waiting = (state.get("waiting") or {}).get("reason")
        ended = (state.get("terminated") or {}).get("reason")
        reason = waiting or ended or reason
    return reason


def _init_status(status: Obj, total: int) -> str:
    """Say which init container is at work or in trouble, in upstream's words; "" when all have succeeded."""
    for index, container in enumerate(status.get("initContainerStatuses") or ()):
        state = container.get("state") or {}
        ended, waiting = state.get("terminated"), (state.get("waiting") or {}).get("reason")
        if ended is not None and ended.get("exitCode") == 0:
            continue
        if ended is not None:
            return f"Init:{ended.get('reason') or 'ExitCode:' + str(ended.get('exitCode'))}"
        return f"Init:{waiting}" if waiting not in (None, "PodInitializing") else f"Init:{index}/{total}"
    return ""


def _restarts(obj: Obj, _now: float) -> int:
    statuses = (obj.get("status") or {}).get("containerStatuses") or []
    return sum(int(status.get("restartCount") or 0) for status in statuses)


def _readiness_gates(obj: Obj, _now: float) -> str:
    gates = obj["spec"].get("readinessGates") or []
    if not gates:
        return NONE
    conditions = (obj.get("status") or {}).get("conditions") or []
    true = {c.get("type") for c in conditions if c.get("status") == "True"}
    return f"{sum(gate.get('conditionType') in true for gate in gates)}/{len(gates)}"


POD = (
    NAME,
    Column("Ready", _pod_ready),
    Column("Status", _pod_status),
    Column("Restarts", _restarts),
    AGE,
    Column("IP", at("status", "podIP"), priority=1),
    Column("Node", at("spec", "nodeName"), priority=1),
    Column("Nominated Node", at("status", "nominatedNodeName"), priority=1),
    Column("Readiness Gates", _readiness_gates, priority=1),
)


def _condition(obj: Obj, kind: str) -> str:
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((str(c.get("status")) for c in conditions if c.get("type") == kind), "")


def _node_status(obj: Obj, _now: float) -> str:
    found = {"True": ["Ready"], "": ["Unknown"]}.get(_condition(obj, "Ready"), ["NotReady"])
    return ",".join([*found, "SchedulingDisabled"] if obj["spec"].get("unschedulable") else found)


def _node_roles(obj: Obj, _now: float) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = obj["metadata"].get("labels") or {}
    return _joined(sorted(key.removeprefix(prefix) for key in labels if key.startswith(prefix)))


def _node_address(kind: str) -> Callable[[Obj, float], str]:
    def cell(obj: Obj, _now: float) -> str:
        addresses = (obj.get("status") or {}).get("addresses") or []
        return next((str(a.get("address")) for a in addresses if a.get("type") == kind), NONE)

    return cell


def _node_info(field: str) -> Callable[[Obj, float], Any]:
    return at("status", "nodeInfo", field, default="<unknown>")


NODE = (
    NAME,
    Column("Status", _node_status),
    Column("Roles", _node_roles),
    AGE,
    Column("Version", at("status", "nodeInfo", "kubeletVersion", default="")),
    Column("Internal-IP", _node_address("InternalIP"), priority=1),
    Column("External-IP", _node_address("ExternalIP"), priority=1),
    Column("OS-Image", _node_info("osImage"), priority=1),
    Column("Kernel-Version", _node_info("kernelVersion"), priority=1),
    Column("Container-Runtime", _node_info("containerRuntimeVersion"), priority=1),
)
NAMESPACE = (NAME, Column("Status", at("status", "phase", default="Active")), AGE)


def _shortened(texts: list[str]) -> str:
    if len(texts) <= 3:
        return _joined(texts)
    return f"{','.join(texts[:3])} + {len(texts) - 3} more..."


def _slice_ports(obj: Obj, _now: float) -> str:
    if not obj.get("ports"):
        return "<unset>"
    return _shortened([str(port.get("port", "*")) for port in obj["ports"]])


def _slice_endpoints(obj: Obj, _now: float) -> str:
    addresses = [a for endpoint in obj.get("endpoints") or () for a in endpoint.get("addresses") or ()]
    return _shortened(addresses) if addresses else "<unset>"


ENDPOINT_SLICE = (
    NAME,
    Column("AddressType", at("addressType")),
    Column("Ports", _slice_ports),
    Column("Endpoints", _slice_endpoints),
    AGE,
)


def _endpoints(obj: Obj, _now: float) -> str:
    found = []
    for subset in obj.get("subsets") or ():
        ports = [port.get("port") for port in subset.get("ports") or ()] or [None]
        for port in ports:
            for address in subset.get("addresses") or ():
                found.append(f"{address.get('ip')}:{port}" if port else str(address.get("ip")))
    return _shortened(found)


ENDPOINTS = (NAME, Column("Endpoints", _endpoints), AGE)


def _data_count(obj: Obj, _now: float) -> int:
    return len(obj.get("data") or {}) + len(obj.get("binaryData") or {})


CONFIG_MAP = (NAME, Column("Data", _data_count), AGE)
LEASE = (NAME, Column("Holder", at("spec", "holderIdentity", default="")), AGE)

SERVICE_CIDR = (NAME, Column("CIDRs", lambda obj, _now: ",".join((obj.get("spec") or {}).get("cidrs") or [])), AGE)


def _containers(field: str) -> Callable[[Obj, float], str]:
    def cell(obj: Obj, _now: float) -> str:
        containers = obj["spec"]["template"]["spec"].get("containers") or []
        return _joined(str(container.get(field, "")) for container in containers)

    return cell


def _workload_selector(obj: Obj, _now: float) -> str:
    return selector_text(obj["spec"].get("selector") or {}) or NONE


def _count(*path: str) -> Callable[[Obj, float], Any]:
    return at(*path, default=0)


def _deployment_ready(obj: Obj, _now: float) -> str:
    return f"{(obj.get('status') or {}).get('readyReplicas', 0)}/{obj['spec'].get('replicas', 1)}"


_TEMPLATE = (
    Column("Containers", _containers("name"), priority=1),
    Column("Images", _containers("image"), priority=1),
    Column("Selector", _workload_selector, priority=1),
)
DEPLOYMENT = (
    NAME,
    Column("Ready", _deployment_ready),
    Column("Up-to-date", _count("status", "updatedReplicas")),
    Column("Available", _count("status", "availableReplicas")),
    AGE,
    *_TEMPLATE,
)
SCALE = (
    NAME,
    Column("Desired", _count("spec", "replicas"), type="integer"),
    Column("Available", _count("status", "replicas"), type="integer"),
    AGE,
)
REPLICA_SET = (
    NAME,
    Column("Desired", _count("spec", "replicas"), type="integer"),
    Column("Current", _count("status", "replicas"), type="integer"),
    Column("Ready", _count("status", "readyReplicas"), type="integer"),
    AGE,
    *_TEMPLATE,
)


def _last_seen(obj: Obj, now: float) -> str:
    series = (obj.get("series") or {}).get("lastObservedTime")
    text = series or obj.get("lastTimestamp") or obj.get("eventTime") or obj["metadata"].get("creationTimestamp")
    return human_duration(now - unix_time(text)) if text else "<unknown>"


def _event_object(obj: Obj, _now: float) -> str:
    about = obj.get("involvedObject") or {}
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


EVENT = (
    Column("Last Seen", _last_seen),
    Column("Type", at("type", default="")),
    Column("Reason", at("reason", default="")),
    Column("Object", _event_object),
    Column("Subobject", at("involvedObject", "fieldPath", default=""), priority=1),
    Column("Source", at("source", "component", default=""), priority=1),
    Column("Message", at("message", default="")),
    Column("Count", at("count", default=1), priority=1),
    Column("Name", _name, priority=1, format="name"),
)
