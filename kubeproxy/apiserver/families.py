"""IP families of a Service: what is defaulted, inferred and refused, for a cluster that has one family or both.

As initIPFamilyFields upstream (pkg/registry/core/service/storage/alloc.go, KEP 563). Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kubeproxy.apiserver.service import NONE, has_cluster_ip, is_headless
from kubeproxy.apiserver.status import Errors, invalid_value
from kubeproxy.model.addresses import canonical_ip, family_of

Spec = dict[str, Any]

_POLICY = "spec.ipFamilyPolicy"
_OTHER = {"IPv4": "IPv6", "IPv6": "IPv4"}


def settle_families(spec: Spec, before: Mapping[str, Any] | None, cluster: Sequence[str]) -> Errors:
    """Complete ipFamilyPolicy and ipFamilies of a spec that has been validated; return what cannot be.

    ``before`` is the stored spec that this one replaces, ``cluster`` the cluster's families, primary first.
    """
    if before is not None and _stays_preferred(spec, before):
        return []  # A Service that prefers two families does not follow a change of the cluster.
    policy = _default_policy(spec, before)
    errors = _settle_change(spec, before, policy) if before is not None else []
    if policy == "SingleStack":
        errors += _refuse_two(spec)
    errors += _infer(spec, cluster)
    if errors:
        return errors
    if not (is_headless(spec) and not spec.get("selector")):
        errors = _refuse_unconfigured(spec, policy, cluster)
        if errors:
            return errors
    _complete(spec, policy, cluster)
    return []


def _stays_preferred(spec: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    same = ("type", "clusterIPs", "ipFamilies", "ipFamilyPolicy")
    return spec.get("ipFamilyPolicy") == "PreferDualStack" and all(
        spec.get(field) == before.get(field) for field in same
    )


def _default_policy(spec: Spec, before: Mapping[str, Any] | None) -> str:
    if not spec.get("ipFamilyPolicy"):
        alone = is_headless(spec) and not spec.get("selector")
        default = "RequireDualStack" if alone else "SingleStack"
        spec["ipFamilyPolicy"] = (before or {}).get("ipFamilyPolicy") or default
    return str(spec["ipFamilyPolicy"])


def _settle_change(spec: Spec, before: Mapping[str, Any], policy: str) -> Errors:
    """Going to one family drops the second one's lists; shortening the lists needs the policy said."""
    errors: Errors = []
    for field, what in (("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")):
        new, old = spec.get(field) or [], before.get(field) or []
        if policy == "SingleStack":
            if new == old:
                spec[field] = new[:1]
        elif has_cluster_ip(before) and len(old) == 2 and len(new) == 1 and new == old[:1]:
            errors.append(invalid_value(_POLICY, policy, f"must be 'SingleStack' to release the secondary {what}"))
    return errors


def _refuse_two(spec: Mapping[str, Any]) -> Errors:
    policy = spec["ipFamilyPolicy"]
    return [
        invalid_value(_POLICY, policy, f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {what}")
        for field, what in (
            ("clusterIPs", "cluster IPs are specified"),
            ("ipFamilies", "IP families are specified"),
        )
        if len(spec.get(field) or ()) == 2
    ]


def _infer(spec: Spec, cluster: Sequence[str]) -> Errors:
    """An address says its family."""
    families, ips = list(spec.get("ipFamilies") or []), spec.get("clusterIPs") or []
    errors: Errors = []
    for index, text in enumerate(ips):
        if text == NONE:
            break
        if index >= len(families):
            family = family_of(canonical_ip(text) or text).label
            if family not in cluster:
                detail = f"{family} is not configured on this cluster"
                errors.append(invalid_value(f"spec.clusterIPs[{index}]", ips, detail))
            families.append(family)
    spec["ipFamilies"] = families
    return errors


def _refuse_unconfigured(spec: Mapping[str, Any], policy: str, cluster: Sequence[str]) -> Errors:
    errors: Errors = []
    if policy == "RequireDualStack" and len(cluster) < 2:
        errors.append(invalid_value(_POLICY, policy, "this cluster is not configured for dual-stack services"))
    for index, family in enumerate(spec["ipFamilies"]):
        if family not in cluster:
            errors.append(invalid_value(f"spec.ipFamilies[{index}]", family, "not configured on this cluster"))
    return errors


def _complete(spec: Spec, policy: str, cluster: Sequence[str]) -> None:
    """The cluster's primary family when none is named; the other one too, for who wants both and can have it.

    A headless Service without a selector has endpoints that the cluster knows nothing of: it gets both anywhere.
    """
    families = spec["ipFamilies"] = spec["ipFamilies"] or [cluster[0]]
    alone = is_headless(spec) and not spec.get("selector")
    if policy != "SingleStack" and len(families) == 1 and (alone or len(cluster) == 2):
        families.append(_OTHER[families[0]])
