"""What a Pod says of names: dnsPolicy, dnsConfig and hostAliases (validatePodDNSConfig upstream)."""

from collections.abc import Mapping
from typing import Any

from kubeproxy.apiserver.addresses import validate_ip
from kubeproxy.apiserver.names import is_dns1123_subdomain, refused
from kubeproxy.apiserver.status import Errors, invalid_value, not_supported, required

_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
MAX_NAMESERVERS = 3
MAX_SEARCHES = 32
MAX_SEARCH_TEXT = 2048


def validate_pod_dns(spec: Mapping[str, Any], field: str) -> Errors:
    """Return what is wrong with the fields of a PodSpec, found at ``field``, that end in resolv.conf and hosts."""
    errors: Errors = []
    policy = spec.get("dnsPolicy")
    if policy not in _POLICIES:
        errors.append(not_supported(f"{field}.dnsPolicy", policy, _POLICIES))
    errors += _validate_config(spec.get("dnsConfig"), policy, f"{field}.dnsConfig")
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        here = f"{field}.hostAliases[{index}]"
        errors += validate_ip(f"{here}.ip", alias.get("ip", ""))
        for name in alias.get("hostnames") or ():
            errors += refused(f"{here}.hostnames", name, is_dns1123_subdomain(name))
    return errors


def _validate_config(config: Mapping[str, Any] | None, policy: str | None, field: str) -> Errors:
    if config is None:
        needed = policy == "None"
        return [required(field, "must provide `dnsConfig` when `dnsPolicy` is None")] if needed else []
    servers, searches = config.get("nameservers") or [], config.get("searches") or []
    if policy == "None" and not servers:
        detail = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        return [required(f"{field}.nameservers", detail)]
    errors: Errors = []
    if len(servers) > MAX_NAMESERVERS:
        detail = f"must not have more than {MAX_NAMESERVERS} nameservers"
        errors.append(invalid_value(f"{field}.nameservers", servers, detail))
    for index, server in enumerate(servers):
        errors += validate_ip(f"{field}.nameservers[{index}]", server)
    if len(searches) > MAX_SEARCHES:
        detail = f"must not have more than {MAX_SEARCHES} search paths"
        errors.append(invalid_value(f"{field}.searches", searches, detail))
    if len(" ".join(searches)) > MAX_SEARCH_TEXT:
        detail = f"must not have more than {MAX_SEARCH_TEXT} characters (including spaces) in the search list"
        errors.append(invalid_value(f"{field}.searches", searches, detail))
    for index, search in enumerate(searches):
        name = search.removesuffix(".")
        errors += refused(f"{field}.searches[{index}]", name, is_dns1123_subdomain(name) if search != "." else [])
    for index, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            errors.append(required(f"{field}.options[{index}]", "must not be empty"))
    return errors
