"""Services that change: what an update carries over, drops with a change of type, and may not touch.

As pkg/registry/core/service/strategy.go and validation.ValidateServiceUpdate upstream.
"""

from collections.abc import Mapping
from typing import Any

from kubeproxy.apiserver.service import (
    gets_node_ports,
    has_cluster_ip,
    is_external,
    is_headless,
    may_have_node_ports,
    needs_health_check_port,
)
from kubeproxy.apiserver.status import Errors, forbidden_field, invalid_value


def settle_service(new: dict[str, Any], old: dict[str, Any] | None) -> None:
    """Bring clusterIP and clusterIPs together and carry over what an update did not mention."""
    spec = new["spec"]
    if old is None:
        if spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = [spec["clusterIP"]]
        elif spec.get("clusterIPs") and not spec.get("clusterIP"):
            spec["clusterIP"] = spec["clusterIPs"][0]
        return
    before = old["spec"]
    _settle_addresses(spec, before)
    _carry_node_ports(spec, before)
    _drop_unfit(spec, before)
    _drop_status(new)


def _settle_addresses(spec: dict[str, Any], before: Mapping[str, Any]) -> None:
    keeps = has_cluster_ip(spec) and has_cluster_ip(before) and not spec.get("clusterIP")
    if keeps and spec.get("clusterIPs", before.get("clusterIPs")) == before.get("clusterIPs"):
        _copy(spec, before, "clusterIP", "clusterIPs")
    if not has_cluster_ip(spec):
        for field in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if spec.get(field) == before.get(field):
                spec.pop(field, None)
        if spec.get("clusterIP") == before.get("clusterIP"):
            spec.pop("clusterIP", None)
        return
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    elif spec.get("clusterIP") != before.get("clusterIP") and spec.get("clusterIPs") == before.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]] if spec.get("clusterIP") else []
    if has_cluster_ip(before):
        _settle_families(spec, before)


def _settle_families(spec: dict[str, Any], before: Mapping[str, Any]) -> None:
    for field in ("ipFamilies", "ipFamilyPolicy"):
        if field not in spec:
            _copy(spec, before, field)


def _copy(spec: dict[str, Any], before: Mapping[str, Any], *fields: str) -> None:
    for field in fields:
        if field in before:
            spec[field] = before[field]


def _carry_node_ports(spec: dict[str, Any], before: Mapping[str, Any]) -> None:
    if gets_node_ports(spec) and gets_node_ports(before):
        known = {(p.get("protocol"), p.get("port")): p.get("nodePort") for p in before.get("ports") or ()}
        taken = {(p.get("protocol"), p.get("nodePort")) for p in spec.get("ports") or () if p.get("nodePort")}
        for port in spec.get("ports") or ():
            old_port = known.get((port.get("protocol"), port.get("port")))
            if not port.get("nodePort") and old_port and (port.get("protocol"), old_port) not in taken:
                port["nodePort"] = old_port
    if needs_health_check_port(spec) and needs_health_check_port(before) and not spec.get("healthCheckNodePort"):
        _copy(spec, before, "healthCheckNodePort")


def _drop_status(new: dict[str, Any]) -> None:
    """Only a load balancer has a status of one."""
    if new["spec"].get("type") != "LoadBalancer" and (new.get("status") or {}).get("loadBalancer"):
        new["status"]["loadBalancer"] = {}


def _drop_unfit(spec: dict[str, Any], before: Mapping[str, Any]) -> None:
    """A change of type takes fields along that no longer fit; what the user left as it was goes."""
    if may_have_node_ports(before) and not may_have_node_ports(spec):
        old_ports = {p.get("nodePort") for p in before.get("ports") or ()}
        for port in spec.get("ports") or ():
            if port.get("nodePort") in old_ports:
                port.pop("nodePort", None)
    if needs_health_check_port(before) and not needs_health_check_port(spec):
        _drop_same(spec, before, "healthCheckNodePort")
    if is_external(before) and not is_external(spec):
        _drop_same(spec, before, "externalTrafficPolicy")
    if before.get("type") == "LoadBalancer" and spec.get("type") != "LoadBalancer":
        _drop_same(spec, before, "allocateLoadBalancerNodePorts", "loadBalancerClass")
    if before.get("type") == "ExternalName" and spec.get("type") != "ExternalName":
        _drop_same(spec, before, "externalName")


def _drop_same(spec: dict[str, Any], before: Mapping[str, Any], *fields: str) -> None:
    for field in fields:
        if spec.get(field) == before.get(field):
            spec.pop(field, None)


def validate_service_update(new: dict[str, Any], old: dict[str, Any]) -> Errors:
    """Return which changes a Service may not make."""
    spec, before = new["spec"], old["spec"]
    errors: Errors = []
    if has_cluster_ip(spec) and has_cluster_ip(before) and before.get("clusterIPs"):
        errors += _validate_unchanged(spec, before)
    balanced = spec.get("type") == before.get("type") == "LoadBalancer"
    if balanced and spec.get("loadBalancerClass") != before.get("loadBalancerClass"):
        value = spec.get("loadBalancerClass")
        errors.append(invalid_value("spec.loadBalancerClass", value, "may not change once set"))
    checked = needs_health_check_port(spec) and needs_health_check_port(before)
    if checked and spec.get("healthCheckNodePort") != before.get("healthCheckNodePort"):
        errors.append(forbidden_field("spec.healthCheckNodePort", "field is immutable"))
    return errors


def _validate_unchanged(spec: Mapping[str, Any], before: Mapping[str, Any]) -> Errors:
    errors: Errors = []
    ips = spec.get("clusterIPs") or []
    if not ips:
        errors.append(invalid_value("spec.clusterIPs[0]", ips, "primary clusterIP can not be unset"))
    for index, (ip, old_ip) in enumerate(zip(ips, before["clusterIPs"], strict=False)):
        if ip != old_ip:
            errors.append(invalid_value(f"spec.clusterIPs[{index}]", ips, "may not change once set"))
    families, old_families = spec.get("ipFamilies") or [], before.get("ipFamilies") or []
    headless = is_headless(spec) or is_headless(before)
    if not headless and families[:1] != old_families[:1]:
        errors.append(invalid_value("spec.ipFamilies[0]", families, "may not change once set"))
    return errors
