"""The Table representation that `kubectl get` asks for: columns and rows instead of objects."""

from collections.abc import Iterable
from typing import Any

import msgspec

from kubeproxy.apiserver.columns import Column
from kubeproxy.apiserver.kinds import Kind

_DESCRIPTIONS = {"Name": "Name must be unique within a namespace.", "Age": "Time since the object was created."}


class TableForm(msgspec.Struct, frozen=True, kw_only=True):
    """What the client asked for: `meta.k8s.io/v1`, and how much of each object a row carries."""

    include: str = "Metadata"
    """includeObject: None, Metadata or Object."""


def column_definitions(kind: Kind) -> list[dict[str, Any]]:
    """Return the heading of a kind's tables."""
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": _DESCRIPTIONS.get(column.name, column.name),
            "priority": column.priority,
        }
        for column in kind.columns
    ]


def row(kind: Kind, value: bytes, form: TableForm, now: float) -> dict[str, Any]:
    """Return the row of one object, given as clients see it."""
    obj = msgspec.json.decode(value)
    cells = [_cell(column, obj, now) for column in kind.columns]
    return {"cells": cells, "object": _carried(obj, form)}


def _cell(column: Column, obj: dict[str, Any], now: float) -> Any:
    """What was written past this API may lack anything; it must not hide the other rows."""
    try:
        return column.cell(obj, now)
    except (AttributeError, KeyError, TypeError, ValueError):
        return "<unknown>"


def _carried(obj: dict[str, Any], form: TableForm) -> dict[str, Any] | None:
    if form.include == "None":
        return None
    if form.include == "Object":
        return obj
    return _only_metadata(obj)


def _only_metadata(obj: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def only_metadata(value: bytes) -> bytes:
    """Return an object as a PartialObjectMetadata."""
    return msgspec.json.encode(_only_metadata(msgspec.json.decode(value)))


def table(kind: Kind, rows: Iterable[dict[str, Any]], metadata: dict[str, Any], *, heading: bool = True) -> bytes:
    """Return a Table; a watch sends the heading with its first row only."""
    return msgspec.json.encode(
        {
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "columnDefinitions": column_definitions(kind) if heading else [],
            "rows": list(rows),
        }
    )
