"""IP addresses in objects: upstream's checks and their words (k8s.io/apimachinery/pkg/util/validation/ip.go)."""

from ipaddress import ip_address, ip_network

from kubeproxy.apiserver.status import Errors, invalid_value
from kubeproxy.model.addresses import canonical_cidr, canonical_ip

_LOOPBACK = "may not be in the loopback range (127.0.0.0/8, ::1/128)"
_LINK_LOCAL = "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
_LINK_LOCAL_MULTICAST = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
_MULTICAST = "may not be in the multicast range (224.0.0.0/4, ff00::/8)"
_LINK_LOCAL_GROUPS = (ip_network("224.0.0.0/24"), ip_network("ff02::/16"))


def validate_ip(field: str, text: str) -> Errors:
    """Refuse what is no IP address."""
    if canonical_ip(text) is not None:
        return []
    return [invalid_value(field, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")]


def validate_cidr(field: str, text: str) -> Errors:
    """Refuse what is no CIDR."""
    if canonical_cidr(text) is not None:
        return []
    return [invalid_value(field, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")]


def validate_not_special(field: str, text: str) -> Errors:
    """Refuse addresses that could never be an endpoint: unspecified, loopback, link-local, multicast."""
    canonical = canonical_ip(text)
    if canonical is None:
        return validate_ip(field, text)
    address = ip_address(canonical)
    errors: Errors = []
    if address.is_unspecified:
        errors.append(invalid_value(field, text, f"may not be unspecified ({text})"))
    if address.is_loopback:
        errors.append(invalid_value(field, text, _LOOPBACK))
    if address.is_link_local:
        errors.append(invalid_value(field, text, _LINK_LOCAL))
    if address.is_multicast:
        near = any(address in network for network in _LINK_LOCAL_GROUPS if network.version == address.version)
        errors.append(invalid_value(field, text, _LINK_LOCAL_MULTICAST if near else _MULTICAST))
    return errors
