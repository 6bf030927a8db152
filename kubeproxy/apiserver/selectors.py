"""Label and field selectors: text in, predicate out.

The grammar and the error texts are k8s.io/apimachinery/pkg/labels' and /fields'. A selector that is empty matches
everything and is None here, so that a list without one decodes nothing.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from kubeproxy.apiserver.status import bad_request

FieldReader = Callable[[Mapping[str, Any]], str]

_TERM = re.compile(
    r"""\s*(?:
      (?P<absent>!)\s*(?P<no>[^\s,=!()<>]+)
    | (?P<key>[^\s,=!()<>]+)\s*
      (?: (?P<op>==|=|!=|<|>)\s*(?P<value>[^\s,=!()<>]*)
        | (?:(?P<set>in|notin)\s*\((?P<values>[^()]*)\)) )?
    )\s*(?:,|$)""",
    re.VERBOSE,
)
_SET_TERM = re.compile(r"\s*(?P<key>[^\s,=!()<>]+)\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\)\s*(?:,|$)")

_INTEGER = re.compile("-?[0-9]{1,18}")


class Requirement(msgspec.Struct, frozen=True):
    """One term of a selector."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Say whether labels satisfy this term; a missing key satisfies != and notin."""
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value in self.values
            case "notin":
                return value not in self.values
            case "exists":
                return value is not None
            case "absent":
                return value is None
        if value is None or not _INTEGER.fullmatch(value):
            return False
        return int(value) > int(self.values[0]) if self.operator == ">" else int(value) < int(self.values[0])


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """Parse a label selector. Raises a 400 that says what cannot be parsed."""
    found, position = [], 0
    while position < len(text):
        term = _SET_TERM.match(text, position) or _TERM.match(text, position)
        if term is None or term.end() == position:
            raise bad_request(f"unable to parse requirement: found {text[position : position + 60]!r}")
        found.append(_requirement(term.groupdict()))
        position = term.end()
    return tuple(found)


def _requirement(term: Mapping[str, str | None]) -> Requirement:
    if term.get("absent"):
        return Requirement(str(term["no"]), "absent")
    key, op = str(term["key"]), term.get("op")
    if term["set"]:
        values = tuple(value.strip() for value in str(term["values"]).split(","))
        return Requirement(key, str(term["set"]), values)
    if op is None:
        return Requirement(key, "exists")
    value = str(term["value"])
    if op in ("<", ">"):
        if not _INTEGER.fullmatch(value):
            raise bad_request(f"for 'Gt', 'Lt' operators, the value must be an integer: {value!r}")
        return Requirement(key, op, (value,))
    return Requirement(key, "notin" if op == "!=" else "in", (value,))


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
    found = []
    for term in filter(None, text.split(",")):
        parts = re.fullmatch(r"([^=!]+)(!=|==|=)(.*)", term)
        if parts is None:
            raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
        found.append(FieldTerm(parts[1], parts[3], parts[2] != "!="))
    return tuple(found)


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
            raise bad_request(f"field label not supported: {term.path}")
        terms.append((term, reader))
    return Selection(parse_labels(labels), tuple(terms))
