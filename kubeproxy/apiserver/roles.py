"""The roles, as upstream's bootstrap policy has them, and who is bound to them. A table; nothing is stored. Pure.

Names and rules follow plugin/pkg/auth/authorizer/rbac/bootstrappolicy and, for CoreDNS and flannel, the
ClusterRoles of their manifests; left out is what this server does not serve. A group that is called as one of
`GROUP_ROLES` has that role, so that a token file or a certificate can give it without any object.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from kubeproxy.apiserver.users import AUTHENTICATED, MASTERS, UNAUTHENTICATED


class Own(StrEnum):
    """What of a node's agent a rule is limited to."""

    ANY = ""
    NAME = "name"
    """The object that is called as its node."""
    POD = "pod"
    """Pods that are bound to its node."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What may be done; "*" stands for all. A rule has resources or paths, never both."""

    verbs: tuple[str, ...]
    groups: tuple[str, ...] = ("",)
    resources: tuple[str, ...] = ()
    """Plurals, or plural/subresource."""
    paths: tuple[str, ...] = ()
    """Paths that are no resources; a "*" at the end stands for any rest."""
    namespace: str = ""
    """The only namespace; "" for all."""
    own: Own = Own.ANY


ALL = ("*",)
READ = ("get", "list", "watch")
FOLLOW = ("list", "watch")
APPS = ("apps",)
DISCOVERY = ("discovery.k8s.io",)
COORDINATION = ("coordination.k8s.io",)

_EVENTS = Rule(verbs=("create", "patch", "update"), groups=("", "events.k8s.io"), resources=("events",))

_NODE_PROXIER = (
    Rule(verbs=FOLLOW, resources=("services", "endpoints")),
    Rule(verbs=READ, resources=("nodes",)),
    Rule(verbs=FOLLOW, groups=DISCOVERY, resources=("endpointslices",)),
    Rule(verbs=FOLLOW, groups=("networking.k8s.io",), resources=("servicecidrs",)),
    _EVENTS,
)
_FLANNEL = (
    Rule(verbs=("get",), resources=("pods",)),
    Rule(verbs=READ, resources=("nodes",)),
    Rule(verbs=("patch",), resources=("nodes/status",)),
    Rule(verbs=FOLLOW, groups=("networking.k8s.io",), resources=("clustercidrs",)),
)
_COREDNS = (
    Rule(verbs=FOLLOW, resources=("endpoints", "services", "pods", "namespaces")),
    Rule(verbs=("get",), resources=("nodes",)),
    Rule(verbs=FOLLOW, groups=DISCOVERY, resources=("endpointslices",)),
)
_NODE = (
    Rule(verbs=READ, resources=("services", "endpoints", "nodes", "pods", "configmaps", "namespaces")),
    Rule(verbs=FOLLOW, groups=DISCOVERY, resources=("endpointslices",)),
    Rule(verbs=FOLLOW, groups=("networking.k8s.io",), resources=("servicecidrs",)),
    Rule(verbs=("create", "update", "patch"), resources=("nodes",), own=Own.NAME),
    Rule(verbs=("update", "patch"), resources=("nodes/status",), own=Own.NAME),
    Rule(verbs=("delete",), resources=("pods",), own=Own.POD),
    Rule(verbs=("update", "patch"), resources=("pods/status",), own=Own.POD),
    Rule(
        verbs=("get", "create", "update", "patch", "delete"),
        groups=COORDINATION,
        resources=("leases",),
        namespace="kube-node-lease",
        own=Own.NAME,
    ),
    _EVENTS,
)
_CONTROLLER_MANAGER = (
    Rule(verbs=ALL, groups=APPS, resources=("deployments", "replicasets")),
    Rule(verbs=ALL, groups=APPS, resources=("deployments/status", "replicasets/status")),
    Rule(verbs=ALL, resources=("pods", "pods/status", "pods/binding")),
    Rule(verbs=READ, resources=("nodes", "namespaces", "services")),
    Rule(verbs=("get", "create", "update", "patch"), groups=COORDINATION, resources=("leases",)),
    _EVENTS,
)

ROLES: Mapping[str, tuple[Rule, ...]] = {
    "cluster-admin": (Rule(verbs=ALL, groups=ALL, resources=ALL), Rule(verbs=ALL, paths=ALL)),
    "view": (Rule(verbs=READ, groups=ALL, resources=ALL),),
    "system:discovery": (
        Rule(
            verbs=("get",),
            paths=("/", "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", "/version", "/version/"),
        ),
    ),
    "system:basic-user": (
        Rule(
            verbs=("create",),
            groups=("authorization.k8s.io",),
            resources=("selfsubjectaccessreviews", "selfsubjectrulesreviews"),
        ),
        Rule(verbs=("create",), groups=("authentication.k8s.io",), resources=("selfsubjectreviews",)),
    ),
    "system:public-info-viewer": (
        Rule(verbs=("get",), paths=("/healthz", "/livez", "/readyz", "/healthz/*", "/livez/*", "/readyz/*")),
    ),
    "system:monitoring": (Rule(verbs=("get",), paths=("/metrics",)),),
    "system:node": _NODE,
    "system:node-proxier": _NODE_PROXIER,
    "system:coredns": _COREDNS,
    "flannel": _FLANNEL,
    "system:kube-controller-manager": _CONTROLLER_MANAGER,
}

NODE_ROLE = "system:node"
"""Of whoever is in system:nodes and called system:node:NAME: both, or neither counts."""

GROUP_ROLES: Mapping[str, tuple[str, ...]] = {
    MASTERS: ("cluster-admin",),
    AUTHENTICATED: ("system:discovery", "system:basic-user", "system:public-info-viewer"),
    UNAUTHENTICATED: ("system:public-info-viewer",),
    **{
        name: (name,) for name in ("view", "system:monitoring", "system:node-proxier", "system:coredns", "flannel")
    },
}
USER_ROLES: Mapping[str, tuple[str, ...]] = {
    "system:kube-proxy": ("system:node-proxier",),
    "system:kube-controller-manager": ("system:kube-controller-manager",),
    "system:serviceaccount:kube-system:kube-proxy": ("system:node-proxier",),
    "system:serviceaccount:kube-system:coredns": ("system:coredns",),
    "system:serviceaccount:kube-flannel:flannel": ("flannel",),
}
