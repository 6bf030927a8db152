"""The three patch formats that kubectl sends, as pure functions over decoded JSON.

Strategic merge patch (k8s.io/apimachinery/pkg/util/strategicpatch) merges lists by a key that the schema names,
and carries directives in `$`-keys; JSON merge patch is RFC 7386; JSON patch is RFC 6902.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from kubeproxy.apiserver.schema import ListOf, MapOf, Shape, Type

_DELETE_PRIMITIVES = "$deleteFromPrimitiveList/"
_ELEMENT_ORDER = "$setElementOrder/"
_RETAIN_KEYS = "$retainKeys"
_DIRECTIVE = "$patch"


MAX_OPERATIONS = 10_000
MAX_COPIED = 3 * 1024 * 1024
"""Operations of a JSON patch, and bytes of JSON that its copies may make: upstream's limits."""


class BadPatch(ValueError):
    """The patch is malformed or does not fit the object; the text is for the client."""


def merge_patch(target: Any, patch: Any) -> Any:
    """Return ``target`` with an RFC 7386 merge patch applied."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_merge(original: dict[str, Any], patch: dict[str, Any], shape: Type | None) -> dict[str, Any]:
    """Return ``original`` with a strategic merge patch applied, lists merged as ``shape`` says."""
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != _DIRECTIVE}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise BadPatch(f"unknown patch type found: {directive}")
    result = dict(original)
    if _RETAIN_KEYS in patch:
        kept = {key for key in _list(patch[_RETAIN_KEYS], _RETAIN_KEYS) if isinstance(key, str)}
        result = {key: value for key, value in result.items() if key in kept}
    for key, value in patch.items():
        if key.startswith(_DELETE_PRIMITIVES):
            _delete_primitives(result, key.removeprefix(_DELETE_PRIMITIVES), _list(value, key))
        elif not key.startswith("$"):
            _merge_field(result, key, value, _field(shape, key))
    for key, value in patch.items():
        if key.startswith(_ELEMENT_ORDER):
            field = key.removeprefix(_ELEMENT_ORDER)
            if isinstance(result.get(field), list):
                before = original.get(field) or []
                result[field] = _ordered(result[field], _list(value, key), before, _field(shape, field))
    return result


def _field(shape: Type | None, key: str) -> Type | None:
    if isinstance(shape, Shape):
        return shape.fields.get(key)
    return shape.value if isinstance(shape, MapOf) else None


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadPatch(f"{key} must be a list")
    return value


def _merge_field(result: dict[str, Any], key: str, value: Any, kind: Type | None) -> None:
    current = result.get(key)
    if value is None:
        result.pop(key, None)
    elif isinstance(value, dict):
        result[key] = strategic_merge(current if isinstance(current, dict) else {}, value, kind)
    elif isinstance(value, list) and isinstance(kind, ListOf) and (kind.merge_key or kind.merge):
        result[key] = _merge_list(current if isinstance(current, list) else [], value, kind)
    else:
        result[key] = value


def _merge_list(current: list[Any], patch: list[Any], kind: ListOf) -> list[Any]:
    if not kind.merge_key:
        held = set(map(_hashable, current))
        return current + [item for item in patch if _hashable(item) not in held]
    for item in patch:
        if not isinstance(item, dict):
            raise BadPatch(f"an item to merge by {kind.merge_key} must be an object, not {item!r:.80}")
    if any(item.get(_DIRECTIVE) == "replace" for item in patch):
        return [item for item in patch if item.get(_DIRECTIVE) != "replace"]
    result: dict[int, Any] = dict(enumerate(current))
    places: dict[Any, list[int]] = {}
    for index, old in result.items():
        if isinstance(old, dict):
            places.setdefault(_hashable(old.get(kind.merge_key)), []).append(index)
    for number, item in enumerate(patch, len(current)):
        if kind.merge_key not in item:
            raise BadPatch(f"map: {item!r:.200} does not contain declared merge key: {kind.merge_key}")
        at = places.setdefault(_hashable(item[kind.merge_key]), [])
        if item.get(_DIRECTIVE) == "delete":
            for index in at:
                del result[index]
            at.clear()
        elif at:
            result[at[0]] = strategic_merge(result[at[0]], item, kind.item)
        else:
            result[number] = strategic_merge({}, item, kind.item)
            at.append(number)
    return list(result.values())


def _delete_primitives(result: dict[str, Any], field: str, gone: list[Any]) -> None:
    if isinstance(result.get(field), list):
        unwanted = set(map(_hashable, gone))
        result[field] = [item for item in result[field] if _hashable(item) not in unwanted]


def _ordered(merged: list[Any], order: list[Any], before: list[Any], kind: Type | None) -> list[Any]:
    """Put the patch's items in its order; what only the server had keeps its place among what it had."""
    key = kind.merge_key if isinstance(kind, ListOf) else ""

    def identity(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    wanted = [identity(item) for item in order]
    place = {_hashable(identity(item)): index for index, item in reversed(list(enumerate(before)))}
    rank = {_hashable(item): index for index, item in reversed(list(enumerate(wanted)))}
    listed = sorted(
        (item for item in merged if _hashable(identity(item)) in rank),
        key=lambda item: rank[_hashable(identity(item))],
    )
    others = [item for item in merged if _hashable(identity(item)) not in rank]
    return _interleave(listed, others, lambda item: place.get(_hashable(identity(item))))


def _hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, dict | list) else value


def _interleave(listed: list[Any], others: list[Any], place: Callable[[Any], int | None]) -> list[Any]:
    result: list[Any] = []
    left, right = list(listed), list(others)
    while left and right:
        mine, theirs = place(left[0]), place(right[0])
        take_right = mine is not None and theirs is not None and theirs < mine
        result.append(right.pop(0) if take_right else left.pop(0))
    return result + left + right


def json_patch(document: Any, operations: Any) -> Any:
    """Return ``document`` with an RFC 6902 patch applied. Raises `BadPatch`."""
    if not isinstance(operations, list):
        raise BadPatch("a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise BadPatch(
            f"the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}"
        )
    result, room = copy.deepcopy(document), MAX_COPIED
    for operation in operations:
        if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
            raise BadPatch("a JSON patch operation is an object with a path")
        if operation.get("op") == "copy":
            room -= _copied(result, operation)
            if room < 0:
                raise BadPatch(f"the copies of a JSON patch may take {MAX_COPIED} bytes at most")
        result = _apply_operation(result, operation)
    return result


def _copied(document: Any, operation: dict[str, Any]) -> int:
    """Return how many bytes of JSON a copy makes: each may double the document."""
    return len(msgspec.json.encode(_read(document, _tokens(_from(operation)))))


def _apply_operation(document: Any, operation: dict[str, Any]) -> Any:
    path, op = operation["path"], operation.get("op")
    tokens = _tokens(path)
    if op in ("add", "replace", "test") and "value" not in operation:
        raise BadPatch(f"{op} operation has no value")
    match op:
        case "add":
            return _add(document, tokens, operation["value"])
        case "remove":
            return _remove(document, tokens)[0]
        case "replace":
            return _replace(document, tokens, operation["value"])
        case "test":
            if _read(document, tokens) != operation["value"]:
                raise BadPatch(f"testing value {path} failed: test failed")
            return document
        case "move" | "copy":
            source = _from(operation)
            if op == "move":
                document, value = _remove(document, _tokens(source))
            else:
                value = copy.deepcopy(_read(document, _tokens(source)))
            return _add(document, tokens, value)
    raise BadPatch(f"unexpected kind: {op}")


def _from(operation: dict[str, Any]) -> str:
    source = operation.get("from")
    if not isinstance(source, str):
        raise BadPatch(f"{operation['op']} operation has no from")
    return source


def _tokens(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise BadPatch(f"path does not start with a slash: {path}")
    return [token.replace("~1", "/").replace("~0", "~") for token in path.split("/")[1:]]


def _index(items: list[Any], step: str, *, end: bool) -> int:
    if end and step == "-":
        return len(items)
    if not (step.isascii() and step.isdigit()) or len(step) > 9 or int(step) >= len(items) + end:
        raise BadPatch(f"index is out of bounds: {step:.40}")
    return int(step)


def _read(document: Any, tokens: Iterable[str]) -> Any:
    for token in tokens:
        if isinstance(document, list):
            document = document[_index(document, token, end=False)]
        elif isinstance(document, dict) and token in document:
            document = document[token]
        else:
            raise BadPatch(f"unable to find a path element: {token}: missing path")
    return document


def _add(document: Any, tokens: list[str], value: Any) -> Any:
    if not tokens:
        return value
    parent, last = _read(document, tokens[:-1]), tokens[-1]
    if isinstance(parent, list):
        parent.insert(_index(parent, last, end=True), value)
    elif isinstance(parent, dict):
        parent[last] = value
    else:
        raise BadPatch(f"add operation does not apply: doc is missing path: {'/'.join(tokens)}")
    return document


def _remove(document: Any, tokens: list[str]) -> tuple[Any, Any]:
    value = _read(document, tokens)
    if not tokens:
        return None, value
    parent, last = _read(document, tokens[:-1]), tokens[-1]
    if isinstance(parent, list):
        del parent[_index(parent, last, end=False)]
    else:
        del parent[last]
    return document, value


def _replace(document: Any, tokens: list[str], value: Any) -> Any:
    _read(document, tokens)
    if not tokens:
        return value
    parent, last = _read(document, tokens[:-1]), tokens[-1]
    if isinstance(parent, list):
        parent[_index(parent, last, end=False)] = value
    else:
        parent[last] = value
    return document
