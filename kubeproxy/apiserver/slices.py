"""EndpointSlices and Endpoints: defaulting and validation (pkg/apis/discovery/validation)."""

from collections.abc import Mapping
from typing import Any

from kubeproxy.apiserver.addresses import validate_ip, validate_not_special
from kubeproxy.apiserver.names import (
    NameCheck,
    is_dns1123_label,
    is_dns1123_subdomain,
    is_label_value,
    is_port_number,
    is_qualified_name,
    refused,
)
from kubeproxy.apiserver.service import PROTOCOLS
from kubeproxy.apiserver.status import (
    Errors,
    ErrorType,
    FieldError,
    duplicate,
    invalid_value,
    not_supported,
    required,
)
from kubeproxy.model.addresses import Family, canonical_ip, family_of

ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
MAX_ENDPOINTS = 1000
MAX_PORTS = 20000
MAX_ADDRESSES = 100
MAX_HINTS = 8


def default_endpoint_slice(obj: dict[str, Any]) -> None:
    """Ports default to TCP and to the empty name."""
    obj.setdefault("endpoints", [])
    for port in obj.get("ports") or ():
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def default_endpoints(obj: dict[str, Any]) -> None:
    """Ports default to TCP."""
    for subset in obj.get("subsets") or ():
        for port in subset.get("ports") or ():
            port["protocol"] = port.get("protocol") or "TCP"


def _too_many(field: str, have: int, most: int) -> Errors:
    if have <= most:
        return []
    return [FieldError(ErrorType.TOO_MANY, field, have, f"must have at most {most} items")]


def validate_endpoint_slice(obj: dict[str, Any]) -> Errors:
    """Return what is wrong with an EndpointSlice."""
    errors: Errors = []
    kind = obj.get("addressType", "")
    if not kind:
        errors.append(required("addressType"))
    elif kind not in ADDRESS_TYPES:
        errors.append(not_supported("addressType", kind, ADDRESS_TYPES))
    endpoints, ports = obj.get("endpoints") or [], obj.get("ports") or []
    errors += _too_many("endpoints", len(endpoints), MAX_ENDPOINTS)
    for index, endpoint in enumerate(endpoints[:MAX_ENDPOINTS]):
        errors += _validate_endpoint(endpoint, f"endpoints[{index}]", kind)
    errors += _too_many("ports", len(ports), MAX_PORTS)
    return errors + _validate_ports(ports[:MAX_PORTS], "ports")


def _validate_endpoint(endpoint: Mapping[str, Any], field: str, kind: str) -> Errors:
    errors: Errors = []
    addresses = endpoint.get("addresses") or []
    if not addresses:
        errors.append(required(f"{field}.addresses", "must contain at least 1 address"))
    errors += _too_many(f"{field}.addresses", len(addresses), MAX_ADDRESSES)
    for index, address in enumerate(addresses[:MAX_ADDRESSES]):
        errors += _validate_address(address, f"{field}.addresses[{index}]", kind)
    if endpoint.get("nodeName") is not None:
        errors += refused(f"{field}.nodeName", endpoint["nodeName"], is_dns1123_subdomain(endpoint["nodeName"]))
    if endpoint.get("hostname") is not None:
        errors += refused(f"{field}.hostname", endpoint["hostname"], is_dns1123_label(endpoint["hostname"]))
    for key in endpoint.get("deprecatedTopology") or ():
        errors += refused(f"{field}.deprecatedTopology", key, is_qualified_name(key))
    hints = endpoint.get("hints") or {}
    for kind_of_hint, check in (("forZones", is_label_value), ("forNodes", is_dns1123_subdomain)):
        errors += _validate_hints(hints.get(kind_of_hint) or [], f"{field}.hints.{kind_of_hint}", check)
    return errors


def _validate_hints(hints: list[dict[str, Any]], field: str, check: NameCheck) -> Errors:
    errors = _too_many(field, len(hints), MAX_HINTS)
    seen: set[str] = set()
    for index, hint in enumerate(hints[:MAX_HINTS]):
        name = hint.get("name", "")
        if name in seen:
            errors.append(duplicate(f"{field}[{index}].name", name))
        seen.add(name)
        errors += refused(f"{field}[{index}].name", name, check(name))
    return errors


def _validate_address(address: str, field: str, kind: str) -> Errors:
    if kind == "FQDN":
        return refused(field, address, is_dns1123_subdomain(address))
    canonical = canonical_ip(address)
    if canonical is None:
        return validate_ip(field, address)
    if kind in ("IPv4", "IPv6") and family_of(canonical) is not (Family.V4 if kind == "IPv4" else Family.V6):
        return [invalid_value(field, address, f"must be a valid {kind} address")]
    return validate_not_special(field, address)


def _validate_ports(ports: list[dict[str, Any]], field: str) -> Errors:
    errors: Errors = []
    names: set[str] = set()
    for index, port in enumerate(ports):
        here = f"{field}[{index}]"
        name = port.get("name", "")
        if name:
            errors += refused(f"{here}.name", name, is_dns1123_label(name))
        if name in names:
            errors.append(duplicate(f"{here}.name", name))
        names.add(name)
        if port.get("protocol") not in PROTOCOLS:
            errors.append(not_supported(f"{here}.protocol", port.get("protocol"), PROTOCOLS))
        if port.get("port") is not None:
            errors += refused(f"{here}.port", port["port"], is_port_number(port["port"]))
        if port.get("appProtocol") is not None:
            errors += refused(f"{here}.appProtocol", port["appProtocol"], is_qualified_name(port["appProtocol"]))
    return errors


def validate_endpoint_slice_update(new: dict[str, Any], old: dict[str, Any]) -> Errors:
    """The address type is fixed at creation."""
    if new.get("addressType") == old.get("addressType"):
        return []
    return [invalid_value("addressType", new.get("addressType"), "field is immutable")]


def validate_endpoints(obj: dict[str, Any]) -> Errors:
    """Return what is wrong with an Endpoints object."""
    errors: Errors = []
    for index, subset in enumerate(obj.get("subsets") or ()):
        field = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            errors.append(required(field, "must specify `addresses` or `notReadyAddresses`"))
        for kind in ("addresses", "notReadyAddresses"):
            for at, address in enumerate(subset.get(kind) or ()):
                errors += _validate_endpoint_address(address, f"{field}.{kind}[{at}]")
        errors += _validate_subset_ports(subset.get("ports") or [], f"{field}.ports")
    return errors


def _validate_endpoint_address(address: Mapping[str, Any], field: str) -> Errors:
    errors = validate_not_special(f"{field}.ip", address.get("ip", ""))
    if address.get("hostname"):
        errors += refused(f"{field}.hostname", address["hostname"], is_dns1123_label(address["hostname"]))
    if address.get("nodeName") is not None:
        errors += refused(f"{field}.nodeName", address["nodeName"], is_dns1123_subdomain(address["nodeName"]))
    return errors


def _validate_subset_ports(ports: list[dict[str, Any]], field: str) -> Errors:
    """As a slice's, but that each needs a number, and a name when there are several."""
    errors = _validate_ports(ports, field)
    for index, port in enumerate(ports):
        if len(ports) > 1 and not port.get("name"):
            errors.append(required(f"{field}[{index}].name"))
        if port.get("port") is None:
            errors += refused(f"{field}[{index}].port", 0, is_port_number(0))
    return errors
