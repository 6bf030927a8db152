"""Which names, labels and annotations the API accepts, in upstream's words.

The source of both is k8s.io/apimachinery/pkg/util/validation and pkg/api/validation.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from kubeproxy.apiserver.status import Errors, ErrorType, FieldError, forbidden_field, invalid_value, required

NameCheck = Callable[[str], list[str]]

_LABEL_FORM = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN_FORM = rf"{_LABEL_FORM}(\.{_LABEL_FORM})*"
_DNS1035_FORM = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED_FORM = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE_FORM = f"({_QUALIFIED_FORM})?"

_LABEL = re.compile(_LABEL_FORM)
_SUBDOMAIN = re.compile(_SUBDOMAIN_FORM)
_DNS1035 = re.compile(_DNS1035_FORM)
_QUALIFIED = re.compile(_QUALIFIED_FORM)
_VALUE = re.compile(_VALUE_FORM)

_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    f"with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL_FORM}')"
)
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{_SUBDOMAIN_FORM}')"
)
_DNS1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
    "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation "
    f"is '{_DNS1035_FORM}')"
)
_QUALIFIED_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    f"'{_QUALIFIED_FORM}')"
)
_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
    f"validation is '{_VALUE_FORM}')"
)
_STANDARD_FINALIZERS = frozenset({"foregroundDeletion", "kubernetes", "orphan"})
MAX_ANNOTATIONS = 256 * 1024
"""Bytes that keys and values of all annotations of an object may take."""


def _too_long(limit: int) -> str:
    return f"must be no more than {limit} characters"


def is_dns1123_label(text: str) -> list[str]:
    """Return what is wrong with a label (a namespace, a port name)."""
    found = [_too_long(63)] if len(text) > 63 else []
    return found if _LABEL.fullmatch(text) else [*found, _LABEL_TEXT]


def is_dns1123_subdomain(text: str) -> list[str]:
    """Return what is wrong with a subdomain (most object names)."""
    found = [_too_long(253)] if len(text) > 253 else []
    return found if _SUBDOMAIN.fullmatch(text) else [*found, _SUBDOMAIN_TEXT]


def is_dns1035_label(text: str) -> list[str]:
    """Return what is wrong with a Service's name."""
    found = [_too_long(63)] if len(text) > 63 else []
    return found if _DNS1035.fullmatch(text) else [*found, _DNS1035_TEXT]


def is_qualified_name(text: str) -> list[str]:
    """Return what is wrong with a label or annotation key: `name` or `prefix/name`."""
    found = []
    prefix, slash, name = text.rpartition("/")
    if slash:
        if not prefix:
            found.append("prefix part must be non-empty")
        else:
            found += [f"prefix part {problem}" for problem in is_dns1123_subdomain(prefix)]
    if not name:
        found.append("name part must be non-empty")
    elif len(name) > 63:
        found.append(f"name part {_too_long(63)}")
    return found if _QUALIFIED.fullmatch(name) else [*found, _QUALIFIED_TEXT]


def is_label_value(text: str) -> list[str]:
    """Return what is wrong with a label's value."""
    found = [_too_long(63)] if len(text) > 63 else []
    return found if _VALUE.fullmatch(text) else [*found, _VALUE_TEXT]


def is_port_name(text: str) -> list[str]:
    """Return what is wrong with a container port's name (IANA_SVC_NAME)."""
    found = [_too_long(15)] if len(text) > 15 else []
    if not re.fullmatch("[-a-z0-9]+", text):
        found.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", text):
        found.append("must contain at least one letter (a-z)")
    if "--" in text:
        found.append("must not contain consecutive hyphens")
    if text.startswith("-") or text.endswith("-"):
        found.append("must not begin or end with a hyphen")
    return found


def is_port_number(number: Any) -> list[str]:
    """Return what is wrong with a port number."""
    return [] if isinstance(number, int) and 1 <= number <= 65535 else ["must be between 1 and 65535, inclusive"]


def refused(field: str, value: Any, problems: list[str]) -> Errors:
    """One Invalid error for each problem."""
    return [invalid_value(field, value, problem) for problem in problems]


def validate_labels(labels: Mapping[str, str], field: str) -> Errors:
    """Check keys and values of labels, a selector or a node selector."""
    errors: Errors = []
    for key, value in labels.items():
        errors += refused(field, key, is_qualified_name(key))
        errors += refused(field, value, is_label_value(value))
    return errors


def _validate_annotations(annotations: Mapping[str, str]) -> Errors:
    errors: Errors = []
    for key in annotations:
        errors += refused("metadata.annotations", key, is_qualified_name(key.lower()))
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > MAX_ANNOTATIONS:
        detail = f"may not be more than {MAX_ANNOTATIONS} bytes"
        errors.append(FieldError(ErrorType.TOO_LONG, "metadata.annotations", None, detail))
    return errors


def validate_meta(meta: Mapping[str, Any], *, namespaced: bool, check_name: NameCheck) -> Errors:
    """Check ObjectMeta (k8s.io/apimachinery/pkg/api/validation.ValidateObjectMeta)."""
    errors: Errors = []
    if prefix := meta.get("generateName"):
        stem = prefix[:-1] + "a" if prefix.endswith("-") and len(prefix) > 1 else prefix
        errors += refused("metadata.generateName", prefix, check_name(stem))
    name = meta.get("name", "")
    if name:
        errors += refused("metadata.name", name, check_name(name))
    else:
        errors.append(required("metadata.name", "name or generateName is required"))
    namespace = meta.get("namespace", "")
    if namespaced:
        if namespace:
            errors += refused("metadata.namespace", namespace, is_dns1123_label(namespace))
        else:
            errors.append(required("metadata.namespace"))
    elif namespace:
        errors.append(forbidden_field("metadata.namespace", "not allowed on this type"))
    errors += validate_labels(meta.get("labels") or {}, "metadata.labels")
    errors += _validate_annotations(meta.get("annotations") or {})
    errors += _validate_owners(meta.get("ownerReferences") or [])
    for index, finalizer in enumerate(meta.get("finalizers") or ()):
        errors += refused("metadata.finalizers", finalizer, is_qualified_name(finalizer))
        if "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
            detail = "name is neither a standard finalizer name nor is it fully qualified"
            errors.append(invalid_value(f"metadata.finalizers[{index}]", finalizer, detail))
    return errors


def validate_finalizers_update(new: Mapping[str, Any], old: Mapping[str, Any]) -> Errors:
    """An object that waits for its end gets no new reason to wait (ValidateObjectMetaUpdate upstream)."""
    if "deletionTimestamp" not in old:
        return []
    added = sorted(set(new.get("finalizers") or ()) - set(old.get("finalizers") or ()))
    if not added:
        return []
    listed = ", ".join(f'"{name}"' for name in added)
    why = "no new finalizers can be added if the object is being deleted"
    detail = f"{why}, found new finalizers []string{{{listed}}}"
    return [forbidden_field("metadata.finalizers", detail)]


def _validate_owners(owners: list[dict[str, Any]]) -> Errors:
    errors: Errors = []
    for index, owner in enumerate(owners):
        field = f"metadata.ownerReferences[{index}]"
        for key, detail in (
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ):
            if not owner.get(key):
                errors.append(invalid_value(f"{field}.{key}", owner.get(key, ""), detail))
    first, *others = [f"{o.get('kind')}/{o.get('name')}" for o in owners if o.get("controller") is True] or [""]
    for other in others[:1]:  # each would show the whole list again
        detail = (
            'Only one reference can have Controller set to true. Found "true" in references for '
            f"{first} and {other}"
        )
        errors.append(invalid_value("metadata.ownerReferences", owners, detail))
    return errors
