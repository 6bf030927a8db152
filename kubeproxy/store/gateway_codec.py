"""etcd's JSON to the store's words and back, for the gateway: pure.

The JSON is protobuf's (https://protobuf.dev/programming-guides/json/) of etcd's rpc.proto: bytes are base64,
64-bit integers are strings (numbers are taken too), and what is false, 0 or empty is left out. A field that this
gateway does not know or cannot honour is refused, never ignored: a compare over a range, a sort, a filter by
revision would otherwise silently answer another question.
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
    InvalidToken,
    KeyValue,
    LeaseExists,
    LeaseNotFound,
    NoSpace,
    Operation,
    OperationResult,
    Operator,
    PermissionDenied,
    Put,
    PutResult,
    Range,
    RangeResult,
    Refused,
    StoreError,
    Target,
    Unavailable,
)

M = TypeVar("M", bound="Message")

MEMBER = 1
"""The id of the cluster's one member."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the requests; names are rpc.proto's."""


class RangeRequest(Message, frozen=True):
    """POST /v3/kv/range. Reads are always linearizable, so ``serializable`` changes nothing."""

    key: bytes = b""
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False

    def operation(self) -> Range:
        """Return it in the store's words."""
        return Range(
            key=self.key,
            range_end=self.range_end,
            limit=self.limit,
            revision=self.revision,
            keys_only=self.keys_only,
            count_only=self.count_only,
        )


class PutRequest(Message, frozen=True):
    """POST /v3/kv/put."""

    key: bytes = b""
    value: bytes = b""
    lease: int = 0
    prev_kv: bool = False

    def operation(self) -> Put:
        """Return it in the store's words."""
        return Put(key=self.key, value=self.value, lease=self.lease)


class DeleteRangeRequest(Message, frozen=True):
    """POST /v3/kv/deleterange."""

    key: bytes = b""
    range_end: bytes = b""
    prev_kv: bool = False

    def operation(self) -> Delete:
        """Return it in the store's words."""
        return Delete(key=self.key, range_end=self.range_end)


class CompareRequest(Message, frozen=True):
    """A condition; the field named after the target holds its operand."""

    key: bytes = b""
    target: Target = Target.VERSION
    result: Operator = Operator.EQUAL
    version: int = 0
    create_revision: int = 0
    mod_revision: int = 0
    value: bytes = b""
    lease: int = 0

    def condition(self) -> Compare:
        """Return it in the store's words."""
        operands: dict[Target, int | bytes] = {
            Target.VERSION: self.version,
            Target.CREATE: self.create_revision,
            Target.MOD: self.mod_revision,
            Target.VALUE: self.value,
            Target.LEASE: self.lease,
        }
        return Compare(key=self.key, target=self.target, operator=self.result, value=operands[self.target])


class RequestOp(Message, frozen=True):
    """One of the three; transactions inside transactions are not known here."""

    request_range: RangeRequest | None = None
    request_put: PutRequest | None = None
    request_delete_range: DeleteRangeRequest | None = None

    def request(self) -> RangeRequest | PutRequest | DeleteRangeRequest:
        """Return the one that is set."""
        requests = [
            request for request in (self.request_range, self.request_put, self.request_delete_range) if request
        ]
        if len(requests) != 1:
            raise Refused("an operation of a transaction is one of a range, a put and a deletion")
        return requests[0]


class TxnRequest(Message, frozen=True):
    """POST /v3/kv/txn."""

    compare: tuple[CompareRequest, ...] = ()
    success: tuple[RequestOp, ...] = ()
    failure: tuple[RequestOp, ...] = ()

    def conditions(self) -> tuple[Compare, ...]:
        """Return the compares in the store's words."""
        return tuple(compare.condition() for compare in self.compare)


class CompactionRequest(Message, frozen=True):
    """POST /v3/kv/compaction; here it is always over when it is answered, so ``physical`` changes nothing."""

    revision: int = 0
    physical: bool = False


class AuthenticateRequest(Message, frozen=True):
    """AuthenticateRequest."""

    name: str = ""
    password: str = ""


class LeaseRequest(Message, frozen=True):
    """POST /v3/lease/*: each takes some of these."""

    ID: int = 0
    TTL: int = 0
    keys: bool = False


class WatchCreateRequest(Message, frozen=True):
    """What to watch; ``fragment`` only permits what is never done here."""

    key: bytes = b""
    range_end: bytes = b""
    start_revision: int = 0
    progress_notify: bool = False
    filters: tuple[str, ...] = ()
    prev_kv: bool = False
    watch_id: int = 0
    fragment: bool = False

    def wants(self, event: Event) -> bool:
        """Apply the filters."""
        return f"NO{event.type}" not in self.filters


class WatchRequest(Message, frozen=True):
    """POST /v3/watch: one watch a request here."""

    create_request: WatchCreateRequest


def decode(body: bytes, kind: type[M]) -> M:
    """Decode a request. Raises Refused with the field's path."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Refused(f"invalid request: {error}") from None


def lean(**fields: Any) -> dict[str, Any]:
    """Build a message: integers become strings, what is false, 0 or empty is left out."""
    return {name: str(value) if type(value) is int else value for name, value in fields.items() if value}


def header(revision: int) -> dict[str, Any]:
    """Build a response's header: a cluster of one."""
    return lean(cluster_id=1, member_id=MEMBER, revision=revision, raft_term=1)


def key_value(kv: KeyValue) -> dict[str, Any]:
    """Build mvccpb.KeyValue."""
    fields: dict[str, Any] = {"key": kv.key}
    if kv.create_revision:
        fields["create_revision"] = str(kv.create_revision)
    fields["mod_revision"] = str(kv.mod_revision)
    if kv.version:
        fields["version"] = str(kv.version)
    if kv.value:
        fields["value"] = kv.value
    if kv.lease:
        fields["lease"] = str(kv.lease)
    return fields


def event(change: Event, *, with_previous: bool) -> dict[str, Any]:
    """Build mvccpb.Event."""
    fields: dict[str, Any] = {"kv": key_value(change.kv)}
    if change.type is EventType.DELETE:
        fields["type"] = "DELETE"
    if with_previous and change.previous:
        fields["prev_kv"] = key_value(change.previous)
    return fields


def range_response(result: RangeResult) -> dict[str, Any]:
    """Build RangeResponse."""
    return lean(
        header=header(result.revision),
        kvs=[key_value(kv) for kv in result.kvs],
        more=result.more,
        count=result.count,
    )


def write_response(result: OperationResult, revision: int, *, with_previous: bool) -> dict[str, Any]:
    """Build PutResponse or DeleteRangeResponse."""
    match result:
        case PutResult(previous=KeyValue() as previous) if with_previous:
            return lean(header=header(revision), prev_kv=key_value(previous))
        case DeleteResult(previous=removed):
            shown = [key_value(kv) for kv in removed] if with_previous else []
            return lean(header=header(revision), deleted=len(removed), prev_kvs=shown)
    return lean(header=header(revision))


def operation_response(
    request: RangeRequest | PutRequest | DeleteRangeRequest, result: OperationResult, revision: int
) -> dict[str, Any]:
    """Build ResponseOp."""
    if isinstance(result, RangeResult):
        return {"response_range": range_response(result)}
    name = "response_put" if isinstance(result, PutResult) else "response_delete_range"
    with_previous = not isinstance(request, RangeRequest) and request.prev_kv
    return {name: write_response(result, revision, with_previous=with_previous)}


def operations(requests: tuple[RequestOp, ...]) -> tuple[Operation, ...]:
    """Return a branch in the store's words."""
    return tuple(op.request().operation() for op in requests)


class Failure(msgspec.Struct, frozen=True):
    """How an error is answered: gRPC's code, the HTTP status that grpc-gateway gives it, etcd's words."""

    code: int
    status: int
    message: str

    def body(self) -> bytes:
        """Encode the error's body, with the message under both of its names."""
        return msgspec.json.encode({"error": self.message, "code": self.code, "message": self.message})


def failure(error: StoreError) -> Failure:
    """Return how a store's error is answered."""
    match error:
        case Compacted():
            return Failure(11, 400, "etcdserver: mvcc: required revision has been compacted")
        case FutureRevision():
            return Failure(11, 400, "etcdserver: mvcc: required revision is a future revision")
        case LeaseNotFound():
            return Failure(5, 404, "etcdserver: requested lease not found")
        case LeaseExists():
            return Failure(9, 412, "etcdserver: lease already exists")
        case InvalidToken():
            return Failure(16, 401, f"etcdserver: {error}")
        case PermissionDenied():
            return Failure(7, 403, f"etcdserver: {error}")
        case Refused():
            return Failure(3, 400, f"etcdserver: {error}")
        case NoSpace():
            return Failure(8, 429, "etcdserver: mvcc: database space exceeded")
        case Unavailable():
            return Failure(14, 503, f"etcdserver: {error}")
    return Failure(13, 500, f"etcdserver: {error}")
