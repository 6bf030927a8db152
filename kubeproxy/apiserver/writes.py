"""The bodies of writes: decoded, checked against the kind's shape, turned into changes of the stored object."""

from collections.abc import Callable
from typing import Any

import msgspec

from kubeproxy.apiserver import status
from kubeproxy.apiserver.kinds import Kind
from kubeproxy.apiserver.media import decode_body, media_type
from kubeproxy.apiserver.patch import BadPatch, json_patch, merge_patch, strategic_merge
from kubeproxy.apiserver.schema import Shape, WrongType, conform
from kubeproxy.store import objects

Obj = dict[str, Any]

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
_PATCHES = f"{JSON_PATCH}, {MERGE_PATCH}, {STRATEGIC_PATCH}"
_VALIDATIONS = ("Ignore", "Strict", "Warn")
MAX_WARNINGS = 20


class Validation(msgspec.Struct):
    """What to do about fields that nobody declared; ``warnings`` fills when they are only to be told."""

    mode: str
    warnings: list[str]

    @classmethod
    def of(cls, mode: str) -> "Validation":
        """Read the fieldValidation parameter. Raises 422 for an unknown one."""
        if mode and mode not in _VALIDATIONS:
            error = status.not_supported("fieldValidation", mode, _VALIDATIONS)
            raise status.invalid("meta.k8s.io", "CreateOptions", "", [error])
        return cls(mode or "Warn", [])


def shaped(kind: Kind, obj: Any, validation: Validation, *, shape: Shape | None = None) -> Obj:
    """Return a decoded body with only declared fields.

    Raises 400 for a value of the wrong type, and for unknown fields when validation is strict.
    """
    known = shape or kind.shape
    version = kind.resource.api_version
    failed = f'{known.name} in version "{version}" cannot be handled as a {known.name}: '
    try:
        found, unknown = conform(obj, known)
    except WrongType as error:
        raise status.bad_request(failed + str(error)) from None
    told = [f'unknown field "{path}"' for path in sorted(unknown)]
    if told and validation.mode == "Strict":
        raise status.bad_request(failed + "strict decoding error: " + ", ".join(told))
    if validation.mode == "Warn":
        validation.warnings += told[:MAX_WARNINGS]
    return found


def read_object(kind: Kind, body: bytes, content_type: str, validation: Validation) -> Obj:
    """Decode the object of a create or replace. Raises 400, 415."""
    obj = decode_body(body, content_type)
    _check_kind(obj, kind)
    return shaped(kind, obj, validation)


def _check_kind(obj: Any, kind: Kind) -> None:
    if not isinstance(obj, dict):
        raise status.bad_request("the object provided is unrecognized: an object was expected")
    version, name = obj.get("apiVersion"), obj.get("kind")
    if version not in (None, "", kind.resource.api_version):
        expected = kind.resource.api_version
        raise status.bad_request(
            f"the API version in the data ({version}) does not match the expected API version ({expected})"
        )
    if name not in (None, "", kind.name):
        raise status.bad_request(
            f'{name} in version "{kind.resource.api_version}" cannot be handled as a {kind.name}'
        )


def replacement(obj: Obj) -> Callable[[Obj], Obj]:
    """Return the change that puts ``obj`` in the stored object's place."""
    return lambda _old: objects.copied(obj)


def patching(kind: Kind, body: bytes, content_type: str, validation: Validation) -> Callable[[Obj], Obj]:
    """Return the change that a patch makes. Raises 400, 415; the change itself may raise 422."""
    change = patch_of(body, content_type, kind.shape)

    def transform(old: Obj) -> Obj:
        told = Validation(validation.mode, [])
        new = change(old)
        _check_kind(new, kind)
        found = shaped(kind, new, told)
        validation.warnings[:] = told.warnings
        # A patch without a resourceVersion applies to whatever is stored.
        if found.get("metadata", {}).get("resourceVersion") == old["metadata"].get("resourceVersion"):
            found["metadata"].pop("resourceVersion", None)
        return found

    return transform


def patch_of(body: bytes, content_type: str, shape: Shape) -> Callable[[Obj], Obj]:
    """Decode a patch of any of the three formats."""
    kind = media_type(content_type)
    if kind not in (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH):
        raise status.unsupported_media_type(_PATCHES)
    patch = decode_body(body, "application/json")
    if kind != JSON_PATCH and not isinstance(patch, dict):
        raise status.bad_request("a merge patch must be an object")

    def change(old: Obj) -> Obj:
        try:
            if kind == JSON_PATCH:
                new = json_patch(old, patch)
            elif kind == MERGE_PATCH:
                new = merge_patch(old, patch)
            else:
                new = strategic_merge(old, patch, shape)
        except BadPatch as error:
            raise _unprocessable(str(error)) from None
        if not isinstance(new, dict):
            raise _unprocessable("the patch leaves no object")
        return new

    return change


def _unprocessable(message: str) -> status.ApiProblem:
    return status.ApiProblem(
        422, "Invalid", f"the server rejected our request due to an error in our request: {message}"
    )
