"""Nodes, Namespaces, ConfigMaps and Leases: defaulting and validation."""

import re
from base64 import b64decode
from typing import Any

from kubeproxy.apiserver.addresses import validate_cidr
from kubeproxy.apiserver.names import is_label_value, is_qualified_name, refused
from kubeproxy.apiserver.status import (
    Errors,
    ErrorType,
    FieldError,
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
_LEASE_STRATEGY = "OldestEmulationVersion"
MAX_CONFIG_MAP = 1024 * 1024
"""Bytes that the values of a ConfigMap may have together."""
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
    errors += _validate_taints(obj["spec"].get("taints") or [])
    seen = set()
    for index, address in enumerate(obj["status"].get("addresses") or ()):
        pair = (address.get("type"), address.get("address"))
        if pair in seen:
            errors.append(duplicate(f"status.addresses[{index}]", address))
        seen.add(pair)
    return errors


def _validate_taints(taints: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    seen: set[tuple[str, str]] = set()
    for index, taint in enumerate(taints):
        field = f"spec.taints[{index}]"
        key, value, effect = (taint.get(name, "") for name in ("key", "value", "effect"))
        if key:
            errors += refused(f"{field}.key", key, is_qualified_name(key))
        else:
            errors.append(required(f"{field}.key"))
        errors += refused(f"{field}.value", value, is_label_value(value))
        if effect not in _EFFECTS:
            errors.append(not_supported(f"{field}.effect", effect, _EFFECTS))
        if (key, effect) in seen:
            errors.append(duplicate(field, taint))
        seen.add((key, effect))
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
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    for key in data:
        if key in binary:
            errors.append(invalid_value(f"data[{key}]", key, "duplicate of key present in binaryData"))
    size = sum(len(value.encode()) for value in data.values())
    for key, value in binary.items():
        try:
            size += len(b64decode(value, validate=True))
        except ValueError:
            errors.append(invalid_value(f"binaryData[{key}]", key, "illegal base64 data"))
    if size > MAX_CONFIG_MAP:
        detail = f"may not be more than {MAX_CONFIG_MAP} bytes"
        errors.append(FieldError(ErrorType.TOO_LONG, "[]", None, detail))
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
    strategy = spec.get("strategy")
    if strategy is not None and strategy != _LEASE_STRATEGY:
        if "/" not in strategy:
            errors.append(not_supported("spec.strategy", strategy, (_LEASE_STRATEGY,)))
        else:
            errors += refused("spec.strategy", strategy, is_qualified_name(strategy))
    if spec.get("preferredHolder") and not strategy:
        errors.append(forbidden_field("spec.preferredHolder", "may only be specified if `strategy` is defined"))
    return errors


def validate_event(obj: dict[str, Any]) -> Errors:
    """An Event lives in the namespace of what it is about."""
    about = (obj.get("involvedObject") or {}).get("namespace", "")
    namespace = obj["metadata"].get("namespace", "")
    if about == namespace or (not about and namespace in ("default", "")):
        return []
    return [invalid_value("involvedObject.namespace", about, "does not match event.namespace")]
