"""Services: defaulting and validation as upstream's (pkg/apis/core/v1/defaults.go, validation.ValidateService).

Addresses and node ports are handed out in `allocate`; what an update may change, and what it carries over, stands
in `service_changes`.
"""

from collections.abc import Mapping
from typing import Any

from kubeproxy.apiserver.addresses import validate_cidr, validate_ip, validate_not_special
from kubeproxy.apiserver.names import (
    is_dns1123_label,
    is_dns1123_subdomain,
    is_port_name,
    is_port_number,
    is_qualified_name,
    refused,
    validate_labels,
)
from kubeproxy.apiserver.status import (
    Errors,
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
)
from kubeproxy.model.addresses import Family, canonical_ip, family_of

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
PROTOCOLS = ("SCTP", "TCP", "UDP")
NONE = "None"
_POLICIES = ("Cluster", "Local")
_IP_MODES = ("Proxy", "VIP")
_DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")
_LB_ONLY = "may only be used when `type` is 'LoadBalancer'"
MAX_AFFINITY_SECONDS = 86400


def is_headless(spec: Mapping[str, Any]) -> bool:
    """The Service asked for no cluster IP."""
    return spec.get("clusterIPs") == [NONE]


def has_cluster_ip(spec: Mapping[str, Any]) -> bool:
    """The Service's type has a cluster IP (headless ones included)."""
    return spec.get("type") in ("ClusterIP", "NodePort", "LoadBalancer")


def may_have_node_ports(spec: Mapping[str, Any]) -> bool:
    """The Service is of a type whose node ports, if it has any, are its own."""
    return spec.get("type") in ("NodePort", "LoadBalancer")


def gets_node_ports(spec: Mapping[str, Any]) -> bool:
    """Every port of the Service is given a node port if it names none."""
    return may_have_node_ports(spec) and not (
        spec["type"] == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is False
    )


def needs_health_check_port(spec: Mapping[str, Any]) -> bool:
    """A load balancer asks nodes whether they have local endpoints."""
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def is_external(spec: Mapping[str, Any]) -> bool:
    """The Service can be reached from outside the cluster."""
    if spec.get("type") in ("NodePort", "LoadBalancer"):
        return True
    return spec.get("type") == "ClusterIP" and bool(spec.get("externalIPs"))


def default_service(obj: dict[str, Any]) -> None:
    """Fill in what the user left out."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        client = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        client.setdefault("timeoutSeconds", 10800)
    for port in spec.get("ports") or ():
        port["protocol"] = port.get("protocol") or "TCP"
        if port.get("targetPort") in (None, 0, "") and "port" in port:
            port["targetPort"] = port["port"]
    if is_external(spec):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if has_cluster_ip(spec):
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    balancer = obj.setdefault("status", {}).setdefault("loadBalancer", {})
    for ingress in balancer.get("ingress") or ():
        if ingress.get("ip"):
            ingress.setdefault("ipMode", "VIP")


def validate_service(obj: dict[str, Any]) -> Errors:
    """Return everything that is wrong with a Service's spec."""
    spec = obj["spec"]
    errors: Errors = []
    if not spec.get("ports") and not is_headless(spec) and spec.get("type") != "ExternalName":
        errors.append(required("spec.ports"))
    errors += _validate_type(spec)
    errors += _validate_ports(spec)
    errors += validate_labels(spec.get("selector") or {}, "spec.selector")
    errors += _validate_affinity(spec)
    errors += _validate_cluster_ips(spec)
    for index, text in enumerate(spec.get("externalIPs") or ()):
        errors += validate_not_special(f"spec.externalIPs[{index}]", text)
    errors += _validate_load_balancer(spec)
    errors += _validate_policies(spec)
    return errors + _validate_ingress((obj.get("status") or {}).get("loadBalancer") or {})


def _validate_ingress(balancer: Mapping[str, Any]) -> Errors:
    """Check what a load balancer's controller wrote (ValidateLoadBalancerStatus upstream)."""
    errors: Errors = []
    for index, ingress in enumerate(balancer.get("ingress") or ()):
        field = f"status.loadBalancer.ingress[{index}]"
        ip, mode, name = ingress.get("ip"), ingress.get("ipMode"), ingress.get("hostname")
        if ip:
            errors += validate_ip(f"{field}.ip", ip)
        if mode is not None and not ip:
            errors.append(forbidden_field(f"{field}.ipMode", "may not be specified when `ip` is not set"))
        elif mode is not None and mode not in _IP_MODES:
            errors.append(not_supported(f"{field}.ipMode", mode, _IP_MODES))
        if name:
            errors += refused(f"{field}.hostname", name, is_dns1123_subdomain(name))
            if canonical_ip(name) is not None:
                errors.append(invalid_value(f"{field}.hostname", name, "must be a DNS name, not an IP address"))
    return errors


def _validate_type(spec: Mapping[str, Any]) -> Errors:
    kind = spec.get("type")
    if kind not in TYPES:
        return [not_supported("spec.type", kind, TYPES)]
    if kind in ("LoadBalancer", "NodePort") and is_headless(spec):
        detail = f"may not be set to 'None' for {kind} services"
        return [invalid_value("spec.clusterIPs[0]", NONE, detail)]
    if kind != "ExternalName":
        return []
    errors: Errors = []
    for field in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if spec.get(field):
            errors.append(forbidden_field(f"spec.{field}", "may not be set for ExternalName services"))
    name = spec.get("externalName", "").removesuffix(".")
    if not name:
        return [*errors, required("spec.externalName")]
    return errors + refused("spec.externalName", name, is_dns1123_subdomain(name))


def _validate_ports(spec: Mapping[str, Any]) -> Errors:
    errors: Errors = []
    ports = spec.get("ports") or []
    names: set[str] = set()
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        errors += _validate_port(port, field, len(ports) > 1, names)
        if spec.get("type") == "ClusterIP" and port.get("nodePort"):
            errors.append(forbidden_field(f"{field}.nodePort", "may not be used when `type` is 'ClusterIP'"))
    numbers: set[tuple[Any, Any]] = set()
    node_ports: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        node = (port.get("protocol"), port.get("nodePort"))
        if port.get("nodePort") and node in node_ports:
            errors.append(duplicate(f"spec.ports[{index}].nodePort", port["nodePort"]))
        node_ports.add(node)
    for index, port in enumerate(ports):
        number = (port.get("protocol"), port.get("port"))
        if number in numbers:
            value = {"port": port.get("port"), "protocol": port.get("protocol"), "targetPort": 0}
            errors.append(duplicate(f"spec.ports[{index}]", value))
        numbers.add(number)
    return errors


def _validate_port(port: Mapping[str, Any], field: str, name_needed: bool, names: set[str]) -> Errors:
    errors: Errors = []
    name = port.get("name", "")
    if name:
        errors += refused(f"{field}.name", name, is_dns1123_label(name))
        if name in names:
            errors.append(duplicate(f"{field}.name", name))
        names.add(name)
    elif name_needed:
        errors.append(required(f"{field}.name"))
    errors += refused(f"{field}.port", port.get("port", 0), is_port_number(port.get("port", 0)))
    if port.get("protocol") not in PROTOCOLS:
        errors.append(not_supported(f"{field}.protocol", port.get("protocol"), PROTOCOLS))
    target = port.get("targetPort", 0)
    problems = is_port_name(target) if isinstance(target, str) else is_port_number(target)
    errors += refused(f"{field}.targetPort", target, problems)
    if port.get("appProtocol"):
        errors += refused(f"{field}.appProtocol", port["appProtocol"], is_qualified_name(port["appProtocol"]))
    return errors


def _validate_affinity(spec: Mapping[str, Any]) -> Errors:
    affinity = spec.get("sessionAffinity")
    if affinity not in ("ClientIP", "None"):
        return [not_supported("spec.sessionAffinity", affinity, ("ClientIP", "None"))]
    if affinity == "None":
        return []
    field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    seconds = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds")
    if seconds is None:
        return [required(field, "when session affinity type is ClientIP")]
    if 0 < seconds <= MAX_AFFINITY_SECONDS:
        return []
    return [invalid_value(field, seconds, f"must be greater than 0 and less than {MAX_AFFINITY_SECONDS}")]


def _validate_cluster_ips(spec: Mapping[str, Any]) -> Errors:
    if spec.get("type") == "ExternalName":
        return []
    errors = _validate_families(spec)
    ips = spec.get("clusterIPs") or []
    single = spec.get("clusterIP", "")
    if single and ips and ips[0] != single:
        errors.append(invalid_value("spec.clusterIPs", ips, "first value must match `clusterIP`"))
    if not single and ips:
        errors.append(invalid_value("spec.clusterIPs", ips, "must be empty when `clusterIP` is not specified"))
    bad: Errors = []
    for index, text in enumerate(ips):
        if index == 0 and text == NONE:
            if len(ips) > 1:
                bad.append(invalid_value("spec.clusterIPs", ips, "'None' must be the first and only value"))
        else:
            bad += validate_ip(f"spec.clusterIPs[{index}]", text)
    if len(ips) > 2:
        bad.append(invalid_value("spec.clusterIPs", ips, "may only hold up to 2 values"))
    if bad or is_headless(spec):
        return errors + bad
    return errors + _match_families(ips, spec.get("ipFamilies") or [])


def _validate_families(spec: Mapping[str, Any]) -> Errors:
    errors: Errors = []
    families = spec.get("ipFamilies") or []
    for index, family in enumerate(families):
        if family not in ("IPv4", "IPv6"):
            errors.append(not_supported(f"spec.ipFamilies[{index}]", family, ("IPv4", "IPv6")))
        if family in families[:index]:
            errors.append(duplicate(f"spec.ipFamilies[{index}]", family))
    policies = ("PreferDualStack", "RequireDualStack", "SingleStack")
    policy = spec.get("ipFamilyPolicy")
    if policy is not None and policy not in policies:
        errors.append(not_supported("spec.ipFamilyPolicy", policy, policies))
    return errors


def _match_families(ips: list[str], families: list[str]) -> Errors:
    found = [family_of(canonical_ip(ip) or ip) for ip in ips]
    if len(found) == 2 and found[0] is found[1]:
        return [invalid_value("spec.clusterIPs", ips, "may specify no more than one IP for each IP family")]
    errors: Errors = []
    for index, (ip, family, wanted) in enumerate(zip(ips, found, families, strict=False)):
        if family.label != wanted:
            expected = "an IPv4" if family is Family.V6 else "an IPv6"
            detail = f"expected {expected} value as indicated by `ipFamilies[{index}]`"
            errors.append(invalid_value(f"spec.clusterIPs[{index}]", ip, detail))
    return errors


def _validate_load_balancer(spec: Mapping[str, Any]) -> Errors:
    errors: Errors = []
    balanced = spec.get("type") == "LoadBalancer"
    ranges = spec.get("loadBalancerSourceRanges") or []
    if ranges and not balanced:
        errors.append(forbidden_field("spec.LoadBalancerSourceRanges", _LB_ONLY))
    for index, text in enumerate(ranges):
        errors += validate_cidr(f"spec.LoadBalancerSourceRanges[{index}]", text.strip())
    if "allocateLoadBalancerNodePorts" in spec and not balanced:
        errors.append(forbidden_field("spec.allocateLoadBalancerNodePorts", _LB_ONLY))
    if spec.get("loadBalancerClass") is not None:
        if not balanced:
            errors.append(forbidden_field("spec.loadBalancerClass", _LB_ONLY))
        else:
            name = spec["loadBalancerClass"]
            errors += refused("spec.loadBalancerClass", name, is_qualified_name(name))
    return errors


def _validate_policies(spec: Mapping[str, Any]) -> Errors:
    errors: Errors = []
    external = spec.get("externalTrafficPolicy")
    if not is_external(spec):
        if external:
            detail = "may only be set for externally-accessible services"
            errors.append(invalid_value("spec.externalTrafficPolicy", external, detail))
    elif external not in _POLICIES:
        errors.append(not_supported("spec.externalTrafficPolicy", external, _POLICIES))
    check = spec.get("healthCheckNodePort", 0)
    if check and not needs_health_check_port(spec):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        errors.append(invalid_value("spec.healthCheckNodePort", check, detail))
    internal = spec.get("internalTrafficPolicy")
    if internal is not None and internal not in _POLICIES:
        errors.append(not_supported("spec.internalTrafficPolicy", internal, _POLICIES))
    distribution = spec.get("trafficDistribution")
    if distribution is not None and distribution not in _DISTRIBUTIONS:
        errors.append(not_supported("spec.trafficDistribution", distribution, _DISTRIBUTIONS))
    return errors
