"""The options of a request's query, read and validated as k8s.io/apimachinery does (meta/v1 ListOptions, ...)."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from multidict import MultiMapping

from kubeproxy.apiserver import status
from kubeproxy.apiserver.registry import DeleteOptions
from kubeproxy.apiserver.status import Errors, FieldError, forbidden_field, invalid_value, not_supported

_GROUP = "meta.k8s.io"
_MATCH = "resourceVersionMatch"
EXACT, NOT_OLDER_THAN = "Exact", "NotOlderThan"


class ListOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a list or watch asks for. ``revision`` 0 is "any"; ``exact`` means no other than it."""

    labels: str = ""
    fields: str = ""
    watch: bool = False
    limit: int = 0
    continue_token: str = ""
    revision: int = 0
    exact: bool = False
    initial_events: bool | None = None
    bookmarks: bool = False
    seconds: int = 0


def list_options(query: Mapping[str, str]) -> ListOptions:
    """Read and validate. Raises 400 for what is no number, 422 for what does not go together."""
    watch = is_true(query, "watch")
    match, text, token = query.get(_MATCH, ""), query.get("resourceVersion", ""), query.get("continue", "")
    initial = is_true(query, "sendInitialEvents") if "sendInitialEvents" in query else None
    errors = _watch_errors(match, token, initial) if watch else _list_errors(match, text, token, initial)
    if errors:
        raise status.invalid(_GROUP, "ListOptions", "", errors)
    if not watch and token and text not in ("", "0"):
        raise status.bad_request("specifying resource version is not allowed when using continue")
    limit, revision = number(query, "limit"), revision_of(text)
    return ListOptions(
        labels=query.get("labelSelector", ""),
        fields=query.get("fieldSelector", ""),
        watch=watch,
        limit=limit,
        continue_token=token,
        revision=revision,
        # Without a word on it, a page of a revision is of that revision, and a whole list may be newer.
        exact=bool(revision) and (match == EXACT or (bool(limit) and not match)),
        initial_events=initial,
        bookmarks=is_true(query, "allowWatchBookmarks"),
        seconds=number(query, "timeoutSeconds"),
    )


def _list_errors(match: str, text: str, token: str, initial: bool | None) -> Errors:
    errors: Errors = []
    if match:
        if not text:
            errors.append(forbidden_field(_MATCH, f"{_MATCH} is forbidden unless resourceVersion is provided"))
        if token:
            errors.append(forbidden_field(_MATCH, f"{_MATCH} is forbidden when continue is provided"))
        if match not in (EXACT, NOT_OLDER_THAN):
            errors.append(not_supported(_MATCH, match, (EXACT, NOT_OLDER_THAN, "")))
        if match == EXACT and text == "0":
            errors.append(forbidden_field(_MATCH, f'{_MATCH} "exact" is forbidden for resourceVersion "0"'))
    if initial is not None:
        errors.append(forbidden_field("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    return errors


def _watch_errors(match: str, token: str, initial: bool | None) -> Errors:
    errors: Errors = []
    if initial is not None and match != NOT_OLDER_THAN:
        text = f"sendInitialEvents requires setting {_MATCH} to {NOT_OLDER_THAN}"
        errors.append(forbidden_field(_MATCH, text))
    if match:
        if initial is None:
            text = f"{_MATCH} is forbidden for watch unless sendInitialEvents is provided"
            errors.append(forbidden_field(_MATCH, text))
        if match != NOT_OLDER_THAN:
            errors.append(not_supported(_MATCH, match, (NOT_OLDER_THAN,)))
        if token:
            errors.append(forbidden_field(_MATCH, f"{_MATCH} is forbidden when continue is provided"))
    return errors


def is_true(query: Mapping[str, str], name: str) -> bool:
    """Read a boolean as upstream does: a bare name is true, and so is whatever is neither "0" nor "false"."""
    return name in query and query[name].lower() not in ("0", "false")


def number(query: Mapping[str, str], name: str) -> int:
    """Read a number, 0 when it is not given. Raises 400."""
    text = query.get(name, "")
    if text and not _is_number(text):
        raise status.bad_request(f"unable to convert query parameter {name}: invalid number")
    return int(text or 0)


def revision_of(text: str) -> int:
    """Read a resourceVersion, 0 for none. Raises 400."""
    if text and not _is_number(text):
        error = invalid_value("resourceVersion", text[:40], "resource version must be a non-negative integer")
        raise status.bad_request(f"invalid resource version: {error}")
    return int(text or 0)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def is_dry(values: Sequence[str], kind: str) -> bool:
    """Read dryRun of a CreateOptions or its kin. Raises 422 for a value other than All: nothing may be written."""
    errors = dry_run_errors(values)
    if errors:
        raise status.invalid(_GROUP, kind, "", errors)
    return bool(values)


def dry_run_errors(values: Sequence[str]) -> list[FieldError]:
    """Return what is wrong with dryRun."""
    wrong = [value for value in values if value != "All"]
    return [not_supported("dryRun", list(values), ("All",))] if wrong else []


_POLICIES = ("Background", "Foreground", "Orphan")


def delete_options(body: Any, query: MultiMapping[str]) -> DeleteOptions:
    """Read DeleteOptions from a body and, over it, from the query. Raises 400, 422."""
    try:
        options = msgspec.convert(body, DeleteOptions)
    except msgspec.ValidationError as error:
        raise status.bad_request(f"DeleteOptions cannot be read: {error}") from None
    replace = msgspec.structs.replace
    if "gracePeriodSeconds" in query:
        options = replace(options, grace_period_seconds=number(query, "gracePeriodSeconds"))
    if "propagationPolicy" in query:
        options = replace(options, propagation_policy=query["propagationPolicy"])
    if "orphanDependents" in query:
        options = replace(options, orphan_dependents=is_true(query, "orphanDependents"))
    if "dryRun" in query:
        options = replace(options, dry_run=query.getall("dryRun"))
    errors = _delete_errors(options)
    if errors:
        raise status.invalid(_GROUP, "DeleteOptions", "", errors)
    return options


def _delete_errors(options: DeleteOptions) -> Errors:
    errors = dry_run_errors(options.dry_run or ())
    policy = options.propagation_policy
    if policy is None:
        return errors
    if options.orphan_dependents is not None:
        detail = "orphanDependents and deletionPropagation cannot be both set"
        errors.append(invalid_value("propagationPolicy", policy, detail))
    if policy not in _POLICIES:
        errors.append(not_supported("propagationPolicy", policy, (*_POLICIES, "nil")))
    return errors
