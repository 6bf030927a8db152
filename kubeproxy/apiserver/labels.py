"""Label selectors in a request's query: text in, terms out.

Grammar, checks and error texts are k8s.io/apimachinery/pkg/labels' (Parse, NewRequirement).
"""

import re
from collections.abc import Mapping

import msgspec

from kubeproxy.apiserver.names import is_label_value, is_qualified_name
from kubeproxy.apiserver.status import Errors, bad_request, invalid_value, listed

_TOKEN = re.compile(r"==|!=|[=!<>(),]|[^ \t\r\n=!<>(),]+")
_SPECIAL = frozenset({"==", "=", "!=", "!", "<", ">", "(", ")", ","})
_OPERATORS = {"in": "in", "=": "in", "==": "in", "notin": "notin", "!=": "notin", "<": "<", ">": ">"}
_OPERATORS_TEXT = "in, notin, =, ==, !=, gt, lt"
_NOT_AN_INTEGER = "for 'Gt', 'Lt' operators, the value must be an integer"
_END = ""
"""Follows the last token, as often as it is asked for."""

_INTEGER = re.compile("[-+]?[0-9]{1,18}")


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
    """Parse a label selector. Raises a 400 that says what cannot be parsed, or may not be in a label."""
    return _Parser(_TOKEN.findall(text)).selector()


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0

    @property
    def _ahead(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else _END

    def _take(self) -> str:
        token = self._ahead
        self._at += 1
        return token

    def selector(self) -> tuple[Requirement, ...]:
        found: list[Requirement] = []
        while self._ahead != _END:
            if self._ahead != "!" and not _is_word(self._ahead):
                raise _expected(self._ahead, ", expected: !, identifier, or 'end of string'")
            found.append(self._requirement())
            after = self._take()
            if after not in (",", _END):
                raise _expected(after, ", expected: ',' or 'end of string'")
            if after == "," and self._ahead != "!" and not _is_word(self._ahead):
                raise _expected(self._ahead, ", expected: identifier after ','")
        return tuple(found)

    def _requirement(self) -> Requirement:
        try:
            return self._term()
        except ValueError as error:
            raise bad_request(f"unable to parse requirement: {error}") from None

    def _term(self) -> Requirement:
        """Read one term. Raises ValueError."""
        absent = self._ahead == "!"
        self._at += absent
        key = self._take()
        if not _is_word(key):
            raise ValueError(f"found '{key}', expected: identifier")
        if problems := is_qualified_name(key):
            raise ValueError(invalid_value("<nil>", key, "; ".join(problems)))
        if absent or self._ahead in (",", _END):
            return Requirement(key, "absent" if absent else "exists")
        written = self._take()
        operator = _OPERATORS.get(written)
        if operator is None:
            raise ValueError(f"found '{written}', expected: {_OPERATORS_TEXT}")
        values = self._set() if written in ("in", "notin") else self._exact()
        _check(key, operator, values)
        return Requirement(key, operator, values)

    def _exact(self) -> tuple[str, ...]:
        if self._ahead in (",", _END):
            return ("",)
        value = self._take()
        if not _is_word(value):
            raise ValueError(f"found '{value}', expected: identifier")
        return (value,)

    def _set(self) -> tuple[str, ...]:
        opening = self._take()
        if opening != "(":
            raise ValueError(f"found '{opening}' expected: '('")
        if self._ahead not in (",", ")") and not _is_word(self._ahead):
            raise ValueError(f"found '{self._ahead}', expected: ',', ')' or identifier")
        values = [""]
        while (word := self._take()) != ")":
            if word == ",":
                values.append("")
            elif values[-1]:
                raise ValueError(f"found '{word}', expected: ',' or ')'")
            elif not _is_word(word):
                raise ValueError(f"found '{word}', expected: ',', or identifier")
            else:
                values[-1] = word
        return tuple(sorted(set(values)))


def _is_word(token: str) -> bool:
    return token != _END and token not in _SPECIAL


def _expected(found: str, text: str) -> Exception:
    return bad_request(f"found '{found}'{text}")


def _check(key: str, operator: str, values: tuple[str, ...]) -> None:
    """Check the values of a term. Raises ValueError."""
    errors: Errors = []
    for index, value in enumerate(values):
        if operator in ("<", ">") and not _INTEGER.fullmatch(value):
            errors.append(invalid_value(f"values[{index}]", value, _NOT_AN_INTEGER))
    for index, value in enumerate(values):
        if problems := is_label_value(value):
            errors.append(invalid_value(f"values[{index}][{key}]", value, "; ".join(problems)))
    if errors:
        raise ValueError(listed(errors))
