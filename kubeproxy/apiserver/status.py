"""Errors as the API's clients see them: Status objects with upstream's codes, reasons, causes and wording.

kubectl prints the message, programs switch on ``reason`` and ``details``; both come from
k8s.io/apimachinery/pkg/api/errors, whose texts these functions repeat.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec


class ErrorType(StrEnum):
    """Why a field was refused: the cause's reason (k8s.io/apimachinery/pkg/util/validation/field)."""

    NOT_FOUND = "FieldValueNotFound"
    REQUIRED = "FieldValueRequired"
    DUPLICATE = "FieldValueDuplicate"
    INVALID = "FieldValueInvalid"
    NOT_SUPPORTED = "FieldValueNotSupported"
    FORBIDDEN = "FieldValueForbidden"
    TOO_LONG = "FieldValueTooLong"
    TOO_MANY = "FieldValueTooMany"


_WORDS = {
    ErrorType.NOT_FOUND: "Not found",
    ErrorType.REQUIRED: "Required value",
    ErrorType.DUPLICATE: "Duplicate value",
    ErrorType.INVALID: "Invalid value",
    ErrorType.NOT_SUPPORTED: "Unsupported value",
    ErrorType.FORBIDDEN: "Forbidden",
    ErrorType.TOO_LONG: "Too long",
    ErrorType.TOO_MANY: "Too many",
}
_WITHOUT_VALUE = frozenset({ErrorType.REQUIRED, ErrorType.FORBIDDEN, ErrorType.TOO_LONG})


class FieldError(msgspec.Struct, frozen=True):
    """One refused field. ``value`` is shown as JSON, which also keeps newlines and quotes harmless."""

    type: ErrorType
    field: str
    value: Any = None
    detail: str = ""

    @property
    def body(self) -> str:
        """The message without the field's path."""
        text = _WORDS[self.type]
        if self.type not in _WITHOUT_VALUE:
            text += f": {msgspec.json.encode(self.value).decode()}"
        return f"{text}: {self.detail}" if self.detail else text

    def __str__(self) -> str:
        return f"{self.field}: {self.body}"


Errors = list[FieldError]

MAX_ERRORS = 100
"""Told to a client: a list of a thousand bad entries would be answered by megabytes."""


def required(field: str, detail: str = "") -> FieldError:
    """A field that must be there is not."""
    return FieldError(ErrorType.REQUIRED, field, None, detail)


def invalid_value(field: str, value: Any, detail: str) -> FieldError:
    """A value that cannot be."""
    return FieldError(ErrorType.INVALID, field, value, detail)


def forbidden_field(field: str, detail: str) -> FieldError:
    """A field that may not be set here."""
    return FieldError(ErrorType.FORBIDDEN, field, None, detail)


def duplicate(field: str, value: Any) -> FieldError:
    """A value that another entry of the same list has."""
    return FieldError(ErrorType.DUPLICATE, field, value)


def not_supported(field: str, value: Any, choices: Sequence[str]) -> FieldError:
    """A value outside an enumeration."""
    detail = "supported values: " + ", ".join(f'"{choice}"' for choice in sorted(choices))
    return FieldError(ErrorType.NOT_SUPPORTED, field, value, detail)


class ApiProblem(Exception):
    """Ends a request with a Status; raised anywhere below the handlers, rendered in one place."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.metadata = metadata or {}
        self.reason = reason
        self.message = message
        self.details = details or {}

    def status(self) -> dict[str, Any]:
        """Return the Status object."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        if self.details:
            body["details"] = self.details
        return body | {"code": self.code}


def qualified(plural: str, group: str) -> str:
    """Return a resource or kind as error texts name it: `services`, `deployments.apps`."""
    return f"{plural}.{group}" if group else plural


def quoted(text: str) -> str:
    """Quote as Go's %q does: a hostile name cannot break a line."""
    return msgspec.json.encode(text).decode()


def _details(group: str, kind: str, name: str = "") -> dict[str, Any]:
    details = {"name": name, "group": group, "kind": kind}
    return {key: value for key, value in details.items() if value}


def not_found(group: str, plural: str, name: str) -> ApiProblem:
    """There is no such object."""
    message = f"{qualified(plural, group)} {quoted(name)} not found"
    return ApiProblem(404, "NotFound", message, _details(group, plural, name))


def path_not_found() -> ApiProblem:
    """There is no such path; clients tell it from a missing object by the absence of a name."""
    return ApiProblem(404, "NotFound", "the server could not find the requested resource")


def streaming_not_served(name: str, subresource: str) -> ApiProblem:
    """kubectl logs, exec, attach and port-forward need a kubelet's streaming server; the lab has another door."""
    message = (
        f'pods {quoted(name)}: "{subresource}" is not served here; '
        f"in a lab use `kubeproxy lab exec LAB pod/{name} -- COMMAND`"
    )
    return ApiProblem(405, "MethodNotAllowed", message, _details("", "pods", name))


def already_exists(group: str, plural: str, name: str) -> ApiProblem:
    """An object of that name is there already."""
    message = f"{qualified(plural, group)} {quoted(name)} already exists"
    return ApiProblem(409, "AlreadyExists", message, _details(group, plural, name))


def conflict(group: str, plural: str, name: str, why: str) -> ApiProblem:
    """The write was based on an object that has changed since."""
    message = f"Operation cannot be fulfilled on {qualified(plural, group)} {quoted(name)}: {why}"
    return ApiProblem(409, "Conflict", message, _details(group, plural, name))


OBJECT_MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def listed(errors: Errors) -> str:
    """Return what an aggregate of errors says (k8s.io/apimachinery/pkg/util/errors): each text once."""
    texts = list(dict.fromkeys(str(error) for error in errors))
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def invalid(group: str, kind: str, name: str, errors: Errors) -> ApiProblem:
    """The object is well-formed but wrong; one cause per field, up to `MAX_ERRORS`."""
    errors = errors[:MAX_ERRORS]
    causes = [{"reason": str(error.type), "message": error.body, "field": error.field} for error in errors]
    message = f"{qualified(kind, group)} {quoted(name)} is invalid: {listed(errors)}"
    return ApiProblem(422, "Invalid", message, _details(group, kind, name) | {"causes": causes})


def bad_request(message: str) -> ApiProblem:
    """The request itself cannot be understood."""
    return ApiProblem(400, "BadRequest", message)


def forbidden(group: str, plural: str, name: str, why: str, *causes: dict[str, str]) -> ApiProblem:
    """The server understood and will not; without a ``name`` the whole collection, without a ``plural`` a path."""
    what = f"{qualified(plural, group)} {quoted(name)}" if name else qualified(plural, group)
    message = f"{what} is forbidden: {why}" if what else f"forbidden: {why}"
    details = _details(group, plural, name)
    return ApiProblem(403, "Forbidden", message, details | {"causes": list(causes)} if causes else details)


def unauthorized() -> ApiProblem:
    """The request's credentials are none that count."""
    return ApiProblem(401, "Unauthorized", "Unauthorized")


def timeout(message: str) -> ApiProblem:
    """The client did not send its request in time."""
    return ApiProblem(408, "Timeout", message)


def expired(message: str, continue_token: str = "") -> ApiProblem:
    """The revision asked for is gone: list again, or go on by a token without consistency."""
    return ApiProblem(410, "Expired", message, metadata={"continue": continue_token} if continue_token else None)


def revision_too_large(asked: int, current: int) -> ApiProblem:
    """The revision asked for has not happened; clients tell it from other timeouts by the cause."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    return ApiProblem(504, "Timeout", message, {"causes": causes, "retryAfterSeconds": 1})


def too_many_requests(message: str) -> ApiProblem:
    """The server has as much to do as it takes on; clients wait and try again."""
    return ApiProblem(429, "TooManyRequests", message, {"retryAfterSeconds": 1})


def internal(message: str) -> ApiProblem:
    """The server failed."""
    details = {"causes": [{"message": message}]}
    return ApiProblem(500, "InternalError", f"Internal error occurred: {message}", details)


def unavailable(message: str) -> ApiProblem:
    """The store is away; clients retry."""
    return ApiProblem(503, "ServiceUnavailable", message, {"retryAfterSeconds": 1})


def store_full() -> ApiProblem:
    """The store has no room: as upstream passes on an error of etcd's that it does not know."""
    return ApiProblem(500, "", "etcdserver: mvcc: database space exceeded")


def method_not_allowed() -> ApiProblem:
    """The path exists, the verb does not."""
    message = "the server does not allow this method on the requested resource"
    return ApiProblem(405, "MethodNotAllowed", message)


def not_acceptable(accepted: str) -> ApiProblem:
    """None of the media types that the client takes is one that we make."""
    message = f"only the following media types are accepted: {accepted}"
    return ApiProblem(406, "NotAcceptable", message)


def unsupported_media_type(accepted: str) -> ApiProblem:
    """The body is in a format that we do not read."""
    message = f"the body of the request was in an unknown format - accepted media types include: {accepted}"
    return ApiProblem(415, "UnsupportedMediaType", message)


def too_large(limit: int) -> ApiProblem:
    """The body or the object exceeds what is accepted."""
    return ApiProblem(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")
