"""Nodes, Namespaces, ConfigMaps and Leases: defaulting and validation."""

import re
from typing import Any

from kubeproxy.apiserver.addresses import validate_cidr
from kubeproxy.apiserver.status import (
    Errors,
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
)
from kubeproxy.model.addresses import family_of

_CONFIG_KEY = re.compile("[-._a-zA-Z0-9]{1,253}")
_CONFIG_KEY_TEXT = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
    "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
_EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")


def default_namespace(obj: dict[str, Any]) -> None:
    """A Namespace is labelled with its name and held by a finalizer until it is empty."""
    name = obj["metadata"].get("name", "")
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name
    obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    obj.setdefault("status", {}).setdefault("phase", "Active")


def default_node(obj: dict[str, Any]) -> None:
    """podCIDR is the first of podCIDRs."""
    spec = obj.setdefault("spec", {})
    if spec.get("podCIDR") and not spec.get("podCIDRs"):
        spec["podCIDRs"] = [spec["podCIDR"]]
    elif spec.get("podCIDRs") and not spec.get("podCIDR"):
        spec["podCIDR"] = spec["podCIDRs"][0]
    obj.setdefault("status", {})


def validate_node(obj: dict[str, Any]) -> Errors:
    """Return what is wrong with a Node."""
    errors: Errors = []
    cidrs = obj["spec"].get("podCIDRs") or []
    for index, cidr in enumerate(cidrs):
        errors += validate_cidr(f"spec.podCIDRs[{index}]", cidr)
    if len(cidrs) > 2 or (len(cidrs) == 2 and family_of(cidrs[0]) is family_of(cidrs[1])):
        detail = "may specify no more than one CIDR for each IP family"
        errors.append(invalid_value("spec.podCIDRs", cidrs, detail))
    for index, taint in enumerate(obj["spec"].get("taints") or ()):
        field = f"spec.taints[{index}]"
        if not taint.get("key"):
            errors.append(required(f"{field}.key"))
        if taint.get("effect") not in _EFFECTS:
            errors.append(not_supported(f"{field}.effect", taint.get("effect", ""), _EFFECTS))
    seen = set()
    for index, address in enumerate(obj["status"].get("addresses") or ()):
        pair = (address.get("type"), address.get("address"))
        if pair in seen:
            errors.append(duplicate(f"status.addresses[{index}]", address))
        seen.add(pair)
    return errors


def validate_node_update(new: dict[str, Any], old: dict[str, Any]) -> Errors:
    """A Node's pod CIDRs, once given, stay."""
    before = old["spec"].get("podCIDRs")
    if before and new["spec"].get("podCIDRs") != before:
        detail = 'node updates may not change podCIDR except from "" to valid'
        return [forbidden_field("spec.podCIDRs", detail)]
    return []


def validate_config_map(obj: dict[str, Any]) -> Errors:
    """Return what is wrong with a ConfigMap."""
    errors: Errors = []
    for field in ("data", "binaryData"):
        for key in obj.get(field) or {}:
            if not _CONFIG_KEY.fullmatch(key):
                errors.append(invalid_value(f"{field}[{key}]", key, _CONFIG_KEY_TEXT))
    for key in obj.get("binaryData") or {}:
        if key in (obj.get("data") or {}):
            errors.append(invalid_value(f"binaryData[{key}]", key, "duplicate of key present in data"))
    return errors


def validate_config_map_update(new: dict[str, Any], old: dict[str, Any]) -> Errors:
    """An immutable ConfigMap stays as it is."""
    if not old.get("immutable"):
        return []
    errors: Errors = []
    if not new.get("immutable"):
        errors.append(forbidden_field("immutable", "field is immutable when `immutable` is set"))
    for field in ("data", "binaryData"):
        if new.get(field) != old.get(field):
            errors.append(forbidden_field(field, "field is immutable when `immutable` is set"))
    return errors


def validate_lease(obj: dict[str, Any]) -> Errors:
    """Return what is wrong with a Lease."""
    spec = obj.get("spec") or {}
    errors: Errors = []
    if "leaseDurationSeconds" in spec and spec["leaseDurationSeconds"] <= 0:
        value = spec["leaseDurationSeconds"]
        errors.append(invalid_value("spec.leaseDurationSeconds", value, "must be greater than 0"))
    if spec.get("leaseTransitions", 0) < 0:
        value = spec["leaseTransitions"]
        errors.append(invalid_value("spec.leaseTransitions", value, "must be greater than or equal to 0"))
    return errors


def validate_event(obj: dict[str, Any]) -> Errors:
    """An Event lives in the namespace of what it is about."""
    about = (obj.get("involvedObject") or {}).get("namespace", "")
    namespace = obj["metadata"].get("namespace", "")
    if about == namespace or (not about and namespace in ("default", "")):
        return []
    return [invalid_value("involvedObject.namespace", about, "does not match event.namespace")]
