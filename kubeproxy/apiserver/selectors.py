"""What a list or watch keeps: label and field selectors as a predicate, and LabelSelector objects.

Fields' grammar and error texts are k8s.io/apimachinery/pkg/fields'. A selector that is empty matches everything
and has no terms here, so that a list without one decodes nothing.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from kubeproxy.apiserver.labels import Requirement, parse_labels
from kubeproxy.apiserver.status import bad_request, quoted

FieldReader = Callable[[Mapping[str, Any]], str]

_FIELD_TERM = re.compile(r"(?:\\.|\\\Z|[^\\,])+", re.DOTALL)
_FIELD_OPERATOR = re.compile("!=|==|=")
_FIELD_SPECIAL = re.compile(r"\\(.?)|[,=]", re.DOTALL)
_KNOWN_TO_ALL = ("metadata.name", "metadata.namespace")


def selector_requirements(selector: Mapping[str, Any]) -> tuple[Requirement, ...]:
    """Turn a LabelSelector object (matchLabels, matchExpressions) into terms."""
    names = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
    found = [Requirement(key, "in", (value,)) for key, value in (selector.get("matchLabels") or {}).items()]
    for term in selector.get("matchExpressions") or ():
        operator = names.get(term.get("operator", ""), "in")
        found.append(Requirement(term.get("key", ""), operator, tuple(term.get("values") or ())))
    return tuple(found)


def selector_text(selector: Mapping[str, Any]) -> str:
    """Write a LabelSelector object as a selector, for Scale's status and for table columns."""
    found = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for term in selector.get("matchExpressions") or ():
        key, values = term.get("key", ""), ",".join(sorted(term.get("values") or ()))
        match term.get("operator"):
            case "In":
                found.append(f"{key} in ({values})")
            case "NotIn":
                found.append(f"{key} notin ({values})")
            case "Exists":
                found.append(key)
            case "DoesNotExist":
                found.append(f"!{key}")
    return ",".join(found)


class FieldTerm(msgspec.Struct, frozen=True):
    """One `path=value` or `path!=value` of a field selector."""

    path: str
    value: str
    equal: bool


def parse_fields(text: str) -> tuple[FieldTerm, ...]:
    """Parse a field selector. Raises a 400."""
    return tuple(_field_term(term, text) for term in _FIELD_TERM.findall(text))


def _field_term(term: str, text: str) -> FieldTerm:
    operator = _FIELD_OPERATOR.search(term)
    if operator is None:
        raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
    value = _FIELD_SPECIAL.sub(_unescaped, term[operator.end() :])
    return FieldTerm(term[: operator.start()], value, operator[0] != "!=")


def _unescaped(found: re.Match[str]) -> str:
    if found[1] is None:
        raise bad_request(f"invalid field selector: unescaped character in value: {ord(found[0])}")
    if found[1] not in ("\\", ",", "="):
        raise bad_request(f"invalid field selector: invalid escape sequence: {found[0]}")
    return found[1]


class _Meta(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Labelled(msgspec.Struct):
    metadata: _Meta


_LABELLED = msgspec.json.Decoder(_Labelled)


class Selection(msgspec.Struct, frozen=True):
    """What a list or watch keeps. Works on stored bytes; decodes no more than the terms need."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[tuple[FieldTerm, FieldReader], ...] = ()

    @property
    def is_everything(self) -> bool:
        """Nothing is filtered."""
        return not self.labels and not self.fields

    @property
    def name(self) -> str | None:
        """The one object name that can match, if the selector names it."""
        return next((t.value for t, _ in self.fields if t.path == "metadata.name" and t.equal), None)

    def matches(self, value: bytes) -> bool:
        """Say whether a stored object is selected."""
        if self.fields:
            return self.matches_object(msgspec.json.decode(value))
        return not self.labels or self._has_labels(_LABELLED.decode(value).metadata.labels)

    def matches_object(self, obj: Mapping[str, Any]) -> bool:
        """Say whether a decoded object is selected."""
        if any((reader(obj) == term.value) is not term.equal for term, reader in self.fields):
            return False
        return not self.labels or self._has_labels(obj["metadata"].get("labels"))

    def _has_labels(self, labels: Mapping[str, str] | None) -> bool:
        return all(requirement.matches(labels or {}) for requirement in self.labels)


def selection(labels: str, fields: str, readers: Mapping[str, FieldReader]) -> Selection:
    """Compile both selectors of a request; ``readers`` are the fields that the kind can be selected by."""
    terms = []
    for term in parse_fields(fields):
        reader = readers.get(term.path)
        if reader is None:
            raise _unknown(term.path, readers)
        terms.append((term, reader))
    return Selection(parse_labels(labels), tuple(terms))


def _unknown(path: str, readers: Mapping[str, FieldReader]) -> Exception:
    """Return the refusal of a field; kinds with no field but the common ones have other words for it."""
    if tuple(readers) == _KNOWN_TO_ALL:
        known = ", ".join(map(quoted, _KNOWN_TO_ALL))
        return bad_request(f"{quoted(path)} is not a known field selector: only {known}")
    return bad_request(f"field label not supported: {path}")
