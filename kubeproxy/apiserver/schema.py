"""The types of API fields, and what follows from a declaration: pruning, type errors, merge keys, OpenAPI.

A kind's shape is declared once (`shapes_*.py`); strict decoding, strategic merge patch and the OpenAPI documents
all read it. Go's decoder drops unknown fields and nulls; `conform` does the same and says what it dropped.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec


class Scalar(msgspec.Struct, frozen=True):
    """A leaf. ``go`` is the type that upstream's decoder names in its errors; "any" takes everything."""

    go: str


STRING = Scalar("string")
BOOL = Scalar("bool")
INT32 = Scalar("int32")
INT64 = Scalar("int64")
INT_OR_STRING = Scalar("intstr")
QUANTITY = Scalar("quantity")
TIME = Scalar("time")
ANY = Scalar("any")


class ListOf(msgspec.Struct, frozen=True):
    """A list. ``merge_key`` set: strategic merge pairs items by it; ``merge`` alone: a set of scalars."""

    item: "Type"
    merge_key: str = ""
    merge: bool = False
    retain_keys: bool = False


class MapOf(msgspec.Struct, frozen=True):
    """An object with free keys."""

    value: "Type"


class Shape(msgspec.Struct, frozen=True):
    """An object with declared fields; ``name`` is the Go struct's, as errors and OpenAPI name it."""

    name: str
    fields: Mapping[str, "Type"]
    retain_keys: bool = False


Type = Scalar | ListOf | MapOf | Shape


class WrongType(ValueError):
    """A value that Go's decoder could not put into its field; the text is the decoder's."""


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.,]\d{1,9})?(Z|[-+]\d\d:\d\d)", re.ASCII)
_GO_RANGES = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


def _is_time(text: str) -> bool:
    """RFC 3339, and a day and hour that exist."""
    try:
        return _TIME.fullmatch(text) is not None and bool(datetime.fromisoformat(text))
    except ValueError:
        return False


def _shown(text: str) -> str:
    return msgspec.json.encode(text[:40]).decode()


def _json_word(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return f"number {value}" if isinstance(value, float) else "number"
    words: dict[type, str] = {str: "string", list: "array", dict: "object"}
    return words.get(type(value), "null")


MAX_VALUES = 50_000
"""Entries of all lists and objects in one object: 3 MiB of "{}," would be checked, and told of, for a minute."""


class _Conformer:
    """Walks one object; ``unknown`` collects the paths of fields that nobody declared."""

    def __init__(self) -> None:
        self.unknown: list[str] = []
        self._left = MAX_VALUES

    def value(self, value: Any, kind: Type, path: str, where: str) -> Any:
        if isinstance(kind, Scalar):
            return self._scalar(value, kind, where)
        if isinstance(value, list | dict):
            self._left -= len(value)
            if self._left < 0:
                raise WrongType(f"an object has {MAX_VALUES} values at most")
        if isinstance(kind, Shape):
            return self._shape(value, kind, path, where)
        if isinstance(kind, ListOf):
            if not isinstance(value, list):
                raise _unfit(value, where, f"[]{_go_name(kind.item)}")
            items = enumerate(value)
            return [self.value(item, kind.item, f"{path}[{i}]", where) for i, item in items]
        if not isinstance(value, dict):
            raise _unfit(value, where, f"map[string]{_go_name(kind.value)}")
        entries = value.items()
        return {k: self.value(v, kind.value, f"{path}.{k}", where) for k, v in entries if v is not None}

    def _scalar(self, value: Any, kind: Scalar, where: str) -> Any:
        match kind.go:
            case "string":
                fits = isinstance(value, str)
            case "time":
                fits = isinstance(value, str)
                if fits and not _is_time(value):
                    raise WrongType(f'parsing time {_shown(value)} as "2006-01-02T15:04:05Z07:00"')
            case "bool":
                fits = isinstance(value, bool)
            case "int32" | "int64":
                return self._integer(value, kind.go, where)
            case "intstr":
                fits = isinstance(value, int | str) and not isinstance(value, bool)
            case "quantity":
                fits = isinstance(value, int | float | str) and not isinstance(value, bool)
            case _:
                return value
        if not fits:
            raise _unfit(value, where, _go_name(kind))
        return value

    def _integer(self, value: Any, go: str, where: str) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        low, high = _GO_RANGES[go]
        if isinstance(value, bool) or not isinstance(value, int):
            raise _unfit(value, where, go)
        if not low <= value <= high:
            raise WrongType(f"json: cannot unmarshal number {value} into Go struct field {where} of type {go}")
        return value

    def _shape(self, value: Any, kind: Shape, path: str, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _unfit(value, where, _go_name(kind))
        found: dict[str, Any] = {}
        trail = where.partition(".")[2]
        for key, item in value.items():
            declared = kind.fields.get(key)
            if declared is None:
                self.unknown.append(f"{path}.{key}" if path else key)
            elif item is not None:
                inner = f"{kind.name}.{trail}.{key}" if trail else f"{kind.name}.{key}"
                found[key] = self.value(item, declared, f"{path}.{key}" if path else key, inner)
        return found


def _go_name(kind: Type) -> str:
    if isinstance(kind, Shape):
        return f"v1.{kind.name}"
    if isinstance(kind, Scalar):
        return {"intstr": "intstr.IntOrString", "quantity": "resource.Quantity", "time": "v1.Time"}.get(
            kind.go, kind.go
        )
    return "map" if isinstance(kind, MapOf) else "[]"


def _unfit(value: Any, where: str, go: str) -> WrongType:
    return WrongType(f"json: cannot unmarshal {_json_word(value)} into Go struct field {where} of type {go}")


def conform(obj: Any, shape: Shape) -> tuple[dict[str, Any], list[str]]:
    """Return ``obj`` with only declared fields and without nulls, and the paths of what nobody declared.

    Raises `WrongType` with the text of Go's decoder.
    """
    walker = _Conformer()
    if not isinstance(obj, dict):
        word = _json_word(obj)
        raise WrongType(f"json: cannot unmarshal {word} into Go value of type v1.{shape.name}")
    return walker.value(obj, shape, "", shape.name), walker.unknown
