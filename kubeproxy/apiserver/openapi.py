"""OpenAPI v3 documents, generated from the shapes.

kubectl reads them for three things: whether PATCH takes `fieldValidation` (then it leaves validation to the
server), `explain`, and merge keys. PATCH deliberately does not list the strategic merge media type: kubectl then
computes patches from its built-in types, which know these kinds best.
"""

import hashlib
from typing import Any

import msgspec

from kubeproxy.apiserver.discovery import GIT_VERSION, group_versions, kinds_in
from kubeproxy.apiserver.kinds import Kind
from kubeproxy.apiserver.schema import ListOf, MapOf, Scalar, Shape, Type

Obj = dict[str, Any]

_SCALARS: dict[str, Obj] = {
    "string": {"type": "string"},
    "bool": {"type": "boolean"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "time": {"type": "string", "format": "date-time"},
    "intstr": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
    "quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "any": {"x-kubernetes-preserve-unknown-fields": True},
}
_JSON_PATCHES = ("application/json-patch+json", "application/merge-patch+json")


def paths() -> dict[str, tuple[str, str]]:
    """Return the path of each document (`api/v1`, `apis/apps/v1`) with its group and version."""
    found = {"api/v1": ("", "v1")}
    for group, versions in group_versions().items():
        found |= {f"apis/{group}/{version}": (group, version) for version in versions}
    return found


V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"


def second_version() -> Obj:
    """Return /openapi/v2: no definitions.

    kubectl asks for it when the third version does not know a kind (`List`, a misspelt one); finding none, it
    leaves the check to the server.
    """
    info = {"title": "Kubernetes", "version": GIT_VERSION}
    return {"swagger": "2.0", "info": info, "paths": {}, "definitions": {}}


def second_version_protobuf() -> bytes:
    """Return the same as kubectl wants it: a gnostic openapi.v2.Document of swagger (1), info (2), paths (8)."""

    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    info = field(1, b"Kubernetes") + field(2, GIT_VERSION.encode())
    return field(1, b"2.0") + field(2, info) + field(8, b"")


def index() -> Obj:
    """Return /openapi/v3: where each document is; the hash lets clients cache it."""
    listed = {}
    for path, (group, version) in paths().items():
        digest = hashlib.sha256(msgspec.json.encode(document(group, version))).hexdigest()[:32].upper()
        listed[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": listed}


def document(group: str, version: str) -> Obj:
    """Return the OpenAPI v3 document of one group and version."""
    schemas: dict[str, Obj] = {}
    operations: Obj = {}
    for kind in kinds_in(group, version):
        name = _add_shape(kind.shape, schemas, _schema_prefix(kind))
        gvk = {"group": kind.group, "version": kind.resource.version, "kind": kind.name}
        schemas[name]["x-kubernetes-group-version-kind"] = [gvk]
        operations |= _operations(kind, gvk, name)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": GIT_VERSION},
        "paths": operations,
        "components": {"schemas": schemas},
    }


def _schema_prefix(kind: Kind) -> str:
    group = (kind.group or "core").partition(".")[0]
    return f"io.k8s.api.{group}.{kind.resource.version}"


def _add_shape(shape: Shape, schemas: dict[str, Obj], prefix: str) -> str:
    name = f"{prefix}.{shape.name}"
    if name not in schemas:
        schemas[name] = {"type": "object"}
        fields = {key: _schema(kind, schemas, prefix) for key, kind in shape.fields.items()}
        schemas[name] = {"type": "object", "description": shape.name, "properties": fields}
    return name


def _schema(kind: Type, schemas: dict[str, Obj], prefix: str) -> Obj:
    if isinstance(kind, Scalar):
        return dict(_SCALARS[kind.go])
    if isinstance(kind, Shape):
        return {"allOf": [{"$ref": f"#/components/schemas/{_add_shape(kind, schemas, prefix)}"}], "default": {}}
    if isinstance(kind, MapOf):
        return {"type": "object", "additionalProperties": _schema(kind.value, schemas, prefix)}
    return _list_schema(kind, schemas, prefix)


def _list_schema(kind: ListOf, schemas: dict[str, Obj], prefix: str) -> Obj:
    found: Obj = {"type": "array", "items": _schema(kind.item, schemas, prefix)}
    if kind.merge_key:
        found["x-kubernetes-patch-merge-key"] = kind.merge_key
    if kind.merge_key or kind.merge:
        found["x-kubernetes-patch-strategy"] = "merge,retainKeys" if kind.retain_keys else "merge"
    return found


def _parameter(name: str) -> Obj:
    return {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}


def _operations(kind: Kind, gvk: Obj, schema: str) -> Obj:
    resource = kind.resource
    collection = resource.path("{namespace}" if resource.namespaced else "")
    one = resource.path("{namespace}" if resource.namespaced else "", "{name}")
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    answer = {"200": {"description": "OK", "content": content}}
    written = [_parameter(name) for name in ("dryRun", "fieldManager", "fieldValidation")]

    def operation(action: str, *, body: Obj | None = None, parameters: list[Obj] | None = None) -> Obj:
        found: Obj = {"responses": answer, "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk}
        if body is not None:
            found["requestBody"] = {"content": body, "required": True}
        if parameters:
            found["parameters"] = parameters
        return found

    patches = {kind: {"schema": {"type": "object"}} for kind in _JSON_PATCHES}
    return {
        collection: {
            "get": operation("list"),
            "post": operation("post", body=content, parameters=written),
        },
        one: {
            "get": operation("get"),
            "put": operation("put", body=content, parameters=written),
            "patch": operation("patch", body=patches, parameters=[*written, _parameter("force")]),
            "delete": operation("delete", parameters=[_parameter("dryRun")]),
        },
    }
