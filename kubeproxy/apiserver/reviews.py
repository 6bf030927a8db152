"""Reviews: questions about oneself, answered and not stored (`kubectl auth can-i`, `can-i --list`, `whoami`)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kubeproxy.apiserver import status
from kubeproxy.apiserver.authorization import Attributes, Decision, decide, explain, listed_rules
from kubeproxy.apiserver.users import User
from kubeproxy.store.resources import Resource

Obj = dict[str, Any]

_AUTHORIZATION = "authorization.k8s.io"
REVIEWS: tuple[Resource, ...] = tuple(
    Resource(group=group, plural=f"{kind.lower()}s", kind=kind, namespaced=False)
    for group, kind in (
        ("authentication.k8s.io", "SelfSubjectReview"),
        (_AUTHORIZATION, "SelfSubjectAccessReview"),
        (_AUTHORIZATION, "SelfSubjectRulesReview"),
    )
)
_BY_PATH = {("apis", each.group, each.version, each.plural): each for each in REVIEWS}


def review_at(segments: Sequence[str]) -> Resource | None:
    """Return the review that a path names, if it names one."""
    return _BY_PATH.get((segments[0], segments[1], segments[2], segments[3])) if len(segments) == 4 else None


def answer(review: Resource, body: Any, user: User) -> Obj:
    """Return a review with its status filled in. Raises ApiProblem for a body that is none."""
    spec = _object(body, "").get("spec", {})
    answered = _ANSWERS[review.kind](_object(spec, "spec"), user)
    identity: Obj = {"kind": review.kind, "apiVersion": review.api_version, "metadata": {}}
    if review.kind != "SelfSubjectReview":
        identity["spec"] = spec
    return identity | {"status": answered}


def _access(spec: Mapping[str, Any], user: User) -> Obj:
    wanted = _attributes(spec)
    decision = decide(user, wanted)
    if decision is Decision.ALLOWED:
        return {"allowed": True}
    return {"allowed": False, "reason": explain(user, wanted) if decision is Decision.DENIED else decision.value}


def _attributes(spec: Mapping[str, Any]) -> Attributes:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (resource is None) == (path is None):
        error = status.invalid_value(
            "spec.resourceAttributes",
            resource,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )
        raise status.invalid(_AUTHORIZATION, "SelfSubjectAccessReview", "", [error])
    if path is not None:
        given = _object(path, "spec.nonResourceAttributes")
        return Attributes(verb=_text(given, "verb"), path=_text(given, "path") or "/")
    given = _object(resource, "spec.resourceAttributes")
    fields = ("verb", "group", "resource", "subresource", "namespace", "name")
    return Attributes(**{field: _text(given, field) for field in fields})


def _rules(spec: Mapping[str, Any], user: User) -> Obj:
    return listed_rules(user, _text(spec, "namespace"))


def _self(_spec: Mapping[str, Any], user: User) -> Obj:
    return {"userInfo": user.info()}


_ANSWERS: Mapping[str, Callable[[Mapping[str, Any], User], Obj]] = {
    "SelfSubjectReview": _self,
    "SelfSubjectAccessReview": _access,
    "SelfSubjectRulesReview": _rules,
}


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise status.bad_request(f"the review's {where or 'body'} must be an object")
    return value


def _text(given: Mapping[str, Any], field: str) -> str:
    value = given.get(field) or ""
    if not isinstance(value, str):
        raise status.bad_request(f"the review's {field} must be a string")
    return value
