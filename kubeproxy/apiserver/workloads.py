"""Pods, Deployments and ReplicaSets: defaulting and validation of what a network lab needs of them."""

import re
from collections.abc import Mapping
from typing import Any

from kubeproxy.apiserver.names import (
    is_dns1123_label,
    is_dns1123_subdomain,
    is_port_name,
    is_port_number,
    refused,
    validate_labels,
)
from kubeproxy.apiserver.pod_dns import validate_pod_dns
from kubeproxy.apiserver.selectors import selector_requirements
from kubeproxy.apiserver.service import PROTOCOLS
from kubeproxy.apiserver.status import (
    Errors,
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
)

_RESTART = ("Always", "Never", "OnFailure")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_CONTAINER_LISTS = ("initContainers", "containers")


def default_pod_spec(spec: dict[str, Any]) -> None:
    """Fill in a PodSpec (pkg/apis/core/v1/defaults.go)."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    for field in _CONTAINER_LISTS:
        for container in spec.get(field) or ():
            _default_container(container)


def _default_container(container: dict[str, Any]) -> None:
    for port in container.get("ports") or ():
        port["protocol"] = port.get("protocol") or "TCP"
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    image = container.get("image", "")
    tag = image.rpartition("/")[2].partition(":")[2]
    latest = tag in ("", "latest") and "@" not in image
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    for name in _PROBES:
        if name in container:
            _default_probe(container[name])


def _default_probe(probe: dict[str, Any]) -> None:
    defaults = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
    for field, value in defaults.items():
        probe[field] = probe.get(field) or value
    if "httpGet" in probe:
        probe["httpGet"]["path"] = probe["httpGet"].get("path") or "/"
        probe["httpGet"].setdefault("scheme", "HTTP")


def default_pod(obj: dict[str, Any]) -> None:
    """Fill in a Pod."""
    spec = obj.setdefault("spec", {})
    default_pod_spec(spec)
    spec.setdefault("enableServiceLinks", True)
    status = obj.setdefault("status", {})
    status.setdefault("phase", "Pending")
    status.setdefault("qosClass", "BestEffort")


def default_deployment(obj: dict[str, Any]) -> None:
    """Fill in a Deployment."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    default_pod_spec(spec.setdefault("template", {}).setdefault("spec", {}))
    obj.setdefault("status", {})


def default_replica_set(obj: dict[str, Any]) -> None:
    """Fill in a ReplicaSet."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    default_pod_spec(spec.setdefault("template", {}).setdefault("spec", {}))
    obj.setdefault("status", {}).setdefault("replicas", 0)


def validate_pod_spec(spec: Mapping[str, Any], field: str) -> Errors:
    """Return what is wrong with a PodSpec."""
    errors: Errors = []
    names: set[str] = set()
    if not spec.get("containers"):
        errors.append(required(f"{field}.containers"))
    for kind in _CONTAINER_LISTS:
        for index, container in enumerate(spec.get(kind) or ()):
            errors += _validate_container(container, f"{field}.{kind}[{index}]", names)
    if spec["restartPolicy"] not in _RESTART:
        errors.append(not_supported(f"{field}.restartPolicy", spec["restartPolicy"], _RESTART))
    errors += validate_pod_dns(spec, field)
    if spec["terminationGracePeriodSeconds"] < 0:
        value = spec["terminationGracePeriodSeconds"]
        detail = "must be greater than or equal to 0"
        errors.append(invalid_value(f"{field}.terminationGracePeriodSeconds", value, detail))
    errors += validate_labels(spec.get("nodeSelector") or {}, f"{field}.nodeSelector")
    for name in ("hostname", "subdomain"):
        if spec.get(name):
            errors += refused(f"{field}.{name}", spec[name], is_dns1123_label(spec[name]))
    if spec.get("nodeName"):
        errors += refused(f"{field}.nodeName", spec["nodeName"], is_dns1123_subdomain(spec["nodeName"]))
    return errors


def _validate_container(container: Mapping[str, Any], field: str, names: set[str]) -> Errors:
    errors: Errors = []
    name = container.get("name", "")
    if not name:
        errors.append(required(f"{field}.name"))
    else:
        errors += refused(f"{field}.name", name, is_dns1123_label(name))
        if name in names:
            errors.append(duplicate(f"{field}.name", name))
    names.add(name)
    if not container.get("image"):
        errors.append(required(f"{field}.image"))
    errors += _validate_container_ports(container.get("ports") or [], f"{field}.ports")
    for index, variable in enumerate(container.get("env") or ()):
        if not variable.get("name"):
            errors.append(required(f"{field}.env[{index}].name"))
    for kind in _PROBES:
        if kind in container:
            errors += _validate_probe(container[kind], f"{field}.{kind}")
    return errors


def _validate_container_ports(ports: list[dict[str, Any]], field: str) -> Errors:
    errors: Errors = []
    names: set[str] = set()
    for index, port in enumerate(ports):
        name = port.get("name")
        if name:
            errors += refused(f"{field}[{index}].name", name, is_port_name(name))
            if name in names:
                errors.append(duplicate(f"{field}[{index}].name", name))
            names.add(name)
        if not port.get("containerPort"):
            errors.append(required(f"{field}[{index}].containerPort"))
        else:
            number = port["containerPort"]
            errors += refused(f"{field}[{index}].containerPort", number, is_port_number(number))
        if port.get("hostPort"):
            errors += refused(f"{field}[{index}].hostPort", port["hostPort"], is_port_number(port["hostPort"]))
        if port["protocol"] not in PROTOCOLS:
            errors.append(not_supported(f"{field}[{index}].protocol", port["protocol"], PROTOCOLS))
    return errors


def _validate_probe(probe: Mapping[str, Any], field: str) -> Errors:
    handlers = [name for name in ("exec", "httpGet", "tcpSocket", "grpc") if name in probe]
    errors: Errors = []
    if not handlers:
        errors.append(required(field, "must specify a handler type"))
    for name in handlers[1:]:
        errors.append(forbidden_field(f"{field}.{name}", "may not specify more than 1 handler type"))
    for name in ("httpGet", "tcpSocket", "grpc"):
        if name in probe:
            port = probe[name].get("port", 0)
            problems = is_port_name(port) if isinstance(port, str) else is_port_number(port)
            errors += refused(f"{field}.{name}.port", port, problems)
    if "exec" in probe and not probe["exec"].get("command"):
        errors.append(required(f"{field}.exec.command"))
    for name in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        if probe.get(name, 0) < 0:
            errors.append(invalid_value(f"{field}.{name}", probe[name], "must be greater than or equal to 0"))
    return errors


def validate_pod(obj: dict[str, Any]) -> Errors:
    """Return what is wrong with a Pod."""
    return validate_pod_spec(obj["spec"], "spec")


_POD_UPDATE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def validate_pod_update(new: dict[str, Any], old: dict[str, Any]) -> Errors:
    """A Pod's spec is fixed but for images and scheduling; binding it to a node happens once."""
    return [] if _fixed_part(new["spec"]) == _fixed_part(old["spec"]) else [forbidden_field("spec", _POD_UPDATE)]


def _fixed_part(spec: Mapping[str, Any]) -> dict[str, Any]:
    part = {key: value for key, value in spec.items() if key not in ("tolerations", "activeDeadlineSeconds")}
    for field in _CONTAINER_LISTS:
        if field in part:
            part[field] = [{**container, "image": ""} for container in part[field]]
    return part


def _validate_template(spec: Mapping[str, Any]) -> Errors:
    errors: Errors = []
    selector = spec.get("selector")
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    errors += validate_labels(labels, "spec.template.metadata.labels")
    if selector is None:
        errors.append(required("spec.selector"))
    else:
        errors += _validate_selector(selector)
        if not errors and not all(term.matches(labels) for term in selector_requirements(selector)):
            detail = "`selector` does not match template `labels`"
            errors.append(invalid_value("spec.template.metadata.labels", labels, detail))
    errors += validate_pod_spec(spec["template"]["spec"], "spec.template.spec")
    policy = spec["template"]["spec"].get("restartPolicy")
    if policy in ("Never", "OnFailure"):
        errors.append(not_supported("spec.template.spec.restartPolicy", policy, ("Always",)))
    return errors


def _validate_selector(selector: Mapping[str, Any]) -> Errors:
    errors = validate_labels(selector.get("matchLabels") or {}, "spec.selector.matchLabels")
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        errors.append(invalid_value("spec.selector", selector, "empty selector is invalid for deployment"))
    for index, term in enumerate(selector.get("matchExpressions") or ()):
        field = f"spec.selector.matchExpressions[{index}]"
        operator = term.get("operator")
        if operator in ("In", "NotIn") and not term.get("values"):
            errors.append(required(f"{field}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
        elif operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            errors.append(invalid_value(f"{field}.operator", operator, "not a valid selector operator"))
    return errors


def validate_replicas(spec: Mapping[str, Any]) -> Errors:
    """Replicas and minReadySeconds are counts."""
    errors: Errors = []
    for field in ("replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"):
        if spec.get(field, 0) < 0:
            errors.append(invalid_value(f"spec.{field}", spec[field], "must be greater than or equal to 0"))
    return errors


def _validate_strategy(spec: Mapping[str, Any]) -> Errors:
    strategy = spec["strategy"]
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate")
    if kind not in ("Recreate", "RollingUpdate"):
        return [not_supported("spec.strategy.type", kind, ("Recreate", "RollingUpdate"))]
    if kind == "Recreate":
        detail = "may not be specified when strategy `type` is 'Recreate'"
        return [forbidden_field("spec.strategy.rollingUpdate", detail)] if rolling is not None else []
    errors: Errors = []
    for name in ("maxUnavailable", "maxSurge"):
        value = rolling.get(name)
        if isinstance(value, str) and not re.fullmatch("[0-9]+%", value):
            detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"  # noqa: E501
            errors.append(invalid_value(f"spec.strategy.rollingUpdate.{name}", value, detail))
        elif isinstance(value, int) and value < 0:
            detail = "must be greater than or equal to 0"
            errors.append(invalid_value(f"spec.strategy.rollingUpdate.{name}", value, detail))
        elif name == "maxUnavailable" and isinstance(value, str) and _is_above_all(value):
            detail = "must not be greater than 100%"
            errors.append(invalid_value(f"spec.strategy.rollingUpdate.{name}", value, detail))
    if rolling.get("maxUnavailable") in (0, "0%") and rolling.get("maxSurge") in (0, "0%"):
        detail = "may not be 0 when `maxSurge` is 0"
        errors.append(
            invalid_value("spec.strategy.rollingUpdate.maxUnavailable", rolling["maxUnavailable"], detail)
        )
    return errors


def _is_above_all(percent: str) -> bool:
    digits = percent.removesuffix("%").lstrip("0")
    return len(digits) > 3 or int(digits or "0") > 100


def validate_deployment(obj: dict[str, Any]) -> Errors:
    """Return what is wrong with a Deployment."""
    spec = obj["spec"]
    errors = validate_replicas(spec) + _validate_template(spec) + _validate_strategy(spec)
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None and deadline <= spec.get("minReadySeconds", 0):
        detail = "must be greater than minReadySeconds"
        errors.append(invalid_value("spec.progressDeadlineSeconds", deadline, detail))
    return errors


def validate_replica_set(obj: dict[str, Any]) -> Errors:
    """Return what is wrong with a ReplicaSet."""
    return validate_replicas(obj["spec"]) + _validate_template(obj["spec"])


def validate_selector_unchanged(new: dict[str, Any], old: dict[str, Any]) -> Errors:
    """A workload's selector is fixed at creation."""
    selector = new["spec"].get("selector")
    if selector == old["spec"].get("selector"):
        return []
    return [invalid_value("spec.selector", selector, "field is immutable")]
