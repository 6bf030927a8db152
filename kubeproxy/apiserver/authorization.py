"""Whether a user may do what a request asks: the roles' rules applied, and upstream's words for a no. Pure."""

from collections.abc import Iterator
from enum import Enum
from typing import Any

import msgspec

from kubeproxy.apiserver import status
from kubeproxy.apiserver.roles import GROUP_ROLES, NODE_ROLE, ROLES, USER_ROLES, Own, Rule
from kubeproxy.apiserver.users import User


class Attributes(msgspec.Struct, frozen=True, kw_only=True):
    """What a request wants, as k8s.io/apiserver's authorizer.Attributes. A ``path`` stands for no resource."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def qualified(self) -> str:
        """The resource as rules and texts name it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


class Decision(Enum):
    """What the rules say."""

    DENIED = "denied"
    ALLOWED = "allowed"
    OWN_NAME = "when the object is called as the user's node"
    OWN_POD = "when the pod is bound to the user's node"


_OWN = {Own.ANY: Decision.ALLOWED, Own.NAME: Decision.OWN_NAME, Own.POD: Decision.OWN_POD}


def rules_of(user: User) -> Iterator[Rule]:
    """Yield every rule of every role that a user has."""
    names = [name for group in user.groups for name in GROUP_ROLES.get(group, ())]
    names += USER_ROLES.get(user.name, ())
    names += [NODE_ROLE] if user.node else []
    for name in dict.fromkeys(names):
        yield from ROLES[name]


def decide(user: User, wanted: Attributes) -> Decision:
    """Decide by the rules; what is left open is for who sees the object."""
    found = Decision.DENIED
    for rule in rules_of(user):
        if _matches(rule, wanted):
            decision = _OWN[rule.own]
            if decision is Decision.OWN_NAME and wanted.name:
                decision = Decision.ALLOWED if wanted.name == user.node else Decision.DENIED
            if decision is Decision.ALLOWED:
                return decision
            if decision is not Decision.DENIED:
                found = decision
    return found


def _matches(rule: Rule, wanted: Attributes) -> bool:
    if not _has(rule.verbs, wanted.verb):
        return False
    if wanted.path:
        return any(_path_matches(pattern, wanted.path) for pattern in rule.paths)
    return (
        _has(rule.groups, wanted.group)
        and _has(rule.resources, wanted.qualified)
        and rule.namespace in ("", wanted.namespace)
    )


def _has(allowed: tuple[str, ...], value: str) -> bool:
    return "*" in allowed or value in allowed


def _path_matches(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


def forbidden(user: User, wanted: Attributes) -> status.ApiProblem:
    """Return the 403, in the words of k8s.io/apiserver's responsewriters."""
    return status.forbidden(wanted.group, wanted.resource, wanted.name, explain(user, wanted))


def explain(user: User, wanted: Attributes) -> str:
    """Return why not."""
    who = f"User {status.quoted(user.name)} cannot {wanted.verb}"
    if wanted.path:
        return f"{who} path {status.quoted(wanted.path)}"
    where = f"in the namespace {status.quoted(wanted.namespace)}" if wanted.namespace else "at the cluster scope"
    resource, group = status.quoted(wanted.qualified), status.quoted(wanted.group)
    return f"{who} resource {resource} in API group {group} {where}"


def listed_rules(user: User, namespace: str) -> dict[str, Any]:
    """Return the status of a SelfSubjectRulesReview: what a user may do in a namespace."""
    resources: list[dict[str, Any]] = []
    paths: list[dict[str, Any]] = []
    for rule in rules_of(user):
        if rule.paths:
            paths.append({"verbs": list(rule.verbs), "nonResourceURLs": list(rule.paths)})
        elif rule.namespace in ("", namespace):
            entry: dict[str, Any] = {
                "verbs": list(rule.verbs),
                "apiGroups": list(rule.groups),
                "resources": list(rule.resources),
            }
            if rule.own is Own.NAME:
                entry["resourceNames"] = [user.node]
            resources.append(entry)
    return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}
