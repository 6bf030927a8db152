"""Discovery: which groups, versions and resources are served. Both forms: aggregated (two requests) and legacy."""

from collections.abc import Iterable
from typing import Any

from kubeproxy.apiserver.kinds import KINDS, Kind
from kubeproxy.apiserver.reviews import REVIEWS
from kubeproxy.store.resources import Resource

Obj = dict[str, Any]

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_SUB_VERBS = ["get", "patch", "update"]
GIT_VERSION = "v1.36.0"
"""The Kubernetes release whose behaviour this server follows; kubectl compares its own version with it."""


def version_info() -> Obj:
    """Return the /version document."""
    major, minor, _ = GIT_VERSION.removeprefix("v").split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{GIT_VERSION}+kubeproxy",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    }


def group_versions() -> dict[str, list[str]]:
    """Return the named groups and their versions, in the order of the kinds' table."""
    found: dict[str, list[str]] = {}
    for each in (*(kind.resource for kind in KINDS), *REVIEWS):
        if each.group and each.version not in found.setdefault(each.group, []):
            found[each.group].append(each.version)
    return found


def kinds_in(group: str, version: str) -> list[Kind]:
    """Return the kinds of one group and version."""
    return [kind for kind in KINDS if kind.group == group and kind.resource.version == version]


def _reviews_in(group: str, version: str) -> list[Resource]:
    return [review for review in REVIEWS if (review.group, review.version) == (group, version)]


def api_versions(server: str) -> Obj:
    """Return /api."""
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def group(name: str) -> Obj | None:
    """Return /apis/GROUP, or None when there is no such group."""
    versions = group_versions().get(name)
    if versions is None:
        return None
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": name,
        "versions": listed,
        "preferredVersion": listed[0],
    }


def group_list() -> Obj:
    """Return /apis."""
    groups = [found for name in group_versions() if (found := group(name))]
    listed = [{key: value for key, value in g.items() if key not in ("kind", "apiVersion")} for g in groups]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def _subresource_kind(kind: Kind, sub: str) -> tuple[str, str, str]:
    """The group, version and kind of the objects that a subresource takes."""
    if sub == "scale":
        return "autoscaling", "v1", "Scale"
    if sub == "binding":
        return "", "v1", "Binding"
    return kind.group, kind.resource.version, kind.name


def _sub_verbs(sub: str) -> list[str]:
    return ["create"] if sub == "binding" else _SUB_VERBS


def resource_list(group_name: str, version: str) -> Obj | None:
    """Return /api/v1 or /apis/GROUP/VERSION, or None when it is not served."""
    kinds, listed = (
        kinds_in(group_name, version),
        [_review_entry(each) for each in _reviews_in(group_name, version)],
    )
    if not kinds and not listed:
        return None
    for kind in kinds:
        entry: Obj = {
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.resource.namespaced,
            "kind": kind.name,
            "verbs": _VERBS,
        }
        if kind.short_names:
            entry["shortNames"] = list(kind.short_names)
        if kind.categories:
            entry["categories"] = list(kind.categories)
        listed.append(entry)
        listed += [_subresource_entry(kind, sub) for sub in kind.subresources]
    name = f"{group_name}/{version}" if group_name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": listed}


def _review_entry(review: Resource) -> Obj:
    return {
        "name": review.plural,
        "singularName": review.kind.lower(),
        "namespaced": False,
        "kind": review.kind,
        "verbs": ["create"],
    }


def _subresource_entry(kind: Kind, sub: str) -> Obj:
    sub_group, sub_version, sub_kind = _subresource_kind(kind, sub)
    entry: Obj = {
        "name": f"{kind.plural}/{sub}",
        "singularName": "",
        "namespaced": kind.resource.namespaced,
        "kind": sub_kind,
        "verbs": _sub_verbs(sub),
    }
    if sub == "scale":
        entry |= {"group": sub_group, "version": sub_version}
    return entry


def aggregated(names: Iterable[str]) -> Obj:
    """Return an APIGroupDiscoveryList of the named groups ("" is the core group)."""
    items = []
    for name in names:
        versions = group_versions().get(name, ["v1"])
        meta = {"name": name} if name else {}
        items.append({"metadata": meta, "versions": [_aggregated_version(name, v) for v in versions]})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    }


def _aggregated_version(group_name: str, version: str) -> Obj:
    resources = [_aggregated_resource(kind) for kind in kinds_in(group_name, version)]
    resources += [_aggregated_review(review) for review in _reviews_in(group_name, version)]
    return {"version": version, "resources": resources, "freshness": "Current"}


def _aggregated_resource(kind: Kind) -> Obj:
    entry: Obj = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.resource.version, "kind": kind.name},
        "scope": "Namespaced" if kind.resource.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": _VERBS,
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    if kind.subresources:
        entry["subresources"] = [_aggregated_subresource(kind, sub) for sub in kind.subresources]
    return entry


def _aggregated_review(review: Resource) -> Obj:
    return {
        "resource": review.plural,
        "responseKind": {"group": review.group, "version": review.version, "kind": review.kind},
        "scope": "Cluster",
        "singularResource": review.kind.lower(),
        "verbs": ["create"],
    }


def _aggregated_subresource(kind: Kind, sub: str) -> Obj:
    sub_group, sub_version, sub_kind = _subresource_kind(kind, sub)
    return {
        "subresource": sub,
        "responseKind": {"group": sub_group, "version": sub_version, "kind": sub_kind},
        "verbs": _sub_verbs(sub),
    }
