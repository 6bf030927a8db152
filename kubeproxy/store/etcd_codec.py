"""The store's words to etcd's JSON and back, for the client: pure.

The mirror of `kubeproxy.store.gateway_codec`. Requests are plain dicts (bytes become base64, numbers are taken
for 64-bit integers); answers are decoded leniently, since a newer etcd may say more than is known here.
"""

from typing import Any, TypeVar

import msgspec

from kubeproxy.store.base import (
    Compacted,
    Compare,
    Delete,
    DeleteResult,
    Event,
    EventType,
    FutureRevision,
    KeyValue,
    LeaseExists,
    LeaseNotFound,
    NoSpace,
    Operation,
    OperationResult,
    Put,
    PutResult,
    Range,
    RangeResult,
    Refused,
    StoreError,
    Target,
    TxnResult,
    Unavailable,
    WatchBatch,
)

T = TypeVar("T")

_OPERANDS = {
    Target.VERSION: "version",
    Target.CREATE: "create_revision",
    Target.MOD: "mod_revision",
    Target.VALUE: "value",
    Target.LEASE: "lease",
}


_TOKEN_REFUSED = ("invalid auth token", "user name is empty", "revision of auth store is old")


def range_request(request: Range) -> dict[str, Any]:
    """Build RangeRequest."""
    return {
        "key": request.key,
        "range_end": request.range_end,
        "limit": request.limit,
        "revision": request.revision,
        "keys_only": request.keys_only,
        "count_only": request.count_only,
    }


def probe(key: bytes) -> dict[str, Any]:
    """Build the cheapest question that a server which has lost its cluster cannot answer."""
    return range_request(Range(key=key, count_only=True))


def txn_request(
    compare: tuple[Compare, ...], success: tuple[Operation, ...], failure: tuple[Operation, ...]
) -> dict[str, Any]:
    """Build TxnRequest."""
    return {
        "compare": [_compare(condition) for condition in compare],
        "success": [_operation(operation) for operation in success],
        "failure": [_operation(operation) for operation in failure],
    }


def watch_request(key: bytes, range_end: bytes, start_revision: int) -> dict[str, Any]:
    """Build WatchRequest. Without ``fragment`` the events of a revision come in one piece."""
    return {
        "create_request": {
            "key": key,
            "range_end": range_end,
            "start_revision": start_revision,
            "progress_notify": True,
            "prev_kv": True,
        }
    }


def _compare(condition: Compare) -> dict[str, Any]:
    return {
        "key": condition.key,
        "target": condition.target,
        "result": condition.operator,
        _OPERANDS[condition.target]: condition.value,
    }


def _operation(operation: Operation) -> dict[str, Any]:
    match operation:
        case Range():
            return {"request_range": range_request(operation)}
        case Put(key=key, value=value, lease=lease):
            return {"request_put": {"key": key, "value": value, "lease": lease, "prev_kv": True}}
        case Delete(key=key, range_end=range_end):
            return {"request_delete_range": {"key": key, "range_end": range_end, "prev_kv": True}}


class Header(msgspec.Struct, frozen=True):
    """ResponseHeader."""

    revision: int = 0


class HeaderResponse(msgspec.Struct, frozen=True):
    """An answer of which only the header matters, if that."""

    header: Header = Header()


class KeyValueMessage(msgspec.Struct, frozen=True):
    """mvccpb.KeyValue."""

    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0

    def key_value(self) -> KeyValue:
        """Return it in the store's words."""
        return KeyValue(
            key=self.key,
            value=self.value,
            create_revision=self.create_revision,
            mod_revision=self.mod_revision,
            version=self.version,
            lease=self.lease,
        )


class RangeResponse(HeaderResponse, frozen=True):
    """RangeResponse."""

    kvs: tuple[KeyValueMessage, ...] = ()
    more: bool = False
    count: int = 0

    def result(self) -> RangeResult:
        """Return it in the store's words."""
        return RangeResult(
            revision=self.header.revision,
            kvs=tuple(kv.key_value() for kv in self.kvs),
            more=self.more,
            count=self.count,
        )


class PutResponse(msgspec.Struct, frozen=True):
    """PutResponse."""

    prev_kv: KeyValueMessage | None = None


class DeleteRangeResponse(msgspec.Struct, frozen=True):
    """DeleteRangeResponse."""

    prev_kvs: tuple[KeyValueMessage, ...] = ()


class ResponseOp(msgspec.Struct, frozen=True):
    """One of the three."""

    response_range: RangeResponse = RangeResponse()
    response_put: PutResponse = PutResponse()
    response_delete_range: DeleteRangeResponse = DeleteRangeResponse()

    def result(self, operation: Operation) -> OperationResult:
        """Return it in the store's words."""
        match operation:
            case Range():
                return self.response_range.result()
            case Put():
                previous = self.response_put.prev_kv
                return PutResult(previous=previous.key_value() if previous else None)
            case Delete():
                return DeleteResult(previous=tuple(kv.key_value() for kv in self.response_delete_range.prev_kvs))


class TxnResponse(HeaderResponse, frozen=True):
    """TxnResponse."""

    succeeded: bool = False
    responses: tuple[ResponseOp, ...] = ()

    def result(self, branch: tuple[Operation, ...]) -> TxnResult:
        """Return it in the store's words."""
        return TxnResult(
            revision=self.header.revision,
            succeeded=self.succeeded,
            results=tuple(
                response.result(operation) for operation, response in zip(branch, self.responses, strict=True)
            ),
        )


class LeaseResponse(msgspec.Struct, frozen=True):
    """LeaseGrantResponse, LeaseKeepAliveResponse, LeaseStatus."""

    ID: int = 0
    TTL: int = 0


class KeepAliveLine(msgspec.Struct, frozen=True):
    """The one line of a keep-alive's stream."""

    result: LeaseResponse


class TimeToLiveResponse(LeaseResponse, frozen=True):
    """LeaseTimeToLiveResponse."""

    grantedTTL: int = 0  # noqa: N815  # etcd's name
    keys: tuple[bytes, ...] = ()


class LeasesResponse(msgspec.Struct, frozen=True):
    """LeaseLeasesResponse."""

    leases: tuple[LeaseResponse, ...] = ()


class AuthenticateResponse(msgspec.Struct, frozen=True):
    """AuthenticateResponse."""

    token: str = ""


class MemberStatus(msgspec.Struct, frozen=True):
    """StatusResponse of the maintenance service."""

    errors: tuple[str, ...] = ()

    def alarms(self) -> tuple[str, ...]:
        """Return the names of the alarms, from "memberID:123 alarm:NOSPACE "."""
        named = (text.partition("alarm:")[2].strip() for text in self.errors)
        return tuple(dict.fromkeys(name for name in named if name))


class EventMessage(msgspec.Struct, frozen=True):
    """mvccpb.Event."""

    kv: KeyValueMessage
    type: EventType = EventType.PUT
    prev_kv: KeyValueMessage | None = None

    def event(self) -> Event:
        """Return it in the store's words."""
        previous = self.prev_kv.key_value() if self.prev_kv else None
        return Event(type=self.type, kv=self.kv.key_value(), previous=previous)


class ErrorMessage(msgspec.Struct, frozen=True):
    """An error, in a body or in a stream; its code is gRPC's."""

    code: int = 2
    grpc_code: int = 0
    message: str = ""
    error: str = ""


class WatchResponse(HeaderResponse, frozen=True):
    """WatchResponse."""

    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: tuple[EventMessage, ...] = ()

    def batch(self, told: int) -> WatchBatch | None:
        """Return it in the store's words; None when it says no more than what was ``told``.

        The header's revision is the store's at the time of sending, and a watch that is catching up has then
        not sent everything up to it: only the events themselves tell how far it is.
        """
        if self.events:
            events = tuple(event.event() for event in self.events)
            return WatchBatch(revision=events[-1].kv.mod_revision, events=events)
        return WatchBatch(revision=self.header.revision) if self.header.revision > told else None


class WatchLine(msgspec.Struct, frozen=True):
    """A line of a watch's stream."""

    result: WatchResponse | None = None
    error: ErrorMessage | None = None

    def answer(self) -> WatchResponse:
        """Return the answer. Raises what a canceled watch or an error in the stream means."""
        if self.error is not None:
            raise _meaning(self.error.grpc_code or self.error.code, self.error.message or self.error.error)
        if self.result is None:
            raise Unavailable("etcd: a watch answered neither a result nor an error")
        if self.result.compact_revision:
            raise Compacted(self.result.compact_revision)
        if self.result.canceled and "permission denied" in self.result.cancel_reason:
            raise Refused(self.result.cancel_reason)
        if self.result.canceled:
            raise Unavailable(f"etcd canceled the watch: {self.result.cancel_reason or 'no reason given'}")
        return self.result


class TokenRefused(Refused):
    """The request needs a token, or a new one (client/v3/retry_interceptor.go: shouldRefreshToken)."""


class AuthNotEnabled(Refused):
    """There is no token to be had: anybody may do anything."""


def decode(body: bytes, kind: type[T]) -> T:
    """Decode an answer. Raises Unavailable for what is none: the peer is no etcd, or broke off."""
    try:
        return msgspec.json.decode(body, type=kind, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Unavailable(f"etcd answered what is no {kind.__name__}: {error}") from None


def error(status: int, body: bytes) -> StoreError:
    """Return what an answer with an error status means."""
    try:
        message = msgspec.json.decode(body, type=ErrorMessage)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return Unavailable(f"etcd answered HTTP {status}")
    return _meaning(message.code, message.message or message.error)


def _meaning(code: int, message: str) -> StoreError:
    match code:
        case 11 if "compacted" in message:
            return Compacted(0)
        case 11 if "future" in message:
            return FutureRevision(message)
        case 5 if "lease" in message:
            return LeaseNotFound(message)
        case 9 if "lease already exists" in message:
            return LeaseExists(message)
        case 8 if "space exceeded" in message:
            return NoSpace(message)
        case 8 if "larger than max" in message:
            return Refused(message)
        case 9 if "authentication is not enabled" in message:
            return AuthNotEnabled(message)
        case 1 | 4 | 8 | 13 | 14:
            return Unavailable(message)
        case _ if any(text in message for text in _TOKEN_REFUSED):
            return TokenRefused(message)
    return Refused(message)
