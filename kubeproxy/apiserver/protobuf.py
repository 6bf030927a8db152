"""Request bodies in protobuf, as `kubectl create deployment|namespace|configmap|service` sends them.

kubectl's typed clients write protobuf and do not fall back to JSON when refused. So the few kinds that they create
are read: the wire format here, the field numbers (k8s.io/api's generated.proto files) in `protobuf_fields`. A
field that is not listed there is refused, never dropped silently. Answers are JSON, which every client takes.
"""

import base64
from collections.abc import Iterator
from typing import Any

from kubeproxy.apiserver import status
from kubeproxy.apiserver.protobuf_fields import MESSAGES, POINTERS, Field

PROTOBUF = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_MAX_DEPTH = 24

Wire = tuple[int, int | bytes]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise status.bad_request("the object provided is unrecognized: truncated protobuf")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _entries(data: bytes) -> Iterator[Wire]:
    """Yield field number and value: an int for a varint, bytes for what has a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif kind == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise status.bad_request("the object provided is unrecognized: truncated protobuf")
            yield tag >> 3, data[at : at + size]
            at += size
        else:
            raise status.bad_request(f"the object provided is unrecognized: protobuf wire type {kind}")


def decode_protobuf(body: bytes) -> dict[str, Any]:
    """Decode a Kubernetes protobuf envelope and the object in it. Raises 400, 415."""
    if not body.startswith(_MAGIC):
        raise status.bad_request("the object provided is unrecognized: no Kubernetes protobuf")
    envelope = dict(_entries(body[len(_MAGIC) :]))
    type_meta = {number: _text(value) for number, value in _entries(_bytes(envelope.get(1, b"")))}
    version, kind = type_meta.get(1, ""), type_meta.get(2, "")
    if kind not in MESSAGES:
        raise status.unsupported_media_type("application/json, application/yaml")
    return {"apiVersion": version, "kind": kind, **_message(kind, _bytes(envelope.get(2, b"")), 0)}


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise status.bad_request("the object provided is unrecognized: malformed protobuf")
    return value


def _text(value: int | bytes) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError as error:
        raise status.bad_request(f"the object provided is unrecognized: {error}") from None


def _message(name: str, data: bytes, depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise status.bad_request("the object provided is unrecognized: protobuf nested too deeply")
    fields = MESSAGES[name]
    found: dict[str, Any] = {}
    for number, value in _entries(data):
        field = fields.get(number)
        if field is None:
            if value not in (b"", 0):
                message = f"protobuf field {number} of {name} is not supported here; send JSON or YAML"
                raise status.bad_request(message)
            continue
        _take(found, field, value, depth, pointer=(name, field.name) in POINTERS)
    return found


def _take(found: dict[str, Any], field: Field, value: int | bytes, depth: int, *, pointer: bool) -> None:
    """Put one value in its place. Go writes fields that are not pointers even when they are empty."""
    if field.kind == "map":
        entry = dict(_entries(_bytes(value)))
        held = found.setdefault(field.name, {})
        raw = _bytes(entry.get(2, b""))
        held[_text(entry.get(1, b""))] = base64.b64encode(raw).decode() if field.raw else _text(raw)
        return
    decoded = _value(field.kind, value, depth)
    if field.repeated:
        found.setdefault(field.name, []).append(decoded)
    elif pointer or decoded not in ("", 0, None, False):
        found[field.name] = decoded


def _value(kind: str, value: int | bytes, depth: int) -> Any:
    match kind:
        case "string":
            return _text(value)
        case "int" | "bool":
            if isinstance(value, bytes):
                raise status.bad_request("the object provided is unrecognized: malformed protobuf")
            if kind == "bool":
                return bool(value)
            return value - (1 << 64) if value >> 63 else value
        case "Time":
            return _time(_bytes(value))
        case "IntOrString":
            parts = dict(_entries(_bytes(value)))
            return _text(parts.get(3, b"")) if parts.get(1) else _value("int", parts.get(2, 0), depth)
    return _message(kind, _bytes(value), depth + 1)


def _time(data: bytes) -> str | None:
    """Times in new objects are unset; the server sets its own."""
    return None if not any(value for _, value in _entries(data)) else ""
